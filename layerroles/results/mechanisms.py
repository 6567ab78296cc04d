"""Which ablations of a result are distinct kinds.

A kind is a mechanism: deletion, mean, resample or noise. Ablations with one mechanism, such as
`Skip` and `Zero`, are one kind; so are two that give the same answers, regardless of their names.
An ablation that declares no mechanism is not a kind that a claim can rest on.
"""

from itertools import combinations
from typing import Any

import pandas as pd

from layerroles.results.cells import INTACT
from layerroles.results.result import SweepResult

# Mechanisms of the built-in ablations; runs of earlier versions do not record them.
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
    """Map each ablation of a result to its mechanism; empty if it has none.

    Two ablations with the same answers have one mechanism: what the first one declares, or if it
    declares none the other.
    """
    declared = {item["ablation"]: _declared(item) for item in result.manifest.get("conditions", [])}
    names = [name for name in result.frame["ablation"].unique() if name != INTACT]
    found = {str(name): declared.get(name, BUILT_IN.get(name, "")) for name in names}
    rows = _answers(result.frame)
    for one, two in combinations(found, 2):
        if found[one] != found[two] and _same(rows, one, two):
            found[one] = found[two] = found[one] or found[two]
    return found


def _declared(condition: dict[str, Any]) -> str:
    return str(condition.get("mechanism", BUILT_IN.get(condition["ablation"], "")))


def _answers(frame: pd.DataFrame) -> pd.DataFrame:
    """Number each row's answer, and mark those that differ from the intact one."""
    shown = [name for name in _ANSWER if name in frame]
    rows = frame[["condition", "ablation", *_PLACE]].assign(
        answer=pd.util.hash_pandas_object(frame[shown].astype(str), index=False)
    )
    asked = ["task", "protocol", "example"]
    intact = rows.loc[rows["condition"] == INTACT, [*asked, "answer"]]
    rows = rows[rows["condition"] != INTACT].merge(
        intact, on=asked, how="left", suffixes=("", "_intact")
    )
    return rows.assign(moved=rows["answer"] != rows["answer_intact"])


def _same(rows: pd.DataFrame, one: str, two: str) -> bool:
    """Whether two ablations give the same answers to every example.

    So they count if they do at most of the sites where either changes anything, and at all sites if
    none does: one site at which a copy was altered does not make it another kind.
    """
    both = rows[rows["ablation"] == one].merge(rows[rows["ablation"] == two], on=_PLACE)
    if both.empty:
        return False
    both = both.assign(
        same=both["answer_x"] == both["answer_y"], moved=both["moved_x"] | both["moved_y"]
    )
    sites = both.groupby(["site", "at"]).agg(same=("same", "all"), moved=("moved", "any"))
    if sites["moved"].any():
        sites = sites[sites["moved"]]
    return bool(sites["same"].mean() > 0.5)
