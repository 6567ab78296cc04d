"""Collect how many examples to ask next under each condition and in each cell.

A *cell* is one task under one protocol. A *look* is a number of examples after which the results
are judged. A *command* is what one call of `Sweep.run` asks. A run folder may hold the answers to
several commands.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

from layerroles import stats
from layerroles.results import INTACT, Cell, SweepResult
from layerroles.sweep.store import Key

# A command, as stored in the manifest; see `next_cells.is_answered`.
Plan = Mapping[str, Any]


def count_first(plan: Plan, looks: Mapping[str, Iterable[int]], task: str, n: int) -> int:
    """Return how many of `n` examples of a task a command asks whatever the answers are.

    A command with `until` asks the examples up to the first look; their answers decide whether more
    are asked. Other commands ask all `n`.

    Args:
        plan: the command; see `next_cells.is_answered`.
        looks: by task, the numbers of questions after which the sweep judges its results (from the
            manifest).
        task: the label of the task.
        n: the number of examples that the command may ask.
    """
    return min([n, *looks.get(task, ())]) if plan.get("until") else n


class Targets:
    """Collects how many examples to ask under each condition in each cell.

    `ask` and `ask_on` store in `counts`, by condition hash, task and protocol, the total number of
    examples to reach, including those already answered. Conditions that are not part of the command
    (`plan`), and those with enough answers, are left out.

    Args:
        result: all rows so far.
        plan: the command; see `next_cells.is_answered`.
    """

    def __init__(self, result: SweepResult, plan: Plan) -> None:
        self.counts: dict[Key, int] = {}
        self._limits = {(task, protocol): n for task, protocol, n in plan["cells"]}
        self._planned, self._looks = set(plan["conditions"]), result.manifest.get("looks", {})
        self._hashes = {entry["name"]: entry["hash"] for entry in result.manifest["conditions"]}

    def ask_on(self, cell: Cell, names: Iterable[str]) -> None:
        """Request a cell's examples up to the next look, under the intact model and conditions.

        A look is a number of examples after which the results are judged. The next one is the first
        that is larger than the number of examples that were asked under all of the conditions so
        far (`n_asked`). After the last look, request examples up to the cell's limit. Request
        nothing if a condition is not part of this command, or if the next look is above the limit.
        """
        names = list(names)
        if not all(self._hashes[name] in self._planned for name in names):
            return
        n = self.n_asked(cell, names)
        limit = self.limit(cell)
        target = stats.Looks(tuple(self._looks.get(cell.task, ()))).next(n) or limit
        if target <= limit:
            self.ask(cell, [INTACT, *names], target)

    def ask(self, cell: Cell, names: Iterable[str], n: int) -> None:
        """Request a cell's first `n` examples, up to its limit, under each of the conditions."""
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
        """Return, for the condition with the fewest, how many of a cell's examples were asked."""
        return min(cell.n_rows.get(name, 0) for name in names)


@runtime_checkable
class OpenDecision(Protocol):
    """An undecided verdict on a condition, or an undecided claim."""

    @property
    def more(self) -> float:
        """The expected number of further questions; NaN if not known."""

    def ask(self, targets: Targets) -> None:
        """Add to `targets` the questions that are needed next, if any."""
