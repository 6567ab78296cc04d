"""What a sweep consists of: cells, the units of its work, and what the engine is asked at once."""

import functools
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from layerroles.ablations import Condition
from layerroles.engine import Requests
from layerroles.errors import InputError
from layerroles.protocols import Protocol, protocol
from layerroles.sweep.store import Key
from layerroles.tasks import Example, Generated, Guess, Task, best_guess

log = logging.getLogger(__name__)

# Conditions that are asked together at the most: what they have in common is computed once.
_CONDITIONS_AT_ONCE = 64


def _find_guess(task: Task, protocol: Protocol, examples: tuple[Example, ...], seed: int) -> Guess:
    return best_guess(task, examples, seed, functools.partial(protocol.guess_score, task))


_remembered_guess = functools.lru_cache(maxsize=64)(_find_guess)


@dataclass(frozen=True)
class Cell:
    """A task under a protocol, with the examples that are asked under a seed."""

    task: Task
    protocol: Protocol
    examples: tuple[Example, ...]
    seed: int

    @property
    def names(self) -> tuple[str, str]:
        """Task and protocol label, as in the rows."""
        return self.task.label, self.protocol.label

    @functools.cached_property
    def guess(self) -> Guess | None:
        """The best guess, for protocols whose score of guessing has to be measured."""
        if not self.protocol.measures_chance:
            return None
        find = _find_guess
        if isinstance(self.task, Generated):  # its questions follow from its parameters alone
            find = _remembered_guess
        return find(self.task, self.protocol, self.examples, self.seed)

    def noted(self) -> dict[str, Any]:
        """What a manifest says of it."""
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
    """Work that is done together: cells of one task, under conditions, on examples.

    What is in a unit is a function of the manifest and of what is done already.
    """

    cells: tuple[Cell, ...]
    conditions: tuple[Condition, ...]
    examples: tuple[Example, ...]

    @property
    def n_rows(self) -> int:
        """How many rows it gives."""
        return len(self.cells) * len(self.conditions) * len(self.examples)


@dataclass(frozen=True)
class Call:
    """What the engine is asked at once.

    Attributes:
        name: what for: the task, or another word.
        requests: a list for each cell.
        conditions: under which all of them are asked.
    """

    name: str
    requests: tuple[Requests, ...]
    conditions: tuple[Condition, ...]


def distinct(conditions: Sequence[Condition]) -> list[Condition]:
    """The conditions, each once.

    Raises:
        InputError: two that differ have one name.
    """
    by_name: dict[str, Condition] = {}
    for condition in conditions:
        other = by_name.setdefault(condition.name, condition)
        if other != condition:
            raise InputError(
                f"two different conditions are called {condition.name!r}: give them names"
            )
    return list(dict.fromkeys(by_name.values()))


def cells_of(
    tasks: Sequence[Task], protocols: Sequence[str | Protocol], limit: int, seed: int
) -> list[Cell]:
    """Every task under every protocol, or under its own.

    Raises:
        InputError: a task given twice, what is no protocol, or a protocol that a task cannot be
            asked under.
    """
    labels = [task.label for task in tasks]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"task {label!r} is given twice")
    asked = {each.label: each for each in map(_protocol, protocols)}
    cells = []
    for task in tasks:
        own = task.protocol
        examples = tuple(task.examples(limit, seed))
        if len(examples) < limit:
            log.warning(
                "task %r: %d questions are asked, not %d: it has no more, except %d that are "
                "reserved for references and never asked",
                *(task.label, len(examples), limit, task.n_reserved(seed)),
            )
        for each in asked.values() if own is None else [_protocol(own)]:
            for example in examples:
                try:
                    each.check(example)
                except InputError as error:
                    raise InputError(f"task {task.label!r}: {error}") from error
            cells.append(Cell(task, each, examples, seed))
    return cells


def missing(
    cells: Sequence[Cell],
    conditions: Sequence[Condition],
    done: Mapping[Key, set[str]],
    rows_at_once: int,
) -> Iterator[Unit]:
    """What is to be done: conditions that lack the same examples of a task under some protocols.

    A task's protocols are asked together, since most of their contexts are the same.

    Args:
        cells: all that are asked.
        conditions: under which.
        done: ids of the examples that are answered, by condition hash, task and protocol.
        rows_at_once: about how many rows a unit has of each cell.
    """
    # Of equal shares, the largest that is allowed.
    at_once = math.ceil(len(conditions) / math.ceil(len(conditions) / _CONDITIONS_AT_ONCE))
    for some, block in _blocks(cells, max(1, rows_at_once // at_once)):
        lacking: dict[tuple[tuple[int, ...], tuple[str, ...]], list[Condition]] = {}
        for condition in conditions:
            # Of this condition: the examples that are missing, with the cells that miss them.
            unknown: dict[tuple[str, ...], list[int]] = {}
            for place, cell in enumerate(some):
                known = done.get((condition.hash, *cell.names), set())
                ids = tuple(example.id for example in block if example.id not in known)
                unknown.setdefault(ids, []).append(place)
            for ids, places in unknown.items():
                if ids:
                    lacking.setdefault((tuple(places), ids), []).append(condition)
        for (those, ids), alike in lacking.items():
            wanted = set(ids)
            examples = tuple(one for one in block if one.id in wanted)
            for start in range(0, len(alike), at_once):
                together = tuple(alike[start : start + at_once])
                yield Unit(tuple(some[place] for place in those), together, examples)


def _blocks(cells: Sequence[Cell], most: int) -> Iterator[tuple[list[Cell], tuple[Example, ...]]]:
    """The cells of each task, with at most so many examples at a time, of which units are made.

    They depend on what is asked, and neither on what is done nor on who answers, so that the same
    is computed together by a run that is resumed, and by workers.
    """
    by_task: dict[str, list[Cell]] = {}
    for cell in cells:
        by_task.setdefault(cell.task.label, []).append(cell)
    for some in by_task.values():
        examples = some[0].examples
        n_blocks = math.ceil(len(examples) / most)
        ends = [len(examples) * i // n_blocks for i in range(n_blocks + 1)]
        for start, end in pairwise(ends):
            yield some, examples[start:end]


def _protocol(given: object) -> Protocol:
    if isinstance(given, Protocol):
        return given
    if isinstance(given, str):
        return protocol(given)
    raise InputError(f"{given!r} is neither a protocol nor the label of one")
