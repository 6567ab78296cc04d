"""Tasks with a fixed list of questions: an order by seed, the end of it reserved for references.

The reserve is never asked, at any limit: it is there to see what the model writes on such
questions (`held_out`). Its contexts are made of reserved questions alone, shots included, so that
no reference tells the model the answer to a question that is asked.
"""

import dataclasses
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task, normalised
from layerroles.tasks.parameters import whole

_RESERVED, _SHARE = 64, 5
# An answer that fewer of the questions share stands in no reference if an asked question has it.
_COMMON = 0.05


def n_reserved(n_questions: int) -> int:
    """How many of a list of questions are never asked: 64, and no more than a fifth."""
    return min(_RESERVED, n_questions // _SHARE)


@dataclass(frozen=True, kw_only=True)
class Listed(Task):
    """A task that has its questions in a list.

    64 of them, or a fifth where there are fewer than 320, are reserved for references and never
    asked: the last ones of the order under a seed. Their own shots are drawn from the reserve, of
    the question's group first, then of other groups; where that does not suffice, they have fewer.
    A reserved question is no shot, and with a context that tells its answer no prompt either, if
    its answer is that of an asked question and of fewer than 5% of all questions.

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
        """The questions as listed, without shots, by groups of a kind; a single group will do."""

    def posed(self, example: Example, others: Sequence[Example]) -> Example:
        """A listed question as it is asked: as it stands, unless a task adds a context.

        Args:
            example: the question.
            others: of its group, of which a context may be made.
        """
        return example

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` questions of the order under `seed`, or all that are not reserved.

        Every stretch of the order has of each group what is its share in the whole.
        """
        groups = self.groups()
        asked, _ = self._parted(groups, seed)
        return [
            dataclasses.replace(
                self.posed(example, groups[group]),
                shots=self._shots(example, groups[group], seed),
            )
            for group, example in asked[:limit]
        ]

    def n_reserved(self, seed: int) -> int:
        """How many questions are reserved, the same under every seed."""
        return n_reserved(sum(map(len, self.groups().values())))

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Contexts of up to `limit` reserved questions, the last one of the order first."""
        asked, reserve = self._parted(self.groups(), seed)
        prompts = {example.prompt for _, example in asked}
        reserve = [(group, example) for group, example in reserve if example.prompt not in prompts]
        kept_out = self._kept_out([example for _, example in asked], [e for _, e in reserve])
        shown = [(g, example) for g, example in reserve if _answer(example) not in kept_out]
        contexts = []
        for group, example in reserve[::-1]:
            posed = self.posed(example, [other for g, other in shown if g == group])
            if posed.prompt != example.prompt and _answer(example) in kept_out:
                continue  # its context tells the answer
            shots = self._reserved_shots(group, example, shown, seed)
            contexts.append(dataclasses.replace(posed, shots=shots).context(worked=True))
        return contexts[:limit]

    def _parted(
        self, groups: dict[str, list[Example]], seed: int
    ) -> tuple[list[tuple[str, Example]], list[tuple[str, Example]]]:
        """The questions that are asked and those that are reserved, with their groups, in order."""
        order = self._order(groups, seed)
        n_asked = len(order) - n_reserved(len(order))
        return order[:n_asked], order[n_asked:]

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
        """The shots of an asked question; their own contexts do not tell its answer."""
        others = _others(example, group)
        if len(others) < self.num_fewshot:
            raise InputError(
                f"task {self.label!r}: num_fewshot={self.num_fewshot} is more than the "
                f"{len(others)} other questions that can be shown before {example.prompt!r}"
            )
        drawn = self._shot_draws(example, seed).sample(others, self.num_fewshot)
        untold = [other for other in group if other.id != example.id]
        return tuple(self.posed(shot, untold) for shot in drawn)

    def _reserved_shots(
        self, group: str, example: Example, shown: Sequence[tuple[str, Example]], seed: int
    ) -> tuple[Example, ...]:
        """The shots of a reserved question: of its group, then of others, perhaps fewer."""
        rng = self._shot_draws(example, seed)
        drawn: list[tuple[str, Example]] = []
        for own in (True, False):
            others = [(g, e) for g, e in shown if (g == group) is own and _others(example, [e])]
            drawn += rng.sample(others, min(self.num_fewshot - len(drawn), len(others)))
        untold = [(g, other) for g, other in shown if other.id != example.id]
        return tuple(self.posed(shot, [e for g, e in untold if g == of]) for of, shot in drawn)

    def _shot_draws(self, example: Example, seed: int) -> random.Random:
        return random.Random(f"{self.name}:{seed}:shots:{example.id}")

    def _kept_out(self, asked: Sequence[Example], reserve: Sequence[Example]) -> set[str]:
        """Answers of asked questions that too few questions share to stand in a reference."""
        counts = Counter(map(_answer, [*asked, *reserve]))
        least = _COMMON * counts.total()
        right = {normalised(text) for one in asked for text in (one.answer, *one.aliases)}
        return {answer for answer in right if counts[answer] < least}


def _others(example: Example, questions: Sequence[Example]) -> list[Example]:
    """The questions that are others than the example, in other words."""
    return [one for one in questions if one.id != example.id and one.prompt != example.prompt]


def _answer(example: Example) -> str:
    return normalised(example.answer)
