"""Full disks, read-only disks and truncated files raise clear errors, and no rows are lost."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.sweep.store import Store
from tests.faults.kill import rows, same, sweep


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small separate file system."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = _mount("-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place))
    if mounted.returncode:  # only root may, and not in every container
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def _mount(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["mount", *words], capture_output=True, text=True, check=False)


def test_full_disk_raises_and_the_run_resumes_when_space_is_freed(
    disk: Path, tmp_path: Path
) -> None:
    job = sweep()
    expected = rows(job.run(tmp_path / "whole"))
    filling = disk / "filling"
    filling.write_bytes(bytes(110_000))
    with pytest.raises(lr.InputError, match=r"run folder .* cannot be written: .*(full|space)"):
        job.run(disk / "run")
    before = rows(lr.read(disk / "run"))
    assert len(before) < len(expected)
    same(before, expected.loc[before.index])
    filling.unlink()
    assert _mount("-o", "remount,size=8m", str(disk)).returncode == 0
    same(expected, rows(job.run(disk / "run")))


def test_read_only_disk_raises_on_run_but_can_be_read(disk: Path) -> None:
    assert _mount("-o", "remount,size=8m", str(disk)).returncode == 0
    job = sweep()
    expected = rows(job.run(disk / "run"))
    assert _mount("-o", "remount,ro", str(disk)).returncode == 0
    with pytest.raises(lr.InputError, match=r"cannot be written: .*[Rr]ead-only"):
        job.run(disk / "run")
    same(expected, rows(lr.read(disk / "run")))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_database_raises(share: float, tmp_path: Path) -> None:
    job = sweep()
    job.run(tmp_path)
    file = tmp_path / "rows.sqlite"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(share * len(whole))])
    if share:
        with pytest.raises(lr.InputError, match=r"rows\.sqlite"):
            lr.read(tmp_path)
        with pytest.raises(lr.InputError, match=r"rows\.sqlite is damaged"):
            job.run(tmp_path)
    else:  # an empty file is a database without rows
        same(rows(job.run(tmp_path)), rows(job.run(tmp_path / "again")))


def test_rows_missing_from_a_truncated_journal_are_computed_again(tmp_path: Path) -> None:
    """The state on disk in the middle of a run, and the same with the journal cut off."""
    job = sweep()
    expected = rows(job.run(tmp_path / "whole"))
    states: list[tuple[bytes, bytes]] = []
    run = tmp_path / "run"

    def copied(*_: object) -> None:
        states.append(((run / "rows.sqlite").read_bytes(), (run / "rows.sqlite-wal").read_bytes()))

    with pytest.MonkeyPatch.context() as patch:
        own = Store.save_manifest
        patch.setattr(Store, "save_manifest", lambda store: (own(store), copied())[0])
        job.run(run)
    main, journal = states[len(states) // 2]
    for share in (0.2, 0.5, 0.8, 1.0):
        folder = tmp_path / f"cut at {share}"
        folder.mkdir()
        (folder / "manifest.json").write_bytes((run / "manifest.json").read_bytes())
        (folder / "rows.sqlite").write_bytes(main)
        (folder / "rows.sqlite-wal").write_bytes(journal[: int(share * len(journal))])
        same(expected, rows(job.run(folder)))
