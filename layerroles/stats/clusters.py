"""Statistics for examples in clusters, such as questions that share a template.

Examples of a cluster are not independent: a template, or a set of worked examples, affects all of
them in the same way. An interval for independent examples is then too narrow. Three corrections
widen it. First, variances are multiplied by the design effect, the variance between clusters over
that of independent examples (E. L. Korn and B. I. Graubard, Survey Methodology 24:193, 1998), with
the bias-reduced estimate of the variance between clusters (CR2: R. M. Bell and D. F. McCaffrey,
Survey Methodology 28:169, 2002). Second, critical values are those of Student's t. Its degrees of
freedom are Satterthwaite's, for the estimated correlation within clusters (G. W. Imbens and M.
Kolesar, Review of Economics and Statistics 98:701, 2016); for clusters of equal size, they are the
number of clusters minus one. Third, a change of the score that is rare in the sample may be common
in clusters that were not sampled. So the design effect of such changes is shrunk toward the size of
a cluster (see `ratio_score_test.Clustering`).
"""

import math
from collections import Counter
from collections.abc import Hashable, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats

from layerroles.stats.intervals import Interval
from layerroles.stats.ratio_score_test import DIGITS, Clustering, ValuePair, score

# A name per example; the examples with the same name form a cluster.
Clusters = Sequence[Hashable] | np.ndarray


def cluster_totals(
    values: Float[np.ndarray, "*row example"], clusters: Clusters
) -> Float[np.ndarray, "*row cluster"]:
    """Return the sum of values over each cluster; clusters are in order of first appearance."""
    places, names = pd.factorize(np.asarray(clusters, dtype=object))
    member = np.zeros((values.shape[-1], len(names)))
    member[np.arange(len(places)), places] = 1.0
    totals: np.ndarray = values @ member
    return totals


def are_clusters(clusters: Clusters | None) -> bool:
    """Return whether there are two or more clusters, at least one of them with several examples."""
    return clusters is not None and 1 < len(set(clusters)) < len(clusters)


def cluster_p(
    change: Float[np.ndarray, " example"],
    clusters: Clusters,
    bounds: ValuePair | None = None,
) -> float:
    """Return the two-sided p value of the null hypothesis that the mean of `change` is 0.

    If the values are bounded, the test is the score test that `stats.clustered` inverts. Otherwise
    it is a t test of the cluster totals; the p value is NaN if all totals are equal.

    Args:
        change: the value of each example.
        clusters: a name per example; examples with the same name are not independent.
        bounds: the smallest and the largest possible value; None if values are not bounded.
    """
    clustering = measure_clustering(change - change.mean(), clusters)
    if bounds is not None:
        n, counts = len(change), Counter(change.round(DIGITS).tolist())
        t = score(list(counts.values()), list(counts), bounds, clustering)
        return float(2 * stats.t.sf(abs(t) * math.sqrt((n - 1) / n), clustering.df))
    totals = cluster_totals(change, clusters)
    spread = totals.std(ddof=1)
    if not spread > 0:
        return math.nan
    t = abs(totals.mean()) / spread * math.sqrt(len(totals))
    return float(2 * stats.t.sf(t, clustering.df))


def design_effect(residuals: Float[np.ndarray, " example"], clusters: Clusters) -> float:
    """Return the factor, at least 1, by which clusters raise the variance of a mean.

    Args:
        residuals: one per example, summing to 0, such as each value minus the mean of all.
        clusters: a name per example.
    """
    return measure_clustering(residuals, clusters).design


def measure_clustering(residuals: Float[np.ndarray, " example"], clusters: Clusters) -> Clustering:
    """Estimate how clusters affect the variance of a mean.

    The variance between clusters is the sum, over clusters, of `total**2 / (1 - size / n)`. Here
    `total` is the sum of the cluster's residuals, `size` is its number of examples, and the divisor
    corrects for residuals varying less than errors. The degrees of freedom are those of a sum of
    independent squares, one for each cluster, minus one for the mean.

    Args:
        residuals: one per example, summing to 0, such as each value minus the mean of all.
        clusters: a name per example; with one cluster, or one example in each, the design effect
            is 1.
    """
    n = len(residuals)
    if not are_clusters(clusters):
        return Clustering(design=1.0, below=1.0, above=1.0, size=1.0, df=n - 1.0)
    parts = np.array([residuals, residuals.clip(max=0), residuals.clip(min=0)])
    parts -= parts.mean(axis=1, keepdims=True)
    sizes = cluster_totals(np.ones(n), clusters)
    between = (cluster_totals(parts, clusters) ** 2 / (1 - sizes / n)).sum(axis=1)
    within = (parts**2).sum(axis=1) * n / (n - 1)
    design, below, above = (
        max(1.0, b / w) if w > 0 else 1.0
        for b, w in zip(between.tolist(), within.tolist(), strict=True)
    )
    size = float((sizes**2).sum() / n)
    correlation = min(1.0, (design - 1) / (size - 1))
    spread = sizes * (1 + (sizes - 1) * correlation)
    df = max(1.0, float(spread.sum() ** 2 / (spread**2).sum()) - 1)
    return Clustering(design, below, above, size, df)


def widest(*intervals: Interval) -> Interval:
    """Return the smallest interval that contains all known intervals; unknown if none is known."""
    known = [interval for interval in intervals if not math.isnan(interval.low)]
    if not known:
        return intervals[0]
    return Interval(
        min(interval.low for interval in known), max(interval.high for interval in known)
    )
