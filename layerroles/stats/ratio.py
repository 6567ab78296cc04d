r"""The interval of a ratio of two means over the same examples, such as harm.

Harm is `mean(lost) / mean(skill)`, where an example's loss is its intact score minus its score
under ablation and its skill is its intact score minus chance. Both means are estimated, from the
same examples. The interval inverts a test, as Fieller's does (E. C. Fieller, JRSS B 16:175, 1954):
it holds every ratio `h` for which the mean of

    y(h) = lost - h skill

is not shown to differ from 0. Where only some values are possible, such as those of 0/1 scores, the
variance in the test is that under its own hypothesis: the examples are reweighted by the most
likely weights for which the mean of `y(h)` is 0 (A. B. Owen, Biometrika 75:237, 1988), and values
that were possible and not seen may have weight too (Tango's interval for paired proportions is made
in the same way). It never collapses to a point. Other scores get Fieller's own interval, with
Student's t. Where examples come in clusters, the score test counts fewer of them (see
`stats.clusters`), and Fieller's interval is made of the totals of clusters.

    >>> import numpy as np
    >>> intact = np.repeat([1.0, 1.0, 0.0], [20, 40, 20])
    >>> ablated = np.repeat([0.0, 1.0, 0.0], [20, 40, 20])
    >>> harm, interval = harm_interval(intact, ablated, chance=0.25)
    >>> print(f"{harm:.2f} [{interval.low:.2f}, {interval.high:.2f}]")
    0.50 [0.34, 0.69]
"""

import functools
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from jaxtyping import Float
from scipy import optimize, stats

from layerroles.stats.clusters import (
    Clusters,
    are_clusters,
    cluster_totals,
    design_effect,
    widest,
)
from layerroles.stats.intervals import LEVEL, UNKNOWN, Interval
from layerroles.stats.paired import is_binary

# A pair of values of one example: numerator and denominator.
ValuePair = tuple[float, float]
# Ratios beyond this count as unbounded.
_FARTHEST = 1e6
_DIGITS = 9  # to which values count as the same
_STEPS = 200  # of Newton's method or bisection; some 8 are taken


def harm_interval(
    intact: Float[np.ndarray, " example"],
    ablated: Float[np.ndarray, " example"],
    chance: float | Float[np.ndarray, " example"],
    *,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> tuple[float, Interval]:
    """Harm, `mean(intact - ablated) / mean(intact - chance)`, with its interval.

    An end is infinite where, at this level, the intact scores are not shown to lie above chance.

    Args:
        intact: scores of the intact model.
        ablated: scores of the same examples under ablation.
        chance: the score of guessing, in all or on each example.
        clusters: a name per example; examples of one name are not independent.
        level: of confidence.
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
    """Whether a mean score is shown to lie above chance, so that harm's interval has two ends.

    For 0/1 scores by the score test, as of Wilson's interval with n - 1; for others by Student's t.
    Where examples come in clusters, 0/1 scores count fewer (see `stats.clusters`), and Student's t
    is that of the totals of clusters.
    """
    n, chances = len(scores), np.broadcast_to(chance, scores.shape)
    skill = scores - chances
    if n < 2 or not skill.mean() > 0:  # not if there is no chance
        return False
    groups = clusters if clusters is not None and are_clusters(clusters) else None
    if not is_binary(scores):
        values = skill if groups is None else cluster_totals(skill, groups)
        threshold = _critical_value(level, len(values)) * float(values.std(ddof=1))
        return bool(values.mean() * math.sqrt(len(values)) > threshold)
    deff = 1.0 if groups is None else design_effect(skill - skill.mean(), groups)
    n_effective = n / deff
    threshold = _critical_value(level, None if groups is None else len(set(groups)))
    # The variance is taken with n - 1, as that of a sample is (see `tango`).
    threshold *= math.sqrt(n_effective / max(1e-9, n_effective - 1))
    if np.ptp(chances) == 0:
        spread = math.sqrt(chances[0] * (1 - chances[0]))
        return bool(skill.mean() * math.sqrt(n_effective) > threshold * spread)
    counts = Counter(skill.round(_DIGITS).tolist())
    edges = [1 - float(chances.min()), -float(chances.max())]
    return score([count / deff for count in counts.values()], list(counts), edges) > threshold


def _critical_value(level: float, independent: int | None) -> float:
    """Student's t of so many independent values; normal where their variance is known."""
    tail = (1 - level) / 2
    return float(
        stats.norm.isf(tail) if independent is None else stats.t.isf(tail, independent - 1)
    )


def clustered(
    interval: Interval,
    values: Float[np.ndarray, " example"],
    clusters: Clusters,
    bounds: ValuePair | None,
    *,
    level: float = LEVEL,
) -> Interval:
    """The interval of a mean of independent examples, widened where they come in clusters.

    Args:
        interval: for independent examples.
        values: of the examples.
        clusters: a name per example.
        bounds: the least and the largest value that is possible, if there are such.
        level: of confidence.
    """
    if not are_clusters(clusters):
        return interval
    # Of a mean that is not above 0, too: the bounds and values are moved.
    low = bounds[0] - 1 if bounds else float(values.min()) - 1
    possible = [(value - low, 1.0) for value in bounds or ()]
    ones = np.ones(len(values))
    _, shifted = ratio(values - low, ones, possible, clusters=clusters, level=level)
    wide = widest(interval, Interval(shifted.low + low, shifted.high + low))
    return Interval(max(bounds[0], wide.low), min(bounds[1], wide.high)) if bounds else wide


def possible_losses(
    chance: float | Float[np.ndarray, " example"], most: float, least: float
) -> list[ValuePair]:
    """The outermost pairs of a loss and a skill of one example with 0/1 scores, for `ratio`.

    The loss is a sum over conditions, `sum(w * (intact - ablated))`.

    Args:
        chance: the score of guessing, in all or on each example.
        most: the sum of the weights above 0.
        least: the sum of the weights below 0.
    """
    return [
        *((loss, 1 - float(np.min(chance))) for loss in (least, most)),
        *((loss, -float(np.max(chance))) for loss in (-most, -least)),
    ]


def ratio(
    numerator: Float[np.ndarray, " example"],
    denominator: Float[np.ndarray, " example"],
    possible: Iterable[ValuePair] = (),
    *,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> tuple[float, Interval]:
    """The ratio of two means over the same examples, with its interval.

    Args:
        numerator: a value for each example.
        denominator: a value for each example; its mean is above 0.
        possible: the pairs of a numerator and a denominator between which every example lies. None
            are given where the values have no bounds.
        clusters: a name per example; examples of one name are not independent.
        level: of confidence.

    Returns:
        The ratio and its interval. Both are NaN where the mean denominator is not above 0, the
        interval also for fewer than two examples; an end is infinite where the denominator is not
        shown to lie above 0 at this level.

    Raises:
        ValueError: a level that is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"a level of {level} is not between 0 and 1")
    n = len(numerator)
    if n == 0 or not denominator.mean() > 0:
        return math.nan, UNKNOWN
    estimate = float(numerator.mean() / denominator.mean()) + 0.0  # no minus zero
    if n < 2:
        return estimate, UNKNOWN
    bounds = tuple((round(a, _DIGITS), round(b, _DIGITS)) for a, b in possible)
    if bounds:
        counts = Counter(
            zip(numerator.round(_DIGITS).tolist(), denominator.round(_DIGITS).tolist(), strict=True)
        )
        deff, independent = 1.0, None
        if clusters is not None and are_clusters(clusters):
            deff = design_effect(numerator - estimate * denominator, clusters)
            independent = len(set(clusters))
        return estimate, _score_interval(
            tuple(sorted(counts.items())), bounds, level, deff, independent
        )
    interval = _fieller_interval(numerator, denominator, level)
    if clusters is not None and are_clusters(clusters):
        lost, skill = cluster_totals(np.array([numerator, denominator]), clusters)
        interval = widest(interval, _fieller_interval(lost, skill, level))
    return estimate, interval


@functools.lru_cache(maxsize=100_000)
def _score_interval(
    pair_counts: tuple[tuple[ValuePair, int], ...],
    possible: tuple[ValuePair, ...],
    level: float,
    deff: float,
    independent: int | None,
) -> Interval:
    """The interval by the score test, from how often each pair of values was seen.

    In clusters, `independent` of them, each example counts as one over the design effect.
    """
    pairs = [pair for pair, _ in pair_counts]
    counts = [count / deff for _, count in pair_counts]
    n = sum(counts)
    if n <= 1:
        return Interval(-math.inf, math.inf)
    estimate = sum(c * a for c, (a, _) in zip(counts, pairs, strict=True)) / sum(
        c * b for c, (_, b) in zip(counts, pairs, strict=True)
    )
    # The variance is taken with n - 1, as that of a sample is (see `tango`).
    critical = _critical_value(level, independent) * math.sqrt(n / (n - 1))
    beyond = functools.partial(_score_excess, counts, pairs, possible, critical)
    return Interval(_find_end(beyond, estimate, -1.0), _find_end(beyond, estimate, 1.0))


def _score_excess(
    counts: Sequence[float],
    pairs: Sequence[ValuePair],
    possible: Sequence[ValuePair],
    critical: float,
    h: float,
) -> float:
    """By how much the score of the ratio `h` exceeds the critical one."""
    values = [a - h * b for a, b in pairs]
    return abs(score(counts, values, [a - h * b for a, b in possible])) - critical


def score(counts: Sequence[float], values: Sequence[float], edges: Sequence[float]) -> float:
    """The score statistic of the hypothesis that a mean is 0, standard normal under it.

    Args:
        counts: how often each value was seen.
        values: those that were seen.
        edges: values that are possible, seen or not; the outermost matter.
    """
    n = sum(counts)
    mean = sum(c * v for c, v in zip(counts, values, strict=True)) / n
    if abs(mean) < 10**-_DIGITS:
        return 0.0
    most, least = max(*values, *edges), min(*values, *edges)
    if most <= 0 or least >= 0:
        return math.copysign(math.inf, mean)
    tilt = _find_tilt(counts, values, most, least)
    weights = [c / (n * (1 + tilt * v)) for c, v in zip(counts, values, strict=True)]
    variance = sum(w * v * v for w, v in zip(weights, values, strict=True))
    # What is left has to lie at the edge that was not seen.
    edge = most if mean < 0 else least
    variance += max(0.0, 1 - sum(weights)) * edge * edge
    return mean / math.sqrt(variance / n)


def _find_tilt(
    counts: Sequence[float], values: Sequence[float], most: float, least: float
) -> float:
    """The multiplier `t` for which `sum(counts * values / (1 + t * values))` is 0.

    At the end of its range where the sum is not 0 within it: values that were not seen then have
    weight.
    """
    mean = sum(c * v for c, v in zip(counts, values, strict=True))
    # The sum falls from t = -1 / most to t = -1 / least; at t = 0 it has the sign of the mean.
    low, high = (-1 / most, 0.0) if mean < 0 else (0.0, -1 / least)
    end = low if mean < 0 else high

    seen = any(math.isclose(1 + end * v, 0, abs_tol=1e-12) for v in values)
    if not seen and _tilt_equation(counts, values, end)[0] * mean > 0:
        return end
    t, tolerance = end / 2, 1e-12 * sum(c * abs(v) for c, v in zip(counts, values, strict=True))
    for _ in range(_STEPS):
        total, change = _tilt_equation(counts, values, t)
        if abs(total) <= tolerance or high - low <= 1e-14 * abs(end):
            break
        if total > 0:
            low = t
        else:
            high = t
        step = t - total / change
        t = step if low < step < high else (low + high) / 2
    return t


def _tilt_equation(
    counts: Sequence[float], values: Sequence[float], t: float
) -> tuple[float, float]:
    """The sum of `_find_tilt` at `t`, and its derivative."""
    total = change = 0.0
    for c, v in zip(counts, values, strict=True):
        part = v / (1 + t * v)
        total += c * part
        change -= c * part * part
    return total, change


def _find_end(beyond: Callable[[float], float], estimate: float, side: float) -> float:
    """Where `beyond` crosses 0 on one side of an estimate; infinite where it does not."""
    near, step = 0.0, 0.05
    while beyond(estimate + side * step) < 0:
        near, step = step, 2 * step
        if step > _FARTHEST:
            return side * math.inf
    root = optimize.brentq(
        lambda far: beyond(estimate + side * far), near, step, xtol=1e-10, rtol=1e-12
    )
    return float(estimate + side * root)


def _fieller_interval(
    numerator: Float[np.ndarray, " value"],
    denominator: Float[np.ndarray, " value"],
    level: float,
) -> Interval:
    """Fieller's interval: the ratios `h` for which `numerator - h denominator` has a small t."""
    n = len(numerator)
    t = float(stats.t.isf((1 - level) / 2, n - 1))
    a, b = float(numerator.mean()), float(denominator.mean())
    (va, cov), (_, vb) = (np.cov(numerator, denominator) * t * t / n).tolist()
    lead, half, rest = b * b - vb, a * b - cov, a * a - va
    if va == 0:
        return UNKNOWN  # values that are all the same say nothing of how they spread
    if lead <= 0:
        return Interval(-math.inf, math.inf)
    root = math.sqrt(max(0.0, half * half - lead * rest))
    return Interval((half - root) / lead, (half + root) / lead)
