"""Tabulate the numbers that protocols measured for each answer, besides its score."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

_KEYS = ["condition", "task", "protocol", "example"]
COLUMNS = [*_KEYS, "measure", "step", "value"]


def tabulate_measures(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `SweepResult.measures`."""
    rows = []
    # Runs of earlier versions have no such column.
    if "details" in frame:
        for *key, details in frame[[*_KEYS, "details"]].itertuples(index=False):
            if isinstance(details, str) and details:
                rows += [(*key, *number) for number in _iterate_numbers(json.loads(details))]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"step": "Int64", "value": float})


def _iterate_numbers(details: dict[str, Any]) -> Iterator[tuple[str, int | None, float]]:
    for measure, value in details.items():
        listed = isinstance(value, list)
        for step, item in enumerate(value if listed else [value]):
            # A missing number in a list becomes NaN, so that the other numbers keep their index.
            if isinstance(item, int | float):
                yield measure, step if listed else None, float(item)
            elif listed and item is None:
                yield measure, step, math.nan
