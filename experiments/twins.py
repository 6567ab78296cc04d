"""What differs between a base and its twins, layer by layer and in sum, and what may be claimed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sentences import describe_claim, select_skipped_blocks, weigh_thirds

import layerroles as lr
from layerroles import stats
from layerroles.results import match
from layerroles.roles import SMALLEST
from layerroles.roles.distilled_model_claims import ROBUST

ABLATION = "skip"

# What is compared, where roles hold it, and which sign the paper's claim gives it (0: none).
QUANTITIES = {
    "mean harm": ("mean_harm", "mean_harm_low", "mean_harm_high", -1),
    "early minus late": ("early_minus_late", "ci_low", "ci_high", 0),
}
EFFECTIVE = ("effective", "effective_low", "effective_high")


def list_twin_changes(
    runs: dict[str, lr.SweepResult], controls: Sequence[str], out: Path
) -> list[str]:
    """Lines: profiles and quantities of each model against the run called `base`, then the verdict.

    Models that were asked the same questions are compared question by question. Of the effective
    number of layers each model's own interval is given.
    """
    rows = {name: lr.localize(run, ablation=ABLATION).frame.iloc[0] for name, run in runs.items()}
    lines, verdicts = [], []
    twins = [name for name in runs if name != "base"]
    for name in twins:
        lines.append(describe_layers(runs["base"], runs[name], name, out))
        for what, (value, low, high, _) in QUANTITIES.items():
            own, base = (
                format_estimate(*row[[value, low, high]]) for row in (rows[name], rows["base"])
            )
            change = estimate_change(runs["base"], runs[name], what)
            lines.append(
                f"{name}, {what}: {own}, base {base}, difference {format_contrast(change)}"
            )
        lines += [describe_claim(row, name) for row in list_claim_rows(runs, name)]
    for what, (*_, claimed) in QUANTITIES.items():
        changes = {name: estimate_change(runs["base"], runs[name], what) for name in twins}
        for name in (name for name in twins if name not in controls):
            said, side = judge_change(changes[name])
            against = ", against the claim" if side * claimed < 0 else ""
            alike = [one for one in controls if side and judge_change(changes[one])[1] == side]
            too = f", and so does {' and '.join(alike)}" if alike else ""
            verdicts.append(f"{what} of {name} {said}{against}{too}")
            lines += [describe_difference(what, name, one, runs) for one in controls]
    for name, row in rows.items():
        lines.append(f"{name}, effective layers: {format_estimate(*row[list(EFFECTIVE)])}")
        if math.isnan(row["mean_harm"]):
            lines.append(f"the skill of {name} is not measurable: take a task that it can do")
    each = f"under {ABLATION} alone, each by its own interval, not corrected"
    return [*lines, f"Taught against base, {each}: {'; '.join(verdicts)}."]


def needs_second_kind(runs: Mapping[str, lr.SweepResult]) -> bool:
    """Whether skipping shows of any twin that it is more robust than the base, or that it is not.

    Only then can a second kind of ablation decide the claim.
    """
    return any(
        number["low"] > SMALLEST or number["high"] < SMALLEST
        for name in runs
        if name != "base"
        for row in list_claim_rows(runs, name)
        for number in row["numbers"]
        if number["ablation"] == ABLATION
    )


def list_claim_rows(runs: Mapping[str, lr.SweepResult], name: str) -> list[dict[str, Any]]:
    """The rows of `Roles.claims` which compare the model `name` with the base."""
    claims = lr.localize(runs[name], ablation=ABLATION, base=runs["base"]).claims
    return claims[claims["claim"] == ROBUST].to_dict("records")


def estimate_change(one: lr.SweepResult, two: lr.SweepResult, what: str) -> stats.Contrast:
    """Return `what` (a key of `QUANTITIES`) of the second run minus the first, paired."""
    (both, *_), _ = match(one, two)
    layer_of = select_skipped_blocks(both.one.conditions)["layer"].dropna().astype(int)
    n_layers = int(one.manifest["model"]["n_layers"])
    weights = {
        pair: 1 / len(layer_of)
        if what == "mean harm"
        else weigh_thirds(layer_of[pair[0]], n_layers)
        for pair in both.conditions
        if pair[0] in layer_of.index
    }
    return both.harm_difference({pair: weight for pair, weight in weights.items() if weight})


def judge_change(change: stats.Contrast) -> tuple[str, int]:
    """Return in words whether a change is shown, and its sign (0 if it is not)."""
    if not change.known:
        return "cannot be compared", 0
    side = int(change.interval.low > 0) - int(change.interval.high < 0)
    return (f"moves {'up' if side > 0 else 'down'}" if side else "is not shown to move"), side


def describe_difference(what: str, twin: str, control: str, runs: dict[str, lr.SweepResult]) -> str:
    """Say how `what` differs between a twin and a control, and whether that is shown."""
    change = estimate_change(runs[control], runs[twin], what)
    if not change.known:
        return f"{what}, {twin} against {control}: cannot be compared"
    differs = "they differ" if judge_change(change)[1] else "no difference is shown"
    return f"{what}, {twin} minus {control}: {format_contrast(change)}, {differs}"


def describe_layers(base: lr.SweepResult, twin: lr.SweepResult, name: str, out: Path) -> str:
    """Say whether profiles agree and which layers' harms differ; write `layers_NAME.csv`."""
    both = lr.compare(base, twin)
    both.frame.to_csv(out / f"layers_{name}.csv", index=False)
    (profile,) = select_skipped_blocks(both.profiles).to_dict("records")
    agree = format_estimate(profile["spearman"], profile["low"], profile["high"])
    frame = select_skipped_blocks(both.frame)
    differ = frame.loc[(frame["harm_low"] > 0) | (frame["harm_high"] < 0), "layer"].astype(int)
    listed = ", ".join(map(str, differ)) or "none"
    if frame["harm_low"].isna().all():
        listed = "not known, one of them is not shown to be above chance"
    return (
        f"{name}: rank correlation of its layers' effects with the base's {agree}; layers whose "
        f"harms differ, each by its 95% interval: {listed}"
    )


def format_contrast(contrast: stats.Contrast) -> str:
    """A number with its interval."""
    return format_estimate(*contrast.numbers)


def format_estimate(value: float, low: float, high: float) -> str:
    """A number with its interval."""
    return "not known" if math.isnan(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
