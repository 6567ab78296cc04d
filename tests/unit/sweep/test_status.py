"""The progress of a run, as written by the run and as read by another process."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.cli import main
from layerroles.sweep import execution
from layerroles.sweep.status import describe_unfinished, read_status, write_progress
from tests.support.random_models import random_model


def sweep(limit: int = 3) -> lr.Sweep:
    model = random_model("llama")
    conditions = lr.each_layer(model, lr.Skip())
    tasks = [lr.task("facts", num_fewshot=0)]
    return lr.Sweep(model, tasks, conditions, protocols=["continuation"], limit=limit)


def test_a_run_tells_how_far_it_is(tmp_path: Path) -> None:
    result = sweep().run(tmp_path)
    found = read_status(tmp_path)
    assert found.state == "done"
    assert found.rows_done == found.rows_total == len(result.frame)
    assert found.rows_per_second > 0
    assert found.seconds_left == 0
    assert found.now.startswith("noise floor of facts@2")
    sweep(4).run(tmp_path)
    again, n = read_status(tmp_path), len(lr.read(tmp_path).frame)
    assert (again.rows_before, again.rows_total) == (len(result.frame), n - len(result.frame))
    sweep(4).run(tmp_path)  # nothing is missing
    assert str(read_status(tmp_path)) == f"done: {n} of {n} rows"


def test_only_stored_rows_are_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[int, int]] = []

    monkeypatch.setattr(
        execution, "show_progress", lambda _, what: _Noting(reported, tmp_path, what)
    )
    sweep().run(tmp_path)
    assert reported
    assert all(done <= stored for done, stored in reported)
    assert reported[-1][0] == reported[-1][1] == 12


def test_work_after_the_last_row_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerroles.sweep.status.SECONDS_BETWEEN_WRITES", 0.0)
    with write_progress(tmp_path, 4) as tell:
        tell(4, "facts, skip L1")
        tell(0, "noise floor of facts")
        found = read_status(tmp_path)
        assert found.seconds_left is None
        assert str(found).endswith("rows/s, last noise floor of facts")
    assert read_status(tmp_path).seconds_left == 0


class _Noting:
    """Stands in for the bar: records, after each step, how many rows were reported and stored."""

    def __init__(self, reported: list[tuple[int, int]], folder: Path, what: str) -> None:
        self.reported = reported if what == "sweep" else []
        self.folder, self.done = folder, 0

    def __enter__(self):
        return self.advance

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, rows: int, now_at: str, _outlook: object = None) -> None:
        self.done += rows
        self.reported.append((self.done, len(lr.read(self.folder).frame)))


def test_errors_and_kills_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), write_progress(tmp_path, 10) as tell:
        tell(4, "facts, skip L1")
        raise ZeroDivisionError("a reason\nand more")
    found = read_status(tmp_path)
    assert (found.state, found.rows_done, found.reason) == ("stopped", 4, "a reason")
    assert str(found).startswith("stopped: 4 of 10 rows")
    assert str(found).endswith("last facts, skip L1 (a reason)")

    code = (
        "import os, sys; from pathlib import Path\n"
        "from layerroles.sweep.status import write_progress\n"
        "with write_progress(Path(sys.argv[1]), 10) as tell: os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert read_status(tmp_path).state == "died"


def test_a_process_of_the_same_number_is_another_one(tmp_path: Path) -> None:
    with write_progress(tmp_path, 1):
        assert read_status(tmp_path).state == "running"
        file = tmp_path / "progress.json"
        found = json.loads(file.read_text())
        assert found["pid"] == os.getpid()
        file.write_text(json.dumps(found | {"started": "1"}))
        assert read_status(tmp_path).state == "died"
        file.write_text(json.dumps(found | {"started": "1", "host": "elsewhere"}))
        assert read_status(tmp_path).state == "running"  # as far as can be told from here


def test_zombie_process_counts_as_dead(tmp_path: Path) -> None:
    code = (
        "import os, sys; from pathlib import Path\n"
        "from layerroles.sweep.status import write_progress\n"
        "with write_progress(Path(sys.argv[1]), 10) as tell: os.kill(os.getpid(), 9)"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and stays
    assert read_status(tmp_path).state == "died"
    child.wait()


def test_a_clock_that_is_set_back_changes_no_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with write_progress(tmp_path, 10) as tell:
        before = read_status(tmp_path).updated
        monkeypatch.setattr("time.time", lambda: before - 3600)
        tell(5, "half")
    found = read_status(tmp_path)
    assert found.updated < before
    assert found.seconds >= 0
    assert found.rows_per_second > 0


def test_a_file_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "progress.json").mkdir()
    with write_progress(tmp_path, 1) as tell:
        tell(1, "all")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep().run(tmp_path)
    assert main(["status", str(tmp_path)]) == 0
    line = capsys.readouterr().out
    assert line.startswith("done: 12 of 12 rows, ")
    assert main(["status", str(tmp_path), "--top", "1"]) == 0
    assert "skip L" in capsys.readouterr().out
    assert main(["status", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows_done"] == 12
    assert main(["status", str(tmp_path), "--json", "--top", "1"]) == 0
    (worst,) = json.loads(capsys.readouterr().out)["effects"]
    assert worst["effect"] == pytest.approx(lr.read(tmp_path).effects()["effect"].min())


def test_what_is_drawn_of_a_run_that_has_not_ended_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep().run(tmp_path)
    assert describe_unfinished(tmp_path) == ""
    assert main(["report", str(tmp_path)]) == 0
    assert "is not finished" not in (tmp_path / "report.html").read_text("utf-8")
    with pytest.raises(KeyboardInterrupt), write_progress(tmp_path, 20) as tell:
        tell(12, "facts, skip L2")
        raise KeyboardInterrupt
    assert "(stopped: 12 of 20 rows" in describe_unfinished(tmp_path)
    capsys.readouterr()
    for command in ("report", "figures"):
        assert main([command, str(tmp_path)]) == 0
        assert "is not finished, and what follows is of the answers" in capsys.readouterr().err
    assert "is not finished" in (tmp_path / "report.html").read_text("utf-8")
    assert describe_unfinished(tmp_path / "probes") == ""  # of a folder that says nothing
    (tmp_path / "progress.json").write_text("{")
    assert main(["report", str(tmp_path)]) == 0


def test_a_run_without_rows_yet_can_be_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("before the first row")

    with monkeypatch.context() as patch, pytest.raises(RuntimeError):
        patch.setattr(lr.Engine, "answer_each", broken)
        sweep().run(tmp_path)
    empty, whole = lr.read(tmp_path), sweep().run(tmp_path / "whole")
    assert len(empty.frame) == 0
    assert list(empty.frame) == list(whole.frame)
    assert empty.frame["score"].dtype == whole.frame["score"].dtype
    assert len(empty.effects()) == len(empty.intact()) == 0
    assert main(["status", str(tmp_path), "--top", "3"]) == 0
    assert capsys.readouterr().out.startswith("stopped: 0 of 12 rows (before the first row)")


@pytest.mark.parametrize("content", ["", "[]", '{"state": 1}', "\xff"])
def test_missing_or_damaged_progress_file_gives_an_error(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "give the run folder of a sweep" in capsys.readouterr().err
    (tmp_path / "progress.json").write_text(content, encoding="latin-1")
    assert main(["status", str(tmp_path)]) == 2
    assert "progress.json is damaged" in capsys.readouterr().err


def test_the_effects_of_a_run_that_is_going_on(tmp_path: Path) -> None:
    """Rows of some conditions are there, those of others are not."""
    whole = sweep()
    parts = whole.conditions[:2]
    lr.Sweep(
        whole.model, [whole.cells[0].task], parts[1:], protocols=["continuation"], limit=3
    ).run(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    sweep().run(tmp_path / "whole")
    full = json.loads((tmp_path / "whole" / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(
        json.dumps(manifest | {"conditions": full["conditions"]})
    )
    assert main(["status", str(tmp_path), "--top", "3"]) == 0


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    sweep().run(tmp_path)
    return tmp_path


def start_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start a run that stores 4 rows, then 8 more, then ends: a step each time someone waits."""

    def run() -> Iterator[None]:
        with write_progress(folder, 12) as tell:
            tell(4, "facts, skip L0")
            yield
            tell(8, "facts, skip L1")
            yield

    steps = run()
    monkeypatch.setattr("layerroles.sweep.status.SECONDS_BETWEEN_WRITES", 0.0)
    monkeypatch.setattr("layerroles.cli.status.time.sleep", lambda seconds: next(steps, None))
    next(steps)


def test_a_finished_run_is_followed_to_its_end_at_once(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", str(finished), "--follow"]) == 0
    line, title, *_, legend = capsys.readouterr().out.splitlines()
    assert line.startswith("done: 12 of 12 rows, ")
    assert title == "Harm of each layer: skip at all"
    assert legend.startswith("Harm in tenths")


def test_a_run_is_followed_until_it_ends(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(finished, monkeypatch)
    assert main(["status", str(finished), "--follow"]) == 0
    first, last, title, *_ = capsys.readouterr().out.splitlines()  # none within 10 seconds
    assert first.startswith("running: 4 of 12 rows")
    assert last.startswith("done: 12 of 12 rows")
    assert title.startswith("Harm of each layer")

    monkeypatch.setattr("layerroles.cli.status.SECONDS_BETWEEN_LINES", 0.0)
    start_run(finished, monkeypatch)
    assert main(["status", str(finished), "--follow"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len({line for line in lines if re.match("running|done", line)}) == 3


def test_a_run_of_another_thread_is_followed(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerroles.cli.status.SECONDS_BETWEEN_LOOKS", 0.01)
    started = threading.Event()

    def write() -> None:
        with write_progress(finished, 12) as tell:
            started.set()
            time.sleep(0.2)
            tell(12, "facts, skip L1")

    writer = threading.Thread(target=write)
    writer.start()
    started.wait()
    assert main(["status", str(finished), "--follow"]) == 0
    writer.join()
    assert "done: 12 of 12 rows" in capsys.readouterr().out


def test_changes_are_lines_of_json(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start_run(finished, monkeypatch)
    assert main(["status", str(finished), "--follow", "--json"]) == 0
    changes = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(one["state"], one["rows_done"]) for one in changes] == [
        *(("running", 4), ("running", 12), ("done", 12))
    ]
    assert changes[-1] == read_status(finished).to_dict()


def test_a_terminal_gets_a_bar_and_strips(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = 0

    def read(folder: Path) -> lr.SweepResult:
        nonlocal readings
        readings += 1
        return result

    result = lr.read(finished)
    monkeypatch.setitem(lr.__dict__, "read", read)
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("layerroles.cli.status.SECONDS_BETWEEN_READINGS", 100.0)
    start_run(finished, monkeypatch)
    assert main(["status", str(finished), "--follow"]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[" in shown
    last = shown[shown.rindex("done: 12 of 12 rows") :]
    last = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", last)
    bar, title = last.splitlines()[1:3]
    assert bar.strip() == "\N{BOX DRAWINGS HEAVY HORIZONTAL}" * 60
    assert title.strip() == "Harm of each layer: skip at all"
    assert "skill not shown" in last
    assert readings == 2  # the first rows, and the last; those between came too soon

    monkeypatch.setattr("layerroles.cli.status.SECONDS_BETWEEN_READINGS", 0.0)
    monkeypatch.setattr("layerroles.cli.status.READINGS_BETWEEN_READINGS", 0.0)
    readings = 0
    start_run(finished, monkeypatch)
    main(["status", str(finished), "--follow"])
    assert readings == 3  # once for each number of rows, and at the end

    monkeypatch.setenv("NO_COLOR", "1")
    capsys.readouterr()
    assert main(["status", str(finished), "--follow"]) == 0
    assert "\x1b" not in capsys.readouterr().out


@pytest.mark.parametrize("colour", ["", "1"])
def test_before_the_first_row_there_is_only_the_line(
    colour: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FORCE_COLOR", colour)
    monkeypatch.setenv("TERM", "xterm-256color")
    with pytest.raises(ZeroDivisionError), write_progress(tmp_path, 12):
        raise ZeroDivisionError("no model")
    assert main(["status", str(tmp_path), "--follow"]) == 0
    shown = capsys.readouterr().out
    assert "stopped: 0 of 12 rows (no model)" in shown
    assert "Harm" not in shown


def test_what_cannot_be_followed_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--json"]):
        assert main(["status", str(tmp_path), "--follow", *more]) == 2
        shown = capsys.readouterr()
        assert (shown.out, shown.err.count("\n")) == ("", 1)
        assert "holds no progress.json" in shown.err
    assert main(["status", str(tmp_path), "--follow", "--top", "3"]) == 2
    assert "--top 3 does not go with --follow" in capsys.readouterr().err
    with write_progress(tmp_path, 4) as tell:
        tell(4, "facts, skip L0")
    assert main(["status", str(tmp_path), "--follow"]) == 2  # its rows are gone
    assert "it has no manifest.json" in capsys.readouterr().err


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_following_ends_by_an_interrupt(
    more: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    with write_progress(tmp_path, 4):
        monkeypatch.setattr("layerroles.cli.status.time.sleep", interrupt)
        assert main(["status", str(tmp_path), "--follow", *more]) == 130
    assert capsys.readouterr().err == "layerroles: no longer followed; the run is not affected\n"


def test_a_folder_that_cannot_be_looked_up_gets_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for command in ("status", "report", "figures"):
        assert main([command, "n" * 300]) == 2
        assert "json cannot be read (File name too long)" in capsys.readouterr().err
