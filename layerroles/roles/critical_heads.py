"""Find the heads that a family needs, by ablating heads one at a time or jointly.

Heads get verdicts by the same rules as layers: a head is critical if the interval of its harm lies
above 0.2. A sweep may ablate hundreds of heads, so their p values are corrected by the method of
Benjamini and Hochberg (`heads_of`). The harm of a single head is seldom above 0.2, since other
heads stand in for it. Heads that matter jointly are found by ablating them jointly
(`carried_by_few`).
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import t as student

from layerroles import stats
from layerroles.results import (
    CRITICAL,
    Cell,
    SweepResult,
    cells_of,
    group_by_family,
    mean_harm,
    mechanisms,
    records,
)
from layerroles.roles.claim_findings import Finding, Number
from layerroles.roles.claim_status import Claim
from layerroles.roles.harms import Harms, ablations_swept, positions_swept
from layerroles.roles.layer_verdicts import tabulate_verdicts
from layerroles.roles.sentence_parts import format_estimate

FEW = "A few heads carry the family"
# Largest share of all heads that counts as few: "under 5%" retrieve (Wu et al., arXiv 2404.15574).
FEW_HEADS = 0.05
# The claim on few heads can be contradicted only with this many sets of other heads, all harmful.
_FEWEST_DRAWS = 5
COLUMNS = [
    *("ablation", "at", "family", "protocol", "layer", "head", "n", "n_failed"),
    *("harm", "harm_low", "harm_high", "after_first_harm", "after_first_low", "after_first_high"),
    *("gone", "gone_low", "gone_high", "p", "p_adjusted", "verdict"),
]


def heads_of(result: SweepResult, at: str) -> pd.DataFrame:
    """Return the table `Roles.heads`: harm and verdict of each head that was ablated alone.

    Empty if no head was ablated alone. For an unfinished run, every measured head is undecided, and
    `attrs["interim"]` of the table says how much of the run is done.

    Args:
        result: a sweep.
        at: the ablation positions on which verdicts on layers rest. Verdicts on heads rest on the
            same positions if heads were ablated there, else on `all`, else on the first by name.
    """
    frames = []
    for kind in ablations_swept(result, "head"):
        positions = positions_swept(result, kind, "head")
        harms = Harms(result, kind, at if at in positions else None, part="head")
        frame = tabulate_verdicts(harms).assign(ablation=kind, at=harms.at)
        frames.append(frame.assign(**_p_values(harms, frame)))
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    heads = pd.concat(frames, ignore_index=True)[COLUMNS]
    heads.attrs["interim"] = result.interim  # for the heading of its figure
    return heads


def _p_values(harms: Harms, frame: pd.DataFrame) -> dict[str, "pd.Series[float]"]:
    """Return the columns `p` and `p_adjusted` for a table of heads, with the index of `frame`.

    `p` tests whether a head has an effect on any task of a family; `p_adjusted` is corrected over
    heads.
    """
    effects = harms.effects[harms.effects["at"] == harms.at]
    # By Bonferroni over the tasks of a family; most families have one.
    groups = effects.groupby(["family", "protocol", "layer", "head"])["p"]
    smallest = (groups.min() * groups.count()).clip(upper=1.0).to_dict()
    p = pd.Series(
        [
            smallest.get((r.family, r.protocol, r.layer, r.head), float("nan"))
            for r in records(frame)
        ],
        index=frame.index,
        dtype=float,
    )
    adjusted = p.copy()
    for _, rows in frame.groupby(["family", "protocol"], sort=False):
        adjusted[rows.index] = stats.benjamini_hochberg(p[rows.index].to_numpy())
    return {"p": p, "p_adjusted": adjusted}


def carried_by_few(result: SweepResult, at: str = "all") -> Iterator[Claim]:
    """Yield the claim that a few heads carry a family, for each family and protocol.

    The harm of single heads cannot decide the claim, since other heads stand in for them. So sets
    of heads that were ablated jointly are compared, each of at most 5% of all heads. The chosen set
    is the first in the sweep for which two or more other sets have as many heads in each layer, and
    none of these shares a head with it. `random_heads(model, ablation, like=chosen)` makes such
    sets. The claim is about the harm of the chosen set, and about the excess of this harm over the
    mean harm of the other sets. The positions `at` are chosen as in `heads_of`. Nothing is yielded
    before the run is finished.
    """
    if result.interim:
        return
    sets = _joint_sets(result, at)
    kinds = dict.fromkeys(head_set.ablation for head_set in sets)
    mechanism_of = mechanisms(result) if sets else {}
    for (family, protocol), family_cells in group_by_family(cells_of(result)).items():
        skilled = [cell for cell in family_cells if cell.has_skill]
        findings: list[Finding] = []
        heads: frozenset[str] = frozenset()
        for kind in kinds if skilled else ():
            candidates = [
                head_set
                for head_set in sets
                if head_set.ablation == kind and _was_asked(head_set, skilled)
            ]
            group = _choose_set(candidates, heads)
            if group:
                heads = group[0].heads
                findings.append(_judge_set(skilled, mechanism_of.get(kind, ""), *group))
        if findings or (kinds and not skilled):
            missing = "" if skilled else "the intact model is not shown to be above chance"
            yield Claim(FEW, family, protocol, findings, missing, [(family, protocol)])


@dataclass(frozen=True)
class _HeadSet:
    """A set of heads that one condition ablates jointly.

    Attributes:
        condition: the name of the condition.
        ablation: the kind of ablation.
        heads: the names of the heads, such as "L3.H7".
    """

    condition: str
    ablation: str
    heads: frozenset[str]

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """Pairs of a layer's name, such as "L3", and how many of the heads it has; sorted."""
        return tuple(sorted(Counter(head.partition(".")[0] for head in self.heads).items()))


def _joint_sets(result: SweepResult, at: str) -> list[_HeadSet]:
    model = result.manifest.get("model", {})
    most = FEW_HEADS * int(model.get("n_heads", 0)) * int(model.get("n_layers", 0))
    rows = result.frame[["condition", "ablation", "at", "part", "site"]].drop_duplicates()
    rows = rows[(rows["part"] == "head") & rows["site"].str.contains("+", regex=False)]
    ats = set(rows["at"])
    position = at if at in ats else "all" if "all" in ats else next(iter(sorted(ats)), "")
    sets = [
        _HeadSet(row.condition, row.ablation, frozenset(row.site.split("+")))
        for row in records(rows[rows["at"] == position])
    ]
    order = [str(item["name"]) for item in result.manifest.get("conditions", [])]
    place = {name: index for index, name in enumerate(order)}
    sets.sort(key=lambda head_set: place.get(head_set.condition, len(place)))
    return [head_set for head_set in sets if len(head_set.heads) <= most]


def _was_asked(heads: _HeadSet, cells: Sequence[Cell]) -> bool:
    """Return whether a set of heads was ablated in every cell (task under a protocol)."""
    return all(heads.condition in cell.conditions.index for cell in cells)


def _choose_set(
    sets: Sequence[_HeadSet], heads: frozenset[str]
) -> tuple[_HeadSet, list[_HeadSet]] | None:
    """Return the set to test and the sets to compare it with; None if there is no such set.

    `carried_by_few` says which sets can be compared.

    Args:
        sets: the sets ablated by one kind of ablation, in the order of the sweep.
        heads: the heads chosen under another kind, which have to be chosen here too; empty if none
            were chosen yet.
    """
    for head_set in sets:
        if heads and head_set.heads != heads:
            continue
        alike = [other for other in sets if other != head_set and other.layers == head_set.layers]
        if len(alike) > 1 and all(not head_set.heads & other.heads for other in alike):
            return head_set, alike
    return None


def _judge_set(
    cells: Sequence[Cell], mechanism: str, chosen: _HeadSet, others: Sequence[_HeadSet]
) -> Finding:
    """Return the finding of one ablation on the claim that the chosen heads carry a family.

    To show the claim, the set's harm has to exceed 0.2, and its excess over the mean harm of other
    sets has to exceed the smallest effect.

    Args:
        cells: the family's cells with skill under one protocol, one per task.
        mechanism: the mechanism of the ablation.
        chosen: the set of heads to test.
        others: the sets to compare it with.
    """
    harm = Number("harm", mean_harm(cells, {chosen.condition: 1.0}), smallest=CRITICAL)
    excess = Number("more than others", _excess_over_others(cells, chosen, others))
    harms_of_others = [mean_harm(cells, {other.condition: 1.0}) for other in others]
    mean = mean_harm(cells, {other.condition: 1 / len(others) for other in others})
    # Unless all other sets are harmful too, a few heads other than the chosen may carry the family.
    all_matter = all(other.interval.low > CRITICAL for other in harms_of_others)
    sign = min(harm.sign, excess.sign)
    if sign < 0 and not (excess.sign < 0 and all_matter and len(others) >= _FEWEST_DRAWS):
        sign = 0
    words = (
        f"{chosen.ablation}: {len(chosen.heads)} heads together cost "
        f"{format_estimate(*harm.measured.numbers)} (to exceed {CRITICAL}), {len(others)} sets "
        f"of as many others of their layers {format_estimate(*mean.numbers)} on average, "
        f"difference {format_estimate(*excess.measured.numbers)}"
    )
    numbers = tuple(
        record for number in (harm, excess) for record in number.records(chosen.ablation)
    )
    return Finding(chosen.ablation, mechanism, sign, words, numbers, excess.needed)


def _excess_over_others(
    cells: Sequence[Cell], chosen: _HeadSet, others: Sequence[_HeadSet]
) -> stats.Contrast:
    """Return the harm of the chosen set minus the mean harm of the other sets.

    The interval includes the spread between the other sets, which were drawn at random.
    """
    share = {other.condition: -1 / len(others) for other in others}
    difference = mean_harm(cells, {chosen.condition: 1.0} | share)
    harms_of_others = [mean_harm(cells, {other.condition: 1.0}).value for other in others]
    n_others = len(harms_of_others)
    reach = float(student.isf((1 - stats.LEVEL) / 2, n_others - 1)) * float(
        np.std(harms_of_others, ddof=1)
    )
    reach /= math.sqrt(n_others)
    value, low, high = difference.numbers
    interval = stats.Interval(
        value - math.hypot(value - low, reach), value + math.hypot(high - value, reach)
    )
    return dataclasses.replace(difference, interval=interval)
