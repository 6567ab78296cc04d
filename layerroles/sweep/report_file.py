"""The report file of a run, written while the run goes on and at its end.

While the run goes on, the file is written after each round of questions and, in a sweep with
`until`, after each look at the results.
"""

import logging
from pathlib import Path

from layerroles.errors import InputError
from layerroles.results import SweepResult

log = logging.getLogger(__name__)


def check_writable(file: Path) -> None:
    """Check that a report file can be written, before anything is computed.

    Raises:
        InputError: the path does not end in `.html`, is a folder, or cannot be written.
    """
    from layerroles import page  # with plotly, which takes a second

    if not file.is_dir():
        page.check_name(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a"):
            pass
        if not file.stat().st_size:
            file.unlink()
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"report={str(file)!r} cannot be written: {reason}") from error


def write_interim(file: str | Path, result: SweepResult) -> None:
    """Write the report of an unfinished run; a failure is logged and does not stop the run."""
    try:
        write_report(file, result)
    except InputError as error:
        log.warning("the interim report was not written: %s", error)


def write_report(file: str | Path, result: SweepResult) -> None:
    """Write the report of a run."""
    from layerroles import page  # with plotly, which takes a second

    page.report(result, path=file)
