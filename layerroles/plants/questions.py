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
from layerroles.plants.layout import check_share
from layerroles.plants.words import ECHO, FIND, FOLLOW, RECALL, SUBJECTS, WORDS, fact_of
from layerroles.tasks import Example, Generated, register, shuffle_choices

_N_KINDS = 100


@dataclass(frozen=True)
class Query:
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
        return _N_KINDS

    def tells_answer(self, kind: int) -> bool:
        """Whether questions of a kind tell their answer."""
        return True

    @abstractmethod
    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Draw what is asked of these pairs."""

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw pairs and a question."""
        chained = Pairs(tuple(rng.sample(WORDS, 7)))
        query = self.draw_query(rng, chained)
        if self.tells_answer(kind):
            query = dataclasses.replace(query, ask=(self.marker, query.answer), evidence=())
        pairs = rng.sample(chained.pairs, len(chained.pairs))
        words = [*(word for pair in pairs for word in pair), *query.ask]
        values = [value for _, value in pairs]
        # Words stand one space apart; where nothing else holds the answer, the last one does.
        places = [2 * values.index(word) + 1 for word in query.evidence] or [len(words) - 1]
        starts = [len(" ".join([*words[:place], ""])) for place in places]
        return Example(
            id="",
            prompt=" ".join(words),
            answer=query.answer,
            choices=shuffle_choices(query.answer, list(query.wrong), rng),
            evidence=tuple(
                (start, start + len(words[place]))
                for start, place in zip(starts, places, strict=True)
            ),
        )


@dataclass(frozen=True, kw_only=True)
class PlantedQuestion(Question):
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
        check_share(f"task {self.name!r}: strength", self.strength, 0.0, 1.0)

    def tells_answer(self, kind: int) -> bool:
        """Kinds beyond the share `strength` do."""
        return kind >= round(_N_KINDS * self.strength)


@register("planted_look_up")
@dataclass(frozen=True, kw_only=True)
class LookUp(PlantedQuestion):
    """Find the value of a key. Evidence is the value."""

    family: ClassVar[str] = "retrieval"
    marker: ClassVar[str] = FIND

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Any of the four keys; the other values are wrong."""
        key, value = rng.choice(pairs.pairs)
        wrong = tuple(other for _, other in pairs.pairs if other != value)
        return Query((key, FIND), value, wrong, (value,))


@register("planted_chain")
@dataclass(frozen=True, kw_only=True)
class Chain(PlantedQuestion):
    """Find the value of a key's value. Evidence is both values."""

    family: ClassVar[str] = "reasoning"
    marker: ClassVar[str] = FOLLOW

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Wrong are words of the other pairs.

        The value in the middle is not among the choices: a model that finds it and goes no further
        has no better answer than by guessing.
        """
        a, b, c, *others = pairs.words
        return Query((a, FOLLOW), c, tuple(rng.sample(others, 3)), (b, c))


@register("planted_fact")
@dataclass(frozen=True, kw_only=True)
class Fact(PlantedQuestion):
    """Name the word that goes with a person; the prompt does not hold it. Evidence is the name."""

    family: ClassVar[str] = "knowledge"
    marker: ClassVar[str] = RECALL

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Any of the people; other words are wrong."""
        subject = rng.randrange(len(SUBJECTS))
        answer = WORDS[fact_of(subject)]
        wrong = rng.sample([word for word in WORDS if word != answer], 3)
        return Query((RECALL, SUBJECTS[subject]), answer, tuple(wrong))


@register("planted_echo")
@dataclass(frozen=True, kw_only=True)
class Echo(Question):
    """Repeat the last word: copying, which here needs no layer at all. Evidence is that word."""

    family: ClassVar[str] = "language"
    marker: ClassVar[str] = ECHO

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Any word; others are wrong."""
        answer, *wrong = rng.sample(WORDS, 4)
        return Query((ECHO, answer), answer, tuple(wrong))
