"""Compare two runs: two models, or one model under two settings.

Conditions are matched by ablation, positions (`at`) and site, examples by their ids and prompts.
Lines of text list the conditions without a match and count the examples without one. Each matched
condition and example gives one difference of effects between the runs:

    (ablated - intact in the second run) - (ablated - intact in the first run)
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.notebook_display import as_html, as_text, detectable_line
from layerroles.results import effects
from layerroles.results.cells import FAMILY, INTACT, Cell
from layerroles.results.condition_verdicts import count_deferred
from layerroles.results.result import SweepResult, cells_of, check_result

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
_MATCHED_BY = ["ablation", "at", "site"]
_MOST_NAMED = 5
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


@dataclass(frozen=True, eq=False)
class Match:
    """A task and protocol that two runs share.

    Attributes:
        one: the first run's cell (its rows of this task and protocol).
        two: the second run's cell.
        conditions: for each shared condition, its names in the first run and in the second.
        examples: the ids of the examples that both runs asked.
    """

    one: Cell
    two: Cell
    conditions: Sequence[tuple[str, str]]
    examples: Sequence[str]

    def harms(
        self, weights: Mapping[tuple[str, str], float]
    ) -> tuple[stats.Contrast, stats.Contrast]:
        """Return each run's weighted sum of harms, over the examples with all scores in both runs.

        Args:
            weights: the weight of each condition, by its names in the first and the second run.
        """
        cells = self.one, self.two
        names = zip(*weights, strict=True)
        answered = [
            cell.scores.reindex(columns=list(self.examples)).loc[[INTACT, *condition]].notna().all()
            for cell, condition in zip(cells, names, strict=True)
        ]
        examples = [str(example) for example in answered[0].index[answered[0] & answered[1]]]
        one, two = (
            cell.harm({name[run]: weight for name, weight in weights.items()}, examples)
            for run, cell in enumerate(cells)
        )
        return one, two


def match(a: SweepResult, b: SweepResult) -> tuple[list[Match], list[str]]:
    """Return a `Match` per task and protocol that both runs have, and lines on what differs."""
    cells_a, cells_b = (
        {(cell.task, cell.protocol): cell for cell in cells_of(run)} for run in (a, b)
    )
    shared = [key for key in cells_a if key in cells_b]
    unmatched = _describe_unmatched(
        "task and protocol",
        [" ".join(key) for key in cells_a if key not in cells_b],
        [" ".join(key) for key in cells_b if key not in cells_a],
    )
    other_prompts, matches = _find_other_prompts(a, b), []
    unmatched_conditions: tuple[list[str], list[str]] = [], []
    for key in shared:
        # Two runs of a task ask the same questions under the same ids.
        one, two = (replace(run[key], questions={}) for run in (cells_a, cells_b))
        if one.unit != two.unit:
            unmatched.append(f"{' '.join(key)} is measured in {one.unit} (a) and in {two.unit} (b)")
            continue
        conditions, examples = _match_conditions(one, two), _match_examples(one, two, other_prompts)
        for index, cell in enumerate((one, two)):
            matched = {names[index] for names in conditions}
            unmatched_conditions[index].extend(
                name for name in cell.conditions.index if name not in matched
            )
        n_lost = [len(cell.scores.columns) - len(examples) for cell in (one, two)]
        if any(n_lost):
            unmatched.append(
                f"{' '.join(key)}: {n_lost[0]} examples of a and {n_lost[1]} of b have no match"
            )
        matches.append(Match(one, two, conditions, examples))
    return matches, [
        *_describe_settings(a, b),
        *unmatched,
        *_describe_unmatched("condition", *unmatched_conditions),
    ]


def _describe_settings(a: SweepResult, b: SweepResult) -> list[str]:
    """Return lines of text on settings, ablation parameters and references that differ."""
    settings = {
        "dtype": [run.manifest.get("model", {}).get("dtype") for run in (a, b)],
        "chat": [run.manifest.get("chat", False) for run in (a, b)],
        "seed": [run.manifest.get("seed", 0) for run in (a, b)],
    }
    parameters_a, parameters_b = (_ablation_parameters(run) for run in (a, b))
    settings |= {
        f"ablation {name}": [parameters_a[name], parameters_b[name]]
        for name in parameters_a
        if name in parameters_b
    }
    return [
        f"{name} is not the same: {one} (a), {two} (b)"
        for name, (one, two) in settings.items()
        if one != two
    ] + _describe_references(a, b)


def _describe_references(a: SweepResult, b: SweepResult) -> list[str]:
    """Return lines of text on tasks whose open references have different prompts in the two runs.

    An open reference names no prompts; a sweep fills it with held-out prompts of each task.
    """
    cells = [
        {(cell["task"], cell["protocol"]): cell for cell in run.manifest.get("cells", [])}
        for run in (a, b)
    ]
    digests_of = {}
    for names in cells[0].keys() & cells[1].keys():
        references_a, references_b = (
            cells_of_run[names].get("references", {}) for cells_of_run in cells
        )
        for chosen_by in references_a.keys() & references_b.keys():
            if references_a[chosen_by] != references_b[chosen_by]:
                digests_of[names[0], chosen_by] = (
                    f"{references_a[chosen_by]} (a), {references_b[chosen_by]} (b)"
                )
    return [
        f"the reference of task {task} ({chosen_by}) does not hold the same prompts: {digests}"
        for (task, chosen_by), digests in sorted(digests_of.items())
    ]


def _ablation_parameters(run: SweepResult) -> dict[str, str]:
    """Map each ablation to its parameters as JSON; different sets are joined by "or"."""
    parameters_of: dict[str, set[str]] = {}
    for condition in run.manifest.get("conditions", []):
        for parameters in condition.get("parameters", {}).values():
            parameters_of.setdefault(condition["ablation"], set()).add(
                json.dumps(parameters, sort_keys=True)
            )
    return {name: " or ".join(sorted(texts)) for name, texts in parameters_of.items()}


def _match_conditions(one: Cell, two: Cell) -> list[tuple[str, str]]:
    """Return pairs of names of conditions with the same ablation, `at` and site in both cells.

    If either cell has several such conditions, those with the same name are paired.
    """
    by_site = [_names_by_site(cell) for cell in (one, two)]
    pairs = []
    for key, names_a in by_site[0].items():
        names_b = by_site[1].get(key, [])
        if len(names_a) == len(names_b) == 1:
            pairs.append((names_a[0], names_b[0]))
        else:
            pairs += [(name, name) for name in names_a if name in names_b]
    return pairs


def _names_by_site(cell: Cell) -> dict[tuple[str, ...], list[str]]:
    names_by_site: dict[tuple[str, ...], list[str]] = {}
    for name, *key in cell.conditions[["condition", *_MATCHED_BY]].itertuples(index=False):
        names_by_site.setdefault(tuple(map(str, key)), []).append(str(name))
    return names_by_site


def _find_other_prompts(a: SweepResult, b: SweepResult) -> set[tuple[str, str]]:
    """Return (task, example id) of the examples whose prompts differ between the two runs.

    Empty if a run does not store its prompts.
    """
    if a.examples.empty or b.examples.empty:
        return set()
    columns = ["task", "example", "prompt"]
    both = a.examples[columns].merge(b.examples[columns], on=columns[:2])
    changed = both[both["prompt_x"] != both["prompt_y"]]
    return set(zip(changed["task"], changed["example"], strict=True))


def _match_examples(one: Cell, two: Cell, other_prompts: set[tuple[str, str]]) -> list[str]:
    """Return the ids of the examples that both runs asked and whose prompts do not differ."""
    examples_b = set(two.scores.columns)
    return [
        example
        for example in one.scores.columns
        if example in examples_b and (one.task, example) not in other_prompts
    ]


def _describe_unmatched(kind: str, names_a: Sequence[str], names_b: Sequence[str]) -> list[str]:
    lines = []
    for run, unmatched_names in (("a", names_a), ("b", names_b)):
        names = list(dict.fromkeys(unmatched_names))
        if names:
            rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            lines.append(f"only {run} has the {kind} {', '.join(names[:_MOST_NAMED])}{rest}")
    return lines


def _comparison_row(match: Match, names: tuple[str, str]) -> dict[str, Any]:
    one, two = match.one, match.two
    scores = [
        cell.scores.loc[[INTACT, name], list(match.examples)].to_numpy(float)
        for cell, name in zip((one, two), names, strict=True)
    ]
    answered = ~np.isnan(np.concatenate(scores)).any(axis=0)
    intact_a, score_a, intact_b, score_b = np.concatenate(scores)[:, answered]
    clusters = one.clusters_of(match.examples)[answered]
    rng = one.rng("compare", *names)
    levels = [cell.level([name]) for cell, name in zip((one, two), names, strict=True)]
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
        "p": max(
            cell.looks.adjust_p(p, cell.n_asked([name]))
            for cell, name in zip((one, two), names, strict=True)
        ),
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
            effects.count_looks_as_tests(cell, cell.n_asked([name]))
            for cell, name in zip((one, two), names, strict=True)
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
        names_of = [list(map(str, condition_pairs[run])) for run in ("one", "two")]
        asked = [cell.asked_by_all(own) for cell, own in zip((one, two), names_of, strict=True)]
        examples = [example for example in match.examples if all(example in of for of in asked)]
        level = max(cell.level(own) for cell, own in zip((one, two), names_of, strict=True))
        changes = [
            cell.differences(own, examples) for cell, own in zip((one, two), names_of, strict=True)
        ]
        measured = np.all([(~np.isnan(run_changes)).any(axis=1) for run_changes in changes], axis=0)
        a, b = (run_changes[measured] for run_changes in changes)
        rng = one.rng("profiles", ablation, at, part)
        clusters = one.clusters_of(examples)
        rho, interval = stats.profile_agreement(a, b, rng, clusters=clusters, level=level)
        mean = _mean_difference(a, b, clusters, one.unit, rng, level)
        answered = ~np.isnan(b - a).any(axis=0)
        p, _ = stats.profiles_differ_p((b - a)[:, answered], rng, clusters=clusters[answered])
        p = max(
            cell.looks.adjust_p(p, cell.n_asked(own))
            for cell, own in zip((one, two), names_of, strict=True)
        )
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
