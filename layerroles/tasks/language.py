"""Language: repeat a text as it stands, the control for damage that is not about a skill.

Damage at any depth breaks long answers, regardless of their subject. The texts here are as long as
the worked solutions of `word_problems` and made of the same words, with nothing to work out: where
copying suffers too, a loss in word problems says little about reasoning.

Language: plain texts without a question, the control for damage to the language model as such.

The passages of `passages.txt` were written for this package, so that no model has seen them before.
"""

import hashlib
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Grade, Task, is_short, register, whole
from layerroles.tasks.sources import Generated, with_wrong
from layerroles.tasks.vocabulary import NAMES, PLACES, THINGS

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


# One in so many is never asked, so that there is something to make a reference of.
_HELD_OUT = 5


@register("plain_text")
@dataclass(frozen=True)
class PlainText(Task):
    """Read short passages of plain English prose; asked under `text_logprob` only.

    Attributes:
        path: a text file of one's own, passages separated by blank lines; if empty, the 40 passages
            of this package. One in five is held out.

    Raises:
        InputError: a file that cannot be read, or holds no text.

    Example:
        >>> from layerroles.tasks import task
        >>> text = task("plain_text")
        >>> len(text.examples(limit=100, seed=0)), len(text.held_out(limit=100, seed=0))
        (32, 8)
    """

    family: ClassVar[str] = "language"
    protocol: ClassVar[str] = "text_logprob"

    path: str = ""

    def __post_init__(self) -> None:
        """Read the file.

        Raises:
            InputError: it cannot be read, or holds no passage.
        """
        object.__setattr__(self, "path", str(self.path))
        if not self._passages():
            raise InputError(f"{self.path} holds no text: separate passages by blank lines")

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` passages of the order under `seed`, without a prompt."""
        asked, _ = self._parted(seed)
        return [
            Example(hashlib.sha256(text.encode()).hexdigest()[:12], "", text)
            for text in asked[:limit]
        ]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Passages that are never asked."""
        _, apart = self._parted(seed)
        return apart[:limit]

    def n_reserved(self, seed: int) -> int:
        """One passage in five, the same number under every seed."""
        return len(self._parted(seed)[1])

    def _parted(self, seed: int) -> tuple[list[str], list[str]]:
        passages = self._passages()
        random.Random(f"plain_text:{seed}").shuffle(passages)
        n_apart = len(passages) // _HELD_OUT
        return passages[n_apart:], passages[:n_apart]

    def _passages(self) -> list[str]:
        text = _read(Path(self.path)) if self.path else _own()
        parts = (part.strip() for part in re.split(r"\n\s*\n", text))
        return list(dict.fromkeys(part for part in parts if part))


def _own() -> str:
    return files("layerroles.tasks").joinpath("passages.txt").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"task 'plain_text': {path} cannot be read: {reason}") from None
