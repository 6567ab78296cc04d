"""The run folder: when a run changes the manifest, and which folders can be written and read."""

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.sweep.execution import Execution
from layerroles.sweep.store import Store


def planted_sweep(limit: int, **options: str) -> lr.Sweep:
    made = lr.planted(n_layers=4, retrieval=(0, 1), reasoning=(3,))
    conditions = [
        condition
        for at in ("all", "after_first")
        for condition in lr.each_layer(made.model, lr.Skip(), at=at)
    ]
    return lr.Sweep(
        made.model,
        made.tasks[:1],
        conditions,
        protocols=["generation"],
        limit=limit,
        noise_floor=False,
        **options,
    )


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run with 40 examples."""
    folder = tmp_path_factory.mktemp("runs") / "finished"
    planted_sweep(40).run(folder)
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_an_extension_that_is_killed_before_its_first_unit_leaves_the_manifest_unchanged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "manifest.json").read_bytes()
    monkeypatch.setattr(lr.Sweep, "_choose_sizes", interrupt)
    with pytest.raises(KeyboardInterrupt):
        planted_sweep(64, until="decided").run(run)
    assert (run / "manifest.json").read_bytes() == before
    assert len(lr.read(run).intact()) == 1


def test_a_refused_extension_leaves_the_manifest_unchanged(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (run / "manifest.json").read_bytes()
    describe_examples = lr.Sweep._describe_examples

    def describe_in_other_words(sweep: lr.Sweep, cell: object) -> dict[str, tuple[object, ...]]:
        examples = describe_examples(sweep, cell)
        return {id: (f"{context} x", *rest) for id, (context, *rest) in examples.items()}

    monkeypatch.setattr(lr.Sweep, "_describe_examples", describe_in_other_words)
    with pytest.raises(lr.InputError, match="in other words"):
        planted_sweep(64).run(run)
    assert (run / "manifest.json").read_bytes() == before


def test_the_first_manifest_that_an_extension_saves_marks_it_as_unfinished(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Store.save_manifest

    def save_once(store: Store) -> None:
        save(store)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, "save_manifest", save_once)
    with pytest.raises(KeyboardInterrupt):
        planted_sweep(64).run(run)
    assert lr.read(run).interim == "40 of 64 questions"


def test_a_command_that_asks_nothing_new_is_not_marked_as_unfinished(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Execution, "_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        planted_sweep(40).run(run)
    assert not lr.read(run).interim


@pytest.mark.parametrize("name", ["a#b", "a?b", "a%62", "r\N{LATIN SMALL LETTER E WITH ACUTE}sum"])
def test_a_folder_with_signs_that_mean_something_in_a_uri_is_read(
    name: str, run: Path, tmp_path: Path
) -> None:
    shutil.copytree(run, tmp_path / "ab")  # what a%62 is, decoded
    run.rename(tmp_path / name)
    with closing(sqlite3.connect(tmp_path / name / "rows.sqlite")) as db, db:
        db.execute("DELETE FROM rows WHERE condition <> (SELECT MIN(condition) FROM rows)")
    assert len(lr.read(tmp_path / name).frame) == 40


def test_a_folder_with_two_slashes_in_front_is_read(run: Path) -> None:
    assert len(lr.read(f"/{run}").frame) == len(lr.read(run).frame) > 0


def test_a_command_line_with_bytes_that_are_not_utf_8_is_stored(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["layerroles", "sweep", "--out", "caf\udce9"])
    command = planted_sweep(40).run(run).manifest["command"]
    assert command == "layerroles sweep --out 'caf\udce9'"


def test_a_folder_that_cannot_be_looked_up_is_an_input_error() -> None:
    with pytest.raises(lr.InputError, match=r"manifest\.json cannot be read .*name too long"):
        lr.read("n" * 300)


def test_a_folder_of_an_early_version_is_read_and_not_extended(run: Path) -> None:
    file = run / "manifest.json"
    manifest = json.loads(file.read_text("utf-8"))
    for key in ("chat", "peak_memory"):
        file.write_text(json.dumps({name: manifest[name] for name in manifest.keys() - {key}}))
        with pytest.raises(lr.InputError, match=f"manifest.json lacks '{key}'; use another folder"):
            planted_sweep(40).run(run)
    file.write_text(json.dumps(manifest))
    with closing(sqlite3.connect(run / "rows.sqlite")) as db, db:
        db.execute("ALTER TABLE examples DROP COLUMN question")
    with pytest.raises(lr.InputError, match=r"table examples of its .* has other columns"):
        planted_sweep(40).run(run)
    assert len(lr.read(run).frame) > 0
