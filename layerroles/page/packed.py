"""Answers as numbers: each question and each text once, an answer as the intact one is 0."""

import math
from typing import Any

import pandas as pd

from layerroles.errors import visible
from layerroles.page.said import Room, Texts, known
from layerroles.results import INTACT, SweepResult

_SAME, _NOT_ASKED, _LEFT_OUT = 0, -1, -2  # numbers of answers that are no numbers of texts


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
        """The questions, and what the intact model answered; all grades that were ever given."""
        return {
            "asked": self._questions,
            "said": [_LEFT_OUT if text is None else self._numbered(text) for text in self._intact],
            "got": self._got,
            "grades": [list(grade) for grade in self._grades],
        }

    def under(self, condition: str) -> dict[str, Any]:
        """What was answered under a condition; -1 for what was not asked."""
        texts, got = self._answers(condition)
        said = [self._said(text, same) for text, same in zip(texts, self._intact, strict=True)]
        return {"said": said, "got": got}

    def _said(self, text: str | None, same: str | None) -> int:
        if text is None:
            return _LEFT_OUT
        return _SAME if text == same else self._numbered(text)

    def _numbered(self, text: str) -> int:
        return self._book.texts.number(*self._book.room.start(text)) + 1

    def _answers(self, condition: str) -> tuple[list[str | None], list[int]]:
        """Whole texts, None where there is no room, and numbers of grades, of each question."""
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
            told = known(outcome) if status == "ok" else str(status)
            grade = visible(told), number(score)
            got[column] = self._grades.setdefault(grade, len(self._grades))
        return texts, got


def _asked(result: SweepResult, task: str) -> dict[str, tuple[str, str]]:
    """Prompt and answer of each example of a task; nothing where the run does not know them."""
    if result.examples.empty:
        return {}
    own = result.examples[result.examples["task"] == task]
    texts = zip(own["prompt"].map(known), own["answer"].map(known), strict=True)
    return dict(zip(own["example"], texts, strict=True))


class Book:
    """The questions and texts of all runs, each once."""

    def __init__(self, room: Room) -> None:
        self.room, self.texts = room, Texts()
        self.questions: list[list[str]] = []
        self._known: dict[tuple[str, str], dict[str, int]] = {}

    def question(self, task: str, example: str, prompt: str, answer: str) -> int:
        """The number of a question; the same id with another prompt is another question."""
        places = self._known.setdefault((task, example), {})
        same = [number for asked, number in places.items() if not prompt or asked in ("", prompt)]
        if same:
            return same[0]
        places[prompt] = len(self.questions)
        shown = [self.room.question(prompt), self.room.response(answer)]
        self.questions.append([visible(str(example)), *shown])
        return places[prompt]

    def first(self, task: str, example: str) -> int | None:
        """The number of a question as the first run asked it."""
        return next(iter(self._known.get((task, example), {}).values()), None)


def number(value: Any, places: int = 4) -> float | None:
    """A number that JSON knows; None where there is none."""
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    return round(float(value), places)


def numbers(*values: Any) -> list[float | None]:
    """Numbers that JSON knows."""
    return [number(value) for value in values]
