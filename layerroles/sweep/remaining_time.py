"""Estimate how long the rest of a run takes, from the times of its latest units.

A unit is work whose answers are computed and stored together (`work_units.Unit`). Time is counted
by *questions*: one example under one condition, in all of the unit's cells, since protocols share
the reading of a prompt. The time for a question differs by up to a factor of a hundred between
tasks, so each task has a speed of its own.
"""

import time
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping

from layerroles.engine import Computed
from layerroles.sweep.work_units import Unit

# How many units of a task are averaged: only the latest, since units of later rounds are larger.
_N_LATEST = 2
# The generated tokens, as a share of the most allowed, assumed until a task's first unit is stored.
_WRITTEN = 0.5


class Pace:
    """Estimates the time left of a run: the questions left times the seconds each, for each task.

    Args:
        expected: seconds per question by task, from the cost model; used for a task until one of
            its units has been answered.
        deadline: the time, on the clock of `time.monotonic`, after which no rows are added to the
            run; None for no limit.
    """

    def __init__(self, expected: Mapping[str, float], deadline: float | None = None) -> None:
        self._expected = dict(expected)
        self._deadline = deadline
        self._left: defaultdict[str, float] = defaultdict(float)  # questions by task
        # By task: the generated tokens as a share of the most allowed, in the last unit and in the
        # unit in progress.
        self._written: dict[str, float] = {}
        self._written_now: dict[str, float] = {}
        self._may_follow: Mapping[str, float] = {}
        # By task: the seconds per question in each of its latest units.
        self._latest: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_N_LATEST))
        # Seconds of the units that are partly stored, by `id(unit)`.
        self._unit_seconds: defaultdict[int, float] = defaultdict(float)
        self._work = self._wall = self._before_pass = self._left_out = 0.0
        self._began = time.monotonic()

    def add(self, units: Iterable[Unit]) -> None:
        """Add units that are to be answered."""
        for unit in units:
            self._left[_task(unit)] += unit.n_rows / len(unit.cells)

    def expect(self, questions: Mapping[str, float]) -> None:
        """Set the expected number of questions that may still be added to the run, by task."""
        self._may_follow = questions

    def leave_out(self, seconds: float) -> None:
        """Exclude seconds from the measured time: work, such as a report, that does not recur."""
        self._left_out += seconds

    def leave_out_preparation(self, seconds: float) -> None:
        """Exclude the seconds before a unit's first forward pass from the times of run and unit."""
        self.leave_out(seconds)
        self._before_pass += seconds

    def add_stored(self, unit: Unit, n_rows: int, seconds: float, *, ends_unit: bool) -> None:
        """Record that rows of a unit were stored, and the seconds that a worker took for them."""
        task = _task(unit)
        seconds -= min(seconds, self._before_pass)
        self._before_pass = 0.0
        self._left[task] -= n_rows / len(unit.cells)
        self._work += seconds
        self._wall = time.monotonic() - self._began - self._left_out
        self._unit_seconds[id(unit)] += seconds
        if ends_unit:
            each = self._unit_seconds.pop(id(unit)) / (unit.n_rows / len(unit.cells))
            self._latest[task].append(each)
            self._written |= self._written_now

    def share(self, unit: Unit, computed: Computed) -> float:
        """Return about how much of a unit has been computed, as a share from 0 to 1."""
        task = _task(unit)
        if computed.to_write:
            self._written_now[task] = computed.written / computed.to_write
        to_write = computed.to_write * self._written.get(task, _WRITTEN)
        return min(1.0, (computed.read + computed.written) / max(computed.to_read + to_write, 1.0))

    def seconds_left(self, unit: Unit | None = None, computed: float = 0.0) -> float | None:
        """Return the expected seconds until all rows are stored; None if a task's speed is unknown.

        For a task without measured times, the expected time is used, scaled by the ratio of
        measured to expected times of other tasks. If there is no expected time either, the mean
        measured time is used. Questions that may still be added (`expect`) count only as far as
        there is time for them before the deadline.

        Args:
            unit: the unit that is being answered.
            computed: the number of the unit's rows that are computed but not yet stored.
        """
        left = dict(self._left)
        if unit is not None:
            left[_task(unit)] -= computed / len(unit.cells)
        everything = {
            name: left.get(name, 0.0) + self._may_follow.get(name, 0.0)
            for name in {*left, *self._may_follow}
        }
        seconds = self._seconds(everything)
        if seconds is None or self._deadline is None:
            return seconds
        added = self._seconds(left) or 0.0
        return min(seconds, max(added, self._deadline - time.monotonic()))

    def cost(self, units: Iterable[Unit]) -> float:
        """Return the expected seconds for units; 0 if the speed of any of the tasks is unknown."""
        questions: defaultdict[str, float] = defaultdict(float)
        for unit in units:
            questions[_task(unit)] += unit.n_rows / len(unit.cells)
        return self._seconds(questions) or 0.0

    def _seconds(self, questions: Mapping[str, float]) -> float | None:
        """Return the expected seconds for all these questions; None if a task's speed is unknown.

        Args:
            questions: the number of questions by task.
        """
        measured = {name: sum(latest) / len(latest) for name, latest in self._latest.items()}
        known = [name for name in measured if name in self._expected]
        expected = sum(self._expected[name] for name in known)
        ratio = sum(measured[name] for name in known) / expected if expected else 1.0
        mean = sum(measured.values()) / len(measured) if measured else None
        seconds = 0.0
        for name, n in questions.items():
            each = measured.get(name)
            if each is None:
                each = ratio * self._expected[name] if name in self._expected else mean
            if each is None:
                return None
            seconds += max(0.0, n) * each
        # The elapsed time differs from the summed seconds of the workers: they work at the same
        # time, and judging and storing rows takes time in addition.
        return seconds * (self._wall / self._work if self._work else 1.0)


def _task(unit: Unit) -> str:
    return unit.cells[0].task.label
