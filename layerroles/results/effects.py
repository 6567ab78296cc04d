"""Effects: every condition against the intact model, in skill and in form, and what n can show."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
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
    frame = pd.DataFrame(rows, columns=[*CONDITION, *CELL, *NUMBERS, "gained", "sd"])
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
        scores = known(cell.scores.loc[INTACT].to_numpy())[0]
        form = known(cell.form.loc[INTACT].to_numpy())[0]
        interval = score_interval(scores, cell.unit, cell.rng(INTACT))
        of_form = stats.wilson(int(form.sum()), len(form))
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
                "above_chance": stats.is_above(scores, cell.chance),
                "unit": cell.unit,
                "n_failed": len(cell.asked[INTACT]) - len(scores),
                "format": mean(form),
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
    unit: str,
    rng: np.random.Generator,
) -> stats.PairedEffect:
    """Compare scores with the intact ones, by what is right for 0/1 scores or for others."""
    if unit == "accuracy" and stats.is_binary(intact, score):
        return stats.paired_binary(intact, score)
    return stats.paired_continuous(intact, score, rng)


def score_interval(
    scores: Float[np.ndarray, " example"], unit: str, rng: np.random.Generator
) -> stats.Interval:
    """The interval of a mean score."""
    if unit == "accuracy" and stats.is_binary(scores):
        return stats.wilson(int(scores.sum()), len(scores))
    return stats.mean_interval(scores, rng)


def detectable(family: pd.DataFrame, background: float) -> list[float]:
    """What each row of a family would show, by its `n`; by its `sd` where scores are not 0/1."""
    tests = int(family["p"].notna().sum())
    background = max(stats.LEAST_BACKGROUND, background)
    return [
        stats.minimum_detectable(int(n), tests, background)
        if np.isnan(sd)
        else stats.minimum_detectable_mean(int(n), sd, tests)
        for n, sd in family[["n", "sd"]].to_numpy(float).tolist()
    ]


def known(*scores: Float[np.ndarray, " example"]) -> Float[np.ndarray, "kind known"]:
    """The scores of the examples for which all of them are known."""
    table = np.array(scores)
    return table[:, ~np.isnan(table).any(axis=0)]


def spread(changes: Float[np.ndarray, " example"]) -> float:
    """The standard deviation of differences; 0 where there are too few."""
    return float(changes.std(ddof=1)) if len(changes) > 1 else 0.0


def mean(values: Float[np.ndarray, " example"]) -> float:
    """The mean; NaN of nothing."""
    return float(values.mean()) if len(values) else float("nan")


def _row(cell: Cell, name: str) -> dict[str, Any]:
    intact, score = known(cell.scores.loc[INTACT].to_numpy(), cell.scores.loc[name].to_numpy())
    rng = cell.rng(name)
    own = score_interval(score, cell.unit, rng)
    effect = paired(intact, score, cell.unit, rng)
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
    }


def _format(cell: Cell, name: str) -> dict[str, float]:
    """Whether answers keep the form of the shots, right or wrong: no loss of skill."""
    intact, form = known(cell.form.loc[INTACT].to_numpy(), cell.form.loc[name].to_numpy())
    effect = stats.paired_binary(intact, form)
    return {
        "format_intact": mean(intact),
        "format": mean(form),
        "format_effect": effect.effect,
        "format_low": effect.interval.low,
        "format_high": effect.interval.high,
        "format_p": effect.p,
    }


def _detectable(family: pd.DataFrame) -> list[float]:
    binary = family[family["gained"].notna()]
    pairs = int(binary["n"].sum())
    return detectable(family, float(binary["gained"].sum()) / pairs if pairs else 0.0)
