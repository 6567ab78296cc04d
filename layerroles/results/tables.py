"""What a protocol measured beside the score, as a tidy frame.

The noise floor: intact against intact under another batch shape.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from layerroles import stats

_KEYS = ["condition", "task", "protocol", "example"]
MEASURE_COLUMNS = [*_KEYS, "measure", "step", "value"]


def measures_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per number; see `SweepResult.measures`."""
    rows = []
    # Runs of earlier versions have no such column.
    if "details" in frame:
        for *key, details in frame[[*_KEYS, "details"]].itertuples(index=False):
            if isinstance(details, str) and details:
                rows += [(*key, *found) for found in _numbers(json.loads(details))]
    return pd.DataFrame(rows, columns=MEASURE_COLUMNS).astype({"step": "Int64", "value": float})


def _numbers(details: dict[str, Any]) -> Iterator[tuple[str, int | None, float]]:
    for measure, value in details.items():
        listed = isinstance(value, list)
        for step, each in enumerate(value if listed else [value]):
            # A list keeps its places, so that what is not known in it is NaN.
            if isinstance(each, int | float):
                yield measure, step if listed else None, float(each)
            elif listed and each is None:
                yield measure, step, math.nan


NOISE_COLUMNS = [
    *("task", "protocol", "n", "n_changed", "changed", "changed_low", "changed_high"),
    *("intact", "score", "effect", "unit"),
]


def noise_of(manifest: dict[str, Any], tasks: set[str]) -> pd.DataFrame:
    """A row per task and protocol that was asked twice; see `SweepResult.noise_floor`."""
    cells = {(cell["task"], cell["protocol"]): cell for cell in manifest.get("cells", [])}
    rows = []
    for line in manifest.get("noise_floor") or []:
        if line["task"] not in tasks:
            continue
        n, n_changed = int(line["n"]), int(line["n_changed"])
        share = stats.wilson(n_changed, n)
        rows.append(
            {
                "task": line["task"],
                "protocol": line["protocol"],
                "n": n,
                "n_changed": n_changed,
                "changed": n_changed / n if n else float("nan"),
                "changed_low": share.low,
                "changed_high": share.high,
                "intact": _number(line["intact"]),
                "score": _number(line["score"]),
                "effect": _number(line["score"]) - _number(line["intact"]),
                "unit": cells.get((line["task"], line["protocol"]), {}).get("unit", "accuracy"),
            }
        )
    return pd.DataFrame(rows, columns=NOISE_COLUMNS)


def _number(value: float | None) -> float:
    return float("nan") if value is None else float(value)
