"""How sure a paired effect is: intervals and p values for scores on the same examples.

For 0/1 scores, an effect is a difference of paired proportions: of `n` examples, `gained` are right
only when ablated and `lost` only when intact, and the effect is `(gained - lost) / n`. Its interval
inverts Tango's score test (T. Tango, Statistics in Medicine 17:891-908, 1998): it holds every
difference `d` with `|T(d)| <= z`, where

    T(d) = (gained - lost - n d) / sqrt(n (2 q + d (1 - d)))
    2n q^2 + (-gained - lost + (2n - gained + lost) d) q - lost d (1 - d) = 0

and `q` is the probability of a loss that is most likely under `d`. Unlike a bootstrap, it keeps its
coverage at few discordant examples and never collapses to a point. Other scores get a bootstrap.

    >>> tango(6, 16, 161)
    Interval(low=-0.1240..., high=-0.0054...)
    >>> tango(0, 0, 32)
    Interval(low=-0.107..., high=0.107...)
"""

import functools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import proportion_confint

LEVEL = 0.95
RESAMPLES = 4999


@dataclass(frozen=True)
class Interval:
    """A 95% interval, in the unit of what it bounds; NaN where nothing can be said."""

    low: float
    high: float

    def scaled(self, factor: float) -> "Interval":
        """The interval of `factor` times the quantity; a negative factor swaps the ends."""
        ends = sorted((self.low * factor, self.high * factor))
        return Interval(*ends)


UNKNOWN = Interval(math.nan, math.nan)


@dataclass(frozen=True)
class PairedEffect:
    """A mean paired difference, ablated minus intact; negative means that the ablation hurts.

    Attributes:
        n: pairs.
        effect: in the unit of the scores.
        interval: 95%, of the effect.
        p: two-sided, of no effect.
    """

    n: int
    effect: float
    interval: Interval
    p: float


NO_PAIRS = PairedEffect(0, math.nan, UNKNOWN, math.nan)


def paired_binary(
    intact: Float[np.ndarray, " example"], ablated: Float[np.ndarray, " example"]
) -> PairedEffect:
    """Compare 0/1 scores on the same examples: Tango's interval, McNemar's exact p.

    Raises:
        ValueError: a score that is neither 0 nor 1.
    """
    difference = ablated - intact
    if not np.isin(np.concatenate([intact, ablated]), (0.0, 1.0)).all():
        raise ValueError("paired_binary takes scores of 0 or 1")
    n = len(difference)
    if n == 0:
        return NO_PAIRS
    gained, lost = int((difference > 0).sum()), int((difference < 0).sum())
    return PairedEffect(n, (gained - lost) / n, tango(gained, lost, n), mcnemar_p(gained, lost))


def paired_continuous(
    intact: Float[np.ndarray, " example"],
    ablated: Float[np.ndarray, " example"],
    rng: np.random.Generator,
) -> PairedEffect:
    """Compare continuous scores on the same examples: bootstrap interval, sign-flip p.

    The p value is exact where all sign patterns can be tried (up to 12 pairs).
    """
    difference = ablated - intact
    if difference.size == 0:
        return NO_PAIRS
    if not difference.any():
        return PairedEffect(len(difference), 0.0, UNKNOWN, 1.0)
    test = stats.permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        n_resamples=RESAMPLES,
        vectorized=True,
        rng=rng,
    )
    effect = float(difference.mean())
    return PairedEffect(len(difference), effect, mean_interval(difference, rng), float(test.pvalue))


@functools.cache
def tango(gained: int, lost: int, n: int) -> Interval:
    """Tango's score interval for `(gained - lost) / n`, a difference of paired proportions.

    Raises:
        ValueError: counts that cannot be.
    """
    if min(gained, lost) < 0 or n < 1 or gained + lost > n:
        raise ValueError(f"no {n} pairs have {gained} gained and {lost} lost")
    return Interval(-_upper(lost, gained, n), _upper(gained, lost, n))


def wilson(right: int, n: int) -> Interval:
    """Wilson's score interval for a proportion, `right` of `n`."""
    if n == 0:
        return UNKNOWN
    low, high = proportion_confint(right, n, alpha=1 - LEVEL, method="wilson")
    return Interval(float(low), float(high))


@functools.cache
def mcnemar_p(gained: int, lost: int) -> float:
    """McNemar's exact two-sided p: are gains and losses equally likely?"""
    return float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue)


def mean_interval(values: Float[np.ndarray, " example"], rng: np.random.Generator) -> Interval:
    """BCa bootstrap interval of a mean (Efron 1987); percentile where BCa is undefined.

    Values that are all the same say nothing about spread: their interval is unknown (NaN).
    """
    if len(values) < 2 or np.ptp(values) == 0:
        return UNKNOWN
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            bounds = stats.bootstrap(
                (values,),
                np.mean,
                n_resamples=RESAMPLES,
                confidence_level=LEVEL,
                method=method,
                rng=rng,
            ).confidence_interval
        if np.isfinite([bounds.low, bounds.high]).all():
            break
    return Interval(float(bounds.low), float(bounds.high))


def holm(p: Float[np.ndarray, " condition"]) -> Float[np.ndarray, " condition"]:
    """Adjust p values for their number (Holm 1979); NaN stay NaN and do not count."""
    # statsmodels' multipletests gives the same, but collects garbage at each call: 50 ms and more.
    order = np.argsort(p)[: int((~np.isnan(p)).sum())]
    steps = np.arange(len(order), 0, -1) * p[order]
    adjusted = np.full(p.shape, np.nan)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return adjusted


def pooled(estimates: Sequence[float], intervals: Sequence[Interval]) -> tuple[float, Interval]:
    """The mean of independent estimates, equal weights, with an interval from their own.

    The distances from each estimate to its bounds add as variances do (MOVER: Zou and Donner,
    Statistics in Medicine 27:1693, 2008), so that intervals that never collapse give one that does
    not either.
    """
    center, count = float(np.mean(estimates)), len(estimates)
    below = math.hypot(*(e - i.low for e, i in zip(estimates, intervals, strict=True))) / count
    above = math.hypot(*(i.high - e for e, i in zip(estimates, intervals, strict=True))) / count
    return center, Interval(center - below, center + above)


def resampled_counts(
    n: int, rng: np.random.Generator, resamples: int = RESAMPLES
) -> Float[np.ndarray, "resample example"]:
    """How often each of `n` examples is drawn in each bootstrap resample."""
    return rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(float)


def percentile_interval(draws: Float[np.ndarray, " resample"], n: int) -> Interval:
    """The interval of bootstrap draws from `n` examples, widened for small n.

    A plain percentile interval is narrow by `sqrt((n - 1) / n)` and by using z where t is due;
    the expanded percentile interval (Hesterberg, The American Statistician 69:371, 2015) takes
    further percentiles to make up for it.
    """
    if n < 2 or np.isnan(draws).any():
        return UNKNOWN
    tail = stats.norm.sf(math.sqrt(n / (n - 1)) * stats.t.isf((1 - LEVEL) / 2, n - 1))
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _upper(gained: int, lost: int, n: int) -> float:
    z = float(stats.norm.isf((1 - LEVEL) / 2))
    if gained == n:
        return 1.0

    def above(d: float) -> float:
        linear = -gained - lost + (2 * n - gained + lost) * d
        root = math.sqrt(max(0.0, linear**2 + 8 * n * lost * d * (1 - d)))
        q = (root - linear) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        if variance <= 0:
            return -math.inf
        return (gained - lost - n * d) / math.sqrt(variance) + z

    # T falls from 0 at the estimate to minus infinity at 1; at either end the variance may vanish.
    return float(optimize.brentq(above, (gained - lost) / n + 1e-9, 1 - 1e-12, xtol=1e-12))
