"""Heads that a family needs: the rule of layers, applied to each head that was ablated alone.

A sweep may ablate hundreds of heads: p values are corrected by Benjamini and Hochberg. A head is
critical where the interval of its harm lies above 0.2, which a single head seldom reaches: others
stand in for it. The heads that matter jointly are found by ablating them jointly.
"""

import pandas as pd

from layerroles import stats
from layerroles.results import SweepResult, records
from layerroles.roles.harms import Harms, ats_of, single_sites

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
