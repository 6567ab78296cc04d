"""How many examples it takes to call a layer spare: to show that its harm is within ±0.1."""

import bisect
import functools
import math

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.results import SPARE, records

# Largest number of examples that `fewest_examples` tries.
_MOST = 100_000


def reach_unchanged(tasks: pd.DataFrame, n: int | None = None) -> float:
    """Return how far from 0 the interval of a layer's harm reaches if no answer changes.

    Infinite if a task would not be above chance with that many examples.

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
    """Return the fewest examples per task that show a layer to be spare if no answer changes.

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
