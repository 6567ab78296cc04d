"""Do several seeds rank the heads alike? A ranking that they do not share is not to be built on.

>>> frames = [probe.measure(model, tasks, seed=seed) for seed in range(3)]  # doctest: +SKIP
>>> rank_stability(frames, value="score")  # doctest: +SKIP
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.errors import InputError


def rank_stability(
    frames: Sequence[pd.DataFrame], *, value: str = "score", seed: int = 0
) -> pd.DataFrame:
    """Compare how the frames of several seeds rank the heads, task by task.

    Args:
        frames: of one probe, one for each seed, measured on the same tasks.
        value: the column that heads are ranked by, averaged over examples.
        seed: of the bootstrap.

    Returns:
        A row per task: family, task, seeds (how many), n (examples of each), rho (Spearman's
        correlation, averaged over pairs of seeds), low, high (95% interval; examples are resampled
        within each seed).

    Raises:
        InputError: fewer than two frames, a frame without the columns, or frames of different
            tasks or heads.

    Example:
        attention = [
            lr.probes.Attention().measure(model, tasks, limit=8, seed=seed) for seed in (0, 1, 2)
        ]
        lr.rank_stability(attention, value="evidence")
    """
    if len(frames) < 2:
        raise InputError(f"rank stability compares two frames or more, not {len(frames)}")
    needed = ("family", "task", "example", "layer", "head", value)
    for frame in frames:
        missing = [column for column in needed if column not in frame.columns]
        if missing:
            raise InputError(f"a frame has no column {missing[0]!r}: measure a probe of heads")
    tasks = list(dict.fromkeys(zip(frames[0]["family"], frames[0]["task"], strict=True)))
    rng = np.random.default_rng(seed)
    rows = []
    for family, task in tasks:
        tables = [
            frame[frame["task"] == task].pivot(
                index=["layer", "head"], columns="example", values=value
            )
            for frame in frames
        ]
        if any(not table.index.equals(tables[0].index) for table in tables):
            raise InputError(f"the frames of task {task!r} are not of the same heads in all seeds")
        rho, bounds = stats.rank_stability([table.to_numpy(float) for table in tables], rng)
        n = min(table.shape[1] for table in tables)
        rows.append((family, task, len(frames), n, rho, bounds.low, bounds.high))
    return pd.DataFrame(rows, columns=["family", "task", "seeds", "n", "rho", "low", "high"])
