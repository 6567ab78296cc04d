"""Tasks whose questions are drawn at random, without end.

Every question is a function of (task, seed, index) alone, by `random.Random` seeded with text, so
that it is the same on every machine. Questions are split in two by a hash of their own content, one
in four set apart: what is set apart is shown as worked examples or held out, the rest is asked. The
two therefore share no question, whatever the seed and the limit.
"""

import dataclasses
import hashlib
import random
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, islice

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task
from layerroles.tasks.parameters import whole

Draw = Callable[[random.Random, int], Example]

# So many draws in a row that give nothing new mean that there is nothing new.
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Generated(Task):
    """A task that makes its questions.

    Attributes:
        num_fewshot: worked examples before each question, the same ones for all questions of a kind
            under a seed.
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

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` questions under `seed`; any limit can be had."""
        asked = islice(self._asked("examples", seed), limit)
        shots = [self._shots(seed, kind) for kind in range(self.kinds)]
        return [dataclasses.replace(example, shots=shots[kind]) for kind, example in asked]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Contexts of `limit` questions that are never asked and are not among the shots."""
        shots = [self._shots(seed, kind) for kind in range(self.kinds)]
        shown = {shot.id for of_kind in shots for shot in of_kind}
        unseen = (pair for pair in self._asked("held out", seed) if pair[1].id not in shown)
        return [
            dataclasses.replace(example, shots=shots[kind]).context(worked=True)
            for kind, example in islice(unseen, limit)
        ]

    def _shots(self, seed: int, kind: int) -> tuple[Example, ...]:
        drawn = self._stream("shots", seed, self.shot, (kind for _ in count()))
        return tuple(example for _, example in islice(drawn, self.num_fewshot))

    def _asked(self, part: str, seed: int) -> Iterator[tuple[int, Example]]:
        return self._stream(part, seed, self.question, self._turns(part, seed))

    def _turns(self, part: str, seed: int) -> Iterator[int]:
        for turn in count():
            kinds = list(range(self.kinds))
            random.Random(f"{self.name}:{part}:{seed}:kinds:{turn}").shuffle(kinds)
            yield from kinds

    def _stream(
        self, part: str, seed: int, draw: Draw, kinds: Iterator[int]
    ) -> Iterator[tuple[int, Example]]:
        """Different questions of one part: `examples`, `shots` or `held out`."""
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


def with_wrong(answer: str, wrong: list[str], rng: random.Random) -> tuple[str, ...]:
    """The answer among its wrong choices, in random order."""
    choices = [answer, *wrong]
    rng.shuffle(choices)
    return tuple(choices)
