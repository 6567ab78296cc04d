"""Compute the smallest drop of a score that a test can detect.

It depends on the numbers of tests and examples. A drop counts as found if the p value of its test
is at most `0.05 / tests`. That is the first step of Holm's correction and of Benjamini and
Hochberg's (see `corrections`), which a single finding has to pass.
"""

import bisect
import functools
import math

import numpy as np
from scipy import stats
from statsmodels.stats.power import TTestPower

from layerroles.stats.paired import FLIPS

ALPHA = 0.05
POWER = 0.8
# Drops are tried in steps of 1/1000, so that the printed number, not rounded, has the power.
_STEPS = 1000
# The share of answers that is assumed to change by chance if fewer, or none, were seen to change.
LEAST_BACKGROUND = 0.01


@functools.cache
def minimum_detectable(n: int, tests: int = 1, background: float = LEAST_BACKGROUND) -> float:
    """Return the smallest drop of a 0/1 score that McNemar's exact test finds with 80% power.

    The numbers of gains (answers that become right) and losses (that become wrong) are trinomial: a
    gain has the probability `background`, a loss `background + drop`. The power is summed over that
    distribution, not approximated.

    Args:
        n: the number of examples.
        tests: the number of tests to correct for; the level is `0.05 / tests`.
        background: the share of answers that become right by chance; as many become wrong.

    Returns:
        A share of the examples, rounded up to a thousandth; NaN if even the largest possible drop,
        `1 - 2 * background`, would not be found, or if an argument is out of range.
    """
    if n < 1 or tests < 1 or not 0 <= background < 0.5:
        return math.nan
    largest = math.floor((1 - 2 * background) * _STEPS)
    # Power grows with the drop: gains stay as likely, and losses become likelier.
    step = bisect.bisect_left(
        range(largest + 1), POWER, key=lambda step: _power(n, tests, background, step / _STEPS)
    )
    return step / _STEPS if step <= largest else math.nan


def _power(n: int, tests: int, background: float, drop: float) -> float:
    gained = np.arange(n + 1)
    # For each number of gains, the fewest losses that are significant: 2 P(X <= gained) is at most
    # 0.05 / tests for X ~ Binomial(gained + lost, 1/2). P(X <= gained) is also the probability that
    # `lost` losses or more precede gain number `gained + 1`; their number is negative binomial.
    needed = stats.nbinom.isf(ALPHA / tests / 2, gained + 1, 0.5) + 1
    of_rest = (background + drop) / (1 - background)
    enough = stats.binom.sf(needed - 1, n - gained, min(1.0, of_rest))
    return float(stats.binom.pmf(gained, n, background) @ enough)


def minimum_detectable_mean(n: int, sd: float, tests: int = 1) -> float:
    """Return the smallest drop of a continuous score that a sign-flip test finds with 80% power.

    Computed for Student's t test, to which the sign-flip test is asymptotically equivalent (Lehmann
    and Romano, Testing Statistical Hypotheses, section 15.2).

    Args:
        n: the number of examples.
        sd: the standard deviation of the paired differences.
        tests: the number of tests to correct for; the level is `0.05 / tests`.

    Returns:
        A drop in the unit of `sd`; NaN if `sd` is 0 or NaN, or if even `n` differences of one sign
        would not be significant.
    """
    least_p = max(2.0 ** (1 - n), 1 / (1 + FLIPS))
    if tests < 1 or n < 2 or not sd > 0 or least_p > ALPHA / tests:
        return math.nan
    return sd * _standard_drop(n, tests)


@functools.cache
def _standard_drop(n: int, tests: int) -> float:
    drop = TTestPower().solve_power(nobs=n, alpha=ALPHA / tests, power=POWER)
    return float(np.squeeze(drop))
