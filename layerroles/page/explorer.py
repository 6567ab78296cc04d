"""Lay out the explorer's data for its script: effects and answers of every condition.

A *slice* holds what the strip shows at once: the conditions of one task, protocol, ablation, `at`
and kind of site. Each text is stored once and referred to by its number; the number 0 means that an
answer is identical to the intact one.

Answers as numbers: each question and text is stored once, and 0 means "same as intact".
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerroles.errors import visible
from layerroles.figures import saturation, standing, style, why_undefined
from layerroles.page.texts import Room, Texts, known, room
from layerroles.results import INTACT, Comparison, SweepResult, records
from layerroles.roles import Roles

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


# Kinds of sites that a layer has once, and kinds that it has several times, with numbers.
_ONE, _SEVERAL = ("block", "attn", "mlp", "stream"), ("head", "kv_group")
_JOINT = "several sites"
_VERDICTS = {"above": "critical", "within": "spare", "undecided": "undecided"}
_LENSES = ("logit_lens", "tuned_lens")


@dataclass(frozen=True, eq=False)
class Run:
    """A run to explore.

    Attributes:
        name: its name on the page.
        result: the run.
        localized: its roles under each ablation, at each of the judged positions.
    """

    name: str
    result: SweepResult
    localized: Sequence[Roles]


def explored(
    runs: Sequence[Run],
    probes: dict[str, pd.DataFrame],
    comparison: Comparison | None = None,
) -> dict[str, Any] | None:
    """Lay out one run, or two that are compared; None if there is no condition to look at.

    Args:
        runs: the runs; the first is the one that the page is about.
        probes: probe frames of the first run, by the name of the probe.
        comparison: of the two runs.
    """
    effects = [run.result.effects() for run in runs]
    if all(frame.empty for frame in effects):
        return None
    book = Book(room([run.result.frame for run in runs]))
    run_data = [_run(run, frame, book) for run, frame in zip(runs, effects, strict=True)]
    if comparison is not None:
        _set_beside(run_data[0]["slices"], comparison)
    every = pd.concat([_grouped(frame) for frame in effects], ignore_index=True)
    most = {
        "\n".join(map(visible, key)): saturation(rows["harm"])
        for key, rows in every.groupby(["ablation", "kind"], sort=False)
    }
    return {
        "runs": run_data,
        "most": most,
        "lenses": list(_lenses(probes, book)),
        "questions": book.questions,
        "texts": book.texts.all,
        "more": book.texts.more,
        "examples": book.room.examples,
    }


def _run(run: Run, effects: pd.DataFrame, book: Book) -> dict[str, Any]:
    """Lay out a run: cells with the intact answers, slices with those of every condition."""
    base = run.result.intact().set_index(["task", "protocol"])
    answers = {key: Cell(key, rows, run.result, book) for key, rows in _cells(run.result.frame)}
    verdicts = _verdicts(run.localized)
    slices = []
    for key, rows in _grouped(effects).groupby(
        ["task", "protocol", "ablation", "at", "kind"], sort=False
    ):
        cell = answers[key[:2]]
        sites = [_site(line, cell, verdicts) for line in records(_ordered(rows))]
        slices.append({"key": list(map(visible, key)), "sites": sites})
    families = effects.drop_duplicates("task").set_index("task")["family"]
    tasks = effects.drop_duplicates("task").groupby("family")["task"].size()
    cells = [
        {
            "key": [visible(task), visible(protocol)],
            "family": visible(families.get(task, "")),
            "tasks": int(tasks.get(families.get(task, ""), 0)),
            "unit": base.loc[(task, protocol), "unit"],
            "chance": number(base.loc[(task, protocol), "chance"]),
            "intact": numbers(*base.loc[(task, protocol), ["score", "score_low", "score_high"]]),
            **cell.intact(),
        }
        for (task, protocol), cell in answers.items()
    ]
    return {"name": visible(run.name), "cells": cells, "slices": slices}


def _cells(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for (task, protocol), rows in frame.groupby(["task", "protocol"], sort=False):
        yield (str(task), str(protocol)), rows


def _grouped(effects: pd.DataFrame) -> pd.DataFrame:
    """Add `kind`, the kind of site that each condition ablates, and sort by family."""
    single = ~effects["site"].str.contains("+", regex=False) & effects["layer"].notna()
    alone = single & effects["part"].isin([*_ONE, *_SEVERAL])
    kind = effects["part"].where(alone, _JOINT)
    families = {family: place for place, family in enumerate(style.ordered(effects["family"]))}
    ordered = effects.assign(kind=kind, order=effects["family"].map(families))
    return ordered.sort_values("order", kind="stable")


def _ordered(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort the conditions of a slice by depth; joint ones keep the order of the sweep."""
    if rows["kind"].iloc[0] == _JOINT:
        return rows
    return rows.sort_values(["layer", "head"], kind="stable")


def _verdicts(localized: Sequence[Roles]) -> dict[tuple[str, ...], str]:
    """Map ablation, `at`, family, protocol and layer to the layer's verdict."""
    found: dict[tuple[str, ...], str] = {}
    for roles in localized:
        where = roles.ablation, roles.at
        for line in records(roles.layers):
            found[(*where, line.family, line.protocol, str(line.layer))] = str(line.verdict)
        for line in records(roles.frame):
            for name in ("general", "specific"):
                for layer in getattr(line, name):
                    key = (*where, line.family, line.protocol, str(layer))
                    found[key] = f"{found[key]}, {name}"
    return found


def _site(line: Any, cell: Cell, verdicts: dict[tuple[str, ...], str]) -> dict[str, Any]:
    """Lay out a condition: its effect, its verdict and its answers."""
    by_interval = _VERDICTS[standing(line.harm_low, line.harm_high)]
    judged = None
    if line.kind == "block":
        key = (line.ablation, line.at, line.family, line.protocol, str(line.layer))
        judged = verdicts.get(key)
    undefined = pd.isna(line.harm)
    return {
        "name": visible(line.condition),
        "site": visible(line.site),
        "layer": None if line.kind == _JOINT else int(line.layer),
        "n": int(line.n),
        "failed": int(line.n_failed),
        "intact": number(line.intact),
        "score": numbers(line.score, line.score_low, line.score_high),
        "effect": numbers(line.effect, line.ci_low, line.ci_high),
        "harm": None if undefined else numbers(line.harm, line.harm_low, line.harm_high),
        "p": number(line.p_adjusted),
        "verdict": "not measurable" if undefined else judged or by_interval,
        "judged": judged is not None,
        **({"why": why_undefined(line._asdict())} if undefined else {}),
        **cell.under(line.condition),
    }


def _set_beside(slices: list[dict[str, Any]], comparison: Comparison) -> None:
    """Add to the first run's conditions how the second run's effect differs."""
    there = {
        tuple(map(visible, (line.task, line.protocol, line.condition))): line
        for line in records(comparison.frame)
        if line.n
    }
    for each in slices:
        for site in each["sites"]:
            line = there.get((*each["key"][:2], site["name"]))
            if line is not None:
                site["against"] = {
                    "n": int(line.n),
                    "effect": numbers(line.difference, line.low, line.high),
                    "harm": numbers(line.harm_difference, line.harm_low, line.harm_high),
                    "p": number(line.p_adjusted),
                }


def _lenses(probes: dict[str, pd.DataFrame], book: Book) -> Iterator[dict[str, Any]]:
    """Yield what each lens read of each question over depth: ranks from 1, log-probs in nats."""
    for name in _LENSES:
        if name not in probes:
            continue
        frame = probes[name]
        if "part" in frame:
            frame = frame[frame["part"] == "block"]
        under = frame["condition"] if "condition" in frame else pd.Series(INTACT, frame.index)
        for condition, seen in frame.groupby(under, sort=False):
            depths = sorted(seen["layer"].unique().tolist())
            seen = seen.sort_values("layer", kind="stable")
            read = {}
            for (task, example), rows in seen.groupby(["task", "example"], sort=False):
                place = book.first(str(task), str(example))
                if place is not None and len(rows) == len(depths):
                    ranks = [None if pd.isna(rank) else int(rank) + 1 for rank in rows["rank"]]
                    read[place] = [ranks, [number(x, 2) for x in rows["logprob"]]]
            if read:
                words = {"name": name.replace("_", " "), "condition": visible(str(condition))}
                yield {**words, "depths": depths, "read": read}
