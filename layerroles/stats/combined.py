"""Intervals of sums and differences, made from the intervals of their parts.

The distances from each estimate to its bounds add as standard errors do, each side for itself
(MOVER, the method of variance estimates recovery: Zou and Donner, Statistics in Medicine 27:1693,
2008; for correlated estimates Zou, Psychological Methods 12:399, 2007). So intervals that are
skewed, or that never collapse, give an interval that is and does likewise.
"""

import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from layerroles.stats.intervals import Interval

# A 95% score interval of a proportion acts as if z^2 / 2 = 1.92 examples of either kind were added.
_ADDED = 2.0


def pooled(estimates: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, Interval]:
    """The mean of independent estimates, equal weights, with an interval from their own."""
    center, count = float(np.mean(estimates)), len(estimates)
    below = math.hypot(*(e - i.low for e, i in zip(estimates, intervals, strict=True))) / count
    above = math.hypot(*(i.high - e for e, i in zip(estimates, intervals, strict=True))) / count
    return center, Interval(center - below, center + above)


def difference(
    estimates: tuple[float, float],
    intervals: tuple[Interval, Interval],
    correlation: float = 0.0,
) -> tuple[float, Interval]:
    """The second estimate minus the first, with an interval from their own; NaN where one is.

    Args:
        estimates: two numbers in one unit.
        intervals: theirs.
        correlation: of the two estimates, such as `correlation` gives it. Strictly within -1 and 1,
            so that the interval has a width wherever those of its parts have.

    Raises:
        ValueError: a correlation of -1, 1 or beyond.
    """
    if not -1 < correlation < 1:
        raise ValueError(f"a correlation of {correlation} is not between -1 and 1")
    (one, two), (of_one, of_two) = estimates, intervals
    center = two - one
    below = _joint(two - of_two.low, of_one.high - one, correlation)
    above = _joint(of_two.high - two, one - of_one.low, correlation)
    return center, Interval(center - below, center + above)


def correlation(one: Float[np.ndarray, " example"], two: Float[np.ndarray, " example"]) -> float:
    """The correlation of two means over the same examples, always within -1 and 1.

    Pearson's, with the variance of each as if in two more examples it had changed and the other had
    not: where two protocols agree on all of 32 examples, it does not follow that they always do.
    0 where either has not changed at all.
    """
    if not one.any() or not two.any():
        return 0.0
    a, b = one - one.mean(), two - two.mean()
    return float(a @ b / math.sqrt((a @ a + _added(one)) * (b @ b + _added(two))))


def _added(values: Float[np.ndarray, " example"]) -> float:
    moved = values[values != 0]
    return float(_ADDED * (moved @ moved) / len(moved))


def _joint(one: float, two: float, correlation: float) -> float:
    return math.sqrt(max(0.0, one**2 + two**2 - 2 * correlation * one * two))
