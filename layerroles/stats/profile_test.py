"""Do two profiles over sites differ? One test for all sites, by random signs of the questions.

Of each question and site there is a difference, such as the harm in one setting minus that in the
other. If the profiles are the same, a question's differences are as likely with the other sign, at
all sites together. The statistic of a site is the sum of its differences over the root of the sum
of their squares, and that of the profiles the largest over sites: it takes account of how many
sites there are, and of how they move together (J. P. Romano and M. Wolf, JASA 100:94, 2005).
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
    """The p value that two profiles differ at all, and one for each site, not corrected.

    Args:
        differences: per site and question; sites at which one is NaN have no p.
        rng: draws the signs, 19,999 for each question.
        clusters: a name per question; questions of one name have one sign.

    Returns:
        Both at least 1 / 20,000; NaN where no site is known.
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
