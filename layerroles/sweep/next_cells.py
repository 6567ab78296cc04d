"""Choose what is asked next, as a function of the rows so far.

A layer that is critical may be so only because it writes the attention sink. To tell, it is ablated
again with the first token's write kept (`at="after_first"`). No other layer raises that question,
so only the critical ones are asked.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from layerroles import stats
from layerroles.results import Cell, SweepResult, cells_of
from layerroles.roles import CRITICAL
from layerroles.sweep.store import Key


def find_waiting(conditions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Map the hashes of conditions that wait for another one to the name of that one.

    A condition waits if it ablates one whole layer `after_first`, and the same ablation of the
    layer at all positions is asked too: it is asked only if that one turns out to be critical.

    Args:
        conditions: entries of a manifest.
    """
    layers = [entry for entry in conditions if _is_one_layer(entry)]
    at_all = {_content(entry): str(entry["name"]) for entry in layers if entry["at"] == "all"}
    return {
        str(entry["hash"]): at_all[_content(entry)]
        for entry in layers
        if entry["at"] == "after_first" and _content(entry) in at_all
    }


def next_cells(result: SweepResult, waiting: Mapping[str, str]) -> set[Key]:
    """Return what is asked next: pairs of a waiting condition and a cell.

    A cell is one of a family under a protocol in which the ablation at all positions is critical:
    the interval of its harm, over the family's tasks with skill, lies above 0.2.

    Args:
        result: all rows so far; rows of waiting conditions do not matter.
        waiting: from `find_waiting`.
    """
    return {key for key, harm in _harms(result, waiting) if harm.interval.low > CRITICAL}


def expected_next(result: SweepResult, waiting: Mapping[str, str]) -> dict[str, float]:
    """Return how many rows will probably be asked next once all examples are, by task.

    Intervals are taken to narrow with the root of the number of examples.
    """
    n_of = {(cell["task"], cell["protocol"]): int(cell["n"]) for cell in result.manifest["cells"]}
    asked = {(cell.task, cell.protocol): len(cell.scores.columns) for cell in cells_of(result)}
    rows: dict[str, float] = {}
    for (_, task, protocol), harm in _harms(result, waiting):
        n = n_of[task, protocol]
        width = (harm.value - harm.interval.low) * math.sqrt(asked[task, protocol] / n)
        if harm.value - width > CRITICAL:
            rows[task] = rows.get(task, 0.0) + n
    return rows


def is_answered(
    plan: Mapping[str, Any],
    done: Mapping[Key, Collection[str]],
    waiting: Collection[str],
    needed: Collection[Key],
) -> bool:
    """Return whether a run folder holds all answers that a command asked for.

    Args:
        plan: the command: its `conditions` (hashes), and its `cells` (task, protocol, n).
        done: the ids of the answered examples, by condition hash, task and protocol.
        waiting: the hashes of the conditions that wait.
        needed: from `next_cells`.
    """
    keys = (
        ((condition, task, protocol), n)
        for task, protocol, n in plan["cells"]
        for condition in plan["conditions"]
    )
    return all(
        len(done.get(key, ())) >= n for key, n in keys if key[0] not in waiting or key in needed
    )


def _harms(result: SweepResult, waiting: Mapping[str, str]) -> list[tuple[Key, stats.Contrast]]:
    """Return the harms that decide which waiting conditions are asked, and in which cells.

    Each item is ((condition hash, task, protocol), harm). The harm is that of the same ablation at
    all positions, averaged over the tasks of the cell's family with skill under its protocol. Cells
    without skill are left out.
    """
    skilled = result.intact()
    skilled = skilled[skilled["above_chance"]]
    with_skill = set(zip(skilled["task"], skilled["protocol"], strict=True))
    together: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells_of(result):
        if (cell.task, cell.protocol) in with_skill:
            together.setdefault((cell.family, cell.protocol), []).append(cell)
    found = []
    for cells in together.values():
        for condition, at_all in waiting.items():
            harm = stats.mean_of([cell.harm({at_all: 1.0}) for cell in cells])
            found += [((condition, cell.task, cell.protocol), harm) for cell in cells]
    return found


def _is_one_layer(condition: Mapping[str, Any]) -> bool:
    return (condition.get("parts"), len(condition["sites"])) == (["block"], 1)


def _content(condition: Mapping[str, Any]) -> str:
    """Return what a condition does and where, but for its positions."""
    content = [condition["ablation"], condition["sites"], condition.get("parameters")]
    return json.dumps(content, sort_keys=True, default=str)
