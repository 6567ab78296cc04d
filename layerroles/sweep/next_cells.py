"""Choose what to ask next, given the rows so far.

After its first questions a sweep asks on only where that can matter. A layer may be critical only
because it writes the attention sink; to find out, the layer is ablated again at all positions but
the first token (`at="after_first"`). That question arises only for critical layers, so only those
are asked. And a sweep `until="decided"` asks about a condition only until its verdict stands.

What is asked next is a function of the stored rows, so that a resumed run asks the same.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from layerroles import stats
from layerroles.results import (
    CRITICAL,
    INTACT,
    Cell,
    Decision,
    SweepResult,
    cells_of,
    count_needed,
    decisions_of,
)
from layerroles.sweep.store import Key

Plan = Mapping[str, Any]


def count_first(plan: Plan, looks: Mapping[str, Iterable[int]], task: str, n: int) -> int:
    """Return how many of `n` examples of a task are asked before the rows decide about more.

    Args:
        plan: the command, see `is_answered`.
        looks: the manifest's numbers of questions of each task after which the sweep looks.
        task: the label of the task.
        n: the number of examples that the command may ask.
    """
    return min([n, *looks.get(task, ())]) if plan.get("until") else n


def next_cells(
    result: SweepResult, plan: Plan, *, among: Collection[tuple[str, str, str]] | None = None
) -> dict[Key, int]:
    """Return what to ask next: the number of examples by condition hash, task and protocol.

    A deferred condition (`results.find_waiting`) is asked in all cells of a family under a protocol
    if the same ablation at all positions is critical there, on the same examples. If the sweep asks
    until it has decided, an open condition is asked up to the next look in all cells of the family
    with skill. In a cell without skill, only the intact model is asked on.

    Args:
        result: all rows so far.
        plan: the command that is carried out, see `is_answered`.
        among: the decisions (family, protocol, condition) that may be asked for; None for all.
    """
    targets = _Targets(result, plan)
    for cell in cells_of(result):
        if not cell.has_skill:
            targets.ask_on(cell, [INTACT])
    for decision in decisions_of(cells_of(result), result.manifest):
        name = (decision.family, decision.protocol, decision.condition)
        if among is None or name in among:
            targets.ask_for(decision)
    return targets.found


def open_decisions(result: SweepResult, plan: Plan) -> dict[tuple[str, str, str], float]:
    """Map the decisions that a command still asks for to the further questions they may need.

    The keys are family, protocol and condition. The numbers are estimates; they are infinite where
    nothing is known, and 0 for a critical layer that may be a sink.
    """
    found = {}
    for decision in decisions_of(cells_of(result), result.manifest):
        targets = _Targets(result, plan)
        targets.ask_for(decision)
        if targets.found:
            n = sum(cell.n_asked([decision.condition]) for cell in decision.cells)
            more = 0.0 if decision.may_be_sink else count_needed(decision.harm, n) - n
            name = (decision.family, decision.protocol, decision.condition)
            found[name] = math.inf if math.isnan(more) else more
    return found


class _Targets:
    """Collects how many examples to ask, of a command's conditions and cells.

    Args:
        result: all rows so far.
        plan: the command.
    """

    def __init__(self, result: SweepResult, plan: Plan) -> None:
        self.found: dict[Key, int] = {}
        self._limits = {(task, protocol): n for task, protocol, n in plan["cells"]}
        self._planned, self._looks = set(plan["conditions"]), result.manifest.get("looks", {})
        self._hashes = {entry["name"]: entry["hash"] for entry in result.manifest["conditions"]}

    def ask_for(self, decision: Decision) -> None:
        """Ask what a decision needs, unless it is settled."""
        if not decision.is_open:
            return
        for cell in decision.cells:
            n = cell.n_asked([decision.condition])
            kept = decision.kept if decision.may_be_sink else None
            if kept is None:
                self.ask_on(cell, [decision.condition])
            elif self._n_asked(cell, kept) < n:
                self.ask(cell, kept, n)
            else:
                self.ask_on(cell, [decision.condition, kept])

    def ask_on(self, cell: Cell, names: Iterable[str]) -> None:
        """Ask under conditions up to the look after those that they have been asked to."""
        names = list(names)
        if not all(self._hashes[name] in self._planned for name in names):
            return
        n = min(self._n_asked(cell, name) for name in names)
        limit = self._limits.get((cell.task, cell.protocol), 0)
        target = stats.Looks(tuple(self._looks.get(cell.task, ()))).next(n) or limit
        if target <= limit:
            for name in (INTACT, *names):
                self.ask(cell, name, target)

    def ask(self, cell: Cell, name: str, n: int) -> None:
        """Ask under a condition until `n` examples of a cell are asked."""
        n = min(n, self._limits.get((cell.task, cell.protocol), 0))
        key = (self._hashes[name], cell.task, cell.protocol)
        if key[0] in self._planned and self._n_asked(cell, name) < n:
            self.found[key] = max(n, self.found.get(key, 0))

    def _n_asked(self, cell: Cell, name: str) -> int:
        return len(cell.asked.get(name, ()))


def expected_next(result: SweepResult, plan: Plan) -> dict[str, float]:
    """Return the expected number of rows that `next_cells` will add, by task.

    The numbers are those for the time when the first questions are all answered: the width of an
    interval is assumed to shrink with the square root of the number of examples. An open condition
    is expected to need the questions of `results.count_needed`.
    """
    limits = {(task, protocol): n for task, protocol, n in plan["cells"]}
    looks = result.manifest.get("looks", {})
    rows: dict[str, float] = {}
    for decision in decisions_of(cells_of(result), result.manifest):
        for cell in decision.cells:
            n = len(cell.scores.columns)
            limit = limits.get((cell.task, cell.protocol), n)
            first = count_first(plan, looks, cell.task, limit)
            shrunk = decision.harm.value - decision.harm.interval.low
            shrunk *= math.sqrt(min(1.0, n / first))
            more = 0.0
            if decision.kept is not None and decision.harm.value - shrunk > CRITICAL:
                more = first
            elif first < limit:
                asked = cell.n_asked([decision.condition])
                needed = count_needed(decision.harm, max(asked, 1))
                more = 0.0 if math.isnan(needed) else min(limit, needed) - max(asked, first)
            rows[cell.task] = rows.get(cell.task, 0.0) + max(0.0, more)
    return {task: n for task, n in rows.items() if n}


def is_answered(
    plan: Plan,
    done: Mapping[Key, Collection[str]],
    manifest: Mapping[str, Any],
    waiting: Collection[str],
) -> bool:
    """Return whether a run folder holds the first answers that a command asked for.

    What `next_cells` adds to them is not considered.

    Args:
        plan: the command: its `conditions` (hashes), its `cells` (task, protocol, n), and `until`,
            whether it asks until verdicts are decided.
        done: the ids of the answered examples, by condition hash, task and protocol.
        manifest: the folder's manifest.
        waiting: the hashes of the deferred conditions.
    """
    looks = manifest.get("looks", {})
    return all(
        len(done.get((condition, task, protocol), ())) >= count_first(plan, looks, task, n)
        for task, protocol, n in plan["cells"]
        for condition in plan["conditions"]
        if condition not in waiting
    )
