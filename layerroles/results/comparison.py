"""Compare two runs: two models, or one model under two settings.

The same conditions are matched by ablation, `at` and site, the same examples by their ids. Of each
condition, an example says by how much its effect differs between the runs:

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
from layerroles.results import effects
from layerroles.results.cells import FAMILY, INTACT
from layerroles.results.matched import Match, match
from layerroles.results.result import SweepResult, check_result
from layerroles.results.shown import as_html, as_text, detectable_line

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
    """Two runs side by side; every difference is the second (b) minus the first (a).

    Attributes:
        frame: a row per ablation, `at`, site, task and protocol that both runs have, over the `n`
            examples that both answered: intact scores, effects, their difference with a 95%
            interval, `p` of a sign-flip test that there is none, `p_adjusted` for the number of
            sites (Holm; Benjamini and Hochberg over heads), the same for harm where both are
            defined, and `detectable`, the smallest difference that would probably be found.
        profiles: a row per task, protocol, ablation, `at` and part: Spearman's correlation between
            the two runs' effects over sites and the mean difference, with bootstrap intervals over
            examples, drawn jointly, and `p`, of one test for all sites that the profiles differ.
        unmatched: what only one run has, in words.
        names: what the two runs are called.

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
        """The rows with the largest differences, `top` of each task and protocol."""
        ordered = self.frame.sort_values(
            "difference", key=abs, ascending=False, kind="stable", na_position="last"
        )
        first = ordered.groupby(["task", "protocol"], sort=False).head(top)
        return first.sort_values(["task", "protocol"], kind="stable")

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
    """Compare two runs: where effects differ, and whether profiles over sites agree.

    Harm is defined as in `SweepResult.effects`, over the matched examples. Examples are the same if
    they have the same id and, where both runs know it, the same prompt.

    Raises:
        InputError: the runs share no condition, task, protocol and example.

    Example:
        print(lr.compare(result, lr.read("runs/first")))
    """
    for run in (a, b):
        check_result(run)
    matches, unmatched = match(a, b)
    rows = [_row(each, names) for each in matches for names in each.conditions]
    frame = pd.DataFrame(rows, columns=[*COLUMNS, "gained", "lost", "sd", "design"])
    if not (frame["n"] > 0).any():
        raise InputError(f"the two runs have nothing to compare: {'; '.join(unmatched)}")
    frame = frame.astype({"layer": "Int64", "head": "Int64", "n": int})
    frame[["p_adjusted", "detectable"]] = np.nan
    for (_, _, part, *_), family in frame.groupby(FAMILY, sort=False):
        frame.loc[family.index, "p_adjusted"] = effects.adjusted(family["p"], part)
        # What changes against the run of things does so for no reason, and as much along with it.
        background = min(family["gained"].sum(), family["lost"].sum()) / max(1, family["n"].sum())
        frame.loc[family.index, "detectable"] = effects.detectable(family, float(background))
    profiles = [row for each in matches for row in _profiles(each)]
    return Comparison(
        frame=frame[COLUMNS],
        profiles=pd.DataFrame(profiles, columns=PROFILES),
        unmatched=tuple(unmatched),
        names=_names(a, b),
    )


def _row(match: Match, names: tuple[str, str]) -> dict[str, Any]:
    one, two = match.one, match.two
    scores = [
        cell.scores.loc[[INTACT, name], list(match.examples)].to_numpy(float)
        for cell, name in zip((one, two), names, strict=True)
    ]
    answered = ~np.isnan(np.concatenate(scores)).any(axis=0)
    intact_a, score_a, intact_b, score_b = np.concatenate(scores)[:, answered]
    clusters = one.clusters_of(match.examples)[answered]
    rng = one.rng("compare", *names)
    a = effects.paired(intact_a, score_a, clusters, one.unit, rng)
    b = effects.paired(intact_b, score_b, clusters, two.unit, rng)
    change = (score_b - intact_b) - (score_a - intact_a)
    correlation = stats.correlation(score_a - intact_a, score_b - intact_b)
    binary = one.unit == "accuracy" and stats.is_binary(intact_a, score_a, intact_b, score_b)
    difference, interval = stats.difference(
        (a.effect, b.effect), (a.interval, b.interval), correlation
    )
    interval = stats.clustered(interval, change, clusters, None)
    harm_a, harm_b = match.harms({names: 1.0})
    harm, harm_low, harm_high = stats.difference_of(harm_b, harm_a).numbers
    return {
        **one.conditions.loc[names[0]].to_dict(),
        "task": one.task,
        "family": one.family,
        "protocol": one.protocol,
        "n": a.n,
        "intact_a": effects.mean(intact_a),
        "intact_b": effects.mean(intact_b),
        "effect_a": a.effect,
        "effect_b": b.effect,
        "difference": difference,
        "low": interval.low,
        "high": interval.high,
        "p": effects.clustered_p(stats.sign_flip_p(change, rng), change, clusters) if a.n else nan,
        "harm_a": harm_a.value,
        "harm_b": harm_b.value,
        "harm_difference": harm,
        "harm_low": harm_low,
        "harm_high": harm_high,
        "unit": one.unit,
        "gained": int((change > 0).sum()),
        "lost": int((change < 0).sum()),
        "sd": None if binary else effects.spread(change),
        "design": effects.design(change, clusters),
    }


def _profiles(match: Match) -> list[dict[str, Any]]:
    """The profiles of every ablation, `at` and part over its sites."""
    one, two = match.one, match.two
    kinds = one.conditions[["ablation", "at", "part"]]
    names = pd.DataFrame(match.conditions, columns=["one", "two"]).set_index("one", drop=False)
    rows = []
    for (ablation, at, part), own in names.join(kinds).groupby(["ablation", "at", "part"]):
        changes = [
            one.differences(list(own["one"]), match.examples),
            two.differences(list(own["two"]), match.examples),
        ]
        measured = np.all([(~np.isnan(each)).any(axis=1) for each in changes], axis=0)
        a, b = (each[measured] for each in changes)
        rng = one.rng("profiles", ablation, at, part)
        clusters = one.clusters_of(match.examples)
        rho, interval = stats.profile_agreement(a, b, rng, clusters=clusters)
        mean, of_mean = _mean_difference(a, b, clusters, one.unit, rng)
        known = ~np.isnan(b - a).any(axis=0)
        p, _ = stats.profiles_differ_p((b - a)[:, known], rng, clusters=clusters[known])
        rows.append(
            {
                "task": one.task,
                "family": one.family,
                "protocol": one.protocol,
                "ablation": ablation,
                "at": at,
                "part": part,
                "n_sites": int(measured.sum()),
                "n": len(match.examples),
                "spearman": rho,
                "low": interval.low,
                "high": interval.high,
                "mean_difference": mean,
                "mean_low": of_mean.low,
                "mean_high": of_mean.high,
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
) -> tuple[float, stats.Interval]:
    """How much higher the second profile lies, on average over sites."""
    n_sites, n = a.shape
    if not n_sites or not n:
        return nan, stats.UNKNOWN
    counts = np.vstack([np.ones(n), stats.resampled_counts(n, rng, clusters=clusters)])
    means = (stats.resampled_means(b, counts) - stats.resampled_means(a, counts)).mean(axis=1)
    center, drawn = float(means[0]), stats.percentile_interval(means[1:], len(set(clusters)))
    if unit != "accuracy":
        return center, drawn
    # Few answers that differ give the bootstrap little to draw from: the interval is at least as
    # wide as Tango's would be if none differed. Sites may move together, so that many of them tell
    # no more than one.
    reach = stats.tango(0, 0, n).high
    return center, stats.Interval(min(drawn.low, center - reach), max(drawn.high, center + reach))


def _names(a: SweepResult, b: SweepResult) -> tuple[str, str]:
    one, two = (str(run.manifest.get("model", {}).get("name", "model")) for run in (a, b))
    return one, two
