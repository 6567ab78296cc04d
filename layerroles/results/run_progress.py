"""How much of a run is done, and whether its verdicts are valid before it is finished."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from layerroles.results.condition_verdicts import find_deferred
from layerroles.results.task_protocol_cells import Cell


def is_past_first_look(manifest: Mapping[str, Any], cells: Sequence[Cell]) -> bool:
    """Return whether a run with `until` has answered all questions up to its first look.

    A look is a number of questions after which the run looks at its results. Answers are not
    required under conditions that earlier answers may make unnecessary (`find_deferred`). False for
    a run without `until`.
    """
    if not manifest.get("until"):
        return False
    entries, only_needed = manifest["conditions"], bool(manifest.get("only_needed"))
    asked_first = {
        hash
        for plan in manifest["unfinished"]
        for hash in set(plan["conditions"]) - find_deferred(entries, plan, only_needed=only_needed)
    }
    conditions = [entry["name"] for entry in entries if entry["hash"] in asked_first]
    return len(cells) == len(manifest["cells"]) and all(
        cell.n_rows.get(name, 0) >= min(cell.looks.sizes, default=0)
        for cell in cells
        for name in conditions
    )


def describe_progress(frame: pd.DataFrame, manifest: Mapping[str, Any]) -> str:
    """Return how much of an unfinished run is done, such as "8 of 32 questions".

    Args:
        frame: the rows of a result.
        manifest: the manifest of the run, with the result's cells.
    """
    asked = frame[frame["at"] != "after_first"]
    answered = asked.groupby(["task", "protocol", "condition"])["example"].nunique()
    by_cell = answered.groupby(["task", "protocol"]).min()
    cells = manifest.get("cells", [])
    done = [int(by_cell.get(_key(cell), 0)) for cell in cells]
    planned = [
        max(
            int(n)
            for plan in manifest["unfinished"]
            for task, protocol, n in [*plan["cells"], (*_key(cell), cell["n"])]
            if (task, protocol) == _key(cell)
        )
        for cell in cells
    ]
    text = f"{_range(done)} of {_range(planned)} questions"
    return f"{text}, and the last steps are missing" if done == planned else text


def _key(cell: Mapping[str, Any]) -> tuple[str, str]:
    return cell["task"], cell["protocol"]


def _range(numbers: Sequence[int]) -> str:
    ends = sorted({min(numbers, default=0), max(numbers, default=0)})
    return " to ".join(map(str, ends))
