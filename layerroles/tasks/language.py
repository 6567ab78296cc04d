"""Language: repeat a text as it stands, the control for damage that is not about a skill.

Damage at any depth breaks long answers, regardless of their subject. The texts here are as long as
the worked solutions of `word_problems` and made of the same words, with nothing to work out: where
copying suffers too, a loss in word problems says little about reasoning.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from layerroles.tasks.base import Example, Grade, is_short, register
from layerroles.tasks.generated import Generated, with_wrong
from layerroles.tasks.parameters import whole
from layerroles.tasks.words import NAMES, PLACES, THINGS

_NUMBERS = tuple(str(number) for number in range(2, 21))
_DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
_KINDS: dict[str, Sequence[str]] = {
    "name": NAMES,
    "number": _NUMBERS,
    "things": THINGS,
    "place": PLACES,
    "day": _DAYS,
}
# Each serves once in a text. Of one frame used over and over a copy would lose its place.
_FRAMES = (
    "{name} keeps {number} {things} in the {place}",
    "on {day} {name} found {number} {things} near the {place}",
    "there are also {number} {things} behind the {place}",
    "after lunch {name} wants to buy {number} {things} from the {place}",
    "some of the {number} {things} that {name} likes are still in the {place}",
    "nobody took the {number} {things} that were left in the {place} on {day}",
)


@register("copying")
@dataclass(frozen=True, kw_only=True)
class Copying(Generated):
    """Repeat a given text exactly.

    Wrong choices have two words of a kind exchanged, such as two names or two numbers: one has one
    pair exchanged, one another pair, and one both. So each of the four choices has the same words,
    and differs from the other three as any other does. A text of one clause has no two words of a
    kind: there two words are replaced instead, by others that stand before the text.

    Evidence is the text.

    Attributes:
        clauses: length of the text, 1 to 6; a clause takes about 12 tokens, and 2 are as long as
            the solution of a word problem of two steps.
        num_fewshot: worked examples before each text, as long.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("copying", clauses=1, num_fewshot=0).examples(limit=1, seed=0)
        >>> example.answer in example.prompt
        True
    """

    family: ClassVar[str] = "language"
    version: ClassVar[int] = 2

    clauses: int = 2
    num_fewshot: int = 1

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `clauses` is not a whole number from 1 to 6.
        """
        super().__post_init__()
        whole(self.name, "clauses", self.clauses, 1, len(_FRAMES))

    @property
    def max_gen_toks(self) -> int:
        """About half as much again as the text takes."""
        return 16 + 20 * self.clauses

    @property
    def kinds(self) -> int:
        """One kind for each clause that a text may open with."""
        return len(_FRAMES)

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a text that opens with clause `kind`, and three copies with exchanged words."""
        others = [frame for frame in _FRAMES if frame != _FRAMES[kind]]
        return _example(rng, [_FRAMES[kind], *rng.sample(others, self.clauses - 1)])

    def candidates(self, example: Example) -> list[str] | None:
        """None to guess among: repeating what the prompt holds is what is asked."""
        return []

    def grade(self, response: str, example: Example) -> Grade:
        """Strict: the text to the letter. Flexible: its words, without case and punctuation.

        Form: it has no more words than a text of this length.
        """
        line = response.strip().split("\n", 1)[0].strip()
        return Grade(
            strict=line == example.answer,
            flexible=_words(line) == _words(example.answer),
            answered=bool(_words(line)),
            form=is_short(line, example),
        )


def _example(rng: random.Random, frames: list[str]) -> Example:
    clauses = len(frames)
    # No word of a kind occurs twice.
    drawn = {kind: rng.sample(words, clauses) for kind, words in _KINDS.items()}
    places = {
        kind: [at for at, frame in enumerate(frames) if f"{{{kind}}}" in frame] for kind in _KINDS
    }
    text, head = _written(frames, drawn), "Text: "
    if clauses == 1:
        # There is nothing to exchange a word with: the prompt shows two others.
        kinds = rng.sample([kind for kind, own in places.items() if own], 2)
        others = [_another(rng, kind, drawn[kind]) for kind in kinds]
        head = f"Other words: {', '.join(others)}\nText: "
        changes = [{kind: [other]} for kind, other in zip(kinds, others, strict=True)]
    else:
        kinds = rng.sample([kind for kind, own in places.items() if len(own) > 1], 2)
        changes = [{kind: _exchanged(drawn[kind], *rng.sample(places[kind], 2))} for kind in kinds]
    one, other = changes
    wrong = [_written(frames, {**drawn, **some}) for some in (one, other, {**one, **other})]
    return Example(
        id="",
        prompt=f"{head}{text}\nCopy of the text:",
        answer=text,
        choices=with_wrong(text, wrong, rng),
        evidence=((len(head), len(head) + len(text)),),
    )


def _another(rng: random.Random, kind: str, used: list[str]) -> str:
    return rng.choice([word for word in _KINDS[kind] if word not in used])


def _exchanged(words: list[str], one: int, other: int) -> list[str]:
    """The words with two of them in each other's place."""
    changed = list(words)
    changed[one], changed[other] = words[other], words[one]
    return changed


def _written(frames: Sequence[str], drawn: dict[str, list[str]]) -> str:
    text = ", and ".join(
        frame.format(**{kind: words[at] for kind, words in drawn.items()})
        for at, frame in enumerate(frames)
    )
    return f"{text[0].upper()}{text[1:]}."


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())
