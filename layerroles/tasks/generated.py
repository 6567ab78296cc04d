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

Draw = Callable[[random.Random, int, int], Example]

# So many draws in a row that give nothing new mean that there is nothing new.
_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class Generated(Task):
    """A task that makes its questions.

    Attributes:
        num_fewshot: worked examples before each question, the same ones for all of a seed.
    """

    num_fewshot: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `num_fewshot` is not a whole number from 0 to 16.
        """
        whole(self.name, "num_fewshot", self.num_fewshot, 0, 16)

    @abstractmethod
    def question(self, rng: random.Random, seed: int, index: int) -> Example:
        """Draw one question, without shots; its id is given to it afterwards.

        `seed` and `index` are for what has to be spread evenly over questions. Called again with
        the same `rng` where the question drawn cannot be used.
        """

    def shot(self, rng: random.Random, seed: int, index: int) -> Example:
        """Draw one worked example; a question like the others unless a task has shorter ones."""
        return self.question(rng, seed, index)

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` questions under `seed`; any limit can be had."""
        shots = self._shots(seed)
        stream = self._stream("examples", self.question, seed)
        return [dataclasses.replace(example, shots=shots) for example in islice(stream, limit)]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Contexts of `limit` questions that are never asked and are not among the shots."""
        shots = self._shots(seed)
        shown = {shot.id for shot in shots}
        stream = self._stream("held out", self.question, seed)
        unseen = (example for example in stream if example.id not in shown)
        return [
            dataclasses.replace(example, shots=shots).context(worked=True)
            for example in islice(unseen, limit)
        ]

    def _shots(self, seed: int) -> tuple[Example, ...]:
        return tuple(islice(self._stream("shots", self.shot, seed), self.num_fewshot))

    def _stream(self, part: str, draw: Draw, seed: int) -> Iterator[Example]:
        """Different questions of one part: `examples`, `shots` or `held out`."""
        seen: set[str] = set()
        for index in count():
            rng = random.Random(f"{self.name}:{part}:{seed}:{index}")
            for _ in range(_DRAWS):
                example = draw(rng, seed, index)
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
            yield dataclasses.replace(example, id=digest[:12])


def with_wrong(answer: str, wrong: list[str], rng: random.Random) -> tuple[str, ...]:
    """The answer among its wrong choices, in random order."""
    choices = [answer, *wrong]
    rng.shuffle(choices)
    return tuple(choices)
