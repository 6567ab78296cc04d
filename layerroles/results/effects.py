"""Effects: every condition against the intact model, in skill and in form, and what n can show.

One ablation at several settings in a run: the label that tells them apart.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.results.cells import CELL, CONDITION, FAMILY, INTACT, Cell

NUMBERS = [
    *("n", "intact", "chance", "score", "score_low", "score_high"),
    *("effect", "ci_low", "ci_high", "harm", "harm_low", "harm_high", "p", "p_adjusted"),
    *("n_failed", "n_changed", "detectable"),
    *("format_intact", "format", "format_effect", "format_low", "format_high", "format_p"),
    *("noise", "unit"),
]
# Parts of which a model has hundreds.
_MANY = ("head", "kv_group")


def effects_of(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per condition and cell; see `SweepResult.effects`."""
    rows = [_row(cell, str(name)) for cell in cells for name in cell.conditions.index]
    # How answers scatter is needed for what is detectable, and shown nowhere.
    frame = pd.DataFrame(rows, columns=[*CONDITION, *CELL, *NUMBERS, "gained", "sd", "design"])
    frame = frame.astype(
        {"layer": "Int64", "head": "Int64", "n": int, "n_failed": int, "n_changed": int}
    )
    frame[["p_adjusted", "detectable"]] = np.nan
    for (_, _, part, *_), family in frame.groupby(FAMILY, sort=False):
        frame.loc[family.index, "p_adjusted"] = adjusted(family["p"], part)
        frame.loc[family.index, "detectable"] = _detectable(family)
    return frame[[*CONDITION, *CELL, *NUMBERS]]


def intact_of(cells: Sequence[Cell]) -> pd.DataFrame:
    """A row per cell; see `SweepResult.intact`."""
    rows = []
    for cell in cells:
        answered, form = (table.loc[INTACT].dropna() for table in (cell.scores, cell.form))
        scores, clusters = answered.to_numpy(), cell.clusters_of(list(answered.index))
        interval = score_interval(scores, clusters, cell.unit, cell.rng(INTACT))
        of_form = score_interval(
            form.to_numpy(), cell.clusters_of(list(form.index)), "accuracy", cell.rng(INTACT)
        )
        rows.append(
            {
                "task": cell.task,
                "family": cell.family,
                "protocol": cell.protocol,
                "n": len(scores),
                "score": mean(scores),
                "score_low": interval.low,
                "score_high": interval.high,
                "chance": cell.chance,
                "chance_shuffled": cell.shuffled,
                "above_chance": cell.has_skill,
                "unit": cell.unit,
                "n_failed": len(cell.asked[INTACT]) - len(scores),
                "format": mean(form.to_numpy()),
                "format_low": of_form.low,
                "format_high": of_form.high,
                "noise": cell.noise,
            }
        )
    return pd.DataFrame(rows)


def adjusted(p: "pd.Series[float]", part: str) -> Float[np.ndarray, " condition"]:
    """The p values of one family, corrected for their number."""
    correct = stats.benjamini_hochberg if part in _MANY else stats.holm
    return correct(p.to_numpy(float))


def paired(
    intact: Float[np.ndarray, " example"],
    score: Float[np.ndarray, " example"],
    clusters: stats.Clusters,
    unit: str,
    rng: np.random.Generator,
) -> stats.PairedEffect:
    """Compare scores with the intact ones, by what is right for 0/1 scores or for others."""
    bounds = None
    if unit == "accuracy" and stats.is_binary(intact, score):
        found, bounds = stats.paired_binary(intact, score), (-1.0, 1.0)
    else:
        found = stats.paired_continuous(intact, score, rng)
    change = score - intact
    return replace(
        found,
        interval=stats.clustered(found.interval, change, clusters, bounds),
        p=clustered_p(found.p, change, clusters),
    )


def clustered_p(p: float, change: Float[np.ndarray, " example"], clusters: stats.Clusters) -> float:
    """The larger of a p for independent examples and that of the totals of clusters."""
    if not stats.are_clusters(clusters):
        return p
    of_clusters = stats.cluster_p(change, clusters)
    return p if np.isnan(of_clusters) else max(p, of_clusters)


def score_interval(
    scores: Float[np.ndarray, " example"],
    clusters: stats.Clusters,
    unit: str,
    rng: np.random.Generator,
) -> stats.Interval:
    """The interval of a mean score."""
    if unit != "accuracy" or not stats.is_binary(scores):
        return stats.clustered(stats.mean_interval(scores, rng), scores, clusters, None)
    interval = stats.wilson(int(scores.sum()), len(scores))
    return stats.clustered(interval, scores, clusters, (0.0, 1.0))


def detectable(family: pd.DataFrame, background: float) -> list[float]:
    """What each row of a family would show, by its `n`; by its `sd` where scores are not 0/1.

    Examples in clusters count as fewer, by the mean design effect of the family's rows.
    """
    tests = int(family["p"].notna().sum())
    background = max(stats.LEAST_BACKGROUND, background)
    design = float(family["design"].mean())
    return [
        stats.minimum_detectable(int(n / design), tests, background)
        if np.isnan(sd)
        else stats.minimum_detectable_mean(int(n / design), sd, tests)
        for n, sd in family[["n", "sd"]].to_numpy(float).tolist()
    ]


def design(changes: Float[np.ndarray, " example"], clusters: stats.Clusters) -> float:
    """The design effect of the clusters on a mean change; 1 where there are none."""
    if not stats.are_clusters(clusters):
        return 1.0
    return stats.design_effect(changes - changes.mean(), clusters)


def spread(changes: Float[np.ndarray, " example"]) -> float:
    """The standard deviation of differences; 0 where there are too few."""
    return float(changes.std(ddof=1)) if len(changes) > 1 else 0.0


def mean(values: Float[np.ndarray, " example"]) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def _row(cell: Cell, name: str) -> dict[str, Any]:
    intact, score, clusters = _known(cell, cell.scores, name)
    rng = cell.rng(name)
    own = score_interval(score, clusters, cell.unit, rng)
    effect = paired(intact, score, clusters, cell.unit, rng)
    harm, harm_low, harm_high = cell.harm({name: 1.0}).numbers
    binary = cell.unit == "accuracy" and stats.is_binary(intact, score)
    change = score - intact
    return {
        **cell.conditions.loc[name].to_dict(),
        "task": cell.task,
        "family": cell.family,
        "protocol": cell.protocol,
        "n": effect.n,
        "intact": mean(intact),
        "chance": cell.chance,
        "score": mean(score),
        "score_low": own.low,
        "score_high": own.high,
        "effect": effect.effect,
        "ci_low": effect.interval.low,
        "ci_high": effect.interval.high,
        "harm": harm,
        "harm_low": harm_low,
        "harm_high": harm_high,
        "p": effect.p,
        "n_failed": len(cell.asked[INTACT] & cell.asked[name]) - effect.n,
        "n_changed": int(cell.n_changed[name]),
        **_format(cell, name),
        "noise": cell.noise,
        "unit": cell.unit,
        "gained": int((change > 0).sum()) if binary else None,
        "sd": None if binary else spread(change),
        "design": design(change, clusters),
    }


def _format(cell: Cell, name: str) -> dict[str, float]:
    """Whether answers keep the form of the shots, right or wrong: no loss of skill."""
    intact, form, clusters = _known(cell, cell.form, name)
    effect = paired(intact, form, clusters, "accuracy", cell.rng(name))
    return {
        "format_intact": mean(intact),
        "format": mean(form),
        "format_effect": effect.effect,
        "format_low": effect.interval.low,
        "format_high": effect.interval.high,
        "format_p": effect.p,
    }


def _known(
    cell: Cell, table: pd.DataFrame, name: str
) -> tuple[Float[np.ndarray, " example"], Float[np.ndarray, " example"], np.ndarray]:
    """What a table holds of the intact model and under a condition, and the clusters."""
    answered = table.loc[[INTACT, name]].dropna(axis=1)
    intact, ablated = answered.to_numpy(float)
    return intact, ablated, cell.clusters_of(list(answered.columns))


def _detectable(family: pd.DataFrame) -> list[float]:
    binary = family[family["gained"].notna()]
    pairs = int(binary["n"].sum())
    return detectable(family, float(binary["gained"].sum()) / pairs if pairs else 0.0)


def labels(frame: pd.DataFrame) -> "pd.Series[str]":
    """What each row's condition does, as in `clip[length=0.25]`: its name without site and `at`.

    Nothing where the condition was given another name.
    """
    known = frame[["condition", "site", "at"]].drop_duplicates()
    found = {name: _label(str(name), str(site), str(at)) for name, site, at in known.to_numpy()}
    return frame["condition"].map(found)


def _label(name: str, site: str, at: str) -> str:
    where = site.replace("+", ",")
    end = f" {where}" if at == "all" else f" {where} {at}"
    return name.removesuffix(end) if site and name.endswith(end) else ""


def twins(effects: pd.DataFrame) -> pd.DataFrame:
    """The effects that are not alone at their place."""
    place = ["layer", "head", "at", "task", "protocol"]
    return effects[effects.duplicated(place, keep=False)]


def refuse_twins(effects: pd.DataFrame) -> None:
    """Refuse effects of which two are of one place: a layer has one harm.

    Raises:
        InputError: one ablation with two settings, say.
    """
    found = twins(effects)
    if found.empty:
        return
    first = found.iloc[0]
    alike = found[(found["site"] == first["site"]) & (found["at"] == first["at"])]
    which = f"layer {first['layer']}" if pd.isna(first["head"]) else f"head {first['site']}"
    one = next(filter(None, labels(alike)), None)
    how = (
        f'choose one setting, as in result["{one}"]' if one else "sweep them into separate results"
    )
    raise InputError(
        f"{which} is ablated more than once alike "
        f"({', '.join(dict.fromkeys(alike['condition']))}): {how}"
    )
