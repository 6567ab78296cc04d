"""Determine which ablations of a result are of distinct kinds.

A kind is a mechanism: deletion, mean, resample or noise. Ablations with one mechanism, such as
`Skip` and `Zero`, are one kind; so are two that give the same answers, regardless of their names.
An ablation that declares no mechanism does not count as a kind in the evidence for a claim.
"""

from itertools import combinations

import pandas as pd

from layerroles.results.result import SweepResult
from layerroles.results.task_protocol_cells import INTACT

# Mechanisms of the built-in ablations, for results whose manifest does not name them.
BUILT_IN = {
    "skip": "deletion",
    "zero": "deletion",
    "mean": "mean",
    "resample": "resample",
    "noise": "noise",
}
_PLACE = ["site", "at", "task", "protocol", "example"]
_ANSWER = ["response", "score", "details"]


def mechanisms(result: SweepResult) -> dict[str, str]:
    """Map the name of each ablation to its mechanism; "" if it declares none.

    Two ablations that give the same answers get the same mechanism: that of the first, or that of
    the second if the first declares none.
    """
    declared = BUILT_IN | {
        item["ablation"]: str(item["mechanism"])
        for item in result.manifest.get("conditions", [])
        if "mechanism" in item
    }
    names = [name for name in result.frame["ablation"].unique() if name != INTACT]
    mechanism_of = {str(name): declared.get(name, "") for name in names}
    if len(set(mechanism_of.values())) < 2:
        return mechanism_of
    rows = _number_answers(result.frame)
    for first, second in combinations(mechanism_of, 2):
        if mechanism_of[first] != mechanism_of[second] and _give_same_answers(rows, first, second):
            mechanism_of[first] = mechanism_of[second] = mechanism_of[first] or mechanism_of[second]
    return mechanism_of


def _number_answers(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of ablated answers, with `answer`, `answer_intact` and `moved` added.

    The first two are hashes of the ablated and the intact answer; `moved` says if they differ.
    """
    answer_columns = [name for name in _ANSWER if name in frame]
    rows = frame[["condition", "ablation", *_PLACE]].assign(
        answer=pd.util.hash_pandas_object(frame[answer_columns].astype(str), index=False)
    )
    question_columns = ["task", "protocol", "example"]
    intact = rows.loc[rows["condition"] == INTACT, [*question_columns, "answer"]]
    rows = rows[rows["condition"] != INTACT].merge(
        intact, on=question_columns, how="left", suffixes=("", "_intact")
    )
    return rows.assign(moved=rows["answer"] != rows["answer_intact"])


def _give_same_answers(rows: pd.DataFrame, first: str, second: str) -> bool:
    """Return whether two ablations give the same answers at more than half of their sites.

    Only sites at which at least one of them changes an answer count, or all sites if there are
    none. More than half is enough, so that a copy altered at one site is still the same kind.
    False if they share no site.
    """
    joined = rows[rows["ablation"] == first].merge(rows[rows["ablation"] == second], on=_PLACE)
    if joined.empty:
        return False
    joined = joined.assign(
        same=joined["answer_x"] == joined["answer_y"], moved=joined["moved_x"] | joined["moved_y"]
    )
    sites = joined.groupby(["site", "at"]).agg(same=("same", "all"), moved=("moved", "any"))
    if sites["moved"].any():
        sites = sites[sites["moved"]]
    return bool(sites["same"].mean() > 0.5)
