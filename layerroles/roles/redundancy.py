"""Backups: pairs of layers that cost more together than each costs alone.

Where one layer stands in for another, ablating either alone shows nothing. What two single
ablations explain of the pair is taken example by example: an answer that either of them loses is
lost,

    excess = mean(min(score of one, score of the other) - score of both) / (intact - chance)

so two layers that are both needed have no excess, however much each of them hurts. Its interval is
that of harm, a ratio of two means over the same questions; its p on 0/1 scores McNemar's. An
excess says that the two layers do not add up; that one *stands in* for the other is the simplest
reading of it, a model that bears one blow and not two is another.

Over how many layers harm is spread: the effective number of critical layers.

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

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.results import INTACT, SweepResult, clustered_p, records
from layerroles.roles.harms import CRITICAL, Harms

COLUMNS = [
    *("family", "protocol", "layer", "other", "n", "harm", "harm_low", "harm_high"),
    *("explained", "excess", "excess_low", "excess_high", "p", "p_adjusted", "verdict"),
]
Pair = tuple[int, int]


@dataclass(frozen=True, eq=False)
class _Cost:
    """What a pair costs on one task: harm, what of it neither layer explains, and its p."""

    harm: stats.Contrast
    excess: stats.Contrast
    p: float


def pairs_of(harms: Harms) -> pd.DataFrame:
    """The rows of `Roles.pairs`: pairs of whole layers, under the ablation and `at` of `harms`."""
    effects = _pair_effects(harms.result, harms.ablation, harms.at)
    rows = [
        _row(harms, family, protocol, pair, own)
        for family, protocol in harms.keys
        for pair, own in effects.items()
        if set(pair) <= set(harms.swept)
    ]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    for _, own in frame.groupby(["family", "protocol"], sort=False):
        frame.loc[own.index, "p_adjusted"] = stats.benjamini_hochberg(own["p"].to_numpy(float))
    return frame


def _pair_effects(
    result: SweepResult, ablation: str, at: str
) -> dict[Pair, dict[tuple[str, str], dict[str, Any]]]:
    """Effects of the conditions that ablate two whole layers, by pair, task and protocol."""
    effects = result.effects()
    effects = effects[
        (effects["ablation"] == ablation)
        & (effects["at"] == at)
        & (effects["part"] == "block")
        & effects["layer"].isna()
        & (effects["site"].str.count(r"\+") == 1)
    ]
    found: dict[Pair, dict[tuple[str, str], dict[str, Any]]] = {}
    for row in records(effects):
        one, two = sorted(int(site.removeprefix("L")) for site in row.site.split("+"))
        found.setdefault((one, two), {})[row.task, row.protocol] = row._asdict()
    return found


def _row(
    harms: Harms,
    family: str,
    protocol: str,
    pair: Pair,
    effects: dict[tuple[str, str], dict[str, Any]],
) -> dict[str, Any]:
    tasks = list(harms.measured(family, protocol)["task"])
    row = {"family": family, "protocol": protocol, "layer": pair[0], "other": pair[1]}
    nothing = dict.fromkeys(COLUMNS[4:], float("nan"))
    found = [_task(harms, task, protocol, pair, effects) for task in tasks]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(tasks):
        return {**row, **nothing, "n": 0, "verdict": "not measurable"}
    harm = stats.mean_of([each.harm for each in known])
    excess = stats.mean_of([each.excess for each in known])
    return {
        **row,
        "n": sum(each.excess.n for each in known),
        **dict(zip(("harm", "harm_low", "harm_high"), harm.numbers, strict=True)),
        "explained": harm.value - excess.value,
        **dict(zip(("excess", "excess_low", "excess_high"), excess.numbers, strict=True)),
        "p": min(1.0, len(known) * min(each.p for each in known)),
        "p_adjusted": float("nan"),
        "verdict": _verdict(excess.interval),
    }


def _task(
    harms: Harms,
    task: str,
    protocol: str,
    pair: Pair,
    effects: dict[tuple[str, str], dict[str, Any]],
) -> _Cost | None:
    """What the pair costs on one task; None where it or one of its layers was not measured."""
    both = effects.get((task, protocol))
    singles = [harms.condition(task, protocol, (layer, -1)) for layer in pair]
    if both is None or None in singles or np.isnan(both["harm"]):
        return None
    cell = harms.asked(task, protocol)
    scores = cell.scores.loc[[INTACT, *singles, both["condition"]]]
    known = scores.loc[:, scores.notna().all()]
    intact, one, two, together = known.to_numpy(float)
    alone = np.minimum(one, two)
    examples = list(known.columns)
    chance, clusters = cell.chances_of(examples), cell.clusters_of(examples)
    possible: list[tuple[float, float]] = []
    if stats.is_binary(intact, alone, together):
        skills = (-float(chance.max()), 1 - float(chance.min()))
        possible = [(lost, skill) for lost in (-1.0, 1.0) for skill in skills]
        p = stats.paired_binary(alone, together).p
    else:
        p = stats.sign_flip_p(together - alone, harms.rng(f"{task} {pair}"))
    questions = [cell.questions.get(str(example), str(example)) for example in examples]
    excess = stats.ratio_contrast(
        questions, alone - together, intact - chance, possible, clusters=clusters
    )
    p = clustered_p(p, alone - together, clusters)
    return _Cost(cell.harm({str(both["condition"]): 1.0}), excess, p)


def _verdict(excess: stats.Interval) -> str:
    if excess.low > CRITICAL:
        return "backup"
    return "none" if excess.high < CRITICAL else "undecided"


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
