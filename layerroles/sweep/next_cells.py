"""Choose which `after_first` conditions to ask, given the rows so far.

A layer may be critical only because it writes the attention sink. To find out, the layer is ablated
again at all positions but the first token (`at="after_first"`). The question arises only for
critical layers, so only those are asked.
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
    """Map the hash of each deferred condition to the name of the condition that decides about it.

    A deferred condition ablates one whole layer `after_first`, and the sweep also has the same
    ablation of that layer at all positions. The deferred condition is asked only if the layer turns
    out to be critical under the ablation at all positions.

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
    """Return what to ask next: keys (condition hash, task, protocol) of deferred conditions.

    A deferred condition is asked in all cells of a family under a protocol if the same ablation at
    all positions is critical there: the interval of its harm, averaged over the family's tasks with
    skill, lies above 0.2.

    Args:
        result: all rows so far; rows of deferred conditions do not matter.
        waiting: the deferred conditions, from `find_waiting`.
    """
    return {key for key, harm in _harms(result, waiting) if harm.interval.low > CRITICAL}


def expected_next(result: SweepResult, waiting: Mapping[str, str]) -> dict[str, float]:
    """Return the expected number of rows that `next_cells` will add, by task.

    The numbers are those for the time when all examples are answered: the width of an interval is
    assumed to shrink with the square root of the number of examples.
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
        waiting: the hashes of the deferred conditions (see `find_waiting`).
        needed: the keys of deferred conditions that must be answered, from `next_cells`.
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
    """Return the harms that decide which deferred conditions are asked, and in which cells.

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
    """Return a condition's ablation, sites and parameters as JSON, without its positions."""
    content = [condition["ablation"], condition["sites"], condition.get("parameters")]
    return json.dumps(content, sort_keys=True, default=str)
