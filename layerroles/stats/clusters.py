"""Statistics for examples in clusters, such as questions that share a set of worked examples.

Examples of a cluster are not independent: a set of worked examples, or a template, affects all of
them in the same way. An interval for independent examples is then too narrow. Two corrections widen
it. First, the number of examples is divided by the design effect, the variance between clusters
over that of independent examples (E. L. Korn and B. I. Graubard, Survey Methodology 24:193, 1998).
Second, critical values are those of Student's t with one degree of freedom less than there are
clusters. If few answers changed, the variance between few clusters is often underestimated. So it
is multiplied by 1 + 4 / (number of clusters), a factor with which the intervals reach their nominal
coverage in simulation (docs/statistics.md).
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from layerroles.stats.intervals import Interval

_RAISED = 4.0
# A name per example; examples of one name are a cluster.
Clusters = Sequence[Hashable] | np.ndarray


def cluster_totals(
    values: Float[np.ndarray, "*row example"], clusters: Clusters
) -> Float[np.ndarray, "*row cluster"]:
    """Sum values over the examples of each cluster; clusters are in order of first appearance."""
    places, names = pd.factorize(np.asarray(clusters, dtype=object))
    member = np.zeros((values.shape[-1], len(names)))
    member[np.arange(len(places)), places] = 1.0
    totals: np.ndarray = values @ member
    return totals


def are_clusters(clusters: Clusters | None) -> bool:
    """Return whether there are at least two clusters and at least one holds several examples."""
    return clusters is not None and 1 < len(set(clusters)) < len(clusters)


def cluster_p(change: Float[np.ndarray, " example"], clusters: Clusters) -> float:
    """Return the two-sided p value for a mean of 0, by a t test of the totals of clusters.

    NaN if all totals are equal.
    """
    totals = cluster_totals(change, clusters)
    spread = totals.std(ddof=1)
    if not spread > 0:
        return math.nan
    t = abs(totals.mean()) / spread * math.sqrt(len(totals))
    return float(2 * stats.t.sf(t, len(totals) - 1))


def design_effect(residuals: Float[np.ndarray, " example"], clusters: Clusters) -> float:
    """Return the factor, at least 1, by which clusters raise the variance of a mean.

    Args:
        residuals: one per example, with a sum of 0, such as its value minus the mean.
        clusters: a name per example.
    """
    totals, n = cluster_totals(residuals, clusters), len(residuals)
    within = float((residuals**2).sum()) * n / (n - 1)
    if not within > 0:
        return 1.0
    m = len(totals)
    between = float((totals**2).sum()) * m / (m - 1) * (1 + _RAISED / m)
    return max(1.0, between / within)


def widest(*intervals: Interval) -> Interval:
    """Return the smallest interval that contains all known ones; unknown if none is known."""
    known = [interval for interval in intervals if not math.isnan(interval.low)]
    if not known:
        return intervals[0]
    return Interval(
        min(interval.low for interval in known), max(interval.high for interval in known)
    )
