"""What differs between a base and its twins, layer by layer and in sum, and what may be claimed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import layerroles as lr
from layerroles import stats

# What is compared, where roles hold it, and which sign the paper's claim gives it (0: none).
QUANTITIES = {
    "mean harm": ("mean_harm", "mean_harm_low", "mean_harm_high", -1),
    "effective layers": ("effective", "effective_low", "effective_high", 1),
    "early minus late": ("early_minus_late", "ci_low", "ci_high", 0),
}


def moved(runs: dict[str, lr.SweepResult], controls: Sequence[str], out: Path) -> list[str]:
    """Lines: profiles and quantities of each twin against the run called `base`, then the verdict.

    The interval of a difference takes the two as if they had been asked other questions, which is
    wide rather than narrow for two models that were asked the same.
    """
    rows = {name: lr.localize(run).frame.iloc[0] for name, run in runs.items()}
    base, lines, changes, found = rows.pop("base"), [], {}, {}
    for name, row in rows.items():
        lines.append(layers(runs["base"], runs[name], name, out))
        for what, (value, low, high, _) in QUANTITIES.items():
            each = [stats.Interval(one[low], one[high]) for one in (base, row)]
            found[name, what] = row[value], each[1]
            change, of = stats.difference((base[value], row[value]), (each[0], each[1]))
            changes[name, what] = change, of
            two = f"{shown(row[value], each[1])}, base {shown(base[value], each[0])}"
            lines.append(f"{name}, {what}: {two}, difference {shown(change, of)}")
    verdicts = []
    for what, (*_, claimed) in QUANTITIES.items():
        for name in (name for name in rows if name not in controls):
            said, side = moves(*changes[name, what])
            against = ", against the claim" if side * claimed < 0 else ""
            alike = [one for one in controls if side and moves(*changes[one, what])[1] == side]
            too = f", and so does {' and '.join(alike)}" if alike else ""
            verdicts.append(f"{what} of {name} {said}{against}{too}")
            lines += [apart(what, name, one, found) for one in controls]
    for name, row in {"base": base, **rows}.items():
        if math.isnan(row["mean_harm"]):
            lines.append(f"the skill of {name} is not measurable: take a task that it can do")
    each = "each by its own interval, not corrected"
    return [*lines, f"Taught against base, {each}: {'; '.join(verdicts)}."]


def moves(change: float, of: stats.Interval) -> tuple[str, int]:
    """Whether something has changed, in words and as a sign."""
    if math.isnan(change):
        return "cannot be compared", 0
    side = int(of.low > 0) - int(of.high < 0)
    return (f"moves {'up' if side > 0 else 'down'}" if side else "is not shown to move"), side


def apart(
    what: str, twin: str, control: str, found: dict[tuple[str, str], tuple[float, stats.Interval]]
) -> str:
    """How much more of something a twin has than a control, and whether that is shown."""
    (one, of_one), (two, of_two) = found[control, what], found[twin, what]
    change, of = stats.difference((one, two), (of_one, of_two))
    if math.isnan(change):
        return f"{what}, {twin} against {control}: cannot be compared"
    differs = "they differ" if moves(change, of)[1] else "no difference is shown"
    return f"{what}, {twin} minus {control}: {shown(change, of)}, {differs}"


def layers(base: lr.SweepResult, twin: lr.SweepResult, name: str, out: Path) -> str:
    """Whether the profiles agree, and the layers whose harms differ, each by its own interval."""
    both = lr.compare(base, twin)
    both.frame.to_csv(out / f"layers_{name}.csv", index=False)
    profile = both.profiles.iloc[0]
    agree = shown(profile["spearman"], stats.Interval(profile["low"], profile["high"]))
    frame = both.frame
    differ = frame.loc[(frame["harm_low"] > 0) | (frame["harm_high"] < 0), "layer"].astype(int)
    return (
        f"{name}: rank correlation of its layers' effects with the base's {agree}; layers whose "
        + (f"harms differ, each by its 95% interval: {', '.join(map(str, differ)) or 'none'}")
    )


def shown(value: Any, interval: stats.Interval) -> str:
    """A number with its interval."""
    if math.isnan(value):
        return "not known"
    return f"{value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"
