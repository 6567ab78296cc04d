"""Tasks with an unlimited number of randomly generated questions.

Every question is a function of (task, seed, index) alone, by `random.Random` seeded with text, so
that it is the same on every machine. Questions are split in two by a hash of their content: one in
four is set apart for worked examples and held-out texts, the others are asked. The two parts
therefore share no question, under any seed and limit.

The worked examples before a question affect its score, in word problems by as much as a layer does.
So there are 16 sets of them under each seed, and the questions that share a set are a cluster
(`Example.cluster`), which intervals take into account.
"""

import dataclasses
import hashlib
import random
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice, repeat

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task
from layerroles.tasks.parameters import whole

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
