"""Prompts and answers as the page shows them: long texts are cut, each text is stored once."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from layerroles.invisible_characters import visible

PROMPT_TAIL, ANSWER_HEAD = 260, 500  # characters, in the static part of the page

# Characters of all texts in the explorer, and the lengths of a response to try: the first with
# which all texts fit into the budget is taken.
_BUDGET = 1_200_000
_LENGTHS = (1200, 600, 300, 150)
_PROMPT = 700
_MOST, _FEWEST = 256, 4  # limits on examples per task and protocol


def end_of(text: object, length: int = PROMPT_TAIL) -> str:
    """Return the last `length` characters of a prompt (the question is at its end)."""
    prompt = str(text)
    return prompt if len(prompt) <= length else "\N{HORIZONTAL ELLIPSIS}" + prompt[-length:]


def start_of(text: object, length: int = ANSWER_HEAD) -> str:
    """Return the start of a response, with the number of characters that are left out.

    >>> start_of("a long answer", 6)
    'a long… (7 characters more)'
    """
    response = str(text)
    if len(response) <= length:
        return response
    return f"{response[:length]}\N{HORIZONTAL ELLIPSIS} ({len(response) - length} characters more)"


def text_or_empty(text: object) -> str:
    """Return the text, or an empty string if it is missing."""
    return "" if text is None or text is pd.NA or text != text else str(text)


@dataclass(frozen=True)
class TextLimits:
    """Limits on the texts of a page.

    Attributes:
        length: maximum number of characters of a response.
        prompt: maximum number of characters of a prompt, from its end.
        examples: maximum number of examples per task and protocol whose answers are shown; None for
            all.
    """

    length: int
    prompt: int
    examples: int | None

    def response(self, text: object) -> str:
        """Return a response, cut to `length` characters, with a note if it was cut."""
        return visible(start_of(text_or_empty(text), self.length))

    def start(self, text: str) -> tuple[str, int]:
        """Return a response cut to `length` characters, and the number of characters left out."""
        return visible(text[: self.length]), max(0, len(text) - self.length)

    def question(self, text: object) -> str:
        """Return the end of a prompt, at most `prompt` characters."""
        return visible(end_of(text_or_empty(text), self.prompt))


def choose_limits(frames: Sequence[pd.DataFrame], budget: int = _BUDGET) -> TextLimits:
    """Choose limits under which the distinct responses have at most `budget` characters in all.

    Responses are shortened first, down to 150 characters; if they still do not fit, examples are
    left out. At least 4 examples per task and protocol are kept, even if they exceed the budget.

    Args:
        frames: the rows of each run.
        budget: maximum number of characters; prompts are not counted.
    """
    tables = [
        pd.DataFrame({"text": frame["response"].map(text_or_empty), "place": _example_index(frame)})
        for frame in frames
    ]
    rows = pd.concat(tables, ignore_index=True)
    for length in _LENGTHS:
        if _total_length(rows["text"], length) <= budget:
            return TextLimits(length, min(length, _PROMPT), None)
    shortest, examples = _LENGTHS[-1], _MOST
    while (
        examples > _FEWEST
        and _total_length(rows.loc[rows["place"] < examples, "text"], shortest) > budget
    ):
        examples //= 2
    return TextLimits(shortest, shortest, examples)


def _example_index(frame: pd.DataFrame) -> "pd.Series[int]":
    """Return the index of each row's example within its task and protocol."""
    named = frame.groupby(["task", "protocol"], sort=False)["example"]
    return named.transform(lambda names: pd.factorize(names)[0])


def _total_length(texts: "pd.Series[str]", length: int) -> int:
    return sum(min(len(text), length) for text in texts.unique())


@dataclass
class Texts:
    """Texts that are each stored once and referred to by number.

    Attributes:
        all: the texts.
        n_cut: how many characters are left out of each text that is cut, by the text's number.
    """

    all: list[str] = field(default_factory=list)
    n_cut: dict[int, int] = field(default_factory=dict)
    _places: dict[tuple[str, int], int] = field(default_factory=dict)

    def number(self, text: str, n_cut: int = 0) -> int:
        """Return the number of a text; add the text if it is new.

        `n_cut` is how many characters were cut from its end.
        """
        if (text, n_cut) not in self._places:
            place = self._places[text, n_cut] = len(self.all)
            self.all.append(text)
            if n_cut:
                self.n_cut[place] = n_cut
        return self._places[text, n_cut]
