"""What prompts and answers become on the page: cut where they are long, each text kept once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from layerroles.errors import visible

PROMPT_TAIL, ANSWER_HEAD = 260, 500  # characters, in the part of the page that stands still

# How much of texts may stand in a page that is to be explored, and how long each may be, from the
# best that fits on.
_BUDGET = 1_200_000
_LENGTHS = (1200, 600, 300, 150)
_PROMPT = 700
_MOST, _FEWEST = 256, 4  # examples of a task and protocol


def tail(text: object, length: int = PROMPT_TAIL) -> str:
    """The end of a prompt, where the question stands."""
    told = str(text)
    return told if len(told) <= length else "\N{HORIZONTAL ELLIPSIS}" + told[-length:]


def head(text: object, length: int = ANSWER_HEAD) -> str:
    """The start of a response.

    >>> head("a long answer", 6)
    'a long… (7 characters more)'
    """
    told = str(text)
    if len(told) <= length:
        return told
    return f"{told[:length]}\N{HORIZONTAL ELLIPSIS} ({len(told) - length} characters more)"


def known(text: object) -> str:
    """The text; nothing where there is none."""
    return "" if text is None or text is pd.NA or text != text else str(text)


@dataclass(frozen=True)
class Room:
    """How much of each text a page has room for.

    Attributes:
        length: characters of a response.
        prompt: characters of a prompt, from its end.
        examples: of each task and protocol, those whose answers are told; None for all.
    """

    length: int
    prompt: int
    examples: int | None

    def response(self, text: object) -> str:
        """A response, cut where it is too long."""
        return visible(head(known(text), self.length))

    def start(self, text: str) -> tuple[str, int]:
        """The start of a response, and how many characters of it are left out."""
        return visible(text[: self.length]), max(0, len(text) - self.length)

    def question(self, text: object) -> str:
        """A prompt, of which the end is kept."""
        return visible(tail(known(text), self.prompt))


def room(frames: Sequence[pd.DataFrame], budget: int = _BUDGET) -> Room:
    """How long texts may be so that those of these rows fit, or of how many examples."""
    told = [
        pd.DataFrame({"text": each["response"].map(known), "place": _place(each)})
        for each in frames
    ]
    rows = pd.concat(told, ignore_index=True)
    for length in _LENGTHS:
        if _size(rows["text"], length) <= budget:
            return Room(length, min(length, _PROMPT), None)
    shortest, examples = _LENGTHS[-1], _MOST
    while (
        examples > _FEWEST and _size(rows.loc[rows["place"] < examples, "text"], shortest) > budget
    ):
        examples //= 2
    return Room(shortest, shortest, examples)


def _place(frame: pd.DataFrame) -> "pd.Series[int]":
    """The place of each row's example among those of its task and protocol."""
    named = frame.groupby(["task", "protocol"], sort=False)["example"]
    return named.transform(lambda names: pd.factorize(names)[0])


def _size(texts: "pd.Series[str]", length: int) -> int:
    return sum(min(len(text), length) for text in texts.unique())


@dataclass
class Texts:
    """Each text once, by number.

    Attributes:
        all: the texts.
        more: how many characters are left out of those that are cut, by number.
    """

    all: list[str] = field(default_factory=list)
    more: dict[int, int] = field(default_factory=dict)
    _places: dict[tuple[str, int], int] = field(default_factory=dict)

    def number(self, text: str, more: int = 0) -> int:
        """The number of a text, which is kept if it is new."""
        if (text, more) not in self._places:
            place = self._places[text, more] = len(self.all)
            self.all.append(text)
            if more:
                self.more[place] = more
        return self._places[text, more]
