"""The result of a sweep: its rows, and the tables computed from them."""

import functools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import pandas as pd

from layerroles import stats
from layerroles.errors import InputError
from layerroles.notebook_display import as_html, as_text, detectable_line
from layerroles.registry import describe_unknown, nearest_name
from layerroles.results.condition_verdicts import tabulate_decisions
from layerroles.results.effects import (
    label_conditions,
    tabulate_effects,
    tabulate_intact,
    tabulate_noise,
)
from layerroles.results.protocol_comparison import tabulate_agreement, tabulate_differences
from layerroles.results.run_progress import describe_progress, is_past_first_look
from layerroles.results.task_protocol_cells import CELL, CONDITION, INTACT, Cell, make_cells

# Columns by which a result is narrowed; for labels see `label_conditions`.
_NARROWED = ("task", "family", "protocol", "condition", "label")
_NEXT = (
    "Next: result.effects() is the table, lr.localize(result) says what may be claimed, "
    'lr.report(result, path="report.html") is a page.'
)


def cells_of(result: "SweepResult") -> Sequence[Cell]:
    """Return the cells (task x protocol) of a result, in the order of its rows."""
    return result._cells


def conditions_of(result: "SweepResult") -> pd.DataFrame:
    """Return a row per condition, task and protocol, with the first columns of the effects.

    The intact model has no row. The table is shared by all callers, and must not be changed.
    """
    return result._conditions


def check_result(result: object) -> None:
    """Check that a value is the result of a sweep.

    Raises:
        InputError: `result` is something else, such as the path of a run.
    """
    if not isinstance(result, SweepResult):
        raise InputError(
            f"result={result!r} is no sweep's result: give what Sweep.run or lr.read returned"
        )


@dataclass(frozen=True, eq=False)
class SweepResult:
    """The rows of a sweep, with tables of effects and harm.

    Attributes:
        frame: a row per condition, task, protocol and example, including the intact model's.
        manifest: what was run: model, versions, seed, cells (task x protocol), conditions.
        examples: a row per task and example: prompt, answer, evidence, question (the question's
            name in all tasks that ask it; empty if the example's id is its name), cluster (the
            name of its cluster; empty if none) and, as JSON by protocol, contexts (a digest of the
            context that is read) and guesses (the score of the best guess). May be empty.

    `result[name]` is the part of the result for one task, family, protocol or condition, as in
    `result["retrieval"]["generation"]`, or for all conditions of one ablation and setting, as in
    `result["clip[length=0.25]"]`. The part for a condition also contains the intact rows. Its p
    values in `effects` stay corrected over all conditions of the sweep; `compare` corrects over the
    conditions that it is given.

    Example:
        result.effects()[["condition", "task", "protocol", "effect", "ci_low", "ci_high", "harm"]]
        result["planted_look_up"]  # the part that asked one task
    """

    frame: pd.DataFrame
    manifest: dict[str, Any]
    examples: pd.DataFrame = field(default_factory=pd.DataFrame)
    # The result that this one is a part of.
    _whole: "SweepResult | None" = field(default=None, init=False, repr=False)

    @property
    def interim(self) -> str:
        """How much of the run is done, such as "8 of 32 questions"; "" if it is finished.

        An unfinished run has estimates and intervals, but no verdicts: stopping as soon as a
        verdict looks right would raise its error rate above 5%. A run with `until` looks at its
        results several times, and its verdicts are valid at each of these looks, so it counts as
        finished from the first look on. Also "" for runs of earlier versions, which do not record
        whether they are finished.
        """
        whole = self._whole or self
        if not self.manifest.get("unfinished") or is_past_first_look(whole.manifest, whole._cells):
            return ""
        return describe_progress(self.frame, self.manifest)

    def effects(self) -> pd.DataFrame:
        """Compare every condition with the intact model: a row per condition, task and protocol.

        `score` (under the condition), `intact` and `effect` are means over the `n` examples with
        both scores; pairs with a score that is not finite are left out and counted in `n_failed`.
        `effect` is `score - intact`: negative means that the ablation hurts. Intervals have a level
        of 95%; the interval of harm has the level of verdicts (`1 - Decided.error`). In a sweep
        with `until`, which looks at its results several times, the intervals of all looks together
        have this level, and `p` accounts for the looks too. The interval of a 0/1 score is
        Wilson's, that of its effect Tango's; other scores have bootstrap intervals. `p` is that of
        McNemar's exact test (0/1 scores) or a sign-flip test; `p_adjusted` is corrected over the
        conditions of one ablation, `at` and part in one task and protocol: by Holm, or by Benjamini
        and Hochberg over heads and key/value groups. If a layer was not ablated `after_first`
        because ablating it at all positions is not critical, it still counts as a test.
        `detectable` is the smallest drop that `n` examples show with 80% power after these
        corrections, including that for looks (`stats.minimum_detectable`).

        `n_changed` counts the examples for which an edit changed a write (what a site adds to the
        residual stream). It is 0, for example, if an ablation acts on generated tokens and the
        answer is one token.

        `harm` is `-effect / (intact - chance)`: 1 if all skill above chance is lost. It is NaN
        unless a chance level is known, the intact score is shown to lie above it, and the ablation
        acted (skipping a block whose write is 0 everywhere counts as acting, with a harm of 0).
        Its interval is that of the ratio of two means over the same examples, so it accounts for
        the uncertainty of `intact - chance` (`stats.harm_interval`).

        The `format_` columns are the same comparison (Tango, McNemar) for whether an answer, right
        or wrong, has the format of the shots (the worked examples in the prompt), so that a lost
        format is not mistaken for a lost skill; NaN outside generation. `noise` is the share of
        intact answers that another batch shape changes; NaN if not measured. `unit` is the unit of
        scores and effects.
        """
        return self._effects.copy()

    def intact(self) -> pd.DataFrame:
        """Score the intact model: a row per task and protocol.

        Columns: task, family, protocol, n, score, score_low, score_high, chance (the score of the
        best guess that does not read the question; NaN if unknown), chance_shuffled (the score if
        each answer were given to another example; NaN if not measured), above_chance (whether the
        score is shown to lie above chance), unit, n_failed (examples whose score is not finite),
        format (share of answers in the format of the shots, the worked examples in the prompt; NaN
        outside generation), format_low, format_high, noise (share of answers that another batch
        shape changes; NaN if not measured).
        """
        return self._intact.copy()

    def decisions(self) -> pd.DataFrame:
        """Return the verdict on every condition in each family under each protocol, a row for each.

        Columns: family, task (the family's tasks with skill, joined by a comma), protocol,
        condition, ablation, at, layer (NA unless the condition ablates one layer), verdict
        (critical, spare, partial, helps, sink, undecided, not measured or not measurable; see
        `roles`), harm with the interval `low` to `high` by which it was judged, n (questions asked,
        summed over tasks), look (how many times a sweep with `until` had looked at its results by
        then; 0 for other sweeps) and needed (about how many questions would decide an undecided
        condition, if its harm stayed the same; else NaN).

        In a sweep with `until`, intervals and verdicts are valid although the sweep stops asking
        questions under a condition once its verdict is decided. The estimated harms of such
        conditions are biased away from 0 (docs/statistics.md says by how much).

        A part of a result, such as `result["skip L0"]`, gives the verdicts of the whole result: the
        ablation `after_first`, which shows whether a layer is a sink, need not be in the part.

        Example:
            result.decisions().value_counts(["family", "protocol", "verdict"])
        """
        # The whole result has the `after_first` conditions that show which layers are sinks.
        keys = {(cell.task, cell.protocol) for cell in self._cells}
        whole = self._whole or self
        cells = [cell for cell in whole._cells if (cell.task, cell.protocol) in keys]
        table = tabulate_decisions(cells, self.manifest, interim=bool(self.interim))
        is_own = table["condition"].isin(self.frame["condition"])
        return table[is_own].reset_index(drop=True)

    def agreement(self) -> pd.DataFrame:
        """Correlate effects over sites between two ways of asking the same questions.

        The table has a row per ablation, `at`, part and pair of cells that share questions; a cell
        is one task under one protocol. A pair is two protocols of a task, two contexts of its
        questions under one protocol (`task`, `task_b`), or two tasks made of the same documents.

        `spearman` is the rank correlation between the two cells' effects over the `n_sites`
        conditions that both have, with a bootstrap interval (`low`, `high`) over the `n` shared
        questions, drawn jointly for all sites and both cells (`stats.profile_agreement`). It is NaN
        for fewer than 3 sites, or if a cell's effects are equal at all sites. With few examples,
        effects are noisy, which lowers the correlation. The interval is widened to account for
        that; the estimate is not corrected.

        `p` is the p value of one test for all sites; the null hypothesis is that the two profiles
        of harm are equal (`stats.profiles_differ_p`).
        """
        return tabulate_agreement(self._cells)

    def differences(self) -> pd.DataFrame:
        """Compare harm between ways of asking the same questions: a row per condition and pair.

        Pairs are those of `agreement`. `difference` is `harm_b - harm_a`. If only one protocol of
        the pair scores given answers, it is `a`, so a positive difference means that likelihood
        shows less harm than generation. Measured chance is always subtracted: where an ablation
        leaves no right answer, harm is above 1, and the more so, the easier guessing is. The
        interval of the difference and `p` (a sign-flip test) are paired over the `n` shared
        questions; `p_adjusted` is corrected for the number of sites (Holm). NaN unless both harms
        are defined.
        """
        return self._differences.copy()

    def harm(
        self,
        task: str,
        protocol: str,
        weights: Mapping[str, float],
        *,
        level: float = stats.LEVEL,
        guessed: bool = True,
    ) -> stats.Contrast:
        """Return a weighted sum of the harms of conditions in one task under one protocol.

        Two such sums can be compared with `stats.difference_of`, which pairs shared questions. NaN
        if the harm of a condition is not defined (see `effects`).

        Args:
            task: the task's label.
            protocol: the protocol's label.
            weights: weights by condition, such as `{"skip L0": 0.5, "skip L1": 0.5}` for a mean.
            level: the confidence level of the interval.
            guessed: whether measured chance is subtracted from the intact score; if false, that of
                a random choice is, or 0 where answers are not chosen. A difference between tasks or
                protocols should hold with both (`stats.spanning`).

        Raises:
            InputError: no such task, protocol or condition in this result.

        Example:
            both = {"skip L0": 0.5, "skip L1": 0.5}
            one, two = (result.harm(task, "generation", both) for task in result.frame["task"][:2])
            stats.difference_of(one, two).numbers
        """
        cells = {(cell.task, cell.protocol): cell for cell in self._cells}
        if (task, protocol) not in cells:
            known_names = [" ".join(names) for names in cells]
            raise InputError(
                describe_unknown("task and protocol", f"{task} {protocol}", known_names)
            )
        cell = cells[task, protocol]
        for name in weights:
            if name not in cell.conditions.index:
                raise InputError(
                    describe_unknown("condition", name, list(map(str, cell.conditions.index)))
                )
        return cell.harm(weights, level=level, guessed=guessed)

    def measures(self) -> pd.DataFrame:
        """List the numbers that protocols measured besides the score, a row per number.

        Columns: condition, task, protocol, example, measure, step (the 0-based index in a list; NA
        for a single number), value (true is 1, false 0, a missing number of a list NaN). Other
        values that are not numbers are left out.
        """
        keys = ["condition", "task", "protocol", "example"]
        rows = []
        if "details" in self.frame:  # a frame made by hand may lack it
            for *key, details in self.frame[[*keys, "details"]].itertuples(index=False):
                if isinstance(details, str) and details:
                    rows += [(*key, *number) for number in _iterate_numbers(json.loads(details))]
        table = pd.DataFrame(rows, columns=[*keys, "measure", "step", "value"])
        return table.astype({"step": "Int64", "value": float})

    def noise_floor(self) -> pd.DataFrame:
        """Compare the intact model with itself in another batch shape: a row per task and protocol.

        Columns: task, protocol, n, n_changed, changed (the share of answers that differ, with
        Wilson's interval `changed_low` to `changed_high`), intact (mean score of the first run),
        score (mean score of the second), effect (`score - intact`), unit. Nearly all scores in nats
        change. There are no rows if the run did not ask the intact model twice.
        """
        return tabulate_noise(self.manifest, {cell.task for cell in self._cells})

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
            known_values = list(self.frame[column].unique())
            if value not in known_values:
                raise InputError(describe_unknown(column, value, known_values))
            if column != "condition":
                rows = rows[rows[column] == value]
        rows = rows.assign(outcome=rows["outcome"].where(rows["status"] == "ok", rows["status"]))
        columns = ["example", "outcome", "response"]
        intact_rows = rows.loc[rows["condition"] == INTACT, columns]
        intact_rows = intact_rows.rename(columns={name: f"intact_{name}" for name in columns[1:]})
        joined = intact_rows.merge(rows.loc[rows["condition"] == condition, columns], on="example")
        joined = joined[joined["intact_outcome"] != joined["outcome"]]
        if self.examples.empty:
            joined = joined.assign(prompt="", answer="")
        else:
            task_examples = self.examples[self.examples["task"] == task]
            joined = joined.merge(
                task_examples[["example", "prompt", "answer"]], on="example", how="left"
            )
        order = ["example", "prompt", "answer", "intact_outcome", "outcome", "intact_response"]
        return joined[[*order, "response"]].reset_index(drop=True)

    def __getitem__(self, name: str) -> "SweepResult":
        """Return the part for one task, family, protocol or condition, searched for in that order.

        Last, `name` may be a label: a condition's name without site and positions (`at`).
        `result["clip"]` holds the conditions `clip L0`, `clip L1 after_first` and so on, but not
        `clip[length=0.25] L0`.

        A task's version may be omitted if the result holds only one version of the task:
        `result["facts"]` is `result["facts@2"]`.

        The part for a condition also contains the intact rows. In `effects`, its p values and
        `detectable` stay those of the whole result, corrected over all conditions of the sweep.
        `compare` corrects over the conditions that it is given.

        Raises:
            InputError: nothing in this result has that name.

        Example:
            result["retrieval"]["generation"].effects()
        """
        column = next(
            (candidate for candidate in _NARROWED if name in self._names(candidate)), None
        )
        if column is None:
            versions = [task for task in self._names("task") if re.sub(r"@\d+", "", task) == name]
            if len(versions) == 1:
                return self[versions[0]]
            raise InputError(self._unknown(str(name)))
        is_kept = (self._labels if column == "label" else self.frame[column]) == name
        if column in ("condition", "label"):
            is_kept |= self.frame["condition"] == INTACT
        frame = self.frame[is_kept].reset_index(drop=True)
        kept_cells = set(zip(frame["task"], frame["protocol"], strict=True))
        manifest_cells = self.manifest.get("cells", [])
        cells = [cell for cell in manifest_cells if (cell["task"], cell["protocol"]) in kept_cells]
        examples = self.examples
        if not examples.empty:
            examples = examples[examples["task"].isin(frame["task"])].reset_index(drop=True)
        narrowed = SweepResult(frame, {**self.manifest, "cells": cells}, examples)
        object.__setattr__(narrowed, "_whole", self._whole or self)
        return narrowed

    def __iter__(self) -> NoReturn:
        raise TypeError("a SweepResult is not a sequence: its rows are in result.frame")

    def _ipython_key_completions_(self) -> list[str]:
        return list(dict.fromkeys(name for each in _NARROWED for name in self._names(each)))

    def __repr__(self) -> str:
        if self.frame.empty:
            return "SweepResult without rows"
        return as_text(self._headline(), self._short(), *self._below())

    def _repr_html_(self) -> str:
        if self.frame.empty:
            return "<p>SweepResult without rows</p>"
        return as_html(self._headline(), self._short(), *self._below())

    @functools.cached_property
    def _cells(self) -> Sequence[Cell]:
        return make_cells(self.frame, self.manifest, self.examples)

    @functools.cached_property
    def _conditions(self) -> pd.DataFrame:
        if not self._cells:
            return pd.DataFrame(columns=[*CONDITION, *CELL])
        tables = [
            cell.conditions.assign(task=cell.task, family=cell.family, protocol=cell.protocol)
            for cell in self._cells
        ]
        return pd.concat(tables, ignore_index=True)

    @functools.cached_property
    def _intact(self) -> pd.DataFrame:
        return tabulate_intact(self._cells)

    @functools.cached_property
    def _effects(self) -> pd.DataFrame:
        if self._whole is None:
            return tabulate_effects(self._cells, self.manifest)
        whole, columns = self._whole._effects, ["condition", "task", "protocol"]
        own_rows = pd.MultiIndex.from_frame(self.frame[columns])
        return whole[pd.MultiIndex.from_frame(whole[columns]).isin(own_rows)].reset_index(drop=True)

    @functools.cached_property
    def _differences(self) -> pd.DataFrame:
        return tabulate_differences(self._cells, self.manifest)

    @functools.cached_property
    def _labels(self) -> "pd.Series[str]":
        return label_conditions(self.frame)

    def _names(self, column: str) -> list[str]:
        if column == "label":
            return [label for label in self._labels.unique() if label]
        return [str(name) for name in self.frame[column].unique()]

    def _unknown(self, name: str) -> str:
        """Return the error text for an unknown name: the nearest known one, and what there is."""
        conditions = self._names("condition")
        near = nearest_name(name, self._ipython_key_completions_())
        hint = f"did you mean {near!r}? " if near else ""
        return (
            f"unknown task, family, protocol or condition {name!r}: {hint}tasks are "
            f"{', '.join(self._names('task'))}, families {', '.join(self._names('family'))}, "
            f"protocols {', '.join(self._names('protocol'))}, and there are {len(conditions)} "
            f"conditions, such as {conditions[-1]!r}"
        )

    def _headline(self) -> str:
        model, n = self.manifest.get("model", {}), self._effects["condition"].nunique()
        return (
            f"SweepResult: {model.get('name', 'model')}, {model.get('n_layers', '?')} layers "
            f"(0-based), {n} condition{'s' * (n != 1)}, "
            f"{self.frame['example'].nunique()} examples; worst condition of each cell:"
        )

    def _below(self) -> tuple[str, str]:
        return detectable_line(self._effects), _NEXT

    def _short(self) -> pd.DataFrame:
        """Return intact scores and the most harmful condition, per task and protocol."""
        short = self.intact()[["task", "protocol", "n", "chance", "score", "score_low"]]
        short = short.assign(score_high=self.intact()["score_high"]).rename(
            columns={"score": "intact", "score_low": "low", "score_high": "high"}
        )
        known = self._effects.dropna(subset=["effect"])
        if not known.empty:
            worst = known.loc[known.groupby(["task", "protocol"])["effect"].idxmin()]
            columns = ["task", "protocol", "condition", "effect", "ci_low", "ci_high", "harm"]
            short = short.merge(worst[columns], on=["task", "protocol"], how="left")
        return short


def _iterate_numbers(details: dict[str, Any]) -> Iterator[tuple[str, int | None, float]]:
    """Yield (measure, step, value) of the numbers in an answer's details."""
    for measure, value in details.items():
        listed = isinstance(value, list)
        for step, item in enumerate(value if listed else [value]):
            # A missing number in a list becomes NaN, so that the other numbers keep their index.
            if isinstance(item, int | float):
                yield measure, step if listed else None, float(item)
            elif listed and item is None:
                yield measure, step, math.nan
