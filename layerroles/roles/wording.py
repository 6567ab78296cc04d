"""Text for the claim of one family under one protocol, and formats for numbers in sentences."""

import bisect
import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.results import SPARE, records

# The verdict "helps" in sentences.
BETTER_WITHOUT = "helps when ablated"
# Largest number of examples that `fewest_examples` tries.
_MOST = 100_000


@dataclass(frozen=True)
class Setting:
    """Facts about a sweep that the sentences of a verdict use.

    Attributes:
        model: the model's name.
        n_layers: number of layers of the model.
        swept: number of layers swept.
        ablation: the kind of ablation on which the verdicts rest.
        at: the ablation positions on which verdicts and claims rest.
        after_first: whether layers were also ablated at all positions but the first.
        second: names of the second kinds of ablation, those of other mechanisms.
        control: the family of the copying control.
        noise_floor: the table of `SweepResult.noise_floor`.
        tasks: a row per task with skill above chance: family, protocol, unit, n, intact, chance and
            `detectable`, the smallest drop that is detected (NaN if there is none).
        leans: by family and protocol, 1 if early layers matter more, -1 if late ones do, else 0, by
            simultaneous intervals for all families of a protocol.
        apart: keys (at, protocol, family, against) of the rows of `Roles.contrasts` shown to differ
            from 0, by simultaneous intervals for all rows of a kind (between families, or between
            positions) under a protocol.
        only_needed: whether only layers that are critical at all positions were ablated
            `after_first` too.
        decided: text of `claims.describe_decided`, on how many verdicts or claims are decided; ""
            for a sweep without `until`, the goal at which a sweep stops early.
    """

    model: str
    n_layers: int
    swept: int
    ablation: str
    at: str
    after_first: bool
    second: tuple[str, ...]
    control: str
    noise_floor: pd.DataFrame
    tasks: pd.DataFrame
    leans: Mapping[tuple[str, str], int] = field(default_factory=dict)
    apart: frozenset[tuple[str, str, str, str]] = frozenset()
    only_needed: bool = False
    decided: str = ""


def format_estimate(estimate: float, low: float, high: float) -> str:
    """Format an estimate with its interval: `+0.41 [+0.20, +0.62]`; `-` if it is NaN."""
    if math.isnan(estimate):
        return "-"
    return f"{estimate:+.2f} [{low:+.2f}, {high:+.2f}]"


def format_bounds(low: float, high: float, places: int) -> str:
    """Format an interval to follow its estimate, such as ` [3, 9]`; empty if it is NaN."""
    return "" if math.isnan(low) else f" [{low:.{places}f}, {high:.{places}f}]"


def format_layers(layers: Iterable[int]) -> str:
    """Format layer numbers: `0, 1, 16`; four or more in a row as `7 to 23`; `none` if empty."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 3 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(words) or "none"


def round_up(count: float) -> int:
    """Return a count rounded up to two digits: 1300 for 1208.3."""
    unit = int(10 ** max(0, math.floor(math.log10(max(count, 1))) - 1))
    return math.ceil(count / unit) * unit


def describe_needed(layers: pd.DataFrame) -> str:
    """Return text on how many questions would decide most of the undecided layers.

    Empty if no layer is undecided, or no number of questions would decide most of them.

    Args:
        layers: rows of `Roles.layers`.
    """
    needed = sorted(layers["needed"].dropna())
    most = needed[len(needed) // 2] if needed else math.inf
    if math.isinf(most):
        return ""
    return (
        f"about {round_up(most)} questions would decide most of them, if their estimates "
        f"stayed the same"
    )


def explain_unmeasurable(cell: pd.DataFrame) -> str:
    """Explain why a family's harm under a protocol is not measurable; empty if measurable.

    Args:
        cell: the family's intact scores under the protocol, a row per task.
    """
    if cell["above_chance"].any():
        return ""
    first = cell.iloc[0]
    if cell["chance"].isna().all():
        return f"not measurable: scores in {first['unit']} have no chance level, so no harm"
    if not cell["n"].any():
        return "not measurable: the intact model gave no finite score"
    scores = "; ".join(
        f"{row.task} {row.score:.2f} [{row.score_low:.2f}, {row.score_high:.2f}], "
        f"chance {row.chance:.2f}"
        for row in records(cell)
    )
    return f"not measurable: the intact score is not above chance ({scores})"


def describe_family(
    line: dict[str, Any], reason: str, tasks_left_out: list[str], evidence: str
) -> str:
    """Return the sentence for column `claim` of `Roles.frame`: `reason` if harm is not measurable.

    Args:
        line: the family's row of `Roles.frame`.
        reason: why harm is not measurable; empty if it is.
        tasks_left_out: the tasks that are not above chance.
        evidence: text on what the claim rests on.
    """
    if reason:
        return f"{reason[0].upper()}{reason[1:]}."
    words = [
        f"Critical layers: {format_layers(line['critical'])}",
        f"sink: {format_layers(line['sink'])}",
        f"spare: {format_layers(line['spare'])}",
        f"partial: {format_layers(line['partial'])}",
        *([f"{BETTER_WITHOUT}: {format_layers(line['helps'])}"] if line["helps"] else []),
        f"undecided: {len(line['undecided'])}",
    ]
    text = f"{'; '.join(words)}. {describe_lean(line)} ({evidence})."
    return (
        f"{text} Without {', '.join(tasks_left_out)}: not above chance." if tasks_left_out else text
    )


def describe_lean(line: dict[str, Any]) -> str:
    """Return text that says whether early or late layers matter more, or that this is not shown."""
    estimate, low, high = (float(line[k]) for k in ("early_minus_late", "ci_low", "ci_high"))
    if math.isnan(estimate):
        return (
            "Early against late is not known: it takes two examples or more at every layer of the "
            "first and the last third"
        )
    shown = format_estimate(estimate, low, high)
    if low > 0:
        return f"Early layers matter more than late ones: {shown}"
    if high < 0:
        return f"Late layers matter more than early ones: {shown}"
    return f"No difference of early and late layers is shown: {shown}"


def describe_agreement(
    line: dict[str, Any], other: stats.Contrast, ablation: str, both_hold: bool
) -> str:
    """Return text on whether a second kind of ablation agrees on early minus late harm.

    Args:
        line: the family's row of `Roles.frame`.
        other: early minus late harm under the second kind.
        ablation: the name of the second kind.
        both_hold: whether, under both kinds, the sign stays the same if the first token is not
            ablated; see `Harms.holds_with_first_token_kept`.
    """
    first = sign_of(float(line["ci_low"]), float(line["ci_high"]))
    second = sign_of(other.interval.low, other.interval.high)
    shown = format_estimate(*other.numbers)
    if both_hold and first and first == second:
        return f"{ablation} agrees: {shown}"
    if both_hold and first and first == -second:
        return f"{ablation} says the opposite: {shown}"
    return f"not shown by both, {ablation}: {shown}"


def sign_of(low: float, high: float) -> int:
    """Return 1 if an interval lies above 0, -1 if below, 0 if neither."""
    return 1 if low > 0 else -1 if high < 0 else 0


def reach_unchanged(tasks: pd.DataFrame, n: int | None = None) -> float:
    """Return how far from 0 the harm interval of a layer reaches if no answer changes.

    Infinite if a task would not be above chance at its n.

    Args:
        tasks: a row per task, from `Harms.precision`.
        n: the number of examples of each task; None for the number that were asked.
    """
    reach = [
        _unchanged(n or int(task.n), float(task.intact), float(task.chance), int(task.clusters))
        for task in records(tasks)
    ]
    return math.hypot(*reach) / len(reach)


def fewest_examples(tasks: pd.DataFrame) -> int:
    """Return the fewest examples per task at which a layer that changes no answer is called spare.

    At most 100,000, even if these do not suffice.
    """
    return bisect.bisect_left(
        range(_MOST), True, lo=2, key=lambda n: reach_unchanged(tasks, n) <= SPARE
    )


@functools.cache
def _unchanged(n: int, intact: float, chance: float, n_clusters: int) -> float:
    scores = (np.arange(n) < round(intact * n)).astype(float)
    clusters = np.arange(n) % n_clusters if n_clusters else None
    if not stats.is_above(scores, chance, clusters=clusters):
        return math.inf
    _, interval = stats.harm_interval(scores, scores, chance, clusters=clusters)
    return max(-interval.low, interval.high)


_WHERE = {
    "all": "every position",
    "after_first": "every position but the first",
    "prompt": "the positions of the prompt",
    "generated": "the positions of the answer",
    "evidence": "the positions of the evidence",
    "last": "the prompt's last position",
}


def describe_positions(at: str) -> str:
    """Describe the positions at which conditions act."""
    return _WHERE.get(at, f"the positions of {at}")
