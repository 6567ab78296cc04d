"""What a sweep gives back: its rows, and what they say about each condition.

    effect = mean over examples of (score under the condition - score of the intact model)
    harm   = -effect / (intact - chance)

Both are taken over the same examples. A negative effect means that the ablation hurts; a harm of 1
that the whole skill above chance is gone, a negative harm that the ablation helps.
"""

import functools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.registry import unknown

CONDITION = ["condition", "ablation", "at", "site", "layer", "part", "head"]
CELL = ["task", "family", "protocol"]
NUMBERS = [
    "n",
    "intact",
    "chance",
    "score",
    "score_low",
    "score_high",
    "effect",
    "ci_low",
    "ci_high",
    "harm",
    "harm_low",
    "harm_high",
    "p",
    "p_adjusted",
    "n_failed",
    "n_changed",
]
INTACT = "intact"


@dataclass(frozen=True, eq=False)
class SweepResult:
    """The rows of a sweep, with effects and harm.

    Attributes:
        frame: a row per condition, task, protocol and example, the intact model's among them.
        manifest: what was run: model, versions, seed, cells (task x protocol), conditions.
        examples: a row per task and example: prompt, answer, evidence; may be empty.
    """

    frame: pd.DataFrame
    manifest: dict[str, Any]
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)

    def effects(self) -> pd.DataFrame:
        """Compare every condition with the intact model, a row per condition, task and protocol.

        `score`, `intact` and `effect` are means over the `n` examples that both answered; pairs
        with a score that is not finite are left out and counted in `n_failed`. All intervals are
        95%: Wilson's for a 0/1 score and Tango's for its effect, bootstrap for other scores. `p`
        is McNemar's exact or a sign-flip test's; `p_adjusted` is Holm's over the conditions of one
        ablation, `at` and part in one task and protocol.

        `n_changed` counts the examples for which an edit changed anything: none, say, where an
        ablation acts on what is generated and the answer is one token.

        `harm` is defined only where a chance level is known, the intact score's interval lies above
        it, and the ablation changed anything, else NaN. Its interval is that of the effect divided
        by the same `intact - chance`: how sure that denominator is does not enter.
        """
        return self._effects.copy()

    def intact(self) -> pd.DataFrame:
        """Score the intact model, a row per task and protocol.

        Columns: task, family, protocol, n, score, score_low, score_high, chance (NaN if there is
        none), above_chance (by the interval), unit, n_failed.
        """
        rows = []
        for task, family, protocol, cell in self._cells():
            own = cell[cell["condition"] == INTACT]
            scores = _finite(own).dropna().to_numpy(float)
            chance, unit = self._chance(task, protocol), self._unit(task, protocol)
            binary = unit == "accuracy"
            interval = _score_interval(scores, binary, self._rng(INTACT, task, protocol))
            rows.append(
                {
                    "task": task,
                    "family": family,
                    "protocol": protocol,
                    "n": len(scores),
                    "score": _mean(scores),
                    "score_low": interval.low,
                    "score_high": interval.high,
                    "chance": chance,
                    "above_chance": bool(interval.low > chance),
                    "unit": unit,
                    "n_failed": len(own) - len(scores),
                }
            )
        return pd.DataFrame(rows)

    def changed_answers(self, condition: str, task: str, protocol: str) -> pd.DataFrame:
        """List the examples whose outcome under `condition` differs from the intact one.

        Columns: example, prompt, answer, intact_outcome, outcome, intact_response, response. A
        score that was not finite counts as the outcome "not finite". Scores in nats have no
        outcome, and so no changed answers.

        Raises:
            InputError: no such condition, task or protocol in this result.
        """
        rows = self.frame
        for column, value in (("condition", condition), ("task", task), ("protocol", protocol)):
            known = list(self.frame[column].unique())
            if value not in known:
                raise InputError(unknown(column, value, known))
            if column != "condition":
                rows = rows[rows[column] == value]
        rows = rows.assign(outcome=rows["outcome"].where(rows["status"] == "ok", rows["status"]))
        keep = ["example", "outcome", "response"]
        before = rows.loc[rows["condition"] == INTACT, keep]
        before = before.rename(columns={name: f"intact_{name}" for name in keep[1:]})
        both = before.merge(rows.loc[rows["condition"] == condition, keep], on="example")
        both = both[both["intact_outcome"] != both["outcome"]]
        if self.examples.empty:
            both = both.assign(prompt="", answer="")
        else:
            asked = self.examples[self.examples["task"] == task]
            both = both.merge(asked[["example", "prompt", "answer"]], on="example", how="left")
        order = ["example", "prompt", "answer", "intact_outcome", "outcome", "intact_response"]
        return both[[*order, "response"]].reset_index(drop=True)

    def __getitem__(self, name: str) -> "SweepResult":
        """Narrow the result to one family or one task.

        Raises:
            InputError: neither a family nor a task of this result has that name.
        """
        for column in ("task", "family"):
            if name in set(self.frame[column]):
                break
        else:
            known = {*self.frame["task"], *self.frame["family"]}
            raise InputError(unknown("family or task", str(name), sorted(known)))
        frame = self.frame[self.frame[column] == name].reset_index(drop=True)
        tasks = set(frame["task"])
        cells = [cell for cell in self.manifest.get("cells", []) if cell["task"] in tasks]
        examples = self.examples
        if not examples.empty:
            examples = examples[examples["task"].isin(tasks)].reset_index(drop=True)
        return SweepResult(frame, {**self.manifest, "cells": cells}, examples)

    def __repr__(self) -> str:
        if self.frame.empty:
            return "SweepResult without rows"
        return f"{self._headline()}\n{self._short().to_string(index=False, na_rep='-')}"

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return "<p>SweepResult without rows</p>"
        table = self._short().to_html(index=False, na_rep="–", border=0)
        line = self._headline().replace("&", "&amp;").replace("<", "&lt;")
        return f"<p>{line}</p>{table}"

    @functools.cached_property
    def _effects(self) -> pd.DataFrame:
        tables = [
            self._compared(cell, task, family, protocol)
            for task, family, protocol, cell in self._cells()
        ]
        rows = [row for table in tables for row in table]
        frame = pd.DataFrame(rows, columns=[*CONDITION, *CELL, *NUMBERS])
        frame = frame.astype(
            {"layer": "Int64", "head": "Int64", "n": int, "n_failed": int, "n_changed": int}
        )
        groups = frame.groupby(["ablation", "at", "part", "task", "protocol"], sort=False)
        frame["p_adjusted"] = groups["p"].transform(lambda p: stats.holm(p.to_numpy(float)))
        return frame

    def _cells(self) -> Iterator[tuple[str, str, str, pd.DataFrame]]:
        for (task, family, protocol), cell in self.frame.groupby(CELL, sort=False):
            yield str(task), str(family), str(protocol), cell

    def _compared(
        self, cell: pd.DataFrame, task: str, family: str, protocol: str
    ) -> list[dict[str, Any]]:
        chance = self._chance(task, protocol)
        binary = self._unit(task, protocol) == "accuracy"
        intact = _finite(cell[cell["condition"] == INTACT])
        rows = []
        for name, own in cell[cell["condition"] != INTACT].groupby("condition", sort=False):
            pairs = pd.concat([intact, _finite(own)], axis=1, join="inner").to_numpy(float)
            kept = pairs[~np.isnan(pairs).any(axis=1)]
            rng = self._rng(str(name), task, protocol)
            numbers = _numbers(kept[:, 0], kept[:, 1], chance, binary, rng)
            n_changed = int(own["changed"].fillna(True).sum())
            if not n_changed:
                numbers |= dict.fromkeys(("harm", "harm_low", "harm_high"), float("nan"))
            rows.append(
                {
                    **{column: own[column].iloc[0] for column in CONDITION},
                    "task": task,
                    "family": family,
                    "protocol": protocol,
                    "chance": chance,
                    **numbers,
                    "n_failed": len(pairs) - len(kept),
                    "n_changed": n_changed,
                }
            )
        return rows

    def _cell(self, task: str, protocol: str) -> dict[str, Any]:
        for cell in self.manifest.get("cells", []):
            if cell["task"] == task and cell["protocol"] == protocol:
                return dict(cell)
        return {}

    def _chance(self, task: str, protocol: str) -> float:
        chance = self._cell(task, protocol).get("chance")
        return float("nan") if chance is None else float(chance)

    def _unit(self, task: str, protocol: str) -> str:
        return str(self._cell(task, protocol).get("unit", "accuracy"))

    def _rng(self, *names: str) -> np.random.Generator:
        """Seeded by what it serves, so that a row does not depend on the rows beside it."""
        text = "\n".join(names).encode()
        return np.random.default_rng([int(self.manifest.get("seed", 0)), zlib.crc32(text)])

    def _headline(self) -> str:
        model = self.manifest.get("model", {})
        effects = self._effects
        return (
            f"SweepResult: {model.get('name', 'model')}, {model.get('n_layers', '?')} layers "
            f"(0-based), {effects['condition'].nunique()} conditions, "
            f"{self.frame['example'].nunique()} examples; worst condition of each cell:"
        )

    def _short(self) -> pd.DataFrame:
        """A row per task and protocol: intact score, and the condition with the worst effect."""
        short = self.intact()[["task", "protocol", "n", "chance", "score", "score_low"]]
        short = short.assign(score_high=self.intact()["score_high"]).rename(
            columns={"score": "intact", "score_low": "low", "score_high": "high"}
        )
        known = self._effects.dropna(subset=["effect"])
        if not known.empty:
            worst = known.loc[known.groupby(["task", "protocol"])["effect"].idxmin()]
            columns = ["task", "protocol", "condition", "effect", "ci_low", "ci_high", "harm"]
            short = short.merge(worst[columns], on=["task", "protocol"], how="left")
        return short.round(3)


def records(frame: pd.DataFrame) -> list[Any]:
    """The rows as named tuples; what a column holds is known by its name, not to type checkers."""
    return list(frame.itertuples(index=False))


def _numbers(
    intact: Float[np.ndarray, " example"],
    score: Float[np.ndarray, " example"],
    chance: float,
    binary: bool,
    rng: np.random.Generator,
) -> dict[str, Any]:
    own = _score_interval(score, binary, rng)
    if binary:
        paired = stats.paired_binary(intact, score)
    else:
        paired = stats.paired_continuous(intact, score, rng)
    harm, harm_interval = float("nan"), stats.UNKNOWN
    if not np.isnan(chance) and _score_interval(intact, binary, rng).low > chance:
        factor = -1 / (_mean(intact) - chance)
        harm, harm_interval = paired.effect * factor, paired.interval.scaled(factor)
    return {
        "n": paired.n,
        "intact": _mean(intact),
        "score": _mean(score),
        "score_low": own.low,
        "score_high": own.high,
        "effect": paired.effect,
        "ci_low": paired.interval.low,
        "ci_high": paired.interval.high,
        "harm": harm + 0.0,  # no minus zero
        "harm_low": harm_interval.low,
        "harm_high": harm_interval.high,
        "p": paired.p,
    }


def _score_interval(
    scores: Float[np.ndarray, " example"], binary: bool, rng: np.random.Generator
) -> stats.Interval:
    if binary:
        return stats.wilson(int(scores.sum()), len(scores))
    return stats.mean_interval(scores, rng)


def _finite(rows: pd.DataFrame) -> "pd.Series[float]":
    """Scores by example, NaN where the status is not ok."""
    scores = rows["score"].where(rows["status"] == "ok").astype(float)
    return scores.set_axis(rows["example"].to_numpy())


def _mean(values: Float[np.ndarray, " example"]) -> float:
    return float(values.mean()) if len(values) else float("nan")
