"""Collect how many examples to ask next, of a command's conditions and cells."""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from layerroles import stats
from layerroles.results import INTACT, Cell, SweepResult
from layerroles.sweep.store import Key

# A command, as stored in the manifest; see `next_cells.is_answered`.
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


class Targets:
    """Collects how many examples to ask.

    `counts` has them by condition hash, task and protocol.

    Args:
        result: all rows so far.
        plan: the command.
    """

    def __init__(self, result: SweepResult, plan: Plan) -> None:
        self.counts: dict[Key, int] = {}
        self._limits = {(task, protocol): n for task, protocol, n in plan["cells"]}
        self._planned, self._looks = set(plan["conditions"]), result.manifest.get("looks", {})
        self._hashes = {entry["name"]: entry["hash"] for entry in result.manifest["conditions"]}

    def ask_on(self, cell: Cell, names: Iterable[str]) -> None:
        """Ask under conditions up to the look after those that they have all been asked to."""
        names = list(names)
        if not all(self._hashes[name] in self._planned for name in names):
            return
        n = self.n_asked(cell, names)
        limit = self.limit(cell)
        target = stats.Looks(tuple(self._looks.get(cell.task, ()))).next(n) or limit
        if target <= limit:
            self.ask(cell, [INTACT, *names], target)

    def ask(self, cell: Cell, names: Iterable[str], n: int) -> None:
        """Ask under conditions until `n` examples of a cell, or its limit, are asked."""
        n = min(n, self.limit(cell))
        for name in names:
            key = (self._hashes[name], cell.task, cell.protocol)
            if key[0] in self._planned and self.n_asked(cell, [name]) < n:
                self.counts[key] = max(n, self.counts.get(key, 0))

    def limit(self, cell: Cell) -> int:
        """Return the largest number of examples that the command asks of a cell."""
        return int(self._limits.get((cell.task, cell.protocol), 0))

    @staticmethod
    def n_asked(cell: Cell, names: Iterable[str]) -> int:
        """Return the number of examples that were asked under each of the conditions."""
        return min(len(cell.asked.get(name, ())) for name in names)


@runtime_checkable
class Open(Protocol):
    """What is to be decided: the verdict on a condition, or a claim."""

    @property
    def more(self) -> float:
        """The further questions that may be needed; NaN if not known."""

    def ask(self, targets: Targets) -> None:
        """Ask what is needed next, unless it is settled."""
