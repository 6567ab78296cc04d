"""Answers as numbers: each question and text is stored once, and 0 means "same as intact"."""

import math
from typing import Any

import pandas as pd

from layerroles.errors import visible
from layerroles.page.said import Room, Texts, known
from layerroles.results import INTACT, SweepResult

_SAME, _NOT_ASKED, _LEFT_OUT = 0, -1, -2  # codes of answers that do not refer to a text


class Cell:
    """The answers of one task under one protocol in one run, as numbers."""

    def __init__(
        self, key: tuple[str, str], rows: pd.DataFrame, result: SweepResult, book: "Book"
    ) -> None:
        self._book = book
        asked = list(dict.fromkeys(rows.loc[rows["condition"] == INTACT, "example"]))
        self._columns = {example: column for column, example in enumerate(asked)}
        texts = _asked(result, key[0])
        self._questions = [
            book.question(key[0], each, *texts.get(each, ("", ""))) for each in asked
        ]
        self._rows = {str(name): own for name, own in rows.groupby("condition", sort=False)}
        self._grades: dict[tuple[str, float | None], int] = {}
        self._intact, self._got = self._answers(INTACT)

    def intact(self) -> dict[str, Any]:
        """Return the questions, the intact model's answers, and all grades given so far."""
        return {
            "asked": self._questions,
            "said": [_LEFT_OUT if text is None else self._numbered(text) for text in self._intact],
            "got": self._got,
            "grades": [list(grade) for grade in self._grades],
        }

    def under(self, condition: str) -> dict[str, Any]:
        """Return the answers under a condition; a `got` of -1 means not asked."""
        texts, got = self._answers(condition)
        text_numbers = [self._text_number(*pair) for pair in zip(texts, self._intact, strict=True)]
        return {"said": text_numbers, "got": got}

    def _text_number(self, text: str | None, intact: str | None) -> int:
        if text is None:
            return _LEFT_OUT
        return _SAME if text == intact else self._numbered(text)

    def _numbered(self, text: str) -> int:
        return self._book.texts.number(*self._book.room.start(text)) + 1

    def _answers(self, condition: str) -> tuple[list[str | None], list[int]]:
        """Return each question's uncut text (None where there is no room) and grade number."""
        texts: list[str | None] = [""] * len(self._columns)
        got = [_NOT_ASKED] * len(self._columns)
        most = self._book.room.examples
        rows = self._rows[condition]
        columns = rows["example"], rows["outcome"], rows["status"], rows["score"], rows["response"]
        for example, outcome, status, score, response in zip(*columns, strict=True):
            column = self._columns.get(example)
            if column is None:
                continue
            fits = most is None or column < most
            texts[column] = known(response) if fits else None
            label = known(outcome) if status == "ok" else str(status)
            grade = visible(label), number(score)
            got[column] = self._grades.setdefault(grade, len(self._grades))
        return texts, got


def _asked(result: SweepResult, task: str) -> dict[str, tuple[str, str]]:
    """Map each example of a task to prompt and answer; empty if the run has no examples."""
    if result.examples.empty:
        return {}
    rows = result.examples[result.examples["task"] == task]
    texts = zip(rows["prompt"].map(known), rows["answer"].map(known), strict=True)
    return dict(zip(rows["example"], texts, strict=True))


class Book:
    """The questions and texts of all runs, each stored once."""

    def __init__(self, room: Room) -> None:
        self.room, self.texts = room, Texts()
        self.questions: list[list[str]] = []
        self._known: dict[tuple[str, str], dict[str, int]] = {}

    def question(self, task: str, example: str, prompt: str, answer: str) -> int:
        """Return a question's number; the same id with another prompt is another question."""
        places = self._known.setdefault((task, example), {})
        same = [number for asked, number in places.items() if not prompt or asked in ("", prompt)]
        if same:
            return same[0]
        places[prompt] = len(self.questions)
        shown = [self.room.question(prompt), self.room.response(answer)]
        self.questions.append([visible(str(example)), *shown])
        return places[prompt]

    def first(self, task: str, example: str) -> int | None:
        """Return a question's number in the first run that asked it; None if none did."""
        return next(iter(self._known.get((task, example), {}).values()), None)


def number(value: Any, places: int = 4) -> float | None:
    """Round a number for JSON; None if it is missing or not finite."""
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    return round(float(value), places)


def numbers(*values: Any) -> list[float | None]:
    """Round numbers for JSON; see `number`."""
    return [number(value) for value in values]
