"""Further tables of a result: numbers measured beside the score, and the noise floor.

The noise floor compares the intact model with itself under another batch shape.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

from layerroles import stats

_KEYS = ["condition", "task", "protocol", "example"]
MEASURE_COLUMNS = [*_KEYS, "measure", "step", "value"]
NOISE_COLUMNS = [
    *("task", "protocol", "n", "n_changed", "changed", "changed_low", "changed_high"),
    *("intact", "score", "effect", "unit"),
]


def tabulate_measures(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `SweepResult.measures`."""
    rows = []
    # Runs of earlier versions have no such column.
    if "details" in frame:
        for *key, details in frame[[*_KEYS, "details"]].itertuples(index=False):
            if isinstance(details, str) and details:
                rows += [(*key, *number) for number in _iterate_numbers(json.loads(details))]
    return pd.DataFrame(rows, columns=MEASURE_COLUMNS).astype({"step": "Int64", "value": float})


def _iterate_numbers(details: dict[str, Any]) -> Iterator[tuple[str, int | None, float]]:
    for measure, value in details.items():
        listed = isinstance(value, list)
        for step, item in enumerate(value if listed else [value]):
            # A missing number of a list becomes NaN, so that the other numbers keep their index.
            if isinstance(item, int | float):
                yield measure, step if listed else None, float(item)
            elif listed and item is None:
                yield measure, step, math.nan


def tabulate_noise(manifest: dict[str, Any], tasks: set[str]) -> pd.DataFrame:
    """Return the table of `SweepResult.noise_floor`, limited to the given tasks."""
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
                "intact": _to_float(line["intact"]),
                "score": _to_float(line["score"]),
                "effect": _to_float(line["score"]) - _to_float(line["intact"]),
                "unit": cells.get((line["task"], line["protocol"]), {}).get("unit", "accuracy"),
            }
        )
    return pd.DataFrame(rows, columns=NOISE_COLUMNS)


def _to_float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
