"""What differs between a base and its twins, layer by layer and in sum, and what may be claimed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sentences import lean

import layerroles as lr
from layerroles import stats

ABLATION = "skip"

# What is compared, where roles hold it, and which sign the paper's claim gives it (0: none).
QUANTITIES = {"mean harm": -1, "early minus late": 0}


def moved(runs: dict[str, lr.SweepResult], controls: Sequence[str], out: Path) -> list[str]:
    """Lines: profiles and quantities of each model against the run called `base`, then the verdict.

    Models that were asked the same questions are compared question by question. Of the effective
    number of layers each model's own interval is given.
    """
    rows = {name: lr.localize(run, ablation=ABLATION).frame.iloc[0] for name, run in runs.items()}
    found = {(name, what): quantity(run, what) for name, run in runs.items() for what in QUANTITIES}
    lines, verdicts = [], []
    twins = [name for name in runs if name != "base"]
    for name in twins:
        lines.append(layers(runs["base"], runs[name], name, out))
        for what in QUANTITIES:
            own, base = found[name, what], found["base", what]
            change = stats.difference_of(own, base)
            lines.append(
                f"{name}, {what}: {shown(own)}, base {shown(base)}, difference {shown(change)}"
            )
        lines.append(
            f"{name}, effective layers: {effective(rows[name])}, base {effective(rows['base'])}"
        )
        claims = lr.localize(runs[name], ablation=ABLATION, base=runs["base"]).claims
        lines += [
            f"{row['claim']} ({name}): {row['status']}. {row['evidence']}."
            for row in claims[claims["claim"].str.startswith("A distilled")].to_dict("records")
        ]
    for what, claimed in QUANTITIES.items():
        for name in (name for name in twins if name not in controls):
            said, side = moves(stats.difference_of(found[name, what], found["base", what]))
            against = ", against the claim" if side * claimed < 0 else ""
            changes = {one: stats.difference_of(found[one, what], found["base", what])
                       for one in controls}  # fmt: skip
            alike = [one for one, change in changes.items() if side and moves(change)[1] == side]
            too = f", and so does {' and '.join(alike)}" if alike else ""
            verdicts.append(f"{what} of {name} {said}{against}{too}")
            lines += [apart(what, name, one, found) for one in controls]
    for name, row in rows.items():
        if math.isnan(row["mean_harm"]):
            lines.append(f"the skill of {name} is not measurable: take a task that it can do")
    each = f"under {ABLATION} alone, each by its own interval, not corrected"
    return [*lines, f"Taught against base, {each}: {'; '.join(verdicts)}."]


def quantity(run: lr.SweepResult, what: str) -> stats.Contrast:
    """A sum over the layers of a run of one task and protocol."""
    cell = run.frame["task"].iloc[0], run.frame["protocol"].iloc[0]
    if what == "early minus late":
        return lean(run, *cell)
    rows = run.frame[["condition", "ablation", "part", "at", "layer"]].drop_duplicates()
    rows = rows[(rows["ablation"] == ABLATION) & (rows["at"] == "all") & rows["layer"].notna()]
    return run.harm(*cell, dict.fromkeys(map(str, rows["condition"]), 1 / len(rows)))


def moves(change: stats.Contrast) -> tuple[str, int]:
    """Whether something has changed, in words and as a sign."""
    if not change.known:
        return "cannot be compared", 0
    side = int(change.interval.low > 0) - int(change.interval.high < 0)
    return (f"moves {'up' if side > 0 else 'down'}" if side else "is not shown to move"), side


def apart(what: str, twin: str, control: str, found: dict[tuple[str, str], stats.Contrast]) -> str:
    """How much more of something a twin has than a control, and whether that is shown."""
    change = stats.difference_of(found[twin, what], found[control, what])
    if not change.known:
        return f"{what}, {twin} against {control}: cannot be compared"
    differs = "they differ" if moves(change)[1] else "no difference is shown"
    return f"{what}, {twin} minus {control}: {shown(change)}, {differs}"


def layers(base: lr.SweepResult, twin: lr.SweepResult, name: str, out: Path) -> str:
    """Whether the profiles agree, and the layers whose harms differ, each by its own interval."""
    both = lr.compare(base, twin)
    both.frame.to_csv(out / f"layers_{name}.csv", index=False)
    profile = both.profiles.iloc[0]
    agree = bounded(profile["spearman"], profile["low"], profile["high"])
    frame = both.frame
    differ = frame.loc[(frame["harm_low"] > 0) | (frame["harm_high"] < 0), "layer"].astype(int)
    return (
        f"{name}: rank correlation of its layers' effects with the base's {agree}; layers whose "
        + (f"harms differ, each by its 95% interval: {', '.join(map(str, differ)) or 'none'}")
    )


def shown(contrast: stats.Contrast) -> str:
    """A number with its interval."""
    return bounded(*contrast.numbers)


def effective(row: Any) -> str:
    """The effective number of layers with its interval."""
    return bounded(row["effective"], row["effective_low"], row["effective_high"])


def bounded(value: float, low: float, high: float) -> str:
    """A number with its interval."""
    return "not known" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
