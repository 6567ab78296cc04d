"""`layerroles status`: how far a run is, from another terminal."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerroles.cli.options import AsJson, Run
from layerroles.cli.printing import (
    exit_on_interrupt,
    json_records,
    most_harmful,
    print_json,
    print_line,
    print_result,
)
from layerroles.errors import InputError
from layerroles.invisible_characters import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from layerroles.results import SweepResult
    from layerroles.sweep import Status

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_BETWEEN_LINES = 10.0
# Rows are read again after at least this many seconds, and after at least this many times as long
# as the last reading took.
SECONDS_BETWEEN_READINGS = 5.0
READINGS_BETWEEN_READINGS = 5.0
_BAR_WIDTH = 60


def command(
    run: Run,
    top: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also show the effects so far: the N most harmful conditions."
        ),
    ] = 0,
    follow: Annotated[
        bool,
        typer.Option(
            "--follow",
            help="Show the progress and each layer's harm so far until the run ends; with --json, "
            "a line for each change.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Tell how far a run is; the run goes on undisturbed.

    [bold]Example:[/bold]
    layerroles status runs/first --top 3
    layerroles status runs/first --follow
    """
    if follow and top:
        raise InputError(f"--top {top} does not go with --follow: ask for one of them")
    if follow:
        _follow(run, as_json=as_json)
        return
    from layerroles.sweep import read_status

    status = read_status(run)
    if as_json:
        values = status.to_dict()
        if top:
            import layerroles as lr

            values["effects"] = json_records(most_harmful(lr.read(run).effects(), top))
        print_json(values)
        return
    print_line(str(status))
    if top:
        import layerroles as lr

        print_result(lr.read(run), top=top)


def _follow(run: Path, *, as_json: bool) -> None:
    """Show the progress of a run until its state is no longer `running`.

    Raises:
        InputError: no run has written its progress to that folder, or the file is damaged.
    """
    from rich.console import Console

    console = Console()
    is_drawn = console.is_terminal and not console.is_dumb_terminal and not console.no_color
    with exit_on_interrupt("no longer followed; the run is not affected"):
        if as_json:
            _print_changes(run)
        elif is_drawn:
            _draw(run, console)
        else:
            _print_lines(run)


def _iter_statuses(run: Path) -> Iterator["Status"]:
    """Yield the status of a run every second; the first that is not `running` is the last."""
    from layerroles.sweep import read_status

    while (status := read_status(run)).state == "running":
        yield status
        time.sleep(SECONDS_BETWEEN_LOOKS)
    yield status


def _print_changes(run: Path) -> None:
    """Print the status as one line of JSON whenever it has changed."""
    last = ""
    for status in _iter_statuses(run):
        line = json.dumps(status.to_dict(), allow_nan=False)
        if line != last:
            print(line, flush=True)
            last = line


def _print_lines(run: Path) -> None:
    """Print the status if it has changed, at most every 10 seconds; at the end, also the strips.

    Strips are lines of text with one character for each layer's harm (see `strip_lines`).
    """
    from layerroles.sweep import strip_lines

    last, due = "", 0.0
    for status in _iter_statuses(run):
        line = str(status)
        if line != last and (status.state != "running" or time.monotonic() >= due):
            print_line(line)
            last, due = line, time.monotonic() + SECONDS_BETWEEN_LINES
    result = _read_answers(run, status)
    for line in [] if result is None else strip_lines(result):
        print_line(line)


def _draw(run: Path, console: "Console") -> None:
    """Draw status, progress bar and each layer's harm; their last state stays on screen."""
    from rich.align import Align
    from rich.console import Group
    from rich.live import Live
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    strips = _Strips(run)
    with Live(console=console, auto_refresh=False) as live:
        for status in _iter_statuses(run):
            line = Text(visible(str(status)))
            done = status.rows_before + status.rows_done + status.rows_computed
            total = status.rows_before + status.rows_total
            bar = Align.left(ProgressBar(total, done, width=_BAR_WIDTH))
            live.update(Group(line, bar, *strips.update(status)), refresh=True)


class _Strips:
    """The table of each layer's harm in a run, updated when the run has new rows.

    While the run goes on, its rows are read at most every 5 seconds.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._table: list[RenderableType] = []
        self._rows_read: tuple[str, int] | None = None
        self._due = 0.0

    def update(self, status: "Status") -> list["RenderableType"]:
        """Return a list with the table; the list is empty before the run has rows."""
        from layerroles.sweep import layer_strips

        rows = (status.started, status.rows_done)
        began = time.monotonic()
        if status.state != "running" or (rows != self._rows_read and began >= self._due):
            result = _read_answers(self._run, status)
            self._table = self._table if result is None else [layer_strips(result)]
            now = time.monotonic()
            pause = max(SECONDS_BETWEEN_READINGS, READINGS_BETWEEN_READINGS * (now - began))
            self._rows_read, self._due = rows, now + pause
        return self._table


def _read_answers(run: Path, status: "Status") -> "SweepResult | None":
    """Return the results of a run so far; None if the run has no rows that can be read yet.

    Raises:
        InputError: the run has ended with rows that cannot be read.
    """
    import layerroles as lr

    try:
        result = lr.read(run)
    except InputError:
        # A run has no file of rows at first, and may be read again while it goes on.
        if status.state != "running" and status.rows_before + status.rows_done:
            raise
        return None
    return None if result.frame.empty else result
