"""How much blocks change the stream on the kept tasks, families weighted alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from scipy import stats
from transformer_lens.model_bridge import TransformerBridge

from layerroles.probes import Similarity, measure_into
from layerroles.stats import UNKNOWN, Interval, pooled
from layerroles.tasks import Task


@dataclass(frozen=True)
class Change:
    """By how much a run of blocks changes the stream, averaged; with a 95% interval."""

    value: float
    interval: Interval
    n: int


def changes(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    measure: str,
    n: int,
    limit: int,
    seed: int,
    path: Path,
) -> list[Change]:
    """Mean change over each run of `n` blocks, by its first block.

    Influence is taken at all tokens, as ShortGPT does (arXiv 2403.03853), angular distance at the
    last one, as its authors do (arXiv 2403.17887).

    Args:
        model: from `load` or `prepare`.
        tasks: whose prompts are read.
        measure: `"influence"` or `"angular"`.
        n: blocks in a run.
        limit: examples of each task.
        seed: of the examples.
        path: the run folder, where what was measured is kept for another number of blocks.
    """
    probe = Similarity(position="all" if measure == "influence" else "last")
    # Each in a folder of its own: a folder holds one frame of a probe.
    frame = measure_into(path / measure, probe, model, tasks, limit=limit, seed=seed)
    runs = frame[frame["n"] == n]
    return [_mean(run, measure) for _, run in runs.groupby("layer", sort=True)]


def _mean(run: pd.DataFrame, measure: str) -> Change:
    families = []
    for _, family in run.groupby("family", sort=False):
        tasks = [_of_task(each[measure]) for _, each in family.groupby("task", sort=False)]
        families.append(_together(tasks))
    value, interval = _together(families)
    # A frame that is read back may differ in the last digit, which must decide nothing.
    return Change(round(value, 12), interval, len(run))


def _together(parts: Sequence[tuple[float, Interval]]) -> tuple[float, Interval]:
    return pooled([value for value, _ in parts], [interval for _, interval in parts])


def _of_task(values: "pd.Series[float]") -> tuple[float, Interval]:
    """Mean and Student's t interval."""
    if len(values) < 2:
        return float(values.mean()), UNKNOWN
    mean, reach = float(values.mean()), stats.t.ppf(0.975, len(values) - 1) * values.sem()
    return mean, Interval(float(mean - reach), float(mean + reach))
