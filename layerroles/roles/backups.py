"""Backups: pairs of layers that cost more together than each costs alone.

Where one layer stands in for another, ablating either alone shows nothing. What two single
ablations explain of the pair is taken example by example: an answer that either of them loses is
lost,

    excess = mean(min(score of one, score of the other) - score of both) / (intact - chance)

so two layers that are both needed have no excess, however much each of them hurts. Its interval is
that of harm, a ratio of two means over the same questions; its p on 0/1 scores McNemar's. An
excess says that the two layers do not add up; that one *stands in* for the other is the simplest
reading of it, a model that bears one blow and not two is another.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.results import INTACT, SweepResult, records
from layerroles.results.effects import clustered_p
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
