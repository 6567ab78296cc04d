"""Heads that a family needs: the rule of layers, applied to each head that was ablated alone.

A sweep may ablate hundreds of heads: p values are corrected by Benjamini and Hochberg. A head is
critical where the interval of its harm lies above 0.2, which a single head seldom reaches: others
stand in for it. The heads that matter jointly are found by ablating them jointly.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from layerroles import stats
from layerroles.results import Cell, SweepResult, cells_of, mechanisms, records
from layerroles.roles.claims import number
from layerroles.roles.decision import Finding, Number, row
from layerroles.roles.harms import CRITICAL, Harms, ats_of, single_sites

FEW = "A few heads carry the family"
# Of all heads: "under 5%" of them retrieve (Wu et al., arXiv 2404.15574).
FEW_HEADS = 0.05
# Sets of other heads that have to be harmful, all of them, to say that it is not a few that are.
_FEWEST_DRAWS = 5

COLUMNS = [
    *("ablation", "at", "family", "protocol", "layer", "head", "n", "n_failed"),
    *("harm", "harm_low", "harm_high", "after_first_harm", "after_first_low", "after_first_high"),
    *("gone", "gone_low", "gone_high", "p", "p_adjusted", "verdict"),
]


def heads_of(result: SweepResult, at: str) -> pd.DataFrame:
    """The rows of `Roles.heads`: every kind of ablation that was applied to single heads.

    Args:
        result: a sweep.
        at: the positions at which layers are judged; heads are judged there too where they were
            ablated there, else at `all`, else at the first by name.
    """
    frames = []
    for kind in dict.fromkeys(single_sites(result, "head")["ablation"]):
        there = ats_of(result, kind, "head")
        harms = Harms(result, kind, at if at in there else None, part="head")
        frame = harms.layers().assign(ablation=kind, at=harms.at)
        frames.append(frame.assign(**_p(harms, frame)))
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def _p(harms: Harms, frame: pd.DataFrame) -> dict[str, "pd.Series[float]"]:
    """That a head has an effect in any task of a family, and the same corrected over heads."""
    effects = harms.effects[harms.effects["at"] == harms.at]
    # By Bonferroni over the tasks of a family; most families have one.
    groups = effects.groupby(["family", "protocol", "layer", "head"])["p"]
    least = (groups.min() * groups.count()).clip(upper=1.0).to_dict()
    p = pd.Series(
        [least.get((r.family, r.protocol, r.layer, r.head), float("nan")) for r in records(frame)],
        index=frame.index,
        dtype=float,
    )
    adjusted = p.copy()
    for _, own in frame.groupby(["family", "protocol"], sort=False):
        adjusted[own.index] = stats.benjamini_hochberg(p[own.index].to_numpy())
    return {"p": p, "p_adjusted": adjusted}


def carried_by_few(result: SweepResult, at: str = "all") -> Iterator[dict[str, Any]]:
    """The rows of `Roles.claims` on heads that were ablated together.

    Single heads decide nothing: others stand in for them. Of the sets of heads that were ablated
    together and hold at most 5% of all, the first that shares no head with others that are as large
    in each layer counts as chosen, and those as others (`random_heads(model, ablation,
    like=chosen)`). The claim is about the harm of the chosen set and about how much more that is
    than the others'.
    """
    sets = _joint_sets(result, at)
    kinds = dict.fromkeys(one.ablation for one in sets)
    known = mechanisms(result)
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells_of(result):
        cells.setdefault((cell.family, cell.protocol), []).append(cell)
    for (family, protocol), own in cells.items():
        skilled = [cell for cell in own if cell.has_skill]
        found: list[Finding] = []
        heads: frozenset[str] = frozenset()
        for kind in kinds if skilled else ():
            asked = [one for one in sets if one.ablation == kind and _asked(one, skilled)]
            group = _chosen(asked, heads)
            if group:
                heads = group[0].heads
                found.append(_few(skilled, known.get(kind, ""), *group))
        if found or (kinds and not skilled):
            missing = "" if skilled else "the intact model has no skill above chance"
            yield row(FEW, family, protocol, missing, found)


@dataclass(frozen=True)
class _HeadSet:
    """A condition that ablates several heads."""

    condition: str
    ablation: str
    heads: frozenset[str]

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """How many heads of each layer."""
        return tuple(sorted(Counter(head.partition(".")[0] for head in self.heads).items()))


def _joint_sets(result: SweepResult, at: str) -> list[_HeadSet]:
    model = result.manifest.get("model", {})
    most = FEW_HEADS * int(model.get("n_heads", 0)) * int(model.get("n_layers", 0))
    rows = result.frame[["condition", "ablation", "at", "part", "site"]].drop_duplicates()
    rows = rows[(rows["part"] == "head") & rows["site"].str.contains("+", regex=False)]
    ats = set(rows["at"])
    where = at if at in ats else "all" if "all" in ats else next(iter(sorted(ats)), "")
    found = [
        _HeadSet(row.condition, row.ablation, frozenset(row.site.split("+")))
        for row in records(rows[rows["at"] == where])
    ]
    order = [str(item["name"]) for item in result.manifest.get("conditions", [])]
    place = {name: index for index, name in enumerate(order)}
    found.sort(key=lambda one: place.get(one.condition, len(place)))
    return [one for one in found if len(one.heads) <= most]


def _asked(heads: _HeadSet, cells: Sequence[Cell]) -> bool:
    """Whether a set of heads was ablated in all of some cells."""
    return all(heads.condition in cell.conditions.index for cell in cells)


def _chosen(
    sets: Sequence[_HeadSet], heads: frozenset[str]
) -> tuple[_HeadSet, list[_HeadSet]] | None:
    """The set that was chosen, and as many others of each of its layers; None if there is none.

    Args:
        sets: of one kind of ablation.
        heads: those that another kind chose; any if empty.
    """
    for one in sets:
        if heads and one.heads != heads:
            continue
        alike = [other for other in sets if other != one and other.layers == one.layers]
        if len(alike) > 1 and all(not one.heads & other.heads for other in alike):
            return one, alike
    return None


def _few(
    cells: Sequence[Cell], mechanism: str, chosen: _HeadSet, others: Sequence[_HeadSet]
) -> Finding:
    """What the chosen heads cost together, and how much more than as many others do."""
    own = Number("harm", _joint(cells, {chosen.condition: 1.0}), smallest=CRITICAL)
    beyond = Number("more than others", _beyond(cells, chosen, others))
    each = [_joint(cells, {other.condition: 1.0}) for other in others]
    mean = _joint(cells, {other.condition: 1 / len(others) for other in others})
    # Other heads may carry it than those that were chosen, unless any do.
    all_matter = all(other.interval.low > CRITICAL for other in each)
    sign = min(own.sign, beyond.sign)
    if sign < 0 and not (beyond.sign < 0 and all_matter and len(others) >= _FEWEST_DRAWS):
        sign = 0
    words = (
        f"{chosen.ablation}: {len(chosen.heads)} heads together cost "
        f"{number(*own.measured.numbers)} (to exceed {CRITICAL}), {len(others)} sets of as many "
        f"others of their layers {number(*mean.numbers)} on average, "
        f"difference {number(*beyond.measured.numbers)}"
    )
    numbers = tuple(record for one in (own, beyond) for record in one.records(chosen.ablation))
    return Finding(chosen.ablation, mechanism, sign, words, numbers, beyond.needed)


def _joint(cells: Sequence[Cell], weights: Mapping[str, float]) -> stats.Contrast:
    """A weighted sum of the harms of conditions, the mean over tasks."""
    return stats.mean_of([cell.harm(weights) for cell in cells])


def _beyond(cells: Sequence[Cell], chosen: _HeadSet, others: Sequence[_HeadSet]) -> stats.Contrast:
    """Harm of the chosen set minus the mean of the others', whose draw counts as a draw."""
    share = {other.condition: -1 / len(others) for other in others}
    asked = _joint(cells, {chosen.condition: 1.0} | share)
    drawn = [_joint(cells, {other.condition: 1.0}).value for other in others]
    m = len(drawn)
    reach = float(student.isf((1 - stats.LEVEL) / 2, m - 1)) * float(np.std(drawn, ddof=1))
    reach /= math.sqrt(m)
    value, low, high = asked.numbers
    wide = stats.Interval(
        value - math.hypot(value - low, reach), value + math.hypot(high - value, reach)
    )
    return dataclasses.replace(asked, interval=wide)
