"""The progress of a run, in `progress.json`, a small file in the run folder.

The file is replaced atomically, at most once a second while the run computes. Reading the file, or
the stored rows, takes no lock and does not slow the run.

Example:
    print(read_status("runs/first"))  # from another process, while the run goes on
"""

import json
import math
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import MISSING, Field, asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from layerroles.errors import InputError
from layerroles.progress import NO_OUTLOOK, Advance, Outlook, format_duration

_FILE = "progress.json"
SECONDS_BETWEEN_WRITES = 1.0


@dataclass(frozen=True)
class Status:
    """The progress of a run.

    Attributes:
        state: `running`, `done`, `stopped` (by an error or by hand, see `reason`), or `died` (its
            process ended without writing a state).
        rows_total: answers that were missing when the run was last started, plus those that earlier
            answers made necessary since.
        host, pid: the machine and process id of the run's process.
        started: when that process started, in clock ticks since boot, as text. It shows whether the
            process id has been reused. Empty without `/proc`.
        seconds: seconds since the run was last started.
        updated: when this status was written, in seconds since 1970.
        rows_done: answers stored since the run was last started.
        rows_before: answers that were stored when the run was last started.
        rows_computed: about how many answers are computed but not yet stored.
        seconds_left: the expected seconds until the remaining answers are stored; None if not
            known, while the intact model is asked again, and once the run stopped or died.
        now: the task and condition, or the step of the run, that is or was last computed, as text;
            empty before the first forward pass.
        reason: the error that stopped the run; empty unless `stopped`.
        rows_per_second: answers stored per second since the run was last started.
    """

    state: str
    rows_total: int
    host: str
    pid: int
    started: str
    seconds: float
    updated: float
    rows_done: int = 0
    rows_before: int = 0
    rows_computed: float = 0.0
    seconds_left: float | None = None
    now: str = ""
    reason: str = ""

    @property
    def rows_per_second(self) -> float:
        """Answers stored per second since the run was last started."""
        return self.rows_done / max(self.seconds, 1e-9)

    def to_dict(self) -> dict[str, object]:
        """Return all attributes, including `rows_per_second`, as JSON values."""
        return asdict(self) | {"rows_per_second": self.rows_per_second}

    def __str__(self) -> str:
        before = self.rows_before
        text = f"{self.state}: {before + self.rows_done} of {before + self.rows_total} rows"
        if self.state == "running" and self.rows_computed >= 1:
            text += f" (and {self.rows_computed:.0f} computed)"
        if self.rows_done:
            text += f", {self.rows_per_second:.1f} rows/s"
        if self.state == "running" and self.seconds_left is not None:
            text += f", {format_duration(self.seconds_left)} left"
        if self.now and self.state != "done":
            text += f", last {self.now}"
        return f"{text} ({self.reason})" if self.reason else text


def read_status(folder: str | Path) -> Status:
    """Read the progress of the run in a folder, without writing to it or slowing the run.

    A run that is marked `running` is reported as `died` if it belongs to this machine and its
    process no longer exists.

    Raises:
        InputError: the folder has no progress file, or the file is damaged or cannot be read.
    """
    try:
        values = json.loads((Path(folder) / _FILE).read_text(encoding="utf-8"))
        status = Status(**{field.name: _check_value(values, field) for field in fields(Status)})
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{str(folder)!r} holds no {_FILE}: give the run folder of a sweep"
        ) from None
    except OSError as error:
        raise InputError(
            f"run folder {str(folder)!r}: {_FILE} cannot be read ({error.strerror})"
        ) from error
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"run folder {str(folder)!r}: {_FILE} is damaged") from error
    if status.state == "running" and status.host == socket.gethostname() and not _is_alive(status):
        return replace(status, state="died", rows_computed=0.0, seconds_left=None)
    return status


def describe_unfinished(folder: str | Path) -> str:
    """Return a line that says that a run is unfinished; "" if it is done or of unknown status."""
    try:
        status = read_status(folder)
    except InputError:  # the rows are readable without a status
        return ""
    if status.state == "done":
        return ""
    return f"{str(folder)!r} is not finished, and what follows is of the answers so far ({status})"


@contextmanager
def write_progress(folder: Path, rows_total: int, rows_before: int = 0) -> Iterator[Advance]:
    """Keep progress.json up to date inside the `with` block; yields a progress callback.

    `rows_total` answers are missing, and `rows_before` are stored already.

    The state becomes `done` at the end of the block, or `stopped` if an exception leaves it. If the
    file cannot be written, the run goes on, since its rows are stored elsewhere.
    """
    pid, began = os.getpid(), time.monotonic()
    host = socket.gethostname()
    status = Status(
        "running",
        rows_total,
        host,
        pid,
        _start_time(pid),
        seconds=0.0,
        updated=time.time(),
        rows_before=rows_before,
    )
    _write(folder, status)
    last = began

    def updated(**changed: Any) -> Status:
        seconds = time.monotonic() - began  # monotonic, since the system clock may be set back
        return replace(status, seconds=seconds, updated=time.time(), **changed)

    def advance(rows: int, now: str, outlook: Outlook = NO_OUTLOOK) -> None:
        nonlocal status, last
        status = updated(
            rows_done=status.rows_done + rows,
            rows_total=status.rows_total + outlook.more,
            rows_computed=outlook.computed,
            seconds_left=outlook.left,
            now=now,
        )
        if began + status.seconds - last >= SECONDS_BETWEEN_WRITES:
            last = began + status.seconds
            _write(folder, status)

    try:
        yield advance
    except BaseException as error:
        reason = str(error).split("\n")[0] or type(error).__name__
        stopped = {"state": "stopped", "rows_computed": 0.0, "seconds_left": None}
        _write(folder, updated(**stopped, reason=reason))
        raise
    _write(folder, updated(state="done", rows_computed=0.0, seconds_left=0.0))


def _write(folder: Path, status: Status) -> None:
    with suppress(OSError):
        scratch = folder / f".{_FILE}"
        scratch.write_text(json.dumps(status.to_dict(), indent=1), encoding="utf-8")
        scratch.replace(folder / _FILE)


def _is_alive(status: Status) -> bool:
    """Return whether the run's process exists and its id was not reused by another process."""
    try:
        os.kill(status.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return _start_time(status.pid) == status.started


def _start_time(pid: int) -> str:
    """Return a process's start time in clock ticks since boot; "" without `/proc`.

    Returns "dead" for a zombie process.
    """
    try:
        # Field 2, the name in brackets, may hold spaces; fields 3 and 22 are state and start time.
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "dead" if words[0] in ("Z", "X") else words[19]
    except (OSError, IndexError):
        return ""


def _check_value(values: dict[str, Any], field: "Field[Any]") -> Any:
    """Return the value of a field, checked for type and range; the default if the file lacks it.

    Raises:
        ValueError: the value has another type, or is out of range.
    """
    # A file of an earlier version has fewer fields.
    name, default = field.name, field.default
    value = values[name] if default is MISSING else values.get(name, default)
    if value is None and field.default is None:
        return None
    kind = float if field.type == float | None else field.type
    if kind is float and isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    fits = type(value) is kind and (kind is not int or 0 <= value < 2**62)
    if not fits or (field.name == "pid" and not 0 < value < 2**31):
        raise ValueError(f"{field.name} is {value!r}")
    return value
