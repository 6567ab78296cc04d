"""Tasks for planted models, one for each family.

A share `strength` of a task's examples needs the planted layers. The prompts of the other examples
end in their answer, which the model repeats without any layer (see `wiring`). So ablating all
layers planted for a task lowers its score by about `strength`. The share is exact in each block of
100 successive examples.
"""

import dataclasses
import random
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.plants.planted_language import ECHO, FIND, FOLLOW, RECALL, SUBJECTS, WORDS, fact_of
from layerroles.plants.role_layout import check_share
from layerroles.tasks import Example, Generated, register, shuffle_choices

_N_KINDS = 100


@dataclass(frozen=True)
class Query:
    """A question about pairs, with its right answer and wrong choices.

    Attributes:
        ask: the last two words of the prompt.
        answer: the right word.
        wrong: three other words.
        evidence: the values in the pairs that lead to the answer; empty if none do.
    """

    ask: tuple[str, str]
    answer: str
    wrong: tuple[str, ...]
    evidence: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pairs:
    """Four pairs of a key and its value; the second key is the first value, which makes a chain.

    Attributes:
        words: `a b c d e f g`, all different; the pairs are `a b`, `b c`, `d e` and `f g`.
    """

    words: tuple[str, ...]

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The four pairs (key, value)."""
        a, b, c, d, e, f, g = self.words
        return (a, b), (b, c), (d, e), (f, g)


@dataclass(frozen=True, kw_only=True)
class Question(Generated):
    """Base class of the tasks. All prompts have the same length, so there are no worked examples.

    Attributes:
        marker: the word of the prompt that tells the model the task, such as `find`.
        num_fewshot: must be 0.
    """

    marker: ClassVar[str]
    max_gen_toks: ClassVar[int] = 4

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `num_fewshot` is not 0.
        """
        if self.num_fewshot != 0:
            raise InputError(
                f"task {self.name!r}: num_fewshot={self.num_fewshot!r}, and a planted model reads "
                f"prompts of one length only: use 0"
            )

    @property
    def kinds(self) -> int:
        """The number of kinds of questions, 100; each kind occurs once in every hundred questions.

        In tasks with a `strength`, the kind decides whether a prompt ends in its answer, so
        `strength` has steps of 0.01.
        """
        return _N_KINDS

    def prompt_ends_in_answer(self, kind: int) -> bool:
        """Return whether the prompts of this kind end in the answer; by default True."""
        return True

    @abstractmethod
    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Draw a question about these pairs."""

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw an example: a prompt of four pairs and a question, with answer and evidence."""
        chained = Pairs(tuple(rng.sample(WORDS, 7)))
        query = self.draw_query(rng, chained)
        if self.prompt_ends_in_answer(kind):
            query = dataclasses.replace(query, ask=(self.marker, query.answer), evidence=())
        pairs = rng.sample(chained.pairs, len(chained.pairs))
        words = [*(word for pair in pairs for word in pair), *query.ask]
        values = [value for _, value in pairs]
        # Words are one space apart; without evidence in the pairs, the last word is the evidence.
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
    """Base class of the tasks that need planted layers.

    Attributes:
        strength: the share of examples that need the planted layers, in steps of 0.01; the
            prompts of the others end in their answer.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `num_fewshot` is not 0, or `strength` is not between 0 and 1.
        """
        super().__post_init__()
        check_share(f"task {self.name!r}: strength", self.strength, 0.0, 1.0)

    def prompt_ends_in_answer(self, kind: int) -> bool:
        """Return whether prompts of this kind end in the answer: `kind` >= 100 x `strength`."""
        return kind >= round(_N_KINDS * self.strength)


@register("planted_look_up")
@dataclass(frozen=True, kw_only=True)
class LookUp(PlantedQuestion):
    """Look up the value that follows a key in the prompt. Evidence is the value."""

    family: ClassVar[str] = "retrieval"
    marker: ClassVar[str] = FIND

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Ask for the value of one of the four keys; wrong choices are the other values."""
        key, value = rng.choice(pairs.pairs)
        wrong = tuple(other for _, other in pairs.pairs if other != value)
        return Query((key, FIND), value, wrong, (value,))


@register("planted_chain")
@dataclass(frozen=True, kw_only=True)
class Chain(PlantedQuestion):
    """Look up the value of a key, then the value of that value. Evidence is both values."""

    family: ClassVar[str] = "reasoning"
    marker: ClassVar[str] = FOLLOW

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Ask for the word two look-ups from the first key; wrong choices are words of other pairs.

        The value in the middle is not among the choices, so that a model that finds it and stops
        can only guess.
        """
        a, b, c, *others = pairs.words
        return Query((a, FOLLOW), c, tuple(rng.sample(others, 3)), (b, c))


@register("planted_fact")
@dataclass(frozen=True, kw_only=True)
class Fact(PlantedQuestion):
    """Recall the word that belongs to a person's name; the prompt does not state it.

    Evidence is the name.
    """

    family: ClassVar[str] = "knowledge"
    marker: ClassVar[str] = RECALL

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Ask for the word that belongs to one of the names; wrong choices are other words."""
        subject = rng.randrange(len(SUBJECTS))
        answer = WORDS[fact_of(subject)]
        wrong = rng.sample([word for word in WORDS if word != answer], 3)
        return Query((RECALL, SUBJECTS[subject]), answer, tuple(wrong))


@register("planted_echo")
@dataclass(frozen=True, kw_only=True)
class Echo(Question):
    """Repeat the prompt's last word; a planted model needs no layer for this.

    Evidence is that word.
    """

    family: ClassVar[str] = "language"
    marker: ClassVar[str] = ECHO

    def draw_query(self, rng: random.Random, pairs: Pairs) -> Query:
        """Ask to repeat one of the words; wrong choices are other words."""
        answer, *wrong = rng.sample(WORDS, 4)
        return Query((ECHO, answer), answer, tuple(wrong))
