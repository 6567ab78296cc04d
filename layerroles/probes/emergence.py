"""The depth at which an answer or a choice is settled, per example, and its median per group.

Every depth here is the first layer such that a property holds at that layer and at all later ones.
Layer -1 is the embedding, layer l is after block l. The depth is NaN if the property does not hold
at the last layer.
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
    """Return the depth at which the answer emerges in a lens, for each example, by two measures.

    `top`: the first layer from which the answer stays at rank 0.

    `half`: the first layer from which the answer's log-probability stays at or above the midpoint
    `(uniform + final) / 2`. `final` is that at the last layer, and `uniform` that under a uniform
    distribution, `-log d_vocab`. (`final / 2` would be a higher probability than the final one. The
    embedding is no baseline: with tied weights it predicts its own token and makes all others
    nearly impossible, so that any layer would pass.) NaN if `final` is not above `uniform`.

    Args:
        lens: a frame that `measure` of a lens returned; only its rows of part `block` are used.

    Returns:
        A row for each example and measure, with the lens's columns that identify the example
        (probe, model, condition, task, family, example), measure, and depth (NaN if never).

    Raises:
        InputError: `lens` is not a frame of a lens.

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
    """Return, for each example, the first depth from which the likeliest option stays the same.

    Args:
        decision: a frame that `Decision().measure` returned; only rows of part `block` are used.

    Returns:
        A row for each example, as in `emergence_depths`, with the measure `decisive`.

    Raises:
        InputError: `decision` is not a frame of the decision probe.

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
    """Return median depths with 95% intervals from order statistics.

    Args:
        depths: from `emergence_depths` or `decision_depths`.
        by: the columns to group by; leave out `task` for one row per family.

    Returns:
        A row for each group: n (number of examples), reached (how many of them have a depth that is
        not NaN), and the median of these depths with `low` and `high`, the two order statistics
        that enclose the population's median with a probability of 95% or more. The median is NaN if
        no example has a depth; `low` and `high` are NaN if fewer than six have one.

    Raises:
        InputError: `depths` is not a frame of depths.

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
    """Return each example's first layer from which on `holds` is always true; NaN if none is."""
    n_held = np.logical_and.accumulate(holds[:, ::-1], axis=1).sum(axis=1)
    depths = np.array([*layers, np.nan], dtype=float)
    first_layers: np.ndarray = depths[holds.shape[1] - n_held]
    return first_layers


def _pivot_layers(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return a column of a probe's frame as a table with a row per example and a column per layer.

    Only rows of part `block` are used.

    Raises:
        InputError: the frame lacks the column, or the columns example and layer.
    """
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
    """Return (low, high), which enclose the population's median with 95% probability or more.

    Both are values of `ordered`, a sorted sample; NaN if it has fewer than six.
    """
    n = len(ordered)
    below = int(binom.ppf(0.025, n, 0.5)) - 1 if n else -1
    if below < 0:
        return np.nan, np.nan
    return float(ordered[below]), float(ordered[n - 1 - below])
