"""Other ways to stop asking, with which that of `stats.Looks` is compared.

Each look may have any level: that of another spending function, or of Bonferroni's bound. Or a
confidence sequence, which holds after every question, takes the place of the looks' intervals.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
from scipy import optimize
from scipy import stats as distributions

from benchmarks.looks_simulation import (
    BOUNDS,
    ERROR,
    FIRST,
    LIMIT,
    LOOKS,
    Stopped,
    Sweeps,
    cell_values,
    first_region,
    is_wrong,
    stop,
    stop_at_looks,
)
from layerroles import stats


def designs(sweeps: Sweeps) -> dict[str, Stopped]:
    """Return where each design stops the same sweeps."""
    sizes = LOOKS.sizes
    u = np.array(sizes) / FIRST
    # Of the error, the share that is spent up to each look.
    spendings = {
        "spending 1 - 0.8 / u^(2/3)": 1 - 0.8 / u ** (2 / 3),
        "spending u / (u + 3)": u / (u + 3),
        "spending u / (u + 4)": u / (u + 4),
        f"all spent at {LIMIT}: log(1 + (e - 1) n / {LIMIT})": np.log1p(
            (math.e - 1) * u * FIRST / LIMIT
        ),
    }
    even = [1 - ERROR / len(sizes)] * len(sizes)
    return {
        "95% at every look: not valid": stop(sweeps, sizes, [stats.LEVEL] * len(sizes)),
        "`stats.Looks`": stop_at_looks(sweeps),
        **{
            name: stop(sweeps, sizes, levels_of(critical_values(sizes, ERROR * spent)))
            for name, spent in spendings.items()
        },
        "Bonferroni over the looks": stop(sweeps, sizes, even),
        "betting, plug-in bets": stop_by_betting(sweeps, sizes, hedged_capital),
        "betting, mixture of constant bets": stop_by_betting(sweeps, sizes, mixed_capital),
    }


def critical_values(sizes: Sequence[int], spent: Sequence[float]) -> list[float]:
    """Return the critical value of each look, if so much error is spent up to each.

    As `Looks` computes them, but for any spending and by the trapezoidal rule.
    """
    found: list[float] = []
    grid, density = np.zeros(1), np.ones(1)
    for (before, n), share in zip(
        itertools.pairwise([0, *sizes]), np.diff([0.0, *spent]), strict=True
    ):
        step = math.sqrt(n - before)

        def excess(z: float, n=n, step=step, grid=grid, density=density, share=share) -> float:
            reach = z * math.sqrt(n)
            tails = distributions.norm.sf((reach - grid) / step)
            return float(density @ (tails + tails[::-1])) - share

        found.append(float(optimize.brentq(excess, 0.0, 40.0)))
        end = found[-1] * math.sqrt(n)
        points = np.linspace(-end, end, 501)
        steps = np.full(len(points), points[1] - points[0])
        steps[[0, -1]] /= 2
        moved = distributions.norm.pdf((points[:, None] - grid) / step) / step
        grid, density = points, steps * (moved @ density)
    return found


def levels_of(critical: Sequence[float]) -> list[float]:
    """Return the level of the interval with each critical value."""
    return [float(1 - 2 * distributions.norm.sf(z)) for z in critical]


def questions_in_order(sweeps: Sweeps, sizes: Sequence[int]) -> np.ndarray:
    """Return which cell of its table each answer belongs to, by question, sweep and layer.

    The answers between two sizes are in random order.
    """
    rng = np.random.default_rng(1)
    parts, before = [], np.zeros((*sweeps.shape, 4), dtype=int)
    for n in sizes:
        tables = sweeps.tables(n)
        ends = (tables - before).cumsum(axis=-1)
        step = int(ends.flat[-1])
        order = rng.permuted(np.broadcast_to(np.arange(step), (*sweeps.shape, step)), axis=-1)
        cells = sum((order >= ends[..., cell, None]).astype(np.int8) for cell in range(3))
        parts.append(np.moveaxis(cells, -1, 0))
        before = tables
    return np.concatenate(parts)


def stop_by_betting(sweeps: Sweeps, sizes: Sequence[int], capital: "Capital") -> Stopped:
    """Stop by a confidence sequence: reject a bound if a bet against it has won 2 / error.

    The confidence sequence of a bounded mean (I. Waudby-Smith and A. Ramdas, JRSS B 86:1, 2024),
    for the mean of `lost - bound * skill`, which is 0 if the harm is `bound`. The intervals are
    intersected over all questions and looked at after `sizes`.
    """
    cells = questions_in_order(sweeps, sizes)
    threshold = math.log(2 / ERROR)
    looks = np.array(sizes) - 1
    rejected = {}  # whether the harm is above (1) or below (-1) a bound, by look, sweep and layer
    for bound in BOUNDS:
        values = cell_values(bound, sweeps.setting.chance)
        for sign, won in zip((1, -1), capital(cells, values), strict=True):
            rejected[sign, bound] = np.maximum.accumulate(won)[looks] >= threshold
    verdict, asked = np.full(sweeps.shape, -1), np.full(sweeps.shape, sizes[-1])
    for look, n in enumerate(sizes):
        judged = first_region(
            lambda bound, look=look: rejected[1, bound][look],
            lambda bound, look=look: rejected[-1, bound][look],
            sweeps.shape,
        )
        asked = np.where((verdict < 0) & (judged >= 0), n, asked)
        verdict = np.where(verdict < 0, judged, verdict)
    nothing = np.full(sweeps.shape, math.nan)
    wrong = is_wrong(verdict, sweeps.setting.truth)
    return Stopped(verdict, asked, nothing, np.isfinite(nothing), wrong)


# Cells by question, sweep and layer, and their values -> log capital of bets on a mean above 0 and
# on one below 0, after each question.
Capital = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def hedged_capital(cells: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log capital of predictable plug-in bets, at most half of what may be bet."""
    low, high = values.min(), values.max()
    scaled, mean = (values - low) / (high - low), -low / (high - low)
    x = scaled[cells]
    t = np.arange(1, len(x) + 1).reshape(-1, 1, 1)
    means = (0.5 + x.cumsum(axis=0)) / (t + 1)
    variances = (0.25 + ((x - means) ** 2).cumsum(axis=0)) / (t + 1)
    before = np.concatenate([np.full_like(variances[:1], 0.25), variances[:-1]])
    bets = np.sqrt(2 * math.log(2 / ERROR) / (before * t * np.log(t + 1)))
    up = np.log1p(np.minimum(bets, 0.5 / mean) * (x - mean))
    down = np.log1p(-np.minimum(bets, 0.5 / (1 - mean)) * (x - mean))
    return up.cumsum(axis=0), down.cumsum(axis=0)


def mixed_capital(cells: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the mean capital of 20 constant bets, from little to nearly all."""
    shares = np.linspace(0.05, 0.999, 20)
    won = []
    for sign in (1.0, -1.0):
        largest = -1 / (sign * values).min()
        bets = shares * largest * sign
        logs = (np.log1p(bet * values)[cells].cumsum(axis=0) for bet in bets)
        won.append(functools.reduce(np.logaddexp, logs) - math.log(len(shares)))
    return won[0], won[1]
