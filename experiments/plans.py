"""Pruning plans held against each other on examples that none was made on."""

import pandas as pd

import layerroles as lr

PLANNED = 0  # the seed of the plans' examples
MARGIN = 0.05


def unseen(result: lr.SweepResult, task: lr.Task, limit: int) -> lr.SweepResult:
    """The rows of examples that no plan was made on."""
    planned = {example.id for example in task.examples(limit, PLANNED)}
    new = ~result.frame["example"].isin(planned)
    if not new.any():
        raise lr.InputError("every held-out example was planned on: ask more of them")
    return lr.SweepResult(result.frame[new], result.manifest, result.examples)


def verdict(table: pd.DataFrame, task: str) -> list[str]:
    """A sentence for each number of layers, and one for all."""
    lines, kept = [], []
    own = table[(table["task"] == task) & (table["protocol"] == "generation")]
    for drop, rows in own[own["best_baseline"]].groupby("drop"):
        best = rows.sort_values("low").iloc[0]
        inside = bool(best["low"] > -MARGIN)
        kept += [str(drop)] if inside else []
        held = "is not" if inside else "cannot be said not to be"
        lines.append(
            f"{drop} dropped: role-aware {held} more than {100 * MARGIN:.0f} points worse than the "
            f"best baseline ({best['method']}, {best['layers']}): it scores "
            f"{best['difference']:+.3f} [{best['low']:+.3f}, {best['high']:+.3f}] more, intact "
            f"{best['intact']:.2f}, n = {best['n']}."
        )
    shown = f"shown for {', '.join(kept)} dropped" if kept else "not shown"
    return [*lines, f"Layers chosen by their role keep {task} as well as any others: {shown}."]
