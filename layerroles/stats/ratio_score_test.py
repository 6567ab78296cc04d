"""The score test of a ratio of two means of bounded values, and the interval that inverts it.

The variance is that under the null hypothesis: the examples are reweighted by the most likely
weights for which the mean is 0 (A. B. Owen, Biometrika 75:237, 1988), and values that are possible
but were not seen may have weight too. `stats.ratio` uses it.

If examples come in clusters, the variance is multiplied by the design effect, which is estimated
from the same examples. A sample that lacks the few clusters with many losses underestimates both
the loss and the design effect, so its interval is too narrow just where the estimate is wrong.
Therefore, to test a harm above the estimate, the design effect of the losses is shrunk toward the
size of a cluster: as if 1.25 more losses had been seen, in clusters that have nothing but losses.
To test a harm below the estimate, the same is done to the values on the other side of 0. A. Agresti
and B. A. Coull (The American Statistician 52:119, 1998) add examples to a proportion for the same
reason.
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from scipy import optimize

from layerroles.stats.intervals import Interval, critical_value

# A pair of values of one example: numerator and denominator.
ValuePair = tuple[float, float]
DIGITS = 9  # values that agree to this number of decimals count as the same
# The distances from the estimate at which an end of the interval is searched. An end that lies
# beyond them is infinite.
_DOUBLED = tuple(0.05 * 2**step for step in range(25))
_SCANNED = tuple(step / 40 for step in range(1, 41))
_STEPS = 200  # the most steps of Newton's method or bisection; about 8 are needed
# The number of examples, each with its whole cluster, that are added when a design effect is
# estimated; and the weight of the examples that the null hypothesis expects, against those that
# were seen. With a weight of 0, if no score changed, an interval would be as wide as that of one
# example per cluster. Both were chosen by simulation (benchmarks/clusters.py): the smallest values
# with which intervals keep their coverage if a few clusters have nearly all losses.
_ADDED_EXAMPLES = 1.25
_EXPECTED_WEIGHT = 0.2


@dataclass(frozen=True)
class Clustering:
    """How clusters affect the variance of a mean.

    Attributes:
        design: the design effect, at least 1.
        below: the design effect of the negative residuals alone (positive ones are set to 0).
        above: the design effect of the positive residuals alone.
        size: the mean over examples of the size of the example's cluster.
        df: the degrees of freedom of the variance between clusters.
    """

    design: float
    below: float
    above: float
    size: float
    df: float

    def shrunk_design(self, seen: float, expected: float, *, above: bool) -> float:
        """Return the design effect of the values on one side of 0, shrunk toward the cluster size.

        Args:
            seen: the number of values on that side in the sample, computed as the sum of their
                squares divided by their weighted mean square (`usual` in `score`).
            expected: the same number under the null hypothesis.
            above: whether the side is that above 0.
        """
        examples = (1 - _EXPECTED_WEIGHT) * seen + _EXPECTED_WEIGHT * expected
        effective = examples / (self.above if above else self.below)
        total = examples + _ADDED_EXAMPLES * self.size
        return max(self.design, total / (effective + _ADDED_EXAMPLES))


@functools.lru_cache(maxsize=100_000)
def score_interval(
    pair_counts: tuple[tuple[ValuePair, int], ...],
    possible: tuple[ValuePair, ...],
    level: float,
    clustering: Clustering | None,
) -> Interval:
    """Return the interval of a ratio of means that results from inverting the score test.

    Args:
        pair_counts: each distinct pair of values and the number of examples that have it.
        possible: the extreme pairs of values that an example can have.
        level: the confidence level.
        clustering: how clusters affect the variance; None if examples are independent.
    """
    pairs = [pair for pair, _ in pair_counts]
    counts = [count for _, count in pair_counts]
    n = sum(counts)
    if n <= 1:
        return Interval(-math.inf, math.inf)
    estimate = sum(c * a for c, (a, _) in zip(counts, pairs, strict=True)) / sum(
        c * b for c, (_, b) in zip(counts, pairs, strict=True)
    )
    # The variance is divided by n - 1, as that of a sample is (see `tango`).
    critical = critical_value(level, clustering.df if clustering else None) * math.sqrt(n / (n - 1))
    beyond = functools.partial(_score_excess, counts, pairs, possible, clustering, critical)
    low, high = (
        _find_end(beyond, estimate, side, scans=clustering is not None) for side in (-1.0, 1.0)
    )
    return Interval(low, high)


def _score_excess(
    counts: Sequence[int],
    pairs: Sequence[ValuePair],
    possible: Sequence[ValuePair],
    clustering: Clustering | None,
    critical: float,
    h: float,
) -> float:
    """Return the absolute score statistic of the ratio `h` minus the critical value."""
    values = [a - h * b for a, b in pairs]
    edges = [a - h * b for a, b in possible]
    return abs(score(counts, values, edges, clustering)) - critical


def score(
    counts: Sequence[int],
    values: Sequence[float],
    edges: Sequence[float],
    clustering: Clustering | None = None,
) -> float:
    """Return the score statistic of the null hypothesis that the mean is 0.

    It is standard normal under the null hypothesis.

    Args:
        counts: the number of examples with each value.
        values: the distinct values that were seen.
        edges: the extreme possible values, seen or not.
        clustering: how clusters affect the variance; None if examples are independent. The
            statistic then has Student's t distribution with `clustering.df`.
    """
    n = sum(counts)
    mean = sum(c * v for c, v in zip(counts, values, strict=True)) / n
    if abs(mean) < 10**-DIGITS:
        return 0.0
    most, least = max(*values, *edges), min(*values, *edges)
    if most <= 0 or least >= 0:
        return math.copysign(math.inf, mean)
    tilt = _find_tilt(counts, values, most, least)
    weights = [c / (n * (1 + tilt * v)) for c, v in zip(counts, values, strict=True)]
    variance = sum(w * v * v for w, v in zip(weights, values, strict=True))
    # The remaining weight is on the extreme value on the other side of 0 from the mean.
    edge = most if mean < 0 else least
    variance += max(0.0, 1 - sum(weights)) * edge * edge
    if clustering is not None:
        unseen = max(0.0, 1 - sum(weights))
        side = [(c, w, v) for c, w, v in zip(counts, weights, values, strict=True) if v * edge > 0]
        toward = sum(w * v * v for _, w, v in side) + unseen * edge * edge
        # The mean square of these values, each weighted by its part of the variance.
        usual = (sum(w * v**4 for _, w, v in side) + unseen * edge**4) / toward if toward else 1.0
        seen = sum(c * v * v for c, _, v in side) / usual
        design = clustering.shrunk_design(seen, n * toward / usual, above=edge > 0)
        variance = (variance - toward) * clustering.design + toward * design
    return mean / math.sqrt(variance / n)


def _find_tilt(counts: Sequence[int], values: Sequence[float], most: float, least: float) -> float:
    """Find the multiplier `t` for which `sum(counts * values / (1 + t * values))` is 0.

    If the sum is not 0 anywhere in the range of `t`, returns the end of the range: a possible value
    that was not seen then has weight.
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


def _tilt_equation(counts: Sequence[int], values: Sequence[float], t: float) -> tuple[float, float]:
    """Return, at `t`, the sum that `_find_tilt` brings to 0, and its derivative."""
    total = change = 0.0
    for c, v in zip(counts, values, strict=True):
        part = v / (1 + t * v)
        total += c * part
        change -= c * part * part
    return total, change


def _find_end(
    beyond: Callable[[float], float], estimate: float, side: float, *, scans: bool
) -> float:
    """Find one end of an interval: the zero of `beyond` on one side of `estimate`, else infinity.

    Args:
        beyond: the absolute statistic of a ratio minus the critical value, as in `_score_excess`.
        estimate: the estimated ratio, at which `beyond` is negative.
        side: 1 for the upper end of the interval, -1 for the lower.
        scans: whether to search for the farthest of several zeros near the estimate. With clusters
            there may be several, since the statistic may fall again where a value that was not seen
            gets weight.
    """
    steps = (*_SCANNED, *_DOUBLED[5:]) if scans else _DOUBLED
    inside = 0.0
    for step in steps:
        if beyond(estimate + side * step) < 0:
            inside = step
        elif not scans or step > _SCANNED[-1]:
            break
    outside = next((step for step in steps if step > inside), None)
    if outside is None:
        return side * math.inf
    root = optimize.brentq(
        lambda far: beyond(estimate + side * far), inside, outside, xtol=1e-10, rtol=1e-12
    )
    return float(estimate + side * root)
