"""What a sweep consists of: cells, the units of its work, and what the engine is asked at once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerroles.ablations import Condition
from layerroles.engine.groups import Requests
from layerroles.errors import InputError
from layerroles.protocols import Harness, Protocol, protocol
from layerroles.tasks import Example, LmEval, Task


@dataclass(frozen=True)
class Cell:
    """A task under a protocol, with the examples that are asked."""

    task: Task
    protocol: Protocol
    examples: tuple[Example, ...]

    @property
    def names(self) -> tuple[str, str]:
        """Task and protocol label, as in the rows."""
        return self.task.label, self.protocol.label

    def noted(self) -> dict[str, Any]:
        """What a manifest says of it."""
        return {
            "task": self.task.label,
            "family": self.task.family,
            "protocol": self.protocol.label,
            "n": len(self.examples),
            "chance": self.protocol.chance(self.examples),
            "unit": self.protocol.unit,
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
        InputError: a task given twice, what is no protocol, or one that a task cannot be asked
            under.
    """
    labels = [task.label for task in tasks]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"task {label!r} is given twice")
    asked = {each.label: each for each in map(_protocol, protocols)}
    cells = []
    for task in tasks:
        own = Harness(task) if isinstance(task, LmEval) else task.protocol
        examples = tuple(task.examples(limit, seed))
        for each in asked.values() if own is None else [_protocol(own)]:
            for example in examples:
                try:
                    each.check(example)
                except InputError as error:
                    raise InputError(f"task {task.label!r}: {error}") from error
            cells.append(Cell(task, each, examples))
    return cells


def _protocol(given: object) -> Protocol:
    if isinstance(given, Protocol):
        return given
    if isinstance(given, str):
        return protocol(given)
    raise InputError(f"{given!r} is neither a protocol nor the label of one")
