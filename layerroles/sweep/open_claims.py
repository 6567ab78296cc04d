"""What a sweep `until="claims"` asks about claims that are not decided.

A claim sums over all layers, so all layers are asked together. The first kind of ablation is asked
until it shows the claim or its opposite, and then the next kind, if the claim depends on it
(`roles.Claim.open_finding`). If the sweep has the conditions `after_first`, a claim has to hold
with the first token kept too, so critical layers are asked so once the claim depends on it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from layerroles.results import (
    CRITICAL,
    INTACT,
    Cell,
    Decision,
    SweepResult,
    cells_of,
    decisions_of,
    find_waiting,
    kinds_asked,
)
from layerroles.roles import Claim, Finding, claims_on_layers
from layerroles.sweep.targets import GoalName, Plan, Targets


@dataclass(frozen=True, eq=False)
class OpenClaim:
    """The goal to decide a claim.

    Attributes:
        claim: the claim.
        finding: what the kind of ablation says so far that is asked next.
        cells: the cells that the claim is about, each with the conditions to ask: those at all
            positions and, if the claim depends on them, those `after_first` of critical layers.
    """

    claim: Claim
    finding: Finding
    cells: tuple[tuple[Cell, tuple[str, ...], tuple[str, ...]], ...]

    @property
    def name(self) -> GoalName:
        """Claim, family and protocol."""
        return self.claim.claim, self.claim.family, self.claim.protocol

    @property
    def more(self) -> float:
        """The further questions that may be needed; NaN if not known."""
        n = min((self._n_asked(cell, names) for cell, names, _ in self.cells), default=0)
        return self.finding.needed - n if n else 0.0

    def ask(self, targets: Targets) -> None:
        """Ask what the claim needs next, first in the cells with the fewest questions."""
        counts = [self._n_asked(cell, names) for cell, names, _ in self.cells]
        limits = [targets.limit(cell) for cell, _, _ in self.cells]
        fewest = min((n for n, limit in zip(counts, limits, strict=True) if n < limit), default=0)
        for n, (cell, names, kept) in zip(counts, self.cells, strict=True):
            n_intact = self._n_asked(cell, (INTACT,))
            if kept and self._n_asked(cell, kept) < n:
                targets.ask(cell, kept, n)
            elif n > fewest:
                continue
            elif n and not self.finding.numbers:
                # Not known on the questions so far: the skill may need all that were asked intact.
                targets.ask(cell, names, n_intact)
            else:
                targets.ask_on(cell, [*names, *kept])

    def expect(self, targets: Targets) -> None:
        """Ask all that the claim is expected to need by this kind of ablation."""
        for cell, names, kept in self.cells:
            needed = self.finding.needed
            n = targets.limit(cell) if math.isinf(needed) else needed
            n = self._n_asked(cell, (INTACT,)) if math.isnan(n) else n
            targets.ask(cell, [INTACT, *names, *kept], math.ceil(n))

    @staticmethod
    def _n_asked(cell: Cell, names: tuple[str, ...]) -> int:
        return Targets.n_asked(cell, names)


def open_claims(result: SweepResult, plan: Plan) -> list[OpenClaim]:
    """Return the claims that a command may still decide, with what they ask for.

    Args:
        result: all rows so far.
        plan: the command that is carried out.
    """
    return list(_open_claims(result, plan))


def _open_claims(result: SweepResult, plan: Plan) -> Iterator[OpenClaim]:
    entries = result.manifest["conditions"]
    kinds = kinds_asked(entries, plan)
    asked = set(result.frame["ablation"])
    if not kinds or kinds[0] not in asked:
        return
    mechanism_of = {entry["ablation"]: str(entry.get("mechanism", "")) for entry in entries}
    unasked = [
        Finding(kind, mechanism_of[kind], 0, "", is_open=True)
        for kind in kinds[1:]
        if kind not in asked
    ]
    decisions = decisions_of(cells_of(result), result.manifest)
    for claim in claims_on_layers(result, kinds[0]):
        finding = claim.open_finding(unasked)
        if finding is not None:
            names = _names_at_all(entries, plan, finding.ablation)
            cells = tuple(
                (cell, names, _names_kept(decisions, cell, names) if finding.asks_kept else ())
                for cell in cells_of(result)
                if (cell.family, cell.protocol) in claim.keys and cell.has_skill
            )
            yield OpenClaim(claim, finding, cells)


def _names_at_all(entries: list[dict[str, Any]], plan: Plan, kind: str) -> tuple[str, ...]:
    """Return the names of a kind's conditions, but those `after_first` of the same edits."""
    waiting, planned = find_waiting(entries), set(plan["conditions"])
    return tuple(
        str(entry["name"])
        for entry in entries
        if entry["ablation"] == kind and entry["hash"] in planned and entry["hash"] not in waiting
    )


def _names_kept(decisions: list[Decision], cell: Cell, names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of the conditions `after_first` of layers that are critical in a family."""
    return tuple(
        decision.kept
        for decision in decisions
        if decision.condition in names
        and (decision.family, decision.protocol) == (cell.family, cell.protocol)
        and decision.kept is not None
        and decision.harm.interval.low > CRITICAL
    )


def expected_for_claims(result: SweepResult, plan: Plan) -> dict[str, float]:
    """Return the expected number of rows that open claims will still ask for, by task."""
    targets = Targets(result, plan)
    for goal in _open_claims(result, plan):
        goal.expect(targets)
    hashes = {entry["hash"]: str(entry["name"]) for entry in result.manifest["conditions"]}
    cells = {(cell.task, cell.protocol): cell for cell in cells_of(result)}
    rows: dict[str, float] = {}
    for (condition, task, protocol), n in targets.found.items():
        n_asked = Targets.n_asked(cells[task, protocol], [hashes[condition]])
        rows[task] = rows.get(task, 0.0) + n - n_asked
    return rows
