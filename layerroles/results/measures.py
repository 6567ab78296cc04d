"""What a protocol measured beside the score, as a tidy frame."""

import json
import math
from collections.abc import Iterator
from typing import Any

import pandas as pd

_KEYS = ["condition", "task", "protocol", "example"]
COLUMNS = [*_KEYS, "measure", "step", "value"]


def measures_of(frame: pd.DataFrame) -> pd.DataFrame:
    """A row per number; see `SweepResult.measures`."""
    rows = []
    # Runs of earlier versions have no such column.
    if "details" in frame:
        for *key, details in frame[[*_KEYS, "details"]].itertuples(index=False):
            if isinstance(details, str) and details:
                rows += [(*key, *found) for found in _numbers(json.loads(details))]
    return pd.DataFrame(rows, columns=COLUMNS).astype({"step": "Int64", "value": float})


def _numbers(details: dict[str, Any]) -> Iterator[tuple[str, int | None, float]]:
    for measure, value in details.items():
        listed = isinstance(value, list)
        for step, each in enumerate(value if listed else [value]):
            # A list keeps its places, so that what is not known in it is NaN.
            if isinstance(each, int | float):
                yield measure, step if listed else None, float(each)
            elif listed and each is None:
                yield measure, step, math.nan
