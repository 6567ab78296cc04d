"""The parts of a sweep: cells (task x protocol), units of work, and calls of the engine."""

import functools
import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import Any

from layerroles.ablations import Condition
from layerroles.engine import MEASURED_SHARE, Engine, Plan, Requests
from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.protocols import Protocol, protocol
from layerroles.sweep.store import Key
from layerroles.tasks import Example, Generated, Guess, Task, best_guess

log = logging.getLogger(__name__)

# The most conditions that are asked together; work that they share is done once.
_CONDITIONS_AT_ONCE = 64
# Floating-point operations of a task for which the speed of the device is not measured.
_TINY = 4e10
# How much more an example may cost in a small unit than in a large one.
_MOST_REPEATED = 1.15
# Examples of a task that are asked under every condition before the next ones; each later round
# doubles their number.
_FIRST_ROUND = 4


def _find_guess(task: Task, protocol: Protocol, examples: tuple[Example, ...], seed: int) -> Guess:
    return best_guess(task, examples, seed, functools.partial(protocol.guess_score, task))


_remembered_guess = functools.lru_cache(maxsize=64)(_find_guess)


@dataclass(frozen=True)
class SweepCell:
    """A task under a protocol, with the examples that the sweep's seed selects."""

    task: Task
    protocol: Protocol
    examples: tuple[Example, ...]
    seed: int

    @property
    def names(self) -> tuple[str, str]:
        """The labels of the task and of the protocol, as they appear in the rows."""
        return self.task.label, self.protocol.label

    @functools.cached_property
    def guess(self) -> Guess | None:
        """The best guessing strategy and its scores; None if chance is not measured."""
        if not self.protocol.measures_chance:
            return None
        find = _find_guess
        if isinstance(self.task, Generated):  # its questions follow from its parameters alone
            find = _remembered_guess
        return find(self.task, self.protocol, self.examples, self.seed)

    def to_manifest(self) -> dict[str, Any]:
        """Return the cell's manifest entry: labels, number of examples, chance and score unit."""
        guess = self.guess
        chance = self.protocol.chance(self.examples) if guess is None else guess.mean
        grading = self.task.grading if guess else 1
        return {
            "task": self.task.label,
            "family": self.task.family,
            "protocol": self.protocol.label,
            "n": len(self.examples),
            "chance": chance,
            "unit": self.protocol.unit,
            **({} if guess is None else {"chance_from": guess.strategy}),
            **({"rules": f"grading {grading}"} if grading > 1 else {}),
            **({"skill": self.task.skill} if self.task.skill else {}),
        }


@dataclass(frozen=True)
class Unit:
    """Work that is computed and stored together: some cells of one task, conditions and examples.

    Which work is in a unit depends only on the manifest and on the rows already stored.

    Attributes:
        cells: the cells; all are of one task.
        conditions: the conditions under which every cell is asked.
        examples: the examples that are asked.
        round: the round of the sweep, from 0; -1 if the sweep does not ask in rounds.
    """

    cells: tuple[SweepCell, ...]
    conditions: tuple[Condition, ...]
    examples: tuple[Example, ...]
    round: int = -1

    @property
    def n_rows(self) -> int:
        """The number of rows: cells x conditions x examples."""
        return len(self.cells) * len(self.conditions) * len(self.examples)


@dataclass(frozen=True)
class EngineCall:
    """The arguments of one call of the engine.

    Attributes:
        name: the task's label, or `noise floor`.
        requests: a list of encoded requests for each cell.
        conditions: the conditions under which all requests are asked.
    """

    name: str
    requests: tuple[Requests, ...]
    conditions: tuple[Condition, ...]


def distinct_conditions(conditions: Sequence[Condition]) -> list[Condition]:
    """Return the conditions without repetitions, in the order given.

    Raises:
        InputError: two different conditions have the same name.
    """
    by_name: dict[str, Condition] = {}
    for condition in conditions:
        other = by_name.setdefault(condition.name, condition)
        if other != condition:
            raise InputError(
                f"two different conditions are called {condition.name!r}: give them names"
            )
    return list(dict.fromkeys(by_name.values()))


def make_cells(
    tasks: Sequence[Task], protocols: Sequence[str | Protocol], limit: int, seed: int
) -> list[SweepCell]:
    """Return a cell for every task under every protocol.

    A task that sets its own protocol gets one cell, under that protocol. Logs a warning if a task
    has fewer than `limit` examples.

    Raises:
        InputError: a task is given twice, a protocol is invalid, or an example of a task cannot be
            asked under a protocol.
    """
    labels = [task.label for task in tasks]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"task {label!r} is given twice")
    by_label = {made.label: made for made in map(_as_protocol, protocols)}
    cells = []
    for task in tasks:
        own_protocol = task.protocol
        examples = tuple(task.examples(limit, seed))
        if len(examples) < limit:
            log.warning(
                "task %r: %d questions are asked, not %d: it has no more, except %d that are "
                "reserved for references and never asked",
                *(task.label, len(examples), limit, task.n_reserved(seed)),
            )
        for asking in by_label.values() if own_protocol is None else [_as_protocol(own_protocol)]:
            for example in examples:
                try:
                    asking.check(example)
                except InputError as error:
                    raise InputError(f"task {task.label!r}: {error}") from error
            cells.append(SweepCell(task, asking, examples, seed))
    return cells


def missing_units(
    cells: Sequence[SweepCell],
    conditions: Sequence[Condition],
    done: Mapping[Key, set[str]],
    sizes: "UnitSizes",
    wanted: Collection[Key] | None = None,
) -> Iterator[Unit]:
    """Yield units with all answers that are not stored yet.

    A unit holds conditions that lack the same examples. The protocols of a task are asked together,
    since most of their contexts are the same.

    Args:
        cells: the cells of the sweep.
        conditions: the conditions to ask under.
        done: the ids of the answered examples, by condition hash, task and protocol.
        sizes: the sizes of units.
        wanted: the keys (condition hash, task, protocol) to ask; None for every condition in every
            cell.
    """
    for number, task_cells, block in _split_blocks(cells, sizes):
        lacking: dict[tuple[tuple[int, ...], tuple[str, ...]], list[Condition]] = {}
        for condition in conditions:
            # Of this condition: the examples that are missing, with the cells that miss them.
            cells_lacking: dict[tuple[str, ...], list[int]] = {}
            for index, cell in enumerate(task_cells):
                key = (condition.hash, *cell.names)
                if wanted is not None and key not in wanted:
                    continue
                answered = done.get(key, set())
                ids = tuple(example.id for example in block if example.id not in answered)
                cells_lacking.setdefault(ids, []).append(index)
            for ids, indices in cells_lacking.items():
                if ids:
                    lacking.setdefault((tuple(indices), ids), []).append(condition)
        for (places, ids), alike in lacking.items():
            asked = set(ids)
            examples = tuple(example for example in block if example.id in asked)
            own_cells = tuple(task_cells[index] for index in places)
            step = sizes.n_conditions(own_cells[0].task.label, len(examples))
            for start in range(0, len(alike), step):
                yield Unit(own_cells, tuple(alike[start : start + step]), examples, number)


@dataclass(frozen=True)
class UnitSizes:
    """How many conditions and examples are in a unit.

    Attributes:
        together: the largest number of conditions in a unit (see `count_together`).
        rows_at_once: the approximate maximum of rows per cell in a unit.
        rows_of_task: a lower maximum for some tasks (see `choose_size`).
        examples_of_task: for some tasks, the smallest number of examples in a unit, if that many
            are left to ask. Units of these tasks are made smaller by fewer conditions; units of
            other tasks always have `together` conditions.
        rounds: whether examples are asked in rounds: the first few of all tasks under all
            conditions, then as many again, and so on.
    """

    together: int
    rows_at_once: int
    rows_of_task: Mapping[str, int] = field(default_factory=dict)
    examples_of_task: Mapping[str, int] = field(default_factory=dict)
    rounds: bool = False

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
        ends = []
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
        examples: the smallest number of examples in a unit, whose conditions are then split; None
            if a unit has all conditions.
        seconds: the expected seconds per row; None if not known.
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
    """Choose the size of a task's units so that one takes about `seconds`.

    The time is predicted by the cost model and the measured speed of the device. A unit is not made
    so small that a row costs more than `_MOST_REPEATED` times what it costs in a large unit: each
    unit computes shared work again, such as a prefix that all prompts have. If fewer examples would
    cost too much, a unit has fewer conditions, and only the intact model's part is repeated.

    Args:
        engine: the engine that answers.
        call: returns the engine call for the first `n` examples of the task under the first `k`
            conditions, given `n` and `k`.
        n_examples: the number of examples that `call` has.
        n_conditions: the number of conditions that `call` has.
        seconds: the time that a unit may take.
        most: the largest number of rows per cell in a unit.

    Returns:
        The size. It has `most` rows for a very small task, and if the time cannot be predicted: the
        model has no weights in this process (Ray workers have them), or the fused executor cannot
        run it under these conditions.
    """
    if not prepared(engine.model).has_weights:
        return TaskSize(most)

    def expect(examples: int, conditions: int) -> Plan:
        one = call(examples, conditions)
        requests = [request for of_cell in one.requests for request in of_cell]
        return engine.planned(requests, one.conditions, speed=speed)

    speed = None
    try:
        if expect(n_examples, n_conditions).work.flops < _TINY:
            return TaskSize(most)
        if (speed := engine.measured_speed()) is None:
            return TaskSize(most)

        def take(examples: int, conditions: int) -> float:
            return _seconds(expect(examples, conditions))

        whole = take(n_examples, n_conditions)
        n_rows = n_examples * n_conditions
        of_row = whole / (n_rows * len(call(1, 1).requests))
        if whole <= seconds:
            rows = n_conditions * int(n_examples * seconds / whole)
            return TaskSize(min(most, rows), None, of_row)
        examples = _halve_while(
            lambda n: take(n, n_conditions), n_examples, seconds, whole / n_examples
        )
        left = take(examples, n_conditions)
        if left <= seconds:
            return TaskSize(min(most, n_conditions * examples), None, of_row)
        conditions = _halve_while(
            lambda n: take(examples, n), n_conditions, seconds, left / n_conditions
        )
    except InputError:
        return TaskSize(most)
    rows = min(most, examples * conditions)
    return TaskSize(rows, examples if conditions < n_conditions else None, of_row)


def _halve_while(take: Callable[[int], float], n: int, seconds: float, each: float) -> int:
    """Halve `n` while `take(n)` exceeds `seconds` and the time per item stays near `each`."""
    while n > 1 and take(n) > seconds:
        half = math.ceil(n / 2)
        if take(half) / half > _MOST_REPEATED * each:
            break
        n = half
    return n


def _seconds(plan: Plan) -> float:
    assert plan.seconds is not None  # a plan with a speed
    return plan.seconds / MEASURED_SHARE


def _split_blocks(
    cells: Sequence[SweepCell], sizes: UnitSizes
) -> list[tuple[int, list[SweepCell], tuple[Example, ...]]]:
    """Return (round, cells of a task, a block of its examples), in the order of answering.

    The round is -1 if the sweep does not ask in rounds. The blocks of all tasks are interleaved
    within a round, so that at any time about the same share of each task is done.

    Blocks do not depend on which rows are stored or on the backend, so a resumed run and all
    workers compute the same examples together.
    """
    by_task: dict[str, list[SweepCell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task.label, []).append(cell)
    blocks: list[tuple[float, int, list[SweepCell], tuple[Example, ...]]] = []
    for label, task_cells in by_task.items():
        examples = task_cells[0].examples
        ends_of_rounds = sizes.ends_of_rounds(len(examples))
        for number, (begin, end) in enumerate(pairwise([0, *ends_of_rounds])):
            n_blocks = math.ceil((end - begin) / sizes.n_examples(label))
            cuts = [begin + (end - begin) * i // n_blocks for i in range(n_blocks + 1)]
            for first, last in pairwise(cuts):
                place = number + (first - begin) / (end - begin)
                blocks.append((place, number, task_cells, examples[first:last]))
    return [
        (number if sizes.rounds else -1, task_cells, block)
        for _, number, task_cells, block in sorted(blocks, key=itemgetter(0))
    ]


def _as_protocol(given: object) -> Protocol:
    if isinstance(given, Protocol):
        return given
    if isinstance(given, str):
        return protocol(given)
    raise InputError(f"{given!r} is neither a protocol nor the label of one")
