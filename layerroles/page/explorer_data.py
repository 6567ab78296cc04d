"""Lay out the data of the explorer, the report's interactive view of every condition.

The explorer shows conditions in a strip, coloured by harm; a click on one shows its effect and its
answers beside the intact ones. A *slice* holds the conditions of one strip: those of one task,
protocol, ablation, `at` and kind of site. A *cell* is one task under one protocol.

Each question and each text is stored once and referred to by its number: questions from 0, texts of
answers from 1. Under a condition, the text number 0 means that the answer is the same as the intact
one, and -2 that its text is left out to limit the size of the page.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.figures import saturation, style, why_undefined
from layerroles.invisible_characters import visible
from layerroles.page.shortened_texts import TextLimits, Texts, choose_limits, text_or_empty
from layerroles.results import INTACT, Comparison, SweepResult, records
from layerroles.roles import UNDECIDED, Roles, count_needed, judge_interval, round_up

_SAME, _NOT_ASKED, _LEFT_OUT = 0, -1, -2  # stand in place of the number of a text or of a grade
# Kinds of sites that a layer has once, and kinds that it has several times, with numbers.
_ONE, _SEVERAL = ("block", "attn", "mlp", "mixer", "stream"), ("head", "kv_group")
_JOINT = "several sites"
_LENSES = ("logit_lens", "tuned_lens")


@dataclass(frozen=True, eq=False)
class Run:
    """A run whose data the explorer shows.

    Attributes:
        name: the run's name on the page.
        result: the sweep's result.
        roles: the run's roles, as `localize_all` returns them.
    """

    name: str
    result: SweepResult
    roles: Sequence[Roles]


def lay_out_runs(
    runs: Sequence[Run],
    probes: dict[str, pd.DataFrame],
    comparison: Comparison | None = None,
) -> dict[str, Any] | None:
    """Return the explorer's data as JSON values; None if no condition ablates anything.

    Args:
        runs: one run or two; the first is the one that the page is about.
        probes: probe frames of the first run, by the probe's name.
        comparison: the comparison of the two runs; None for a single run.
    """
    effects = [run.result.effects() for run in runs]
    if all(frame.empty for frame in effects):
        return None
    book = Book(choose_limits([run.result.frame for run in runs]))
    run_data = [_lay_out_run(run, frame, book) for run, frame in zip(runs, effects, strict=True)]
    if comparison is not None:
        _add_comparison(run_data[0]["slices"], comparison)
    all_effects = pd.concat([_add_kind(frame) for frame in effects], ignore_index=True)
    saturation_of = {
        "\n".join(map(visible, key)): saturation(rows["harm"])
        for key, rows in all_effects.groupby(["ablation", "kind"], sort=False)
    }
    return {
        "runs": run_data,
        "most": saturation_of,
        "lenses": list(_lay_out_lenses(probes, book)),
        "questions": book.questions,
        "texts": book.texts.all,
        "more": book.texts.n_cut,
        "examples": book.room.examples,
    }


class Book:
    """The questions and texts of all runs, each stored once; texts are cut to the limits `room`."""

    def __init__(self, room: TextLimits) -> None:
        self.room, self.texts = room, Texts()
        self.questions: list[list[str]] = []
        self._numbers_of: dict[tuple[str, str], dict[str, int]] = {}

    def question(self, task: str, example: str, prompt: str, answer: str) -> int:
        """Return a question's number; add the question if it is new.

        Questions with the same task and example id are the same if their prompts are equal or one
        of the prompts is not known (empty).
        """
        places = self._numbers_of.setdefault((task, example), {})
        numbers = [
            number
            for known_prompt, number in places.items()
            if not prompt or known_prompt in ("", prompt)
        ]
        if numbers:
            return numbers[0]
        places[prompt] = len(self.questions)
        shown = [self.room.question(prompt), self.room.response(answer)]
        self.questions.append([visible(str(example)), *shown])
        return places[prompt]

    def first_number(self, task: str, example: str) -> int | None:
        """Return a question's number in the first run that has the question; None if no run has."""
        return next(iter(self._numbers_of.get((task, example), {}).values()), None)


def _lay_out_run(run: Run, effects: pd.DataFrame, book: Book) -> dict[str, Any]:
    """Return a run's name, its cells with the intact answers, and its slices of conditions.

    The module docstring defines cells and slices.
    """
    base = run.result.intact().set_index(["task", "protocol"])
    answers = {
        key: NumberedAnswers(key, rows, run.result, book)
        for key, rows in _rows_of_cells(run.result.frame)
    }
    judged_layers = _collect_verdicts(run.roles)
    interim = run.result.interim
    slices = []
    for key, rows in _add_kind(effects).groupby(
        ["task", "protocol", "ablation", "at", "kind"], sort=False
    ):
        cell = answers[key[:2]]
        sites = [
            _lay_out_site(line, cell, judged_layers, is_finished=not interim)
            for line in records(_sort_by_depth(rows))
        ]
        slices.append({"key": list(map(visible, key)), "sites": sites})
    families = effects.drop_duplicates("task").set_index("task")["family"]
    tasks = effects.drop_duplicates("task").groupby("family")["task"].size()
    cells = [
        {
            "key": [visible(task), visible(protocol)],
            "family": visible(families.get(task, "")),
            "tasks": int(tasks.get(families.get(task, ""), 0)),
            "unit": base.loc[(task, protocol), "unit"],
            "chance": round_number(base.loc[(task, protocol), "chance"]),
            "intact": round_numbers(
                *base.loc[(task, protocol), ["score", "score_low", "score_high"]]
            ),
            **cell.intact(),
        }
        for (task, protocol), cell in answers.items()
    ]
    return {"name": visible(run.name), "cells": cells, "slices": slices}


def _rows_of_cells(frame: pd.DataFrame) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    for (task, protocol), rows in frame.groupby(["task", "protocol"], sort=False):
        yield (str(task), str(protocol)), rows


def _add_kind(effects: pd.DataFrame) -> pd.DataFrame:
    """Add `kind`, the kind of site that each condition ablates, and sort by family.

    The kind is the part, such as "block" or "head"; "several sites" for a joint ablation.
    """
    single = ~effects["site"].str.contains("+", regex=False) & effects["layer"].notna()
    alone = single & effects["part"].isin([*_ONE, *_SEVERAL])
    kind = effects["part"].where(alone, _JOINT)
    return style.sort_by_family(effects.assign(kind=kind))


def _sort_by_depth(rows: pd.DataFrame) -> pd.DataFrame:
    """Sort the conditions of a slice by layer and head; joint ablations keep the sweep's order."""
    if rows["kind"].iloc[0] == _JOINT:
        return rows
    return rows.sort_values(["layer", "head"], kind="stable")


def _collect_verdicts(all_roles: Sequence[Roles]) -> dict[tuple[str, ...], tuple[str, float]]:
    """Map (ablation, `at`, family, protocol, layer) to the verdict and `needed` of `Roles.layers`.

    `needed` is how many questions would decide an undecided layer. `, general` or `, specific` is
    appended to the verdicts on layers listed as general or specific in `Roles.frame`.
    """
    verdict_of: dict[tuple[str, ...], tuple[str, float]] = {}
    for roles in all_roles:
        where = roles.ablation, roles.at
        for line in records(roles.layers):
            key = (*where, line.family, line.protocol, str(line.layer))
            verdict_of[key] = str(line.verdict), line.needed
        for line in records(roles.frame):
            for name in ("general", "specific"):
                for layer in getattr(line, name):
                    key = (*where, line.family, line.protocol, str(layer))
                    verdict, needed = verdict_of[key]
                    verdict_of[key] = f"{verdict}, {name}", needed
    return verdict_of


class NumberedAnswers:
    """The answers of one task under one protocol in one run, as numbers of stored texts."""

    def __init__(
        self, key: tuple[str, str], rows: pd.DataFrame, result: SweepResult, book: "Book"
    ) -> None:
        self._book = book
        example_ids = list(dict.fromkeys(rows.loc[rows["condition"] == INTACT, "example"]))
        self._columns = {example: column for column, example in enumerate(example_ids)}
        texts = _questions_of(result, key[0])
        self._questions = [
            book.question(key[0], id, *texts.get(id, ("", ""))) for id in example_ids
        ]
        names = ("example", "outcome", "status", "score", "response")
        self._values = [rows[name].to_numpy() for name in names]
        places = rows.groupby("condition", sort=False).indices
        self._places = {str(name): condition_places for name, condition_places in places.items()}
        self._grades: dict[tuple[str, float | None], int] = {}
        self._intact, self._grades_of_intact = self._read_answers(INTACT)

    def intact(self) -> dict[str, Any]:
        """Return the intact model's answers, as JSON values.

        For each question there are its number (`asked`), the number of the answer's text (`said`)
        and that of its grade (`got`), an index of `grades`. `grades` lists the distinct (outcome,
        score) of all answers read so far, so call this after `under` has read every condition.
        """
        return {
            "asked": self._questions,
            "said": [_LEFT_OUT if text is None else self._number_of(text) for text in self._intact],
            "got": self._grades_of_intact,
            "grades": [list(grade) for grade in self._grades],
        }

    def under(self, condition: str) -> dict[str, Any]:
        """Return the answers under a condition, as JSON values.

        For each question there are the number of the answer's text (`said`; 0 if it is the intact
        one) and that of its grade (`got`; -1 if the question was not asked).
        """
        texts, got = self._read_answers(condition)
        text_numbers = [self._text_number(*pair) for pair in zip(texts, self._intact, strict=True)]
        return {"said": text_numbers, "got": got}

    def _text_number(self, text: str | None, intact: str | None) -> int:
        if text is None:
            return _LEFT_OUT
        return _SAME if text == intact else self._number_of(text)

    def _number_of(self, text: str) -> int:
        return self._book.texts.number(*self._book.room.start(text)) + 1

    def _read_answers(self, condition: str) -> tuple[list[str | None], list[int]]:
        """Return the answers under a condition and the numbers of their grades, by question.

        An answer is None if its example is beyond the page's limit on examples. The number of a
        grade is -1 if the question was not asked.
        """
        texts: list[str | None] = [""] * len(self._columns)
        got = [_NOT_ASKED] * len(self._columns)
        most = self._book.room.examples
        places = self._places[condition]
        columns = [values[places] for values in self._values]
        for example, outcome, status, score, response in zip(*columns, strict=True):
            column = self._columns.get(example)
            if column is None:
                continue
            fits = most is None or column < most
            texts[column] = text_or_empty(response) if fits else None
            label = text_or_empty(outcome) if status == "ok" else str(status)
            grade = visible(label), round_number(score)
            got[column] = self._grades.setdefault(grade, len(self._grades))
        return texts, got


def _questions_of(result: SweepResult, task: str) -> dict[str, tuple[str, str]]:
    """Map each example of a task to (prompt, right answer); empty if the run stores no examples."""
    if result.examples.empty:
        return {}
    rows = result.examples[result.examples["task"] == task]
    texts = zip(rows["prompt"].map(text_or_empty), rows["answer"].map(text_or_empty), strict=True)
    return dict(zip(rows["example"], texts, strict=True))


def _lay_out_site(
    line: Any,
    cell: NumberedAnswers,
    judged_layers: dict[tuple[str, ...], tuple[str, float]],
    *,
    is_finished: bool,
) -> dict[str, Any]:
    """Return the explorer's data of a condition: its effect, verdict and answers.

    Args:
        line: the condition's row of effects, with the column `kind` of `_add_kind`.
        cell: the answers of the row's task and protocol.
        judged_layers: verdicts on layers, as `_collect_verdicts` returns them.
        is_finished: whether the run is finished. If not, the verdict is "undecided", or "not
            measurable" if the harm is undefined.
    """
    of_roles = None
    if line.kind == "block":
        key = (line.ablation, line.at, line.family, line.protocol, str(line.layer))
        of_roles = judged_layers.get(key)
    verdict, needed = of_roles or _judge_site(line)
    if not is_finished:
        verdict, needed = UNDECIDED, math.nan
    undefined = pd.isna(line.harm)
    return {
        "name": visible(line.condition),
        "site": visible(line.site),
        "layer": None if line.kind == _JOINT else int(line.layer),
        "n": int(line.n),
        "failed": int(line.n_failed),
        "intact": round_number(line.intact),
        "score": round_numbers(line.score, line.score_low, line.score_high),
        "effect": round_numbers(line.effect, line.ci_low, line.ci_high),
        "harm": None if undefined else round_numbers(line.harm, line.harm_low, line.harm_high),
        "p": round_number(line.p_adjusted),
        "verdict": "not measurable" if undefined else verdict,
        **({"needed": round_up(needed)} if math.isfinite(needed) else {}),
        "judged": of_roles is not None,
        **({"why": why_undefined(line._asdict())} if undefined else {}),
        **cell.under(line.condition),
    }


def _judge_site(line: Any) -> tuple[str, float]:
    """Return the verdict on a condition by its harm, and how many questions would decide it.

    `line` is the condition's row of effects. The number is NaN if the verdict is decided or the
    harm is not known; see `count_needed`.
    """
    interval = stats.Interval(line.harm_low, line.harm_high)
    harm = stats.Contrast(line.harm, interval, pd.Series(dtype=float))
    return judge_interval(interval), count_needed(harm, line.n)


def _add_comparison(slices: list[dict[str, Any]], comparison: Comparison) -> None:
    """Add the differences of effect and harm (second run minus first) to conditions in `slices`.

    `slices` are those of the first run; changed in place.
    """
    line_of = {
        tuple(map(visible, (line.task, line.protocol, line.condition))): line
        for line in records(comparison.frame)
        if line.n
    }
    for slice_data in slices:
        for site in slice_data["sites"]:
            line = line_of.get((*slice_data["key"][:2], site["name"]))
            if line is not None:
                site["against"] = {
                    "n": int(line.n),
                    "effect": round_numbers(line.difference, line.low, line.high),
                    "harm": round_numbers(line.harm_difference, line.harm_low, line.harm_high),
                    "p": round_number(line.p_adjusted),
                }


def _lay_out_lenses(probes: dict[str, pd.DataFrame], book: Book) -> Iterator[dict[str, Any]]:
    """Yield a dict for each lens and condition: `name`, `condition`, `depths` and `read`.

    `read` maps the number of a question to the answer's ranks (from 1) and log-probabilities (nats)
    at `depths`.
    """
    for name in _LENSES:
        if name not in probes:
            continue
        frame = probes[name]
        if "part" in frame:
            frame = frame[frame["part"] == "block"]
        under = frame["condition"] if "condition" in frame else pd.Series(INTACT, frame.index)
        for condition, of_condition in frame.groupby(under, sort=False):
            depths = sorted(of_condition["layer"].unique().tolist())
            by_depth = of_condition.sort_values("layer", kind="stable")
            read = {}
            for (task, example), rows in by_depth.groupby(["task", "example"], sort=False):
                place = book.first_number(str(task), str(example))
                if place is not None and len(rows) == len(depths):
                    ranks = [None if pd.isna(rank) else int(rank) + 1 for rank in rows["rank"]]
                    read[place] = [ranks, [round_number(x, 2) for x in rows["logprob"]]]
            if read:
                words = {"name": name.replace("_", " "), "condition": visible(str(condition))}
                yield {**words, "depths": depths, "read": read}


def round_number(value: Any, places: int = 4) -> float | None:
    """Round a number for JSON; None if it is missing or not finite."""
    if value is None or pd.isna(value) or not math.isfinite(value):
        return None
    return round(float(value), places)


def round_numbers(*values: Any) -> list[float | None]:
    """Round numbers for JSON; see `round_number`."""
    return [round_number(value) for value in values]
