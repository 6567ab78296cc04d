r"""Over how many layers harm is spread: the effective number of critical layers.

The participation ratio of harm `h` over layers:

    N = (sum_l h_l)^2 / sum_l h_l^2

It is k where k layers share the harm evenly and the rest have none, and `n_layers / (1 + c^2)` in
general, with c the coefficient of variation of harm over layers. A layer whose ablation helps
counts against the rest; sinks are left out, since they are not critical.

Harm is measured with noise, and squares of noise add up: at 32 examples five layers of harm .3
among 30 would come out as 4.4. So the expected square of the noise is taken out of both sums,

    N = ((sum_l h_l)^2 - Var(sum_l h_l)) / sum_l (h_l^2 - Var(h_l)),

which makes each an unbiased (U-) statistic. Where the denominator is not above 0 by its interval,
no harm is shown and there is no N. Bootstrap draws scatter around the biased ratio, so the noise is
taken out of them twice. Their distribution is skewed: the interval reaches to both sides of N as
far as the farther percentile lies from it, which covered the truth in 96% of trials or more, over
one to 30 layers of harm .1 to 1 at 32 and 96 examples (the percentiles alone: 71%, for two layers
of harm 1 at 32).
"""

import numpy as np
from jaxtyping import Float

from layerroles import stats
from layerroles.results import INTACT
from layerroles.roles.harms import Harms

DRAWS = 2000
_UNKNOWN = (float("nan"), stats.UNKNOWN)


def effective_number(
    harms: Harms, family: str, protocol: str, *, leave_out: list[int]
) -> tuple[float, stats.Interval]:
    """The effective number of layers over which a family's harm is spread, under one protocol.

    Args:
        harms: of the layers swept.
        family: a family.
        protocol: a protocol.
        leave_out: layers that do not count, such as sinks.

    Returns:
        Between 0 and the number of layers that count, with a 95% bootstrap interval in which all
        layers share the examples drawn. NaN where harm is not defined, or none is shown; the
        interval also where not one example varies.
    """
    found = _draws(harms, family, protocol)
    counted = [place for place, (layer, _) in enumerate(harms.places) if layer not in leave_out]
    n = int(harms.measured(family, protocol)["n"].min()) if found is not None else 0
    n = min([n, *(_independent(harms, task, protocol) for task in harms.tasks(family, protocol))])
    if found is None or not counted or n < 2:
        return _UNKNOWN
    harm, draws = found[0][counted], found[1][:, counted]
    if np.isnan(draws).any():
        return _UNKNOWN
    # The bootstrap's variance is that of a mean, short by (n - 1) / n.
    of_sum = float(draws.sum(axis=1).var()) * n / (n - 1)
    of_squares = float(draws.var(axis=0).sum()) * n / (n - 1)
    squares = (draws**2).sum(axis=1) - 2 * of_squares
    if not stats.percentile_interval(squares, n).low > 0:
        return _UNKNOWN
    most = float(len(counted))
    number = (float(harm.sum()) ** 2 - of_sum) / (float(harm @ harm) - of_squares)
    drawn = stats.percentile_interval((draws.sum(axis=1) ** 2 - 2 * of_sum) / squares, n)
    reach = max(number - drawn.low, drawn.high - number)
    number = float(np.clip(number, 0, most))
    if not reach > 1e-9:  # every example the same
        return number, stats.UNKNOWN
    return number, stats.Interval(max(0.0, number - reach), min(most, number + reach))


def _independent(harms: Harms, task: str, protocol: str) -> int:
    """The number of clusters, questions in none among them."""
    cell = harms.asked(task, protocol)
    return len(set(cell.clusters_of(list(cell.scores.columns))))


def _draws(
    harms: Harms, family: str, protocol: str
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, "resample layer"]] | None:
    """Harm of every layer, as measured and resampled, NaN where it is undefined.

    All layers share the examples that are drawn, and each task is resampled within itself. The
    skill by which effects are divided is held fixed: it cancels out. None if no task has skill.
    """
    found, draws = [], []
    for task in harms.tasks(family, protocol):
        scores = harms.scores(task, protocol)
        ablated = np.full((len(harms.places), scores.shape[1]), np.nan)
        for index, place in enumerate(harms.places):
            name = harms.condition(task, protocol, place)
            if name is not None and harms.did_act(task, protocol, name):
                ablated[index] = scores.loc[name].to_numpy(float)
        lost = (scores.loc[INTACT].to_numpy(float) - ablated) / harms.skill(task, protocol)
        clusters = harms.asked(task, protocol).clusters_of(list(scores.columns))
        counts = stats.resampled_counts(lost.shape[1], harms.rng(task), DRAWS, clusters=clusters)
        means = stats.resampled_means(lost, np.vstack([np.ones(lost.shape[1]), counts]))
        found.append(means[0])
        draws.append(means[1:])
    return (np.mean(found, axis=0), np.mean(draws, axis=0)) if found else None
