"""Language: control tasks, which show damage that is not specific to a skill.

`copying` asks for an exact copy of a text. Damage at any depth breaks long answers, regardless of
their subject. The texts here are as long as the worked solutions of `word_problems` and made of the
same words, but need no reasoning. If the ablation that harms word problems also harms copying, the
harm is no evidence about reasoning.

`plain_text` scores passages without a question: the control for damage to language modelling in
general. The passages of `passages.txt` were written for this package, so that no model was trained
on them.
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
from layerroles.tasks.base import (
    Example,
    Grade,
    Task,
    check_whole_number,
    has_answer_length,
    register,
)
from layerroles.tasks.task_base_classes import Generated, shuffle_choices
from layerroles.tasks.vocabulary import NAMES, PLACES, THINGS
from layerroles.tasks.wordings import COPYING, check_template, reword

# Questions are drawn in the wording of template 0.
_HEAD, _TAIL = COPYING[0].split("{body}")
_NUMBERS = tuple(str(number) for number in range(2, 21))
_DAYS = tuple("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
_KINDS: dict[str, Sequence[str]] = {
    "name": NAMES,
    "number": _NUMBERS,
    "things": THINGS,
    "place": PLACES,
    "day": _DAYS,
}
# A text uses each frame at most once: a copying model could confuse two places with one frame.
_FRAMES = (
    "{name} keeps {number} {things} in the {place}",
    "on {day} {name} found {number} {things} near the {place}",
    "there are also {number} {things} behind the {place}",
    "after lunch {name} wants to buy {number} {things} from the {place}",
    "some of the {number} {things} that {name} likes are still in the {place}",
    "nobody took the {number} {things} that were left in the {place} on {day}",
)
# One passage in this many is never asked, but reserved for references.
_HELD_OUT_PART = 5


@register("copying")
@dataclass(frozen=True, kw_only=True)
class Copying(Generated):
    """Repeat a given text exactly.

    Wrong choices have words of one kind swapped, such as two names or two numbers: the first has
    one pair swapped, the second another pair, and the third both. So all four choices have the same
    words, and each differs from two others by one swap and from the third by two. A text of one
    clause has no two words of one kind to swap. Its wrong choices have one word replaced, another
    word replaced, and both; the prompt shows the two replacements before the text.

    Evidence is the text to copy.

    Attributes:
        clauses: number of clauses in the text, 1 to 6; a clause has about 12 tokens, and 2 clauses
            are as long as the solution of a word problem of two steps.
        num_fewshot: worked examples before each text, with texts of the same length.
        shot_order: the order of the worked examples: `drawn` or `reversed`.
        template: the wording of the prompt, 0 to 3; see `tasks.wordings`.

    Example:
        >>> from layerroles.tasks import task
        >>> (example,) = task("copying", clauses=1, num_fewshot=0).examples(limit=1, seed=0)
        >>> example.answer in example.prompt
        True
    """

    family: ClassVar[str] = "language"
    version: ClassVar[int] = 3

    clauses: int = 2
    num_fewshot: int = 1
    template: int = 0

    def __post_init__(self) -> None:
        """Check the parameters.

        Raises:
            InputError: `clauses` is not a whole number from 1 to 6, or there is no such `template`.
        """
        super().__post_init__()
        check_whole_number(self.name, "clauses", self.clauses, 1, len(_FRAMES))
        check_template(self.name, self.template, COPYING)

    @property
    def max_gen_toks(self) -> int:
        """The maximum number of generated tokens, about twice those of the text to copy."""
        return 16 + 20 * self.clauses

    @property
    def kinds(self) -> int:
        """The number of kinds of questions: one for each clause with which a text may open."""
        return len(_FRAMES)

    def question(self, rng: random.Random, kind: int) -> Example:
        """Draw a text that opens with clause `kind`, with three altered copies as wrong choices."""
        other_frames = [frame for frame in _FRAMES if frame != _FRAMES[kind]]
        return _draw_example(rng, [_FRAMES[kind], *rng.sample(other_frames, self.clauses - 1)])

    def shot(self, rng: random.Random, kind: int) -> Example:
        """Draw a worked example whose text opens with any clause, not only clause `kind`."""
        return self.question(rng, rng.randrange(self.kinds))

    def reworded(self, example: Example) -> Example:
        """Return a question or a shot in the wording that `template` selects."""
        (body,) = example.evidence
        words = example.prompt[: body[0] - len(_HEAD)]  # other words, before a text of one clause
        return reword(example, body, f"{words}{COPYING[self.template]}")

    def candidates(self, example: Example) -> list[str] | None:
        """Return an empty list: repeating the text of the prompt is the skill."""
        return []

    def grade(self, response: str, example: Example) -> Grade:
        """Grade the first line as a copy of the text.

        Strict: it is identical. Flexible: it has the same words in the same order, ignoring case
        and punctuation. Form: it has no more words than the text or a shot's text.
        """
        line = response.strip().split("\n", 1)[0].strip()
        return Grade(
            strict=line == example.answer,
            flexible=_split_words(line) == _split_words(example.answer),
            answered=bool(_split_words(line)),
            form=has_answer_length(line, example),
        )


def _draw_example(rng: random.Random, frames: list[str]) -> Example:
    clauses = len(frames)
    # No word of one kind occurs twice.
    words_by_kind = {kind: rng.sample(words, clauses) for kind, words in _KINDS.items()}
    places = {
        kind: [at for at, frame in enumerate(frames) if f"{{{kind}}}" in frame] for kind in _KINDS
    }
    text, head = _fill_frames(frames, words_by_kind), _HEAD
    if clauses == 1:
        # There is no word to swap with: the prompt shows two others.
        kinds = rng.sample([kind for kind in places if places[kind]], 2)
        words = [_draw_unused_word(rng, kind, words_by_kind[kind]) for kind in kinds]
        head = f"Other words: {', '.join(words)}\n{_HEAD}"
        changes = [{kind: [word]} for kind, word in zip(kinds, words, strict=True)]
    else:
        kinds = rng.sample([kind for kind in places if len(places[kind]) > 1], 2)
        changes = [
            {kind: _swap_words(words_by_kind[kind], *rng.sample(places[kind], 2))} for kind in kinds
        ]
    changes.append(changes[0] | changes[1])
    wrong = [_fill_frames(frames, words_by_kind | change) for change in changes]
    return Example(
        id="",
        prompt=f"{head}{text}{_TAIL}",
        answer=text,
        choices=shuffle_choices(text, wrong, rng),
        evidence=((len(head), len(head) + len(text)),),
    )


def _draw_unused_word(rng: random.Random, kind: str, used: list[str]) -> str:
    return rng.choice([word for word in _KINDS[kind] if word not in used])


def _swap_words(words: list[str], first: int, second: int) -> list[str]:
    """Return a copy of `words` with the words at the indices `first` and `second` swapped."""
    changed = list(words)
    changed[first], changed[second] = words[second], words[first]
    return changed


def _fill_frames(frames: Sequence[str], words_by_kind: dict[str, list[str]]) -> str:
    text = ", and ".join(
        frame.format(**{kind: words[at] for kind, words in words_by_kind.items()})
        for at, frame in enumerate(frames)
    )
    return f"{text[0].upper()}{text[1:]}."


def _split_words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


@register("plain_text")
@dataclass(frozen=True)
class PlainText(Task):
    """Read short passages of plain English prose; asked under `text_logprob` only.

    One passage in five is never asked, but reserved for references (see `held_out`).

    Attributes:
        path: a text file with passages separated by blank lines; if empty, the 40 passages of this
            package.

    Raises:
        InputError: a file that cannot be read or contains no text.

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
        """Check that the file contains a passage.

        Raises:
            InputError: the file cannot be read, or contains no passage.
        """
        object.__setattr__(self, "path", str(self.path))
        if not self._read_passages():
            raise InputError(f"{self.path} holds no text: separate passages by blank lines")

    def examples(self, limit: int, seed: int) -> list[Example]:
        """Return the first `limit` passages, in the order that `seed` gives.

        The passage is the answer of its example; the prompt is empty.
        """
        asked_passages, _ = self._split_held_out(seed)
        return [
            Example(hashlib.sha256(text.encode()).hexdigest()[:12], "", text)
            for text in asked_passages[:limit]
        ]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Return up to `limit` passages that are never asked under `seed`."""
        _, held_out_passages = self._split_held_out(seed)
        return held_out_passages[:limit]

    def n_reserved(self, seed: int) -> int:
        """Return the number of passages that are not asked: a fifth, under every seed."""
        return len(self._split_held_out(seed)[1])

    def _split_held_out(self, seed: int) -> tuple[list[str], list[str]]:
        passages = self._read_passages()
        random.Random(f"plain_text:{seed}").shuffle(passages)
        n_held_out = len(passages) // _HELD_OUT_PART
        return passages[n_held_out:], passages[:n_held_out]

    def _read_passages(self) -> list[str]:
        text = _read_file(Path(self.path)) if self.path else _read_package_text()
        parts = (part.strip() for part in re.split(r"\n\s*\n", text))
        return list(dict.fromkeys(part for part in parts if part))


def _read_package_text() -> str:
    return files("layerroles.tasks").joinpath("passages.txt").read_text(encoding="utf-8")


def _read_file(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"task 'plain_text': {path} cannot be read: {reason}") from None
