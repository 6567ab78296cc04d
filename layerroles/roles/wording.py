"""The claim of one family under one protocol, and the words that all sentences share."""

import bisect
import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.results import records
from layerroles.roles.harms import SPARE

# Examples that are tried at the most, to say how many a verdict takes.
_MOST = 100_000


@dataclass(frozen=True)
class Setting:
    """What was swept, as far as the sentences need it.

    `second`: the other kinds of ablation, by name.
    `tasks`: those with skill above chance, by family and protocol: unit, n, intact, chance and the
    smallest drop that is found (`detectable`, NaN where none is).
    `leans`: by family and protocol, 1 where early layers matter more and -1 where late ones do, by
    intervals that hold for all families of a protocol at once.
    `apart`: the rows of `Roles.contrasts` between families, and between positions, that differ from
    0 by intervals that hold for all of them under a protocol at once (at, protocol, family,
    against).
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


def format_estimate(estimate: float, low: float, high: float) -> str:
    """An estimate with its interval, such as `+0.41 [+0.20, +0.62]`."""
    if math.isnan(estimate):
        return "-"
    return f"{estimate:+.2f} [{low:+.2f}, {high:+.2f}]"


def format_bounds(low: float, high: float, places: int) -> str:
    """An interval behind its estimate, such as ` [3, 9]`; nothing where it is not known."""
    return "" if math.isnan(low) else f" [{low:.{places}f}, {high:.{places}f}]"


def format_layers(layers: Iterable[int]) -> str:
    """Layers in words: `0, 1, 16`; four or more in a row as `7 to 23`."""
    runs: list[list[int]] = []
    for layer in layers:
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 3 else ", ".join(map(str, run)) for run in runs]
    return ", ".join(words) or "none"


def explain_unmeasurable(cell: pd.DataFrame) -> str:
    """Why a family has no harm under a protocol; empty if it has."""
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
    """The claim of one family under one protocol."""
    if reason:
        return f"{reason[0].upper()}{reason[1:]}."
    words = [
        f"Critical layers: {format_layers(line['critical'])}",
        f"sink: {format_layers(line['sink'])}",
        f"spare: {format_layers(line['spare'])}",
        f"undecided: {len(line['undecided'])}",
    ]
    text = f"{'; '.join(words)}. {describe_lean(line)} ({evidence})."
    return (
        f"{text} Without {', '.join(tasks_left_out)}: not above chance." if tasks_left_out else text
    )


def describe_lean(line: dict[str, Any]) -> str:
    """Whether harm is early or late, as far as its interval says."""
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
    """What a second kind of ablation says to early against late.

    `held`: whether both say the same with the first token's write kept, where that was swept.
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
    """On which side of 0 an interval lies: 1, -1, or 0 for neither."""
    return 1 if low > 0 else -1 if high < 0 else 0


def reach_unchanged(n: Iterable[int], intact: Iterable[float], chance: Iterable[float]) -> float:
    """How far the interval of harm reaches at a layer that changes no answer of any task."""
    reach = [_unchanged(*task) for task in zip(n, intact, chance, strict=True)]
    return math.hypot(*reach) / len(reach)


def fewest_examples(intact: Sequence[float], chance: Sequence[float]) -> int:
    """The fewest examples of each task at which a layer that changes no answer is spare."""
    return bisect.bisect_left(
        range(_MOST),
        True,
        lo=2,
        key=lambda n: reach_unchanged([n] * len(intact), intact, chance) <= SPARE,
    )


@functools.cache
def _unchanged(n: int, intact: float, chance: float) -> float:
    scores = (np.arange(n) < round(intact * n)).astype(float)
    if not stats.is_above(scores, chance):
        return math.inf
    _, interval = stats.harm_interval(scores, scores, chance)
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
    """The positions at which conditions act, in words."""
    return _WHERE.get(at, f"the positions of {at}")
