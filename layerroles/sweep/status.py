"""How far a run is: a small file in the run folder that the run keeps up to date.

`progress.json` is replaced as a whole, at most once a second. Reading it, or the rows beside it,
takes no lock and makes no run wait.

Example:
    print(read_status("runs/first"))  # from another process, while the run goes on
"""

import json
import math
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import Field, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from layerroles.errors import InputError
from layerroles.progress import duration

_FILE = "progress.json"
_SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True)
class Status:
    """How far a run is.

    Attributes:
        state: `running`, `done`, `stopped` (by an error or by hand, see `reason`), or `died`: its
            process is gone without a word.
        reason: why it stopped, if it said so.
        rows_done: answers that are stored, of those that this start of the run was to give.
        rows_total: answers that it was to give; what was in the folder before is not counted.
        rows_per_second: since it started.
        seconds_left: at that rate; None if nothing is known of it.
        now: what was answered last.
        seconds: that it has taken.
        updated: when this was written, in seconds since 1970.
        host, pid, started: its process.
    """

    state: str
    rows_total: int
    host: str
    pid: int
    started: str
    seconds: float
    updated: float
    rows_done: int = 0
    now: str = ""
    reason: str = ""

    @property
    def rows_per_second(self) -> float:
        """Answers stored in a second, since it started."""
        return self.rows_done / max(self.seconds, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """At the rate so far; None before the first row, and while it asks for the noise floor."""
        if not self.rows_done or (self.state == "running" and self.rows_done == self.rows_total):
            return None
        return (self.rows_total - self.rows_done) / self.rows_per_second

    def to_dict(self) -> dict[str, object]:
        """Everything that is known, as JSON values."""
        more = {"rows_per_second": self.rows_per_second, "seconds_left": self.seconds_left}
        return asdict(self) | more

    def __str__(self) -> str:
        text = f"{self.state}: {self.rows_done} of {self.rows_total} rows"
        if self.rows_done:
            text += f", {self.rows_per_second:.1f} rows/s"
        if self.state == "running" and self.seconds_left is not None:
            text += f", {duration(self.seconds_left)} left"
        if self.now and self.state != "done":
            text += f", last {self.now}"
        return f"{text} ({self.reason})" if self.reason else text


def read_status(folder: str | Path) -> Status:
    """How far the run of a folder is; nothing is written, and the run is not made to wait.

    Raises:
        InputError: no run has written its progress to that folder, or the file is damaged.
    """
    file = Path(folder) / _FILE
    if not file.is_file():
        raise InputError(f"{str(folder)!r} holds no {_FILE}: no run tells there how far it is")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = Status(**{field.name: _checked(found, field) for field in fields(Status)})
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"run folder {str(folder)!r}: {_FILE} is damaged") from error
    if known.state == "running" and known.host == socket.gethostname() and not _lives(known):
        return replace(known, state="died")
    return known


def unfinished(folder: str | Path) -> str:
    """Words on a run that has not ended; empty if it has, or if its folder does not say."""
    try:
        found = read_status(folder)
    except InputError:  # what counts are its rows
        return ""
    if found.state == "done":
        return ""
    return f"{str(folder)!r} is not finished, and what follows is of the answers so far ({found})"


@contextmanager
def write_progress(folder: Path, rows_total: int) -> Iterator[Callable[[int, str], None]]:
    """Write progress.json within the context; yields a progress callback `(rows stored, of what)`.

    A file that cannot be written does not stop the run: its rows are stored elsewhere.
    """
    pid, began = os.getpid(), time.monotonic()
    host = socket.gethostname()
    known = Status("running", rows_total, host, pid, _started(pid), 0.0, time.time())
    _write(folder, known)
    last = began

    def at_once(**changed: Any) -> Status:
        seconds = time.monotonic() - began  # a clock that is set back must not change it
        return replace(known, seconds=seconds, updated=time.time(), **changed)

    def advance(rows: int, now_at: str) -> None:
        nonlocal known, last
        known = at_once(rows_done=known.rows_done + rows, now=now_at)
        if began + known.seconds - last >= _SECONDS_BETWEEN_WRITES:
            last = began + known.seconds
            _write(folder, known)

    try:
        yield advance
    except BaseException as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        _write(folder, at_once(state="stopped", reason=reason))
        raise
    _write(folder, at_once(state="done"))


def _write(folder: Path, known: Status) -> None:
    with suppress(OSError):
        scratch = folder / f".{_FILE}"
        scratch.write_text(json.dumps(known.to_dict(), indent=1), encoding="utf-8")
        scratch.replace(folder / _FILE)


def _lives(known: Status) -> bool:
    """Whether the process still runs, and its number has not been given to another one."""
    try:
        os.kill(known.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        pass
    return _started(known.pid) == known.started


def _started(pid: int) -> str:
    """When a process was started, in its system's units; empty if the system does not say.

    Returns "dead" for a zombie process.
    """
    try:
        # The name, in brackets, may hold anything; state and start time are fields 3 and 22.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if words[0] in ("Z", "X") else words[19]
    except (OSError, IndexError):
        return ""


def _checked(found: dict[str, Any], field: "Field[Any]") -> Any:
    """A value of a field, as it can stand there.

    Raises:
        ValueError: it cannot.
    """
    value = found[field.name]
    if field.type is float and isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    fits = type(value) is field.type and (field.type is not int or 0 <= value < 2**62)
    if not fits or (field.name == "pid" and not 0 < value < 2**31):
        raise ValueError(f"{field.name} is {value!r}")
    return value
