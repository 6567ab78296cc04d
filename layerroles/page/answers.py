"""Changed answers for the still part of the page: the first few of the layers that hurt most."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from layerroles.figures import select
from layerroles.results import SweepResult
from layerroles.roles import Roles

_LAYERS_SHOWN, _ANSWERS_SHOWN = 3, 2  # layers per task, examples per layer


def changed(result: SweepResult, effects: pd.DataFrame, roles: Roles) -> Iterator[dict[str, Any]]:
    """Yield per task the answers that the worst layers changed, by generation if it was run."""
    single = effects[effects["layer"].notna() & (effects["part"] == "block")]
    single = single[(single["ablation"] == roles.ablation) & single["effect"].notna()]
    for task in dict.fromkeys(single["task"]):
        cell = single[single["task"] == task]
        protocols = list(dict.fromkeys(cell["protocol"]))
        protocol = [*select.written(protocols), *protocols][0]
        cell = cell[cell["protocol"] == protocol]
        family = cell["family"].iloc[0]
        layers = []
        for line in _worst(cell, roles, family, protocol).to_dict("records"):
            rows = result.changed_answers(line["condition"], task, protocol)
            if len(rows):
                shown = rows.head(_ANSWERS_SHOWN).to_dict("records")
                layers.append({**line, "total": len(rows), "answers": shown})
        if layers:
            yield {"task": task, "family": family, "protocol": protocol, "layers": layers}


def _worst(cell: pd.DataFrame, roles: Roles, family: str, protocol: str) -> pd.DataFrame:
    """The layers that hurt a task most, those that break everything left out where others are."""
    row = roles.frame[(roles.frame["family"] == family) & (roles.frame["protocol"] == protocol)]
    general = set(row["general"].iloc[0]) if len(row) else set()
    spared, hurts = cell["at"] == "after_first", cell["ci_high"] < 0
    own = ~cell["layer"].isin(general)
    for choice in (spared & hurts & own, spared & hurts, hurts & own, hurts):
        if choice.any():
            return cell[choice].nsmallest(_LAYERS_SHOWN, "effect").sort_values("layer")
    return cell.iloc[:0]
