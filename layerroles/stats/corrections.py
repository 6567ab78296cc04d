"""Corrections for many tests: one of thirty layers has a small p by chance alone."""

import numpy as np
from jaxtyping import Float
from scipy import stats


def holm(p: Float[np.ndarray, " condition"]) -> Float[np.ndarray, " condition"]:
    """Adjust p values for their number (Holm 1979); NaN stay NaN and do not count.

    Below .05 in any family, the chance of even one false finding is at most 5%.
    """
    # statsmodels' multipletests gives the same, but collects garbage at each call: 50 ms and more.
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = np.arange(len(order), 0, -1) * p[order]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def benjamini_hochberg(p: Float[np.ndarray, " condition"]) -> Float[np.ndarray, " condition"]:
    """Adjust p values for the rate of false findings (1995); NaN stay NaN and do not count.

    Of those below .05, 5% are false on average: for families of hundreds, such as heads, where
    Holm's guarantee would leave next to nothing.
    """
    adjusted, known = np.full(p.shape, np.nan), ~np.isnan(p)
    if known.any():
        adjusted[known] = stats.false_discovery_control(p[known], method="bh")
    return adjusted
