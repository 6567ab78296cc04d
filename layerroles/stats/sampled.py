"""Hypergeometric interval for a count in a finite population.

Of `population` items, `drawn` were sampled without replacement, and `hits` of them have a property.
The interval holds each total for which `hits` lies outside both 2.5% tails of the hypergeometric
distribution. It covers the truth in 95% of samples or more, does not collapse to a point where only
a part was sampled, and is the count itself where all were.
"""

import numpy as np
from scipy import stats

from layerroles.stats.intervals import LEVEL, UNKNOWN, Interval


def sampled_total(hits: int, drawn: int, population: int) -> tuple[float, Interval]:
    """Estimate how many items of a population have the property; NaN if none was sampled.

    Raises:
        ValueError: impossible counts.

    Example:
        >>> sampled_total(0, 20, 240)
        (0.0, Interval(low=0.0, high=38.0))
    """
    if not 0 <= hits <= drawn <= population:
        raise ValueError(f"no sample of {drawn} of {population} has {hits} hits")
    if population == 0:
        return 0.0, Interval(0.0, 0.0)
    if drawn == 0:
        return float("nan"), UNKNOWN
    totals = np.arange(hits, population - (drawn - hits) + 1)
    as_few = stats.hypergeom.cdf(hits, population, totals, drawn)
    as_many = stats.hypergeom.sf(hits - 1, population, totals, drawn)
    kept = totals[np.minimum(as_few, as_many) > (1 - LEVEL) / 2]
    return hits / drawn * population, Interval(float(kept.min()), float(kept.max()))
