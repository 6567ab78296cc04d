"""Tasks with a fixed list of questions: an order by seed, worked examples from the same list."""

import dataclasses
import random
from abc import abstractmethod
from dataclasses import dataclass

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task
from layerroles.tasks.parameters import whole


@dataclass(frozen=True, kw_only=True)
class Listed(Task):
    """A task that has its questions in a list.

    Attributes:
        num_fewshot: worked examples before each question, other questions of its own group, drawn
            by seed and question.
    """

    num_fewshot: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `num_fewshot` is not a whole number from 0 to 16.
        """
        whole(self.name, "num_fewshot", self.num_fewshot, 0, 16)

    @abstractmethod
    def groups(self) -> dict[str, list[Example]]:
        """The questions without shots, by groups of a kind; a single group will do."""

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` questions of the order under `seed`, or all if there are fewer.

        Every stretch of the order has of each group what is its share in the whole.
        """
        groups = self.groups()
        return [
            dataclasses.replace(example, shots=self._shots(example, groups[group], seed))
            for group, example in self._order(groups, seed)[:limit]
        ]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Contexts of the last `limit` questions of the order, the last one first."""
        everything = self.examples(sum(map(len, self.groups().values())), seed)
        return [example.context(worked=True) for example in everything[::-1][:limit]]

    def _order(self, groups: dict[str, list[Example]], seed: int) -> list[tuple[str, Example]]:
        placed = []
        for group, examples in groups.items():
            rng = random.Random(f"{self.name}:{seed}:{group}")
            shuffled = rng.sample(examples, len(examples))
            placed += [
                ((at + rng.random()) / len(shuffled), group, example)
                for at, example in enumerate(shuffled)
            ]
        if not placed:
            raise InputError(f"task {self.label!r} has no example")
        placed.sort(key=lambda place: (place[0], place[2].id))
        return [(group, example) for _, group, example in placed]

    def _shots(self, example: Example, group: list[Example], seed: int) -> tuple[Example, ...]:
        others = [
            other for other in group if other.id != example.id and other.prompt != example.prompt
        ]
        if len(others) < self.num_fewshot:
            raise InputError(
                f"task {self.label!r}: num_fewshot={self.num_fewshot} is more than the "
                f"{len(others)} other questions that can be shown before {example.prompt!r}"
            )
        rng = random.Random(f"{self.name}:{seed}:shots:{example.id}")
        return tuple(rng.sample(others, self.num_fewshot))
