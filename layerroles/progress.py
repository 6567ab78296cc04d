"""Show progress: a bar in a terminal or notebook, else a log line every half minute.

The work of a job is counted in rows, such as rows of results.
"""

import html
import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from layerroles.invisible_characters import visible
from layerroles.notebook_display import html_block, html_preformatted, in_notebook

log = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 30.0
SECONDS_BETWEEN_UPDATES = 0.2


@dataclass(frozen=True)
class Picture:
    """Interim results of a job, to be shown with its progress.

    Attributes:
        table: the results as a rich renderable, shown above the bar in a terminal.
        lines: the results as lines of text, for a notebook or a log.
    """

    table: Any
    lines: Sequence[str]


@dataclass(frozen=True)
class Outlook:
    """What a job reports in addition to the number of rows that are done.

    Attributes:
        computed: estimated number of rows that are computed but do not yet count as done, because
            all rows of a batch are stored together at its end.
        left: estimated seconds until the job ends; None to estimate them from the rate so far.
        more: number of rows to add to the job's total, if the job needs more than was expected.
        picture: interim results, shown until there are newer ones.
    """

    computed: float = 0.0
    left: float | None = None
    more: int = 0
    picture: Picture | None = None


NO_OUTLOOK = Outlook()


@runtime_checkable
class Advance(Protocol):
    """A callback that shows how far a job is."""

    def __call__(self, rows: int, now: str, outlook: Outlook = NO_OUTLOOK) -> None:
        """Show the progress.

        Args:
            rows: the number of rows done since the last call.
            now: the name of the task and condition in progress.
            outlook: what else the job reports.
        """


def is_progress_shown() -> bool:
    """Return whether progress is shown: in a notebook, in a terminal, or in a log of level INFO."""
    return in_notebook() or sys.stderr.isatty() or log.isEnabledFor(logging.INFO)


@contextmanager
def show_progress(total: int, what: str) -> Iterator[Advance]:
    """Show the progress of a job of `total` rows, named `what`; yields a progress callback."""
    if not total:
        yield lambda rows, now, outlook=NO_OUTLOOK: None
    elif in_notebook():
        with _notebook_output(total, what) as advance:
            yield advance
    elif sys.stderr.isatty():
        with _terminal_bar(total, what) as advance:
            yield advance
    else:
        yield _log_lines(total, what)


@contextmanager
def hide_library_bars() -> Iterator[None]:
    """Hide the progress bars of transformers inside the `with` block."""
    from transformers.utils import logging as transformers_logging

    were_shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_shown:
            transformers_logging.enable_progress_bar()


def format_duration(seconds: float) -> str:
    """Format a duration: `48 s`, `12 min`, `3.4 h`."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


class _Job:
    """The progress of a job: its rows, rate and time left, shown in a bar, a notebook or a log."""

    def __init__(self, total: int, what: str) -> None:
        self.what, self.total = what, total
        self.done, self.computed, self.now = 0, 0.0, ""
        self._began = time.monotonic()
        self._left: float | None = None

    def add(self, rows: int, now: str, outlook: Outlook) -> None:
        self.total += outlook.more
        self.done += rows
        self.computed, self.now, self._left = outlook.computed, now, outlook.left

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    @property
    def rate(self) -> float:
        return (self.done + self.computed) / max(self.seconds, 1e-9)

    @property
    def left(self) -> str:
        """The time left, such as `12 min left`; empty if unknown or if the job is done."""
        if self.done >= self.total:
            return ""
        left = self._left
        if left is None and self.rate:
            left = (self.total - self.done - self.computed) / self.rate
        return "" if left is None else f"{format_duration(max(left, 0.0))} left"


@contextmanager
def _terminal_bar(total: int, what: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )

    class Bar(Progress):
        """A progress bar with the interim results above it."""

        above: Any = None

        def get_renderables(self) -> Iterable[Any]:
            if self.above is not None:
                yield self.above
            yield from super().get_renderables()

    with Bar(*columns, console=Console(stderr=True)) as bar:
        shown = bar.add_task(what, total=total, rate="", left="")
        job = _Job(total, what)

        def advance(rows: int, now: str, outlook: Outlook = NO_OUTLOOK) -> None:
            job.add(rows, now, outlook)
            if outlook.picture is not None:
                bar.above = outlook.picture.table
            bar.update(
                shown,
                total=job.total,
                completed=job.done + job.computed,
                description=visible(now),
                rate=f"{job.rate:.1f} rows/s",
                left=job.left,
            )

        yield advance


@contextmanager
def _notebook_output(total: int, what: str) -> Iterator[Advance]:
    """Show the progress of a job in a notebook cell; yields a progress callback."""
    from IPython.display import display

    job = _Job(total, what)
    last = time.monotonic()
    picture: Sequence[str] = ()

    def render(state: str = "") -> dict[str, str]:
        rows = f"{state}{job.done:,} of {job.total:,} rows"
        text = f"{what}: {rows}, {format_duration(job.seconds)}"
        if state or job.done >= job.total:
            return {"text/plain": visible(text), "text/html": html_block(html.escape(text))}
        done = job.done + int(job.computed)
        if done:
            text += f", {job.rate:.1f} rows/s, {job.left}, now at {job.now}"
        bar = f'<progress value="{done}" max="{job.total}"></progress> '
        shown = [html_preformatted("\n".join(picture))] if picture else []
        return {
            "text/plain": visible("\n".join([text, *picture])),
            "text/html": html_block(bar, html.escape(text), *shown),
        }

    output = display(render(), raw=True, display_id=True)

    def advance(rows: int, now: str, outlook: Outlook = NO_OUTLOOK) -> None:
        nonlocal last, picture
        job.add(rows, now, outlook)
        if outlook.picture is not None:
            picture = outlook.picture.lines
        if time.monotonic() - last >= SECONDS_BETWEEN_UPDATES:
            last = time.monotonic()
            output.update(render(), raw=True)

    try:
        yield advance
    except BaseException:
        output.update(render("stopped at "), raw=True)
        raise
    output.update(render(), raw=True)


def _log_lines(total: int, what: str) -> Advance:
    job = _Job(total, what)
    last = time.monotonic()

    def advance(rows: int, now: str, outlook: Outlook = NO_OUTLOOK) -> None:
        nonlocal last
        job.add(rows, now, outlook)
        for text in () if outlook.picture is None else outlook.picture.lines:
            log.info("%s", text)
        if time.monotonic() - last < SECONDS_BETWEEN_LINES and job.done < job.total:
            return
        last = time.monotonic()
        line = f"{what}: {job.done} of {job.total} rows, {job.rate:.1f} rows/s"
        log.info("%s%s, now at %s", line, f", {job.left}" if job.left else "", now)

    return advance
