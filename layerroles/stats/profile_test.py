"""Test whether two profiles over sites differ: one test for all sites, by random sign flips.

A profile is a number, such as harm, for each site (a layer or a head). Each question has a
difference at each site, such as its harm in one setting minus that in the other. If the profiles
are the same, a question's differences with all signs flipped are as likely as the observed ones.
The statistic of a site is the sum of its differences divided by the root of the sum of their
squares. The statistic of the profiles is the largest absolute value over sites, which accounts for
the number of sites and for the correlations between them (J. P. Romano and M. Wolf, JASA 100:94,
2005).
"""

import numpy as np
from jaxtyping import Float

from layerroles.stats.clusters import Clusters, are_clusters, cluster_totals
from layerroles.stats.paired import FLIPS


def profiles_differ_p(
    differences: Float[np.ndarray, "site question"],
    rng: np.random.Generator,
    *,
    clusters: Clusters | None = None,
) -> tuple[float, Float[np.ndarray, " site"]]:
    """Test whether the differences between two profiles are 0 at all sites, by random sign flips.

    Args:
        differences: the difference at each site for each question; sites with NaN are left out.
        rng: the generator of the signs, 19,999 for each question.
        clusters: a name per question; questions with the same name get the same signs.

    Returns:
        The p value for all sites together (NaN if all are left out), and an uncorrected p value for
        each site (NaN if left out). All are at least 1 / 20,000.
    """
    site_p = np.full(len(differences), np.nan)
    known = ~np.isnan(differences).any(axis=1)
    values = differences[known]
    if clusters is not None and are_clusters(clusters):
        values = cluster_totals(values, clusters)
    if not values.size:
        return float("nan"), site_p
    length = np.sqrt((values**2).sum(axis=1))
    length[length < 1e-12] = np.inf  # a site at which no question differs
    units = (values / length[:, None]).astype(np.float32)
    observed = np.abs(units.sum(axis=1))
    largest = np.empty(FLIPS, dtype=np.float32)
    as_far = np.zeros(len(units))
    step = max(1, 4_000_000 // max(1, values.shape[1]))
    for start in range(0, FLIPS, step):
        stop = min(FLIPS, start + step)
        signs = rng.integers(0, 2, size=(stop - start, values.shape[1]), dtype=np.int8)
        statistics = np.abs((2 * signs.astype(np.float32) - 1) @ units.T)
        as_far += (statistics >= observed * (1 - 1e-6)).sum(axis=0)
        largest[start:stop] = statistics.max(axis=1)
    site_p[known] = (1 + as_far) / (1 + FLIPS)
    beyond = int((largest >= observed.max() * (1 - 1e-6)).sum())
    return (1 + beyond) / (1 + FLIPS), site_p
