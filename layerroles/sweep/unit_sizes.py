"""Choose how many conditions and examples are in a unit of a sweep.

The answers of a unit are computed and stored together (`work_units.Unit`). Its examples are those
of one task; each of the task's cells is the task under one protocol.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from layerroles.engine import MEASURED_SHARE, Engine, Plan
from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.sweep.work_units import EngineCall

# The most conditions that are asked together; work that they share is done once.
_CONDITIONS_AT_ONCE = 64
# A task with fewer floating-point operations than this has units of the largest size, and does not
# need a measurement of the device's speed.
TINY = 4e10
# A unit is halved if it is expected to take more than this many times the wanted seconds. With a
# factor of 1, units would take from half of these seconds to all of them, and smaller units repeat
# more of the work.
_LONGEST = 1.25
# In a small unit, an example may cost at most this many times what it costs in a large unit.
MOST_REPEATED = 1.15
# The number of a task's examples that are asked in the first round; each later round doubles the
# number asked so far.
_FIRST_ROUND = 4


@dataclass(frozen=True)
class UnitSizes:
    """How many conditions and examples are in a unit.

    Attributes:
        together: the largest number of conditions in a unit (see `count_together`).
        rows_at_once: the approximate maximum of rows per cell in a unit.
        rows_of_task: by task, a maximum that may be lower (see `choose_size`).
        examples_of_task: for some tasks, the smallest number of examples in a unit, if that many
            are left to ask. Units of these tasks are made smaller by fewer conditions; units of
            other tasks always have `together` conditions.
        rounds: whether examples are asked in rounds: the first few examples of all tasks under all
            conditions, then as many again, and so on.
        looks: numbers of examples after which the results are judged, if examples are not asked in
            rounds; no unit has examples from both sides of such a number.
    """

    together: int
    rows_at_once: int
    rows_of_task: Mapping[str, int] = field(default_factory=dict)
    examples_of_task: Mapping[str, int] = field(default_factory=dict)
    rounds: bool = False
    looks: Sequence[int] = ()

    def n_examples(self, task: str) -> int:
        """Return the largest number of examples of a task in a unit."""
        return max(1, self._rows(task) // self.together, self.examples_of_task.get(task, 1))

    def n_conditions(self, task: str, n_examples: int) -> int:
        """Return the largest number of conditions in a unit with `n_examples` of a task."""
        if task not in self.examples_of_task:
            return self.together
        return max(1, min(self.together, self._rows(task) // n_examples))

    def _rows(self, task: str) -> int:
        return min(self.rows_of_task.get(task, self.rows_at_once), self.rows_at_once)

    def ends_of_rounds(self, n_examples: int) -> list[int]:
        """Return, for each round, how many examples of a task have been asked when it ends.

        >>> UnitSizes(31, 2048, rounds=True).ends_of_rounds(32)
        [4, 8, 16, 32]
        """
        ends = list(self.looks)
        end = _FIRST_ROUND
        while self.rounds and n_examples > 2 * _FIRST_ROUND and end < n_examples:
            ends.append(end)
            end *= 2
        return [*ends, n_examples]


def count_together(n_conditions: int) -> int:
    """Return how many conditions a unit has if `n_conditions` are split evenly.

    The conditions are split into as few equal shares as the limit of 64 conditions per unit allows.
    """
    return math.ceil(n_conditions / math.ceil(n_conditions / _CONDITIONS_AT_ONCE))


@dataclass(frozen=True)
class TaskSize:
    """The size of a task's units.

    Attributes:
        rows: the approximate maximum of rows per cell in a unit.
        examples: the smallest number of examples in a unit, if the conditions are split over
            several units; None if a unit has all conditions.
        seconds: the expected seconds for one example under one condition, in all of the task's
            cells; None if not known.
    """

    rows: int
    examples: int | None = None
    seconds: float | None = None


def choose_size(
    engine: Engine,
    call: Callable[[int, int], EngineCall],
    n_examples: int,
    n_conditions: int,
    seconds: float,
    most: int,
) -> TaskSize:
    """Choose the size of a task's units so that each unit takes about `seconds`.

    The time is predicted by the cost model and the measured speed of the device. A unit is not made
    so small that a row costs more than `MOST_REPEATED` times what it costs in a large unit: each
    unit computes shared work again, such as a prefix that all prompts have. If a unit with fewer
    examples would cost too much, a unit has fewer conditions instead. Then only the intact model's
    part of the work is repeated.

    Args:
        engine: the engine that answers.
        call: a function of `n` and `k` that returns the engine call for the first `n` examples of
            the task under the first `k` conditions.
        n_examples: the largest `n` that `call` takes.
        n_conditions: the largest `k` that `call` takes.
        seconds: about how long a unit should take.
        most: the largest number of rows per cell in a unit.

    Returns:
        The size. It has `most` rows for a very small task, and also if the time cannot be
        predicted: the model has no weights in this process (Ray workers have them), or the fused
        executor, which runs many conditions in one batch, cannot run it under these conditions.
    """
    if not prepared(engine.model).has_weights:
        return TaskSize(most)

    def expect(examples: int, conditions: int) -> Plan:
        one = call(examples, conditions)
        requests = [request for of_cell in one.requests for request in of_cell]
        return engine.planned(requests, one.conditions, speed=speed)

    speed, max_seconds = None, _LONGEST * seconds
    try:
        if expect(n_examples, n_conditions).work.flops < TINY:
            return TaskSize(most)
        if (speed := engine.measured_speed()) is None:
            return TaskSize(most)

        def take(examples: int, conditions: int) -> float:
            return _seconds(expect(examples, conditions))

        whole = take(n_examples, n_conditions)
        each = whole / (n_examples * n_conditions)
        if whole <= seconds:
            rows = n_conditions * int(n_examples * seconds / whole)
            return TaskSize(min(most, rows), None, each)
        examples = _halve_while(
            lambda n: take(n, n_conditions), n_examples, max_seconds, whole / n_examples
        )
        left = take(examples, n_conditions)
        if left <= max_seconds:
            return TaskSize(min(most, n_conditions * examples), None, each)
        conditions = _halve_while(
            lambda n: take(examples, n), n_conditions, max_seconds, left / n_conditions
        )
    except InputError:
        return TaskSize(most)
    rows = min(most, examples * conditions)
    return TaskSize(rows, examples if conditions < n_conditions else None, each)


def _halve_while(take: Callable[[int], float], n: int, seconds: float, each: float) -> int:
    """Halve `n` while `take(n)` exceeds `seconds`, and return it.

    Stops before the time per item exceeds `MOST_REPEATED` times `each`.

    Args:
        take: returns the seconds for a number of items.
        n: the number of items to begin with.
        seconds: the most seconds that `take(n)` may return.
        each: the seconds per item in a large unit.
    """
    while n > 1 and take(n) > seconds:
        half = math.ceil(n / 2)
        if take(half) / half > MOST_REPEATED * each:
            break
        n = half
    return n


def _seconds(plan: Plan) -> float:
    assert plan.seconds is not None  # a plan with a speed
    return plan.seconds / MEASURED_SHARE
