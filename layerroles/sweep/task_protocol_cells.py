"""The cells of a sweep: each of its tasks under each of its protocols, with the questions asked."""

import functools
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from layerroles.errors import InputError
from layerroles.protocols import Protocol, protocol
from layerroles.tasks import Example, Generated, Guess, Task, best_choice, best_guess

log = logging.getLogger(__name__)


def _find_guess(task: Task, protocol: Protocol, examples: tuple[Example, ...], seed: int) -> Guess:
    return best_guess(task, examples, seed, functools.partial(protocol.guess_score, task))


_remembered_guess = functools.lru_cache(maxsize=64)(_find_guess)


@dataclass(frozen=True)
class SweepCell:
    """A cell: a task under a protocol, with the examples that the sweep's seed selects."""

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
        """The best way to guess without reading the question, and its score on each example.

        None if the chance that the protocol states is used instead (none for scores in nats).
        """
        if not self.protocol.measures_chance:
            chooses = self.protocol.chooses(self.examples)
            return best_choice(self.task, self.examples, self.seed) if chooses else None
        find = _find_guess
        if isinstance(self.task, Generated):  # its questions depend on nothing but its parameters
            find = _remembered_guess
        return find(self.task, self.protocol, self.examples, self.seed)

    def to_manifest(self) -> dict[str, Any]:
        """Return the cell's manifest entry: labels, number of examples, chance and score unit."""
        guess, stated = self.guess, self.protocol.chance(self.examples)
        chance = stated if guess is None else guess.mean
        grading = self.task.grading if self.protocol.measures_chance else 1
        return {
            "task": self.task.label,
            "family": self.task.family,
            "protocol": self.protocol.label,
            "n": len(self.examples),
            "chance": chance,
            "unit": self.protocol.unit,
            **({} if guess is None else {"chance_from": guess.strategy}),
            # Both are known only if answers are chosen and some way to guess beats random choice.
            **({} if guess is None or stated is None else {"random_choice": stated}),
            **({"rules": f"grading {grading}"} if grading > 1 else {}),
            **({"skill": self.task.skill} if self.task.skill else {}),
        }


def make_cells(
    tasks: Sequence[Task], protocols: Sequence[str | Protocol], limit: int, seed: int
) -> list[SweepCell]:
    """Return a cell for every task under every protocol.

    A task that sets its own protocol gets only one cell, under that protocol. Logs a warning if a
    task has fewer than `limit` examples.

    Raises:
        InputError: a task is given twice, has no question or two with the same id, a protocol is
            invalid, or an example of a task cannot be asked under a protocol.
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
        _check_ids(task.label, [example.id for example in examples])
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


def _check_ids(label: str, ids: Sequence[str]) -> None:
    """Check the ids of a task's questions, which name rows of the run folder.

    Raises:
        InputError: there is no question, or two have the same id.
    """
    if not ids:
        raise InputError(f"task {label!r} gives no questions: its `examples` returned none")
    repeated = [id for id, count in Counter(ids).items() if count > 1]
    if repeated:
        raise InputError(
            f"task {label!r}: several questions have the id {repeated[0]!r}; give each its own"
        )


def _as_protocol(given: object) -> Protocol:
    if isinstance(given, Protocol):
        return given
    if isinstance(given, str):
        return protocol(given)
    raise InputError(f"{given!r} is neither a protocol nor the label of one")
