"""Paired comparisons of scores under one condition with the intact scores of the same examples."""

import functools
import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from layerroles.stats.intervals import LEVEL, UNKNOWN, Interval, mean_interval, tango

FLIPS = 19_999
# The largest number of differences for which all sign patterns are tried.
_ALL_SIGNS = 12


@dataclass(frozen=True)
class PairedEffect:
    """A mean paired difference, ablated minus intact; negative means that the ablation hurts.

    Attributes:
        n: the number of pairs.
        effect: the mean difference, in the unit of the scores; NaN if there are no pairs.
        interval: the interval of the effect; NaN if unknown.
        p: the two-sided p value of the null hypothesis of no effect; NaN if there are no pairs.
    """

    n: int
    effect: float
    interval: Interval
    p: float


NO_PAIRS = PairedEffect(0, math.nan, UNKNOWN, math.nan)


def is_binary(*scores: Float[np.ndarray, "..."]) -> bool:
    """Return whether every score is 0 or 1."""
    return all(bool(((values == 0) | (values == 1)).all()) for values in scores)


def paired_binary(
    intact: Float[np.ndarray, " example"],
    ablated: Float[np.ndarray, " example"],
    *,
    level: float = LEVEL,
) -> PairedEffect:
    """Return the effect on 0/1 scores, with Tango's interval and McNemar's exact p value.

    Both arrays are scores of the same examples.

    Raises:
        ValueError: a score that is neither 0 nor 1.
    """
    if not is_binary(intact, ablated):
        raise ValueError("paired_binary takes scores of 0 or 1")
    difference = ablated - intact
    n = len(difference)
    if n == 0:
        return NO_PAIRS
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    interval = tango(gained, lost, n, level=level)
    return PairedEffect(n, (gained - lost) / n, interval, mcnemar_p(gained, lost))


def paired_continuous(
    intact: Float[np.ndarray, " example"],
    ablated: Float[np.ndarray, " example"],
    rng: np.random.Generator,
    *,
    level: float = LEVEL,
) -> PairedEffect:
    """Return the effect on continuous scores, with a bootstrap interval and a sign-flip p value."""
    difference = ablated - intact
    if difference.size == 0:
        return NO_PAIRS
    p = sign_flip_p(difference, rng)
    interval = mean_interval(difference, rng, level=level)
    return PairedEffect(len(difference), float(difference.mean()), interval, p)


@functools.cache
def mcnemar_p(gained: int, lost: int) -> float:
    """Return McNemar's exact two-sided p value for the numbers of gains and losses.

    The null hypothesis is that gains and losses are equally likely.
    """
    return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)


def sign_flip_p(difference: Float[np.ndarray, " example"], rng: np.random.Generator) -> float:
    """Return the two-sided p value of a permutation test that flips the signs of differences.

    Exact for up to 12 nonzero differences, since all sign patterns are tried. For more differences,
    the p value is estimated from 19,999 random patterns and is at least 1 / 20,000: small enough
    that a finding among a thousand conditions can pass correction. 1 for fewer than two nonzero
    differences.
    """
    # A difference of 0 is the same with either sign.
    nonzero = difference[difference != 0]
    if len(nonzero) < 2:
        return 1.0
    if len(nonzero) <= _ALL_SIGNS:
        test = stats.permutation_test(
            (nonzero,), np.sum, permutation_type="samples", vectorized=True
        )
        return float(test.pvalue)
    # scipy draws random patterns one by one, which takes ten times as long for so many.
    signs = rng.integers(0, 2, size=(FLIPS, len(nonzero)), dtype=np.int8) * 2 - 1
    as_far = np.abs(signs @ nonzero) >= abs(nonzero.sum()) * (1 - 1e-12)
    return float((1 + as_far.sum()) / (1 + FLIPS))
