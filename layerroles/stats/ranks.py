"""Rank correlations of profiles over sites, with bootstrap intervals over examples.

A profile is a number, such as harm, for each site (a layer or a head). `profile_agreement` measures
whether two ways of measuring rank the sites in the same order, and `rank_stability` whether several
sets of examples rank them alike. Noise lowers a rank correlation, and resampling adds more noise,
so the bootstrap draws lie even lower than the estimate. Therefore an interval is symmetric about
the estimate: on both sides it extends by the distance from the estimate to the farther percentile
of the draws.
"""

from collections.abc import Hashable, Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float
from scipy import stats

from layerroles.stats.intervals import (
    LEVEL,
    UNKNOWN,
    Interval,
    IntervalEstimate,
    percentile_interval,
    resampled_counts,
)

DRAWS = 2000
# A rank correlation over only two sites is always 1 or -1.
_FEWEST_SITES = 3


def profile_agreement(
    one: Float[np.ndarray, "site example"],
    two: Float[np.ndarray, "site example"],
    rng: np.random.Generator,
    *,
    clusters: Sequence[Hashable] | np.ndarray | None = None,
    level: float = LEVEL,
) -> IntervalEstimate:
    """Return Spearman's correlation between two profiles of means, with a bootstrap interval.

    Examples are drawn jointly for all sites and both profiles, since their errors are correlated.
    The interval extends to both sides by the distance to the farther percentile of the draws (see
    the module). In simulation it covers the true correlation in nine of ten trials or more, while
    the interval between the percentiles can miss it in every trial. It has no such coverage if the
    true values of all sites are equal, since noise then decides their order. The estimate is NaN
    for fewer than 3 sites or if a profile is flat (equal at all sites); the interval is NaN also if
    a resampled profile is flat.

    Args:
        one: a difference per site and example, such as ablated minus intact; NaN if unknown.
        two: differences of the same sites and examples, measured in another way.
        rng: the generator of the resamples.
        clusters: a name per example; examples with the same name are drawn together.
        level: the confidence level of the interval.
    """
    n_sites, n = one.shape
    if n_sites < _FEWEST_SITES or n == 0:
        return IntervalEstimate(float("nan"), UNKNOWN)
    all_counts = np.ones((1, n))
    counts = resampled_counts(n, rng, DRAWS, clusters=clusters)
    correlations = spearman(resampled_means(one, all_counts), resampled_means(two, all_counts))
    drawn_correlations = spearman(resampled_means(one, counts), resampled_means(two, counts))
    drawn_interval = percentile_interval(
        drawn_correlations, n if clusters is None else len(set(clusters)), level=level
    )
    rho = float(correlations[0])
    return IntervalEstimate(rho, _interval_around(rho, drawn_interval))


def rank_stability(
    draws: Sequence[Float[np.ndarray, "site _"]], rng: np.random.Generator
) -> IntervalEstimate:
    """Return Spearman's correlation over sites between two draws, averaged over all pairs of draws.

    A draw is a set of examples, such as those of one seed; the mean scores of the sites on one draw
    are correlated with those on another. The interval is made as in `profile_agreement`, except
    that the examples of each draw are resampled separately, as if no two draws shared examples. NaN
    for fewer than 2 draws or 3 sites, or if all sites of a draw have the same mean score.

    Args:
        draws: for each draw, a score per site and example, NaN if unknown; all have the same sites.
        rng: the generator of the resamples.

    Raises:
        ValueError: the draws have different numbers of sites.
    """
    if len({len(scores) for scores in draws}) > 1:
        raise ValueError("the draws are of different numbers of sites")
    if len(draws) < 2 or len(draws[0]) < _FEWEST_SITES or min(s.shape[1] for s in draws) == 0:
        return IntervalEstimate(float("nan"), UNKNOWN)
    means = [resampled_means(scores, np.ones((1, scores.shape[1]))) for scores in draws]
    resampled = [
        resampled_means(scores, resampled_counts(scores.shape[1], rng, DRAWS)) for scores in draws
    ]
    rho = float(_mean_correlation(means)[0])
    n = min(scores.shape[1] for scores in draws)
    drawn_interval = percentile_interval(_mean_correlation(resampled), n)
    return IntervalEstimate(rho, _interval_around(rho, drawn_interval))


def _interval_around(rho: float, drawn: Interval) -> Interval:
    """Return an interval around `rho` that extends on both sides to the farther end of `drawn`.

    Clipped to -1 and 1; unknown if `rho` or `drawn` is.
    """
    if np.isnan([rho, drawn.low]).any():
        return UNKNOWN
    reach = max(rho - drawn.low, drawn.high - rho)
    return Interval(max(-1.0, rho - reach), min(1.0, rho + reach))


def _mean_correlation(
    means: list[Float[np.ndarray, "resample site"]],
) -> Float[np.ndarray, " resample"]:
    correlations: np.ndarray = np.mean([spearman(a, b) for a, b in combinations(means, 2)], axis=0)
    return correlations


def spearman(
    one: Float[np.ndarray, "resample site"], two: Float[np.ndarray, "resample site"]
) -> Float[np.ndarray, " resample"]:
    """Return Spearman's rank correlation of each row of `one` with the same row of `two`.

    NaN if all values of a row are equal, or any is NaN.
    """
    # Rounded, so that equal means tie in spite of rounding errors.
    ranks = [stats.rankdata(rows.round(9), axis=1) for rows in (one, two)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    scale = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    scale[np.isnan(one).any(axis=1) | np.isnan(two).any(axis=1) | (scale == 0)] = np.nan
    rho: np.ndarray = ((a * b).sum(axis=1) / scale).clip(-1, 1)
    return rho


def resampled_means(
    values: Float[np.ndarray, "site example"], counts: Float[np.ndarray, "resample example"]
) -> Float[np.ndarray, "resample site"]:
    """Return each site's mean over the known examples of each resample; NaN if there are none."""
    known = ~np.isnan(values)
    total = counts @ known.T.astype(float)
    means = np.full(total.shape, np.nan)
    np.divide(counts @ np.nan_to_num(values).T, total, out=means, where=total > 0)
    return means
