"""The verdict on a harm: the first region in the table below that contains its interval.

Harm is the share of the skill above chance that an ablation removes; negative if it adds skill. The
regions overlap and cover all numbers, so every true harm lies inside a region, and enough questions
decide any verdict. A verdict is wrong if the true harm lies outside its region.

| verdict | harm |
| --- | --- |
| critical | above 0.2 |
| spare | from -0.1 to 0.1 |
| partial | between 0 and 0.4 |
| helps | below 0: without the layer, the model does better |
| undecided | none of these, yet |
"""

import math
from dataclasses import dataclass

from layerroles import stats

CRITICAL = 0.2
SPARE = 0.1
PARTIAL = 0.4
UNDECIDED = "undecided"


@dataclass(frozen=True)
class Region:
    """A range of harm, and the verdict that claims that the true harm lies in this range.

    Attributes:
        verdict: the verdict.
        low: the lower bound; the region is open there unless `closed`.
        high: the upper bound; the region is open there unless `closed`.
        closed: whether the bounds belong to the region.
    """

    verdict: str
    low: float
    high: float
    closed: bool = False

    def holds(self, interval: stats.Interval) -> bool:
        """Return whether a whole interval lies in the region."""
        if self.closed:
            return bool(self.low <= interval.low and interval.high <= self.high)
        return bool(self.low < interval.low and interval.high < self.high)


# In order: the first region that holds the whole interval of a harm gives the verdict.
REGIONS = (
    Region("critical", CRITICAL, math.inf),
    Region("spare", -SPARE, SPARE, closed=True),
    Region("partial", 0.0, PARTIAL),
    Region("helps", -math.inf, 0.0),
)


def judge_interval(interval: stats.Interval) -> str:
    """Return the verdict on a harm with this interval; "undecided" if no region holds it.

    Example:
        >>> judge_interval(stats.Interval(0.25, 0.6)), judge_interval(stats.Interval(0.1, 0.6))
        ('critical', 'undecided')
    """
    return next((region.verdict for region in REGIONS if region.holds(interval)), UNDECIDED)


def count_needed(harm: stats.Contrast, n: int) -> float:
    """Return how many questions would decide an undecided harm if its value stayed the same.

    A harm is undecided while its interval lies in no region of `REGIONS`. The width of the interval
    is assumed to shrink with the square root of the number of questions; in a fixed number of
    clusters it shrinks more slowly. NaN if the harm has a verdict or is not known; infinite if a
    bound of its interval is infinite.

    Args:
        harm: the harm, measured on `n` questions.
        n: the number of questions.
    """
    if not harm.known or judge_interval(harm.interval) != UNDECIDED:
        return math.nan
    below, above = harm.value - harm.interval.low, harm.interval.high - harm.value
    if math.isinf(below) or math.isinf(above):
        return math.inf
    factors = [
        max(_shrink(below, harm.value - region.low), _shrink(above, region.high - harm.value))
        for region in REGIONS
    ]
    return n * min(factors) ** 2


def _shrink(reach: float, room: float) -> float:
    """Return the factor by which one side of an interval has to shrink to end inside a region.

    Args:
        reach: the distance from the estimate to the interval's bound on that side.
        room: the distance from the estimate to the region's bound; not above 0 if the estimate lies
            outside, and the factor is then infinite.
    """
    if math.isinf(room):
        return 0.0
    return reach / room if room > 0 else math.inf
