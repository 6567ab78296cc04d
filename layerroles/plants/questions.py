"""What planted models are asked, a task for each family.

Of a task's examples the share `strength` can be answered only by the planted layers. The others
tell their answer: their last word is the answer, which the embedding alone repeats (see `wiring`).
So an ablation that takes the whole role costs the share `strength`, exactly so in every hundred
examples.
"""

import dataclasses
import random
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.plants.layout import share
from layerroles.plants.words import ECHO, FIND, FOLLOW, RECALL, SUBJECTS, WORDS, fact
from layerroles.tasks import Example, Generated, register, with_wrong

_OF = 100


@dataclass(frozen=True)
class Asked:
    """The end of a prompt, what is right, and what is wrong.

    Attributes:
        ask: the last two words.
        answer: a word.
        wrong: three other words.
        evidence: words of the pairs that hold the answer, each a value.
    """

    ask: tuple[str, str]
    answer: str
    wrong: tuple[str, ...]
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """Four pairs of a key and its value; the second key is the first value, which makes a chain.

    Attributes:
        words: `a b c d e f g`, all different, of the pairs `a b`, `b c`, `d e` and `f g`.
    """

    words: tuple[str, ...]

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """Key and value of each."""
        a, b, c, d, e, f, g = self.words
        return (a, b), (b, c), (d, e), (f, g)


@dataclass(frozen=True, kw_only=True)
class Question(Generated):
    """What the tasks share. They have no worked examples: a prompt has one length.

    Attributes:
        marker: the word that says what is asked.
        num_fewshot: none.
    """

    marker: ClassVar[str]
    max_gen_toks: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: worked examples.
        """
        if self.num_fewshot != 0:
            raise InputError(
                f"task {self.name!r}: num_fewshot={self.num_fewshot!r}, and a planted model reads "
                f"prompts of one length only: use 0"
            )

    @property
    def kinds(self) -> int:
        """A hundred, so that a share of them can be set apart."""
        return _OF

    def tells(self, kind: int) -> bool:
        """Whether questions of a kind tell their answer."""
        return True

    @abstractmethod
    def asked(self, rng: random.Random, given: Pairs) -> Asked:
        """Draw what is asked of these pairs."""

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw pairs and a question."""
        given = Pairs(tuple(rng.sample(WORDS, 7)))
        asked = self.asked(rng, given)
        if self.tells(kind):
            asked = dataclasses.replace(asked, ask=(self.marker, asked.answer), evidence=())
        pairs = rng.sample(given.pairs, len(given.pairs))
        words = [*(word for pair in pairs for word in pair), *asked.ask]
        values = [value for _, value in pairs]
        # Words stand one space apart; where nothing else holds the answer, the last one does.
        places = [2 * values.index(word) + 1 for word in asked.evidence] or [len(words) - 1]
        starts = [len(" ".join([*words[:place], ""])) for place in places]
        return Example(
            id="",
            prompt=" ".join(words),
            answer=asked.answer,
            choices=with_wrong(asked.answer, list(asked.wrong), rng),
            evidence=tuple(
                (start, start + len(words[place]))
                for start, place in zip(starts, places, strict=True)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Planted(Question):
    """A question for planted layers.

    Attributes:
        strength: the share of examples that the planted layers are needed for, in hundredths; the
            rest tell their answer.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: worked examples, or a strength that is not between 0 and 1.
        """
        super().__post_init__()
        share(f"task {self.name!r}: strength", self.strength, 0.0, 1.0)

    def tells(self, kind: int) -> bool:
        """Kinds beyond the share `strength` do."""
        return kind >= round(_OF * self.strength)


@register("planted_look_up")
@dataclass(frozen=True, kw_only=True)
class LookUp(Planted):
    """Find the value of a key. Evidence is the value."""

    family: ClassVar[str] = "retrieval"
    marker: ClassVar[str] = FIND

    def asked(self, rng: random.Random, given: Pairs) -> Asked:
        """Any of the four keys; the other values are wrong."""
        key, value = rng.choice(given.pairs)
        wrong = tuple(other for _, other in given.pairs if other != value)
        return Asked((key, FIND), value, wrong, (value,))


@register("planted_chain")
@dataclass(frozen=True, kw_only=True)
class Chain(Planted):
    """Find the value of a key's value. Evidence is both values."""

    family: ClassVar[str] = "reasoning"
    marker: ClassVar[str] = FOLLOW

    def asked(self, rng: random.Random, given: Pairs) -> Asked:
        """Wrong are words of the other pairs.

        The value in the middle is not among the choices: a model that finds it and goes no further
        has no better answer than by guessing.
        """
        a, b, c, *others = given.words
        return Asked((a, FOLLOW), c, tuple(rng.sample(others, 3)), (b, c))


@register("planted_fact")
@dataclass(frozen=True, kw_only=True)
class Fact(Planted):
    """Name the word that goes with a person; the prompt does not hold it. Evidence is the name."""

    family: ClassVar[str] = "knowledge"
    marker: ClassVar[str] = RECALL

    def asked(self, rng: random.Random, given: Pairs) -> Asked:
        """Any of the people; other words are wrong."""
        subject = rng.randrange(len(SUBJECTS))
        answer = WORDS[fact(subject)]
        wrong = rng.sample([word for word in WORDS if word != answer], 3)
        return Asked((RECALL, SUBJECTS[subject]), answer, tuple(wrong))


@register("planted_echo")
@dataclass(frozen=True, kw_only=True)
class Echo(Question):
    """Repeat the last word: copying, which here needs no layer at all. Evidence is that word."""

    family: ClassVar[str] = "language"
    marker: ClassVar[str] = ECHO

    def asked(self, rng: random.Random, given: Pairs) -> Asked:
        """Any word; others are wrong."""
        answer, *wrong = rng.sample(WORDS, 4)
        return Asked((ECHO, answer), answer, tuple(wrong))
