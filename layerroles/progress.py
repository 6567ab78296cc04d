"""Show progress: a bar in a terminal or notebook, else a log line every half minute."""

import html
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from layerroles.display import html_block, in_notebook
from layerroles.errors import visible

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LINES = 30.0
_SECONDS_BETWEEN_UPDATES = 0.2


@contextmanager
def show_progress(total: int, what: str) -> Iterator[Callable[[int, str], None]]:
    """Show the progress of a job of `total` rows.

    Yields a callback `(n_rows, now)`: the rows done since the last call, and the name of the task
    and condition in progress. `what` names the job in the display.
    """
    if not total:
        yield lambda rows, now_at: None
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
    """Hide the progress bars of transformers within the context."""
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


@contextmanager
def _terminal_bar(total: int, what: str) -> Iterator[Callable[[int, str], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    # The rate comes in bursts, so the time left is taken over the whole run.
    with Progress(*columns, console=Console(stderr=True), speed_estimate_period=3600) as bar:
        job = bar.add_task(what, total=total, rate="")
        began, done = time.monotonic(), 0

        def advance(rows: int, now_at: str) -> None:
            nonlocal done
            done += rows
            rate = done / max(time.monotonic() - began, 1e-9)
            bar.update(job, advance=rows, description=visible(now_at), rate=f"{rate:.1f} rows/s")

        yield advance


@contextmanager
def _notebook_output(total: int, what: str) -> Iterator[Callable[[int, str], None]]:
    """Show progress in a notebook cell; yields the callback that `show_progress` describes."""
    from IPython.display import display

    began = last = time.monotonic()
    done, now = 0, ""

    def render(state: str = "") -> dict[str, str]:
        seconds = time.monotonic() - began
        text = f"{what}: {state}{done:,} of {total:,} rows, {format_duration(seconds)}"
        if state or done >= total:
            return {"text/plain": visible(text), "text/html": html_block(html.escape(text))}
        if done:
            left = (total - done) / done * seconds
            text += f", {done / max(seconds, 1e-9):.1f} rows/s, {format_duration(left)} left"
            text += f", now at {now}"
        bar = f'<progress value="{done}" max="{total}"></progress> '
        return {"text/plain": visible(text), "text/html": html_block(bar, html.escape(text))}

    output = display(render(), raw=True, display_id=True)

    def advance(rows: int, now_at: str) -> None:
        nonlocal last, done, now
        done, now = done + rows, now_at
        if time.monotonic() - last >= _SECONDS_BETWEEN_UPDATES:
            last = time.monotonic()
            output.update(render(), raw=True)

    try:
        yield advance
    except BaseException:
        output.update(render("stopped at "), raw=True)
        raise
    output.update(render(), raw=True)


def _log_lines(total: int, what: str) -> Callable[[int, str], None]:
    began = last = time.monotonic()
    done = 0

    def advance(rows: int, now_at: str) -> None:
        nonlocal last, done
        done += rows
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES and done < total:
            return
        last = now
        rate = done / max(now - began, 1e-9)
        left = (total - done) / rate if rate else float("inf")
        log.info(
            "%s: %d of %d rows, %.1f rows/s, %.0f s left, now at %s",
            what,
            done,
            total,
            rate,
            left,
            now_at,
        )

    return advance
