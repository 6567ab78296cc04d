"""Sentences that state the experiments' numbers; each says what its numbers are about."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

import layerroles as lr
from layerroles import stats

Row = Mapping[str, Any]
Cell = tuple[str, str]  # a task's label and a protocol's
NO_LEAN = "no difference in lean is shown"
NOT_FINISHED = "not judged, since the run is not finished"


def format_interval(estimate: float, low: float, high: float, places: int = 2) -> str:
    """A number with its 95% interval."""
    if math.isnan(estimate):
        return "not known"
    if math.isnan(low):  # not one example differs from the others
        return f"{estimate:+.{places}f}"
    return f"{estimate:+.{places}f} [{low:+.{places}f}, {high:+.{places}f}]"


def select_role(result: lr.SweepResult, task: str, protocol: str, at: str | None = None) -> Row:
    """Return a task's row of `lr.Roles.frame` with layers skipped, and `result.interim`."""
    frame = lr.localize(result[task], ablation="skip", at=at).frame
    found: Row = frame[frame["protocol"] == protocol].iloc[0].to_dict()
    return {**found, "interim": result.interim}


def describe_task(name: str, row: Row) -> str:
    """A task's skill, which end of the depth it leans on, and its critical layers."""
    skill = f"{name}: intact {row['intact']:.2f} (n = {row['n']}, chance {row['chance']:.2f})"
    if math.isnan(row["early_minus_late"]):
        return f"{skill}; it is not shown to be above chance, so there is no harm."
    lean = format_interval(row["early_minus_late"], row["ci_low"], row["ci_high"])
    critical = (
        NOT_FINISHED if row["interim"] else ", ".join(map(str, row["critical"])) or "none shown"
    )
    return (
        f"{skill}; harm of the first third of layers minus that of the last: {lean}; critical "
        f"layers: {critical}."
    )


def describe_lean_difference(words: str, result: lr.SweepResult, one: Cell, two: Cell) -> str:
    """Say how much more `two` leans on early layers than `one`, and whether that is shown.

    Questions that both ask are paired. Nothing is shown by a run that is not finished.
    """
    with_chance, without = (
        stats.difference_of(*(estimate_lean(result, *cell, guessed=guessed) for cell in (two, one)))
        for guessed in (True, False)
    )
    change, low, high = stats.spanning(with_chance, without).numbers
    if math.isnan(change):
        return f"{words}: cannot be compared, one of them is not shown to be above chance."
    end = "early" if change > 0 else "late"
    verdict = f"leans more on {end} layers" if low > 0 or high < 0 else NO_LEAN
    verdict = NOT_FINISHED if result.interim else verdict
    return f"{words}: {verdict}, {format_interval(change, low, high)}."


def estimate_lean(
    result: lr.SweepResult, task: str, protocol: str, *, guessed: bool = True
) -> stats.Contrast:
    """Harm of skipping the first third of layers minus that of the last, of one task.

    `guessed` says whether measured chance is subtracted (see `lr.SweepResult.harm`).
    """
    rows = result.frame[["condition", "ablation", "part", "at", "layer"]].drop_duplicates()
    layers = select_skipped_blocks(rows).set_index("condition")["layer"].dropna().astype(int)
    n_layers = int(result.manifest["model"]["n_layers"])
    weights = {str(name): weigh_thirds(layer, n_layers) for name, layer in layers.items()}
    weights = {name: weight for name, weight in weights.items() if weight}
    return result.harm(task, protocol, weights, guessed=guessed)


def select_skipped_blocks(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of whole layers that are skipped at all positions."""
    of_blocks = (table["at"] == "all") & (table["part"] == "block")
    return table[of_blocks & (table["ablation"] == "skip")]


def weigh_thirds(layer: int, n_layers: int) -> float:
    """The weight of a layer in the mean of the first third of layers minus that of the last."""
    third = n_layers // 3
    return (int(layer < third) - int(layer >= n_layers - third)) / max(1, third)


def list_claims(roles: lr.Roles, *families: str) -> list[str]:
    """Return a sentence on each of the paper's claims about these families."""
    own = roles.claims[roles.claims["family"].isin(families)].to_dict("records")
    return [describe_claim(row, f"{row['family']}, {row['protocol']}") for row in own]


def describe_claim(row: Row, of: str) -> str:
    """A row of `lr.Roles.claims` in words: the claim, what it is said of, status and evidence."""
    return f"{row['claim']} ({of}): {row['status']}. {row['evidence']}."
