"""What the sentences of a verdict share: facts about the sweep, and the format of numbers."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pandas as pd

from layerroles import stats

# How sentences name the verdict "helps".
BETTER_WITHOUT = "helps when ablated"


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
        tasks: the table of `Harms.precision`, a row per protocol and task with skill above chance.
        leans: by family and protocol, 1 if early layers are shown to matter more, -1 if late ones
            are, else 0. Intervals are simultaneous for all families of a protocol.
        apart: keys (at, protocol, family, against) of the differences in `Roles.contrasts` that
            are shown not to be 0. Intervals are simultaneous for all differences of a kind
            (between families, or between positions) under a protocol.
        only_needed: whether only layers that are critical at all positions were ablated
            `after_first` too.
        decided: text of `all_claims.describe_decided`, on how many verdicts or claims are
            decided; "" for a sweep without `until`, the goal at which a sweep stops early.
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
    """Format an interval with `places` decimals and a space before it: ` [3, 9]`; empty if NaN."""
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
    """Return a count rounded up to two significant digits: 1300 for 1208.3."""
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


def sign_of(interval: stats.Interval, border: float = 0.0) -> int:
    """Return 1 if an interval lies above `border`, -1 if below, 0 if neither or unknown."""
    return int(interval.low > border) - int(interval.high < border)


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
