"""Tabulate the noise floor: how often the intact model's answers change with the batch shape."""

from typing import Any

import pandas as pd

from layerroles import stats

COLUMNS = [
    *("task", "protocol", "n", "n_changed", "changed", "changed_low", "changed_high"),
    *("intact", "score", "effect", "unit"),
]


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
    return pd.DataFrame(rows, columns=COLUMNS)


def _to_float(value: float | None) -> float:
    return float("nan") if value is None else float(value)
