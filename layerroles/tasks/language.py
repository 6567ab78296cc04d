"""Language: repeat a text as it stands, the control for damage that is not about a skill.

A long answer breaks down at any damaged depth, whatever it is about. The texts here are as long as
the worked solutions of `word_problems` and made of the same words, with nothing to work out: where
copying suffers too, a loss in word problems says little about reasoning.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from layerroles.tasks.base import Example, Grade, register
from layerroles.tasks.generated import Generated, with_wrong
from layerroles.tasks.parameters import whole
from layerroles.tasks.words import NAMES, PLACES, THINGS

_VERBS = ("buys", "counts", "finds", "gets", "hides", "keeps", "loses", "sees", "sells", "wants")
_NUMBERS = tuple(str(number) for number in range(2, 21))
_KINDS: tuple[Sequence[str], ...] = (NAMES, _VERBS, _NUMBERS, THINGS, PLACES)


@register("copying")
@dataclass(frozen=True, kw_only=True)
class Copying(Generated):
    """Repeat a given text exactly.

    Wrong choices are the text with one word replaced by another of its kind. Evidence is the text.

    Attributes:
        sentences: length of the text, 1 to 8; a sentence takes about 10 tokens, and 3 are as long
            as the solution of a word problem of two steps.
        num_fewshot: worked examples before each text, of one sentence each.
    """

    family: ClassVar[str] = "language"

    sentences: int = 3
    num_fewshot: int = 1

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `sentences` is not a whole number from 1 to 8.
        """
        super().__post_init__()
        whole(self.name, "sentences", self.sentences, 1, 8)

    @property
    def max_gen_toks(self) -> int:
        """About half as much again as the text takes."""
        return 16 + 16 * self.sentences

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a text and three copies with one wrong word."""
        return _example(rng, self.sentences)

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a text of one sentence."""
        return _example(rng, 1)

    def grade(self, response: str, example: Example) -> Grade:
        """Strict: the text to the letter. Flexible: its words, without case and punctuation."""
        line = response.strip().split("\n", 1)[0].strip()
        return Grade(
            strict=line == example.answer,
            flexible=_words(line) == _words(example.answer),
            answered=bool(_words(line)),
        )


def _example(rng: random.Random, sentences: int) -> Example:
    drawn = [tuple(rng.choice(kind) for kind in _KINDS) for _ in range(sentences)]
    text = _written(drawn)
    head = "Text: "
    places = [(row, column) for row in range(sentences) for column in range(len(_KINDS))]
    wrong = [_written(_altered(rng, drawn, row, column)) for row, column in rng.sample(places, 3)]
    return Example(
        id="",
        prompt=f"{head}{text}\nCopy:",
        answer=text,
        choices=with_wrong(text, wrong, rng),
        evidence=((len(head), len(head) + len(text)),),
    )


def _written(drawn: Sequence[tuple[str, ...]]) -> str:
    return " ".join(
        f"{name} {verb} {number} {things} in the {place}."
        for name, verb, number, things, place in drawn
    )


def _altered(
    rng: random.Random, drawn: list[tuple[str, ...]], row: int, column: int
) -> list[tuple[str, ...]]:
    """The same words but for one, another of its kind."""
    was = drawn[row][column]
    word = rng.choice([other for other in _KINDS[column] if other != was])
    changed = (*drawn[row][:column], word, *drawn[row][column + 1 :])
    return [*drawn[:row], changed, *drawn[row + 1 :]]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
