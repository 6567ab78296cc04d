"""How many of a finite population are so, told from a random sample of it.

Of `population` things `drawn` were looked at, without replacement, and `hits` of them are so. Each
total that is not far too large or too small for that by the hypergeometric distribution is in the
interval (each tail at most 2.5%): it covers the truth in 95% of samples or more, never collapses
where only a part was seen, and is the number itself where all were.
"""

import numpy as np
from scipy import stats

from layerroles.stats.intervals import LEVEL, UNKNOWN, Interval


def sampled_total(hits: int, drawn: int, population: int) -> tuple[float, Interval]:
    """Estimate how many of a population are so; NaN where none of it was looked at.

    Raises:
        ValueError: counts that cannot be.

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
