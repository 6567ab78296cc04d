"""Examples that come in clusters, such as the questions behind one set of worked examples.

Examples of a cluster are not independent: what a set of worked examples, or a template, does to one
of them it does to the others. An interval for independent examples is then too narrow. It is made
as if there were fewer examples, by the design effect, the variance between clusters over that of
independent examples (E. L. Korn and B. I. Graubard, Survey Methodology 24:193, 1998), and by
Student's t with one degree of freedom less than there are clusters. The variance between few
clusters is often estimated too low where few answers changed; it is raised by a share of 4 over the
number of clusters, with which the intervals cover in simulation (docs/statistics.md).
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
    """The sums of values over the examples of each cluster, in order of first appearance."""
    places, names = pd.factorize(np.asarray(clusters, dtype=object))
    member = np.zeros((values.shape[-1], len(names)))
    member[np.arange(len(places)), places] = 1.0
    totals: np.ndarray = values @ member
    return totals


def are_clusters(clusters: Clusters | None) -> bool:
    """Whether there are two clusters or more, one of which holds several examples."""
    return clusters is not None and 1 < len(set(clusters)) < len(clusters)


def cluster_p(change: Float[np.ndarray, " example"], clusters: Clusters) -> float:
    """The two-sided p that a mean is 0, by Student's t on the totals of clusters.

    NaN where all totals are the same.
    """
    totals = cluster_totals(change, clusters)
    spread = totals.std(ddof=1)
    if not spread > 0:
        return math.nan
    t = abs(totals.mean()) / spread * math.sqrt(len(totals))
    return float(2 * stats.t.sf(t, len(totals) - 1))


def design_effect(residuals: Float[np.ndarray, " example"], clusters: Clusters) -> float:
    """By how much clusters raise the variance of a mean, at least 1.

    Args:
        residuals: of the examples; their sum is 0.
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
    """The smallest interval that holds all of those that are known."""
    known = [interval for interval in intervals if not math.isnan(interval.low)]
    if not known:
        return intervals[0]
    return Interval(
        min(interval.low for interval in known), max(interval.high for interval in known)
    )
