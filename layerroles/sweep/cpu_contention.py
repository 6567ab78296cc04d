"""Detect whether other processes slow this one down: how long its threads wait for a processor.

Linux counts the waiting time of each thread in `/proc/self/task/*/schedstat`. Threads that share a
computation wait for the slowest of them, so a small forward pass takes several times as long on a
busy machine.
"""

import logging
import os
import time
from contextlib import suppress
from pathlib import Path

import torch

log = logging.getLogger(__name__)

THREADS = Path("/proc/self/task")
SECONDS_WATCHED = 10.0
_BUSY = 0.25
_WAIT_IDLY = (
    ", or start the run with OMP_WAIT_POLICY=PASSIVE: its threads then wait without taking turns "
    "away"
)


class Contention:
    """Watches this process, and warns once if its threads often wait for a processor."""

    def __init__(self) -> None:
        self._began, self._before = time.monotonic(), _count()
        self._has_warned = False

    def check(self) -> None:
        """Warn if threads spent a quarter or more of their time waiting for a processor.

        Measures the time since the last measurement, or since this object was created. Does nothing
        if that was less than ten seconds ago, if the warning was given before, or if the system
        does not count waiting times.
        """
        seconds = time.monotonic() - self._began
        if self._has_warned or seconds < SECONDS_WATCHED:
            return
        now = _count()
        both = now.keys() & self._before.keys()  # the counts of threads that ended are gone
        ran, waited = (sum(now[t][i] - self._before[t][i] for t in both) for i in (0, 1))
        self._began, self._before = time.monotonic(), now
        share = waited / max(ran + waited, 1)
        if share >= _BUSY:
            self._has_warned = True
            log.warning(
                "the machine is busy: in the last %.0f seconds, this run waited for a processor "
                "for %.0f%% of its time, and while this lasts it takes longer than expected. "
                "Stop other work%s",
                seconds,
                100 * share,
                "" if _waits_idly() or torch.get_num_threads() == 1 else _WAIT_IDLY,
            )


def _waits_idly() -> bool:
    """Return whether OpenMP threads are set to release their processor while they wait."""
    return os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive"


def _count() -> dict[str, tuple[int, int]]:
    """Map each thread id to the nanoseconds for which it has run and has waited to run."""
    counts = {}
    for file in THREADS.glob("*/schedstat"):
        with suppress(OSError, ValueError):  # a thread may have ended
            ran, waited, _ = map(int, file.read_text().split())
            counts[file.parent.name] = (ran, waited)
    return counts
