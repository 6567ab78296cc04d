"""Choose what is asked next, as a function of the rows so far.

A layer that is critical may be so only because it writes the attention sink. To tell, it is ablated
again with the first token's write kept (`at="after_first"`). No other layer raises that question,
so only the critical ones are asked.
"""

import math
from collections.abc import Sequence
from typing import Any

from layerroles import stats
from layerroles.ablations import Condition
from layerroles.results import Cell, SweepResult, cells_of
from layerroles.roles import CRITICAL
from layerroles.sweep.store import Key


def find_waiting(conditions: Sequence[Condition]) -> dict[Condition, Condition]:
    """Map conditions that are asked only if another one turns out to be critical to that one.

    These are ablations of one whole layer `after_first`, if the same ablation of the layer at all
    positions is asked too.
    """
    asked = {
        _content(condition): condition
        for condition in conditions
        if condition.at == "all" and _is_one_layer(condition)
    }
    return {
        condition: asked[_content(condition)]
        for condition in conditions
        if condition.at == "after_first"
        and _is_one_layer(condition)
        and _content(condition) in asked
    }


def next_cells(result: SweepResult, waiting: dict[Condition, Condition]) -> set[Key]:
    """Return what is asked next: pairs of a waiting condition and a cell.

    A cell is one of a family under a protocol in which the ablation at all positions is critical:
    the interval of its harm, over the family's tasks with skill, lies above 0.2.

    Args:
        result: all rows so far; rows of waiting conditions do not matter.
        waiting: from `find_waiting`.
    """
    return {key for key, harm in _harms(result, waiting) if harm.interval.low > CRITICAL}


def expected_next(result: SweepResult, waiting: dict[Condition, Condition]) -> dict[str, float]:
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


def _harms(
    result: SweepResult, waiting: dict[Condition, Condition]
) -> list[tuple[Key, stats.Contrast]]:
    """Return, for each waiting condition and cell, the harm at all positions in its family."""
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
            harm = stats.mean_of([cell.harm({at_all.name: 1.0}) for cell in cells])
            found += [((condition.hash, cell.task, cell.protocol), harm) for cell in cells]
    return found


def _is_one_layer(condition: Condition) -> bool:
    return [site.part for site in condition] == ["block"]


def _content(condition: Condition) -> frozenset[Any]:
    return frozenset(condition.edits.items())
