r"""The interval of a ratio of two means over the same examples, such as harm.

Harm is `mean(lost) / mean(skill)`, where an example's loss is its intact score minus its score
under ablation and its skill is its intact score minus chance. Both means are estimated, from the
same examples. The interval inverts a test, as Fieller's does (E. C. Fieller, JRSS B 16:175, 1954):
it holds every ratio `h` for which the mean of

    y(h) = lost - h skill

is not shown to differ from 0. If the values are bounded, such as those of 0/1 scores, a score test
is used, whose variance is that under the null hypothesis: the examples are reweighted by the most
likely weights for which the mean of `y(h)` is 0 (A. B. Owen, Biometrika 75:237, 1988), and values
that are possible but were not seen may have weight too (Tango's interval for paired proportions
does the same). This interval never collapses to a point. Other scores get Fieller's own interval,
with Student's t. If examples come in clusters, the variance of the score test is multiplied by
design effects (see `stats.clusters`), and Fieller's interval is computed from the totals of
clusters.

    >>> import numpy as np
    >>> intact = np.repeat([1.0, 1.0, 0.0], [20, 40, 20])
    >>> ablated = np.repeat([0.0, 1.0, 0.0], [20, 40, 20])
    >>> harm, interval = harm_interval(intact, ablated, chance=0.25)
    >>> print(f"{harm:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    0.50 [0.34, 0.69]
"""

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np
from jaxtyping import Float

from layerroles.stats.clusters import (
    Clusters,
    are_clusters,
    cluster_totals,
    measure_clustering,
    widest,
)
from layerroles.stats.intervals import LEVEL, UNKNOWN, Interval, IntervalEstimate, critical_value
from layerroles.stats.paired import is_binary
from layerroles.stats.ratio_score_test import (
    DIGITS,
    ValuePair,
    score,
    score_interval,
)


def harm_interval(
    intact: Float[np.ndarray, " example"],
    ablated: Float[np.ndarray, " example"],
    chance: float | Float[np.ndarray, " example"],
    *,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> IntervalEstimate:
    """Return harm, `mean(intact - ablated) / mean(intact - chance)`, with its interval.

    A bound is infinite if, at this level, the intact scores are not shown to lie above chance. Both
    harm and interval are NaN if the mean of the intact scores is not above chance.

    Args:
        intact: scores of the intact model.
        ablated: scores of the same examples under ablation.
        chance: the score of guessing, one number for all examples or one for each.
        clusters: a name per example; examples with the same name are not independent.
        level: the confidence level of the interval.
    """
    possible = possible_losses(chance, 1.0, 0.0) if is_binary(intact, ablated) else []
    return ratio(intact - ablated, intact - chance, possible, clusters=clusters, level=level)


def is_above(
    scores: Float[np.ndarray, " example"],
    chance: float | Float[np.ndarray, " example"],
    *,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> bool:
    """Return whether a mean score is shown to lie above chance, so that harm has a finite interval.

    0/1 scores are tested by the score test (that of Wilson's interval, but with the variance
    divided by n - 1), others by Student's t test. If examples come in clusters, the variance of the
    score test is multiplied by design effects (see `stats.clusters`), and the t test is one of the
    cluster totals. False for fewer than two scores or if chance is NaN.
    """
    n, chances = len(scores), np.broadcast_to(chance, scores.shape)
    skill = scores - chances
    if n < 2 or not skill.mean() > 0:  # true also if chance is NaN
        return False
    values, df, clustering = skill, float(n - 1), None
    if clusters is not None and are_clusters(clusters):
        clustering = measure_clustering(skill - skill.mean(), clusters)
        values, df = cluster_totals(skill, clusters), clustering.df
    if not is_binary(scores):
        threshold = critical_value(level, df) * float(values.std(ddof=1))
        return bool(values.mean() * math.sqrt(len(values)) > threshold)
    threshold = critical_value(level, clustering.df if clustering else None)
    # The variance is divided by n - 1, as that of a sample is (see `tango`).
    threshold *= math.sqrt(n / (n - 1))
    if clustering is None and np.ptp(chances) == 0:
        spread = math.sqrt(chances[0] * (1 - chances[0]))
        return bool(skill.mean() * math.sqrt(n) > threshold * spread)
    counts = Counter(skill.round(DIGITS).tolist())
    edges = [1 - float(chances.min()), -float(chances.max())]
    return score(list(counts.values()), list(counts), edges, clustering) > threshold


def clustered(
    interval: Interval,
    values: Float[np.ndarray, " example"],
    clusters: Clusters,
    bounds: ValuePair | None,
    *,
    level: float = LEVEL,
) -> Interval:
    """Return the interval of a mean, widened if the examples come in clusters.

    Args:
        interval: the interval of the mean for independent examples.
        values: the value of each example.
        clusters: a name per example; examples with the same name are not independent.
        bounds: the smallest and the largest possible value; None if values are not bounded.
        level: the confidence level of the interval.
    """
    if not are_clusters(clusters):
        return interval
    # Shifted by `low`, so that the mean is above 0.
    low = bounds[0] - 1 if bounds else float(values.min()) - 1
    possible = [(value - low, 1.0) for value in bounds or ()]
    ones = np.ones(len(values))
    _, shifted = ratio(values - low, ones, possible, clusters=clusters, level=level)
    wide = widest(interval, Interval(shifted.low + low, shifted.high + low))
    return Interval(max(bounds[0], wide.low), min(bounds[1], wide.high)) if bounds else wide


def possible_losses(
    chance: float | Float[np.ndarray, " example"], most: float, least: float
) -> list[ValuePair]:
    """Return the extreme pairs (loss, skill) that an example with 0/1 scores can have.

    The result is the argument `possible` of `ratio`. The loss is a weighted sum over conditions,
    `sum(w * (intact - ablated))`; the skill is `intact - chance`. The pairs are given for the
    smallest and for the largest chance of any example.

    Args:
        chance: the score of guessing, one number for all examples or one for each.
        most: the sum of the positive weights `w`.
        least: the sum of the negative weights `w`.
    """
    guesses = dict.fromkeys((float(np.min(chance)), float(np.max(chance))))
    return [
        *((loss, 1 - guess) for guess in guesses for loss in (least, most)),
        *((loss, -guess) for guess in guesses for loss in (-most, -least)),
    ]


def ratio(
    numerator: Float[np.ndarray, " example"],
    denominator: Float[np.ndarray, " example"],
    possible: Iterable[ValuePair] = (),
    *,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> IntervalEstimate:
    """Return the ratio of two means over the same examples, with its interval.

    Args:
        numerator: a value for each example.
        denominator: a value for each example.
        possible: the extreme pairs (numerator, denominator) that an example can have, which bound
            all others; empty if the values are not bounded.
        clusters: a name per example; examples with the same name are not independent.
        level: the confidence level of the interval.

    Returns:
        The ratio and its interval. Both are NaN if the mean denominator is not above 0, and the
        interval is NaN for fewer than two examples. A bound is infinite if the denominator is not
        shown to lie above 0 at this level.

    Raises:
        ValueError: the level is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1")
    n = len(numerator)
    if n == 0 or not denominator.mean() > 0:
        return IntervalEstimate(math.nan, UNKNOWN)
    estimate = float(numerator.mean() / denominator.mean()) + 0.0  # turns -0.0 into 0.0
    if n < 2:
        return IntervalEstimate(estimate, UNKNOWN)
    clustering = None
    if clusters is not None and are_clusters(clusters):
        clustering = measure_clustering(numerator - estimate * denominator, clusters)
    bounds = tuple((round(a, DIGITS), round(b, DIGITS)) for a, b in possible)
    if bounds:
        counts = Counter(
            zip(numerator.round(DIGITS).tolist(), denominator.round(DIGITS).tolist(), strict=True)
        )
        interval = score_interval(tuple(sorted(counts.items())), bounds, level, clustering)
        return IntervalEstimate(estimate, interval)
    interval = _fieller_interval(numerator, denominator, level, float(n - 1))
    if clusters is not None and clustering is not None:
        lost, skill = cluster_totals(np.array([numerator, denominator]), clusters)
        interval = widest(interval, _fieller_interval(lost, skill, level, clustering.df))
    return IntervalEstimate(estimate, interval)


def _fieller_interval(
    numerator: Float[np.ndarray, " value"],
    denominator: Float[np.ndarray, " value"],
    level: float,
    df: float,
) -> Interval:
    """Return Fieller's interval of `mean(numerator) / mean(denominator)`.

    It holds the ratios `h` for which a t test does not show that the mean of
    `numerator - h * denominator` differs from 0. Infinite if the mean denominator is not shown to
    differ from 0; unknown if all numerators are equal.
    """
    n = len(numerator)
    t = critical_value(level, df)
    a, b = float(numerator.mean()), float(denominator.mean())
    (va, cov), (_, vb) = (np.cov(numerator, denominator) * t * t / n).tolist()
    lead, half, rest = b * b - vb, a * b - cov, a * a - va
    if va == 0:
        return UNKNOWN  # equal values say nothing about their spread
    if lead <= 0:
        return Interval(-math.inf, math.inf)
    root = math.sqrt(max(0.0, half * half - lead * rest))
    return Interval((half - root) / lead, (half + root) / lead)
