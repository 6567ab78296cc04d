"""Do several draws of examples rank the sites alike?"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from jaxtyping import Float

from layerroles.stats.intervals import UNKNOWN, Interval, percentile_interval, resampled_counts
from layerroles.stats.profiles import DRAWS, resampled_means, spearman

_FEWEST_SITES = 3


def rank_stability(
    draws: Sequence[Float[np.ndarray, "site _"]], rng: np.random.Generator
) -> tuple[float, Interval]:
    """Spearman's correlation of mean scores between draws, over all pairs, with an interval.

    The examples of each draw are resampled by themselves, since draws share none. Resampling adds
    noise to noise, which lowers a rank correlation, so the interval reaches to both sides as far as
    the farther percentile does (see `profile_agreement`). NaN for fewer than 2 draws or 3 sites, or
    where a draw's scores are all alike.

    Args:
        draws: scores per site and example of each draw, NaN where unknown; the same sites in all.
        rng: resamples.

    Raises:
        ValueError: draws of different sites.
    """
    if len({len(scores) for scores in draws}) > 1:
        raise ValueError("the draws are of different numbers of sites")
    if len(draws) < 2 or len(draws[0]) < _FEWEST_SITES or min(s.shape[1] for s in draws) == 0:
        return float("nan"), UNKNOWN
    once = [resampled_means(scores, np.ones((1, scores.shape[1]))) for scores in draws]
    again = [
        resampled_means(scores, resampled_counts(scores.shape[1], rng, DRAWS)) for scores in draws
    ]
    rho = float(_mean_correlation(once)[0])
    n = min(scores.shape[1] for scores in draws)
    drawn = percentile_interval(_mean_correlation(again), n)
    if np.isnan([rho, drawn.low]).any():
        return rho, UNKNOWN
    reach = max(rho - drawn.low, drawn.high - rho)
    return rho, Interval(max(-1.0, rho - reach), min(1.0, rho + reach))


def _mean_correlation(
    means: list[Float[np.ndarray, "resample site"]],
) -> Float[np.ndarray, " resample"]:
    found: np.ndarray = np.mean([spearman(a, b) for a, b in combinations(means, 2)], axis=0)
    return found
