"""The progress of a job, as shown in a terminal and in a log file."""

import io
import logging

import pytest

from layerroles import progress as module
from layerroles.progress import Outlook, format_duration, show_progress


class Terminal(io.StringIO):
    """A text stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    monkeypatch.setenv("COLUMNS", "120")
    with show_progress(8, "sweep") as advance:
        advance(2, "facts, skip L1")
        advance(6, "facts, \x1b[2Jskip [bold]L2")
    assert "8/8" in shown.getvalue()
    assert "rows/s" in shown.getvalue()
    assert r"facts, \x1b[2Jskip [bold]L2" in shown.getvalue()  # what comes from data steers nothing


def test_a_file_gets_a_line_now_and_then(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger=module.__name__)
    with show_progress(8, "sweep") as advance:
        advance(2, "facts, skip L1")  # half a minute has not passed
        assert not caplog.messages
        monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
        advance(2, "facts, skip L2")
        advance(4, "facts, skip L3")
    assert [line.split(",")[0] for line in caplog.messages] == [
        "sweep: 4 of 8 rows",
        "sweep: 8 of 8 rows",
    ]
    assert caplog.messages[-1].endswith("rows/s, now at facts, skip L3")


def test_the_time_left_is_what_the_job_tells_or_of_the_rate_so_far(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, logger=module.__name__)
    monkeypatch.setattr(module, "SECONDS_BETWEEN_LINES", 0.0)
    with show_progress(8, "sweep") as advance:
        advance(2, "facts", Outlook(left=5000.0))
        advance(0, "facts", Outlook(computed=2.0))
        advance(0, "facts", Outlook(more=4))
    assert "2 of 8 rows" in caplog.messages[0]
    assert "83 min left" in caplog.messages[0]
    assert "0.0 s left" in caplog.messages[1]
    assert "2 of 12 rows" in caplog.messages[2]


def test_empty_job_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Terminal()
    monkeypatch.setattr("sys.stderr", shown)
    with show_progress(0, "sweep") as advance:
        advance(0, "")
    assert not shown.getvalue()


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.96, "10.0 s"), (48.0, "48 s"), (720.0, "12 min"), (12240.0, "3.4 h")],
)
def test_durations_are_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
