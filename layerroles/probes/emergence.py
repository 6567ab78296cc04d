"""The depth at which something happens, for each example, and for a family with an interval.

Everything here is of the form "the first layer from which something holds at all later ones".
A depth of -1 is the embedding, l is after block l; an example for which it does not hold at the
last layer never gets there, and has no depth (NaN).
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float
from scipy.stats import binom

from layerroles.errors import InputError

# Columns that identify an example; those that a frame lacks are left out.
_EXAMPLE = ["probe", "model", "condition", "task", "family", "example"]


def emergence_depths(lens: pd.DataFrame) -> pd.DataFrame:
    """Where the answer emerges in a lens, for each example, by two measures.

    `top`: the first layer from which the answer stays at rank 0.

    `half`: the first from which its log-probability stays at or above half of its final value,
    counted from that of a token of which nothing is known: `(uniform + final) / 2`, with `uniform`
    as `-log d_vocab`. (Counted from 0, half of a log-probability would be likelier than the whole;
    counted from the embedding, which with tied weights says its own token and makes all others as
    good as impossible, any layer would do.) An answer that ends no likelier than `uniform` never
    emerges by this measure.

    Args:
        lens: what `measure` of a lens gave. The stream between attention and MLP is left out.

    Returns:
        A row for each example and measure, with the columns of the lens that name the example,
        measure and depth.

    Raises:
        InputError: no frame of a lens.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        lr.probes.emergence_depths(lens)[["task", "example", "measure", "depth"]]
    """
    ranks, *values = (_pivot_layers(lens, name) for name in ("rank", "logprob", "uniform"))
    logprobs, uniform = (table.to_numpy() for table in values)
    final = logprobs[:, -1:]
    has_risen = (logprobs >= (uniform + final) / 2) & (final > uniform)
    layers = [int(layer) for layer in ranks.columns]
    return _make_rows(
        ranks.index.to_frame(index=False),
        {
            "top": find_lasting_layer(ranks.to_numpy() == 0, layers),
            "half": find_lasting_layer(has_risen, layers),
        },
    )


def decision_depths(decision: pd.DataFrame) -> pd.DataFrame:
    """Where the choice among the options is made, for each example: the start of `decisive`.

    Args:
        decision: what `Decision().measure` gave.

    Returns:
        As `emergence_depths`, with the measure `decisive`.

    Raises:
        InputError: no frame of the decision probe.

    Example:
        depths = lr.probes.decision_depths(lr.probes.Decision().measure(model, tasks, limit=8))
    """
    phases = _pivot_layers(decision, "phase")
    layers = [int(layer) for layer in phases.columns]
    return _make_rows(
        phases.index.to_frame(index=False),
        {"decisive": find_lasting_layer((phases == "decisive").to_numpy(), layers)},
    )


def depth_intervals(
    depths: pd.DataFrame,
    by: Sequence[str] = ("probe", "model", "condition", "family", "task", "measure"),
) -> pd.DataFrame:
    """Median depths with 95% intervals, by order statistics.

    Args:
        depths: from `emergence_depths` or `decision_depths`.
        by: the columns to sum up by; without `task`, a row is of a family.

    Returns:
        A row for each group: n (examples), reached (how many have a depth), and over those the
        median with low and high: the two ordered depths that hold the median of what they are drawn
        from with a probability of 95% or more. NaN for fewer than six, which no two depths do.

    Raises:
        InputError: no frame of depths.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        lr.probes.depth_intervals(lr.probes.emergence_depths(lens))
    """
    by = [name for name in by if name in depths]
    if not {"measure", "depth"} <= set(depths.columns):
        raise InputError("depth_intervals takes what emergence_depths or decision_depths gave")
    rows = []
    for key, part in depths.groupby(by, sort=False):
        known = np.sort(part["depth"].dropna().to_numpy(float))
        low, high = median_bounds(known)
        found = {"median": float(np.median(known)) if len(known) else np.nan}
        rows.append(
            {
                **dict(zip(by, key, strict=True)),
                "n": len(part),
                "reached": len(known),
                **found,
                "low": low,
                "high": high,
            }
        )
    return pd.DataFrame(rows, columns=[*by, "n", "reached", "median", "low", "high"])


def find_lasting_layer(
    holds: Bool[np.ndarray, "example depth"], layers: Sequence[int]
) -> Float[np.ndarray, " example"]:
    """Return the first layer from which something holds at all later ones; NaN for never."""
    n_held = np.logical_and.accumulate(holds[:, ::-1], axis=1).sum(axis=1)
    depths = np.array([*layers, np.nan], dtype=float)
    first_layers: np.ndarray = depths[holds.shape[1] - n_held]
    return first_layers


def _pivot_layers(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Pivot a column: a row for each example and a column for each layer, in order."""
    needed = {"example", "layer", column}
    if missing := sorted(needed - set(frame.columns)):
        raise InputError(f"depths need a frame that a probe measured; {missing[0]!r} is not in it")
    if "part" in frame:
        frame = frame[frame["part"] == "block"]
    names = [name for name in _EXAMPLE if name in frame]
    return frame.pivot(index=names, columns="layer", values=column).sort_index(axis=1)


def _make_rows(
    examples: pd.DataFrame, depths_by_measure: dict[str, Float[np.ndarray, " example"]]
) -> pd.DataFrame:
    return pd.concat(
        [
            examples.assign(measure=measure, depth=depth)
            for measure, depth in depths_by_measure.items()
        ],
        ignore_index=True,
    )


def median_bounds(ordered: Float[np.ndarray, " example"]) -> tuple[float, float]:
    """Return the order statistics that enclose the median at 95% or more; NaN if too few."""
    n = len(ordered)
    below = int(binom.ppf(0.025, n, 0.5)) - 1 if n else -1
    if below < 0:
        return np.nan, np.nan
    return float(ordered[below]), float(ordered[n - 1 - below])
