"""Compare two runs: two models, or one model under two settings.

Each condition and example that both runs have (see `matching`) gives one difference of effects
between the runs:

    (ablated - intact in the second run) - (ablated - intact in the first run)
"""

from dataclasses import dataclass
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.notebook_display import as_html, as_text, detectable_line
from layerroles.results import effects
from layerroles.results.condition_verdicts import count_deferred
from layerroles.results.matching import Match, match
from layerroles.results.result import SweepResult, check_result
from layerroles.results.task_protocol_cells import FAMILY, INTACT

COLUMNS = [
    *("condition", "ablation", "at", "site", "layer", "part", "head"),
    *("task", "family", "protocol", "n"),
    *("intact_a", "intact_b", "effect_a", "effect_b", "difference", "low", "high"),
    *("p", "p_adjusted", "harm_a", "harm_b", "harm_difference", "harm_low", "harm_high"),
    *("detectable", "unit"),
]
PROFILES = [
    *("task", "family", "protocol", "ablation", "at", "part", "n_sites", "n"),
    *("spearman", "low", "high", "mean_difference", "mean_low", "mean_high", "p", "unit"),
]
_NEXT = (
    "Next: comparison.largest(3) has the largest differences, "
    'lr.figures.harm_profiles({"a": a, "b": b}) draws both runs.'
)


@dataclass(frozen=True, eq=False)
class Comparison:
    """The comparison of two runs; every difference is the second (b) minus the first (a).

    Attributes:
        frame: a row per ablation, positions (`at`), site, task and protocol that both runs have,
            over the `n` examples that both answered. It has the intact scores; the effects; their
            difference with a 95% interval; `p` of a sign-flip test of no difference; `p_adjusted`,
            corrected for the number of sites (by Holm; over heads and key/value groups by Benjamini
            and Hochberg); the harms, and their difference with an interval, NaN unless both harms
            are defined; and `detectable`, the smallest difference that is detected with 80% power.
        profiles: a row per task, protocol, ablation, `at` and part: Spearman's correlation between
            the two runs' effects over sites, and the mean difference of effects, each with a
            bootstrap interval over jointly drawn examples; and `p` of one test for all sites, whose
            null hypothesis is that the two runs' effects at each site are equal.
        unmatched: lines of text on what only one run has, and on settings that differ.
        names: the names of the two runs' models.

    Example:
        comparison = lr.compare(result, result)
        comparison.frame[comparison.frame["p_adjusted"] < 0.05]
    """

    frame: pd.DataFrame
    profiles: pd.DataFrame
    unmatched: tuple[str, ...]
    names: tuple[str, str]

    def __repr__(self) -> str:
        return as_text(self._headline(), self._short(), *self._below())

    def _repr_html_(self) -> str:
        return as_html(self._headline(), self._short(), *self._below())

    def largest(self, top: int) -> pd.DataFrame:
        """Return the `top` rows of each task and protocol with the largest absolute differences."""
        ordered = self.frame.sort_values(
            "difference", key=abs, ascending=False, kind="stable", na_position="last"
        )
        top_rows = ordered.groupby(["task", "protocol"], sort=False).head(top)
        return top_rows.sort_values(["task", "protocol"], kind="stable")

    def _headline(self) -> str:
        n_both = self.frame["condition"].nunique()
        return (
            f"Comparison: {self.names[1]} (b) minus {self.names[0]} (a), {n_both} conditions in "
            f"both; agreement of profiles over sites, and mean difference of effects:"
        )

    def _below(self) -> tuple[str, ...]:
        return (detectable_line(self.frame), *self.unmatched, _NEXT)

    def _short(self) -> pd.DataFrame:
        return self.profiles.drop(columns=["family", "unit"])


def compare(a: SweepResult, b: SweepResult) -> Comparison:
    """Compare two runs: which effects differ, and whether the same sites have large effects.

    Effects and harms are those of `SweepResult.effects`, over the matched examples only. Examples
    match if they have the same id and, if both runs store it, the same prompt.

    Raises:
        InputError: no example was asked under the same condition, task and protocol in both runs.

    Example:
        print(lr.compare(result, lr.read("runs/first")))
    """
    for run in (a, b):
        check_result(run)
    matches, unmatched = match(a, b)
    rows = [_comparison_row(matched, names) for matched in matches for names in matched.conditions]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "gained", "lost", "sd", "design", "looks"])
    if not (frame["n"] > 0).any():
        raise InputError(f"the two runs have nothing to compare: {'; '.join(unmatched)}")
    frame = frame.astype({"layer": "Int64", "head": "Int64", "n": int})
    frame[["p_adjusted", "detectable"]] = np.nan
    names = {(m.one.task, m.one.protocol): list(zip(*m.conditions, strict=True)) for m in matches}
    for (ablation, at, part, *cell_key), family in frame.groupby(FAMILY, sort=False):
        n_more = max(
            count_deferred(run.manifest, (ablation, at, part), asked)
            for run, asked in zip((a, b), names[tuple(cell_key)], strict=True)
        )
        frame.loc[family.index, "p_adjusted"] = effects.adjust_p(family["p"], part, n_more)
        # Changes in the rarer direction are attributed to chance, and as many in the other one.
        background = min(family["gained"].sum(), family["lost"].sum()) / max(1, family["n"].sum())
        frame.loc[family.index, "detectable"] = effects.find_detectable(
            family, float(background), n_more
        )
    profiles = [row for matched in matches for row in _profile_rows(matched)]
    return Comparison(
        frame=frame[COLUMNS],
        profiles=pd.DataFrame(profiles, columns=PROFILES),
        unmatched=tuple(unmatched),
        names=_model_names(a, b),
    )


def _comparison_row(match: Match, names: tuple[str, str]) -> dict[str, Any]:
    one, two = match.one, match.two
    sides = (one, names[0]), (two, names[1])
    scores = [
        cell.scores.loc[[INTACT, name], list(match.examples)].to_numpy(float)
        for cell, name in sides
    ]
    answered = ~np.isnan(np.concatenate(scores)).any(axis=0)
    intact_a, score_a, intact_b, score_b = np.concatenate(scores)[:, answered]
    clusters = one.clusters_of(match.examples)[answered]
    rng = one.rng("compare", *names)
    levels = [cell.level([name]) for cell, name in sides]
    a = effects.estimate_paired_effect(intact_a, score_a, clusters, one.unit, rng, level=levels[0])
    b = effects.estimate_paired_effect(intact_b, score_b, clusters, two.unit, rng, level=levels[1])
    change = (score_b - intact_b) - (score_a - intact_a)
    correlation = stats.correlation(score_a - intact_a, score_b - intact_b)
    binary = one.unit == "accuracy" and stats.is_binary(intact_a, score_a, intact_b, score_b)
    difference, interval = stats.difference(
        (a.effect, b.effect), (a.interval, b.interval), correlation
    )
    bounds = (-2.0, 2.0) if binary else None
    interval = stats.clustered(interval, change, clusters, bounds, level=max(levels))
    p = stats.sign_flip_p(change, rng)
    p = effects.clustered_p(p, change, clusters, bounds) if a.n else nan
    harm_a, harm_b = match.harms({names: 1.0})
    harm, harm_low, harm_high = stats.difference_of(harm_b, harm_a).numbers
    return {
        **one.conditions.loc[names[0]].to_dict(),
        "task": one.task,
        "family": one.family,
        "protocol": one.protocol,
        "n": a.n,
        "intact_a": effects.mean_or_nan(intact_a),
        "intact_b": effects.mean_or_nan(intact_b),
        "effect_a": a.effect,
        "effect_b": b.effect,
        "difference": difference,
        "low": interval.low,
        "high": interval.high,
        "p": max(cell.looks.adjust_p(p, cell.n_asked([name])) for cell, name in sides),
        "harm_a": harm_a.value,
        "harm_b": harm_b.value,
        "harm_difference": harm,
        "harm_low": harm_low,
        "harm_high": harm_high,
        "unit": one.unit,
        "gained": int((change > 0).sum()),
        "lost": int((change < 0).sum()),
        "sd": None if binary else effects.standard_deviation(change),
        "design": effects.measure_design_effect(change, clusters),
        "looks": max(
            effects.count_looks_as_tests(cell, cell.n_asked([name])) for cell, name in sides
        ),
    }


def _profile_rows(match: Match) -> list[dict[str, Any]]:
    """Return a row of `Comparison.profiles` for each ablation, `at` and part of a match."""
    one, two = match.one, match.two
    kinds = one.conditions[["ablation", "at", "part"]]
    names = pd.DataFrame(match.conditions, columns=["one", "two"]).set_index("one", drop=False)
    rows = []
    for (ablation, at, part), condition_pairs in names.join(kinds).groupby(
        ["ablation", "at", "part"]
    ):
        sides = [
            (cell, list(map(str, condition_pairs[run])))
            for cell, run in ((one, "one"), (two, "two"))
        ]
        asked = [cell.asked_by_all(own) for cell, own in sides]
        examples = [example for example in match.examples if all(example in of for of in asked)]
        level = max(cell.level(own) for cell, own in sides)
        changes = [cell.differences(own, examples) for cell, own in sides]
        measured = np.all([(~np.isnan(run_changes)).any(axis=1) for run_changes in changes], axis=0)
        a, b = (run_changes[measured] for run_changes in changes)
        rng = one.rng("profiles", ablation, at, part)
        clusters = one.clusters_of(examples)
        rho, interval = stats.profile_agreement(a, b, rng, clusters=clusters, level=level)
        mean = _mean_difference(a, b, clusters, one.unit, rng, level)
        answered = ~np.isnan(b - a).any(axis=0)
        p, _ = stats.profiles_differ_p((b - a)[:, answered], rng, clusters=clusters[answered])
        p = max(cell.looks.adjust_p(p, cell.n_asked(own)) for cell, own in sides)
        rows.append(
            {
                "task": one.task,
                "family": one.family,
                "protocol": one.protocol,
                "ablation": ablation,
                "at": at,
                "part": part,
                "n_sites": int(measured.sum()),
                "n": len(examples),
                "spearman": rho,
                "low": interval.low,
                "high": interval.high,
                "mean_difference": mean.value,
                "mean_low": mean.interval.low,
                "mean_high": mean.interval.high,
                "p": p,
                "unit": one.unit,
            }
        )
    return rows


def _mean_difference(
    a: Float[np.ndarray, "site example"],
    b: Float[np.ndarray, "site example"],
    clusters: np.ndarray,
    unit: str,
    rng: np.random.Generator,
    level: float,
) -> stats.IntervalEstimate:
    """Estimate the mean of `b - a` over sites and examples; NaN if there are none.

    `a` and `b` hold the changes of scores (ablated minus intact) in the first and the second run.
    """
    n_sites, n = a.shape
    if not n_sites or not n:
        return stats.IntervalEstimate(nan, stats.UNKNOWN)
    counts = np.vstack([np.ones(n), stats.resampled_counts(n, rng, clusters=clusters)])
    means = (stats.resampled_means(b, counts) - stats.resampled_means(a, counts)).mean(axis=1)
    center = float(means[0])
    drawn = stats.percentile_interval(means[1:], len(set(clusters)), level=level)
    if unit != "accuracy":
        return stats.IntervalEstimate(center, drawn)
    # The bootstrap interval is too narrow if few answers differ, so it is made at least as wide as
    # Tango's interval for `n` examples of which none differs. More sites do not make that narrower,
    # since their changes may be fully correlated.
    reach = stats.tango(0, 0, n, level=level).high
    wide = stats.Interval(min(drawn.low, center - reach), max(drawn.high, center + reach))
    return stats.IntervalEstimate(center, wide)


def _model_names(a: SweepResult, b: SweepResult) -> tuple[str, str]:
    one, two = (str(run.manifest.get("model", {}).get("name", "model")) for run in (a, b))
    return one, two
