"""Tasks with an unlimited number of randomly generated questions.

Every question is a function of (task, seed, index) alone, by `random.Random` seeded with text, so
that it is the same on every machine. Questions are split in two by a hash of their content: one in
four is set apart for worked examples and held-out texts, the others are asked. The two parts
therefore share no question, under any seed and limit.

The worked examples before a question affect its score, in word problems by as much as a layer does.
So there are 16 sets of them under each seed, and the questions that share a set are a cluster
(`Example.cluster`), which intervals take into account.

Tasks with a fixed list of questions: an order by seed, the end of it reserved for references.

The reserve is never asked, at any limit: it is there to see what the model writes on such
questions (`held_out`). Its contexts are made of reserved questions alone, shots included, so that
no reference tells the model the answer to a question that is asked.
"""

import dataclasses
import hashlib
import random
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice, repeat

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task, normalised, whole

Draw = Callable[[random.Random, int], Example]

# After so many draws in a row without a new question, no more are expected.
_DRAWS = 1000
N_SETS = 16


@dataclass(frozen=True, kw_only=True)
class Generated(Task):
    """A task that makes its questions.

    Attributes:
        num_fewshot: worked examples before each question, one of 16 sets under a seed.
    """

    num_fewshot: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `num_fewshot` is not a whole number from 0 to 16.
        """
        whole(self.name, "num_fewshot", self.num_fewshot, 0, 16)

    @property
    def kinds(self) -> int:
        """How many kinds of questions there are; each stretch of so many asks each kind once."""
        return 1

    @abstractmethod
    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw one question of a kind, without shots; its id is given to it afterwards.

        Called again with the same `rng` where the question drawn cannot be used.
        """

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw one worked example for questions of a kind; like them unless a task differs."""
        return self.question(rng, kind)

    def suits(self, shot: Example, question: Example) -> bool:
        """Whether a worked example may be shown before a question; any may unless a task differs.

        Both are as `shot` and `question` made them.
        """
        return True

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` questions under `seed`; any limit can be had."""
        sets = _Sets(self, seed)
        return [sets.before(*asked) for asked in islice(self._asked("examples", seed), limit)]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Contexts of `limit` questions that are never asked and are not among their shots."""
        sets, drawn = _Sets(self, seed), list[Example]()
        unused = drawn
        for asked in self._asked("held out", seed):
            if len(unused) >= limit:
                break
            drawn.append(sets.before(*asked))
            unused = [example for example in drawn if example.id not in sets.shown]
        return [example.context(worked=True) for example in unused[:limit]]

    def _asked(self, part: str, seed: int) -> Iterator[tuple[int, int, Example]]:
        """Place, kind and question."""
        asked = self._stream(part, seed, self.question, self._turns(part, seed))
        for place, (kind, question) in enumerate(asked):
            yield place, kind, question

    def _turns(self, part: str, seed: int) -> Iterator[int]:
        for turn in count():
            kinds = list(range(self.kinds))
            random.Random(f"{self.name}:{part}:{seed}:kinds:{turn}").shuffle(kinds)
            yield from kinds

    def _stream(
        self, part: str, seed: int, draw: Draw, kinds: Iterator[int]
    ) -> Iterator[tuple[int, Example]]:
        """Different questions of one part: `examples`, `held out`, or a set of `shots`."""
        seen: set[str] = set()
        for index, kind in enumerate(kinds):
            rng = random.Random(f"{self.name}:{part}:{seed}:{index}")
            for _ in range(_DRAWS):
                example = draw(rng, kind)
                digest = hashlib.sha256(example.prompt.encode()).hexdigest()
                apart = int(digest[-1], 16) < 4
                if digest not in seen and apart == (part != "examples"):
                    break
            else:
                raise InputError(
                    f"task {self.label!r} has only {index} different questions: "
                    f"lower the limit to that or change the parameters"
                )
            seen.add(digest)
            yield kind, dataclasses.replace(example, id=digest[:12])


class _Sets:
    """The sets of worked examples of a task under a seed, drawn as far as they are needed."""

    def __init__(self, task: Generated, seed: int) -> None:
        self._task = task
        self._seed = seed
        self._drawn: dict[int, list[Example]] = {}
        self._streams: dict[int, Iterator[tuple[int, Example]]] = {}

    @property
    def shown(self) -> set[str]:
        """Ids of the worked examples that were drawn."""
        return {shot.id for drawn in self._drawn.values() for shot in drawn}

    def before(self, place: int, kind: int, question: Example) -> Example:
        """The question with its worked examples and its cluster.

        Questions of one kind share a set where there are as many kinds as sets: then a cluster
        holds all that its templates and its worked examples have in common.
        """
        wanted = self._task.num_fewshot
        if not wanted:
            return question
        of = (kind if self._task.kinds >= N_SETS else place) % N_SETS
        drawn = self._drawn.setdefault(of, [])
        stream = self._streams.setdefault(
            of,
            self._task._stream(
                f"shots {of}", self._seed, self._task.shot, repeat(of % self._task.kinds)
            ),
        )
        while True:
            shots = [shot for shot in drawn if self._task.suits(shot, question)]
            if len(shots) >= wanted:
                cluster = f"shots {of}"
                return dataclasses.replace(question, shots=tuple(shots[:wanted]), cluster=cluster)
            drawn.append(next(stream)[1])


def with_wrong(answer: str, wrong: list[str], rng: random.Random) -> tuple[str, ...]:
    """The answer among its wrong choices, in random order."""
    choices = [answer, *wrong]
    rng.shuffle(choices)
    return tuple(choices)


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
