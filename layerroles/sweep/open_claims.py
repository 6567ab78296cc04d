"""Choose what a sweep with `until="claims"` asks about claims that are not decided.

A claim sums over all layers, so all layers are asked together. The first kind of ablation is asked
until it shows the claim or its opposite, and then the next kind, if the claim depends on it
(`roles.Claim.open_finding`). If the sweep has conditions `after_first`, a claim also has to hold
with the first token kept, that is, not ablated. Critical layers are then asked under `after_first`
too, once the claim depends on that.
"""

import math
from dataclasses import dataclass, replace

from layerroles.results import (
    CRITICAL,
    INTACT,
    Cell,
    SweepResult,
    ablations_asked,
    cells_of,
    decisions_of,
    find_waiting,
)
from layerroles.roles import Claim, Finding, claims_on_layers
from layerroles.sweep.targets import Plan, Targets, count_first

# A cell, and the names of the conditions to ask in it: at all positions, and `after_first`.
CellConditions = tuple[Cell, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class OpenClaim:
    """An undecided claim, with the kind of ablation and the conditions to ask next.

    Attributes:
        claim: the claim.
        finding: the finding so far of the kind of ablation that is asked next.
        cells: the cells that the claim is about, each with the conditions to ask: those at all
            positions and, if the claim depends on them, those `after_first` of critical layers.
    """

    claim: Claim
    finding: Finding
    cells: tuple[CellConditions, ...]

    @property
    def more(self) -> float:
        """The expected number of further questions; NaN if not known.

        0 if the kind of ablation was not asked yet, or not yet with the first token kept.
        """
        n = min((Targets.n_asked(cell, names) for cell, names, _ in self.cells), default=0)
        if not n or (self.finding.asks_kept and math.isnan(self.finding.needed)):
            return 0.0
        return self.finding.needed - n

    def ask(self, targets: Targets) -> None:
        """Add to `targets` what the claim needs next, first in the cells with fewest questions."""
        counts = [targets.n_asked(cell, names) for cell, names, _ in self.cells]
        limits = [targets.limit(cell) for cell, _, _ in self.cells]
        fewest = min((n for n, limit in zip(counts, limits, strict=True) if n < limit), default=0)
        for n, (cell, names, kept) in zip(counts, self.cells, strict=True):
            n_intact = targets.n_asked(cell, [INTACT])
            is_unknown = n > 0 and not self.finding.numbers
            if kept and targets.n_asked(cell, kept) < n:
                targets.ask(cell, kept, n)
            elif n > fewest:
                continue
            elif is_unknown and n < n_intact:
                # All examples asked of the intact model may be needed to show skill.
                targets.ask(cell, names, n_intact)
            elif not is_unknown or n < max(counts):
                targets.ask_on(cell, [*names, *kept])

    def expect(self, targets: Targets) -> None:
        """Add to `targets` all that the claim is expected to need under its kind of ablation."""
        for cell, names, kept in self.cells:
            needed = self.finding.needed
            n = targets.limit(cell) if math.isinf(needed) else needed
            n = targets.n_asked(cell, [INTACT]) if math.isnan(n) else n
            targets.ask(cell, [INTACT, *names, *kept], math.ceil(n))


def open_claims(result: SweepResult, plan: Plan) -> list[OpenClaim]:
    """Return the claims that a command may still decide, with the conditions to ask for each.

    Kinds of ablation that only other commands in the folder ask are left out. Each kind counts with
    the mechanism that it declares, since a few answers cannot show that two kinds are the same.

    Args:
        result: all rows so far.
        plan: the command that is carried out.
    """
    entries = result.manifest["conditions"]
    kinds = ablations_asked(entries, plan)
    own = result.frame[result.frame["ablation"].isin([INTACT, *kinds])]
    asked = set(own["ablation"])
    if not kinds or kinds[0] not in asked:
        return []
    mechanism_of = {entry["ablation"]: str(entry.get("mechanism", "")) for entry in entries}
    unasked = [
        Finding(kind, mechanism_of[kind], 0, "", is_open=True)
        for kind in kinds[1:]
        if kind not in asked
    ]
    if len(own) < len(result.frame):
        result = replace(result, frame=own.reset_index(drop=True))
    claims = claims_on_layers(result, kinds[0], mechanism_of)
    conditions = _Conditions(result, plan)
    return [
        OpenClaim(claim, finding, conditions.of(claim, finding))
        for claim in claims
        if (finding := claim.open_finding(unasked)) is not None
    ]


class _Conditions:
    """Finds the conditions to ask about a claim.

    Args:
        result: all rows so far.
        plan: the command.
    """

    def __init__(self, result: SweepResult, plan: Plan) -> None:
        manifest = result.manifest
        waiting = find_waiting(manifest["conditions"]) if manifest.get("only_needed") else {}
        self._cells = cells_of(result)
        self._decisions = decisions_of(self._cells, manifest) if waiting else []
        planned = set(plan["conditions"]) - set(waiting)
        self._names: dict[str, tuple[str, ...]] = {}
        for entry in manifest["conditions"]:
            if entry["hash"] in planned:
                names = self._names.get(entry["ablation"], ())
                self._names[entry["ablation"]] = (*names, str(entry["name"]))

    def of(self, claim: Claim, finding: Finding) -> tuple[CellConditions, ...]:
        """Return `OpenClaim.cells` for a claim and the finding of the kind to ask next."""
        names = self._names[finding.ablation]
        return tuple(
            (cell, names, self._kept(cell, names) if finding.asks_kept else ())
            for cell in self._cells
            if (cell.family, cell.protocol) in claim.keys
            and cell.has_skill
            and (not claim.tasks or cell.task in claim.tasks)
        )

    def _kept(self, cell: Cell, names: tuple[str, ...]) -> tuple[str, ...]:
        """Return the names of the conditions `after_first` of critical layers."""
        return tuple(
            decision.kept
            for decision in self._decisions
            if decision.condition in names
            and (decision.family, decision.protocol) == (cell.family, cell.protocol)
            and decision.kept is not None
            and decision.harm.interval.low > CRITICAL
        )


def expected_for_claims(result: SweepResult, plan: Plan) -> dict[str, float]:
    """Return how many rows open claims are expected to need after the first look, by task.

    Kinds of ablation that a claim may depend on later are not included.
    """
    targets = Targets(result, plan)
    for claim in open_claims(result, plan):
        claim.expect(targets)
    names = {entry["hash"]: str(entry["name"]) for entry in result.manifest["conditions"]}
    cells = {(cell.task, cell.protocol): cell for cell in cells_of(result)}
    looks = result.manifest.get("looks", {})
    rows: dict[str, float] = {}
    for (condition, task, protocol), n in targets.counts.items():
        cell = cells[task, protocol]
        first = count_first(plan, looks, task, targets.limit(cell))
        n_asked = max(first, targets.n_asked(cell, [names[condition]]))
        rows[task] = rows.get(task, 0.0) + max(0, n - n_asked)
    return {task: n for task, n in rows.items() if n}
