"""Choose the questions that a sweep with `until="claims"` asks for claims that are not decided.

The first questions are asked with every layer ablated. A claim sums over some or all layers, such
as the first and the last third (`roles.Claim.layers`), so the same further questions are asked with
each of these layers ablated: first by the first kind of ablation, such as `Skip`. What a kind of
ablation says about a claim, with numbers, is its *finding*. Once the first kind's finding shows the
claim or its opposite, the next kind follows, if the claim depends on it
(`roles.Claim.open_finding`). If the sweep has conditions with `at="after_first"`, a claim also has
to hold with the first token kept, that is, not ablated. Once a claim depends on this, its critical
layers are also ablated `after_first`, and so are the layers whose harm a context is shown to
change.

A *cell* is one task under one protocol. A *look* is a number of questions after which the results
are judged again.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
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
    harm_where_asked,
)
from layerroles.roles import Claim, Finding, claims_on_layers
from layerroles.sweep.next_counts import Plan, Targets, count_first

# A cell, and the names of the conditions under which to ask its questions: those that act at all
# positions, and those that act `after_first`.
CellConditions = tuple[Cell, tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True, eq=False)
class OpenClaim:
    """An undecided claim, with the kind of ablation that can decide it next.

    Attributes:
        claim: the claim.
        finding: what this kind of ablation says about the claim so far.
        cells: the cells that the claim is about, each with this kind's conditions on the claim's
            layers: those at all positions and, if the claim depends on them, those `after_first`.
    """

    claim: Claim
    finding: Finding
    cells: tuple[CellConditions, ...]

    @property
    def more(self) -> float:
        """The expected number of further questions; NaN if not known.

        0 if a cell has no answers yet under this kind of ablation, or if the claim depends on the
        conditions `after_first` and it is not known how many questions these need.
        """
        n = min((Targets.n_asked(cell, names) for cell, names, _ in self.cells), default=0)
        if not n or (self.finding.asks_kept and math.isnan(self.finding.needed)):
            return 0.0
        return self.finding.needed - n

    def ask(self, targets: Targets) -> None:
        """Add to `targets` the questions that the claim needs next.

        The first rule that applies to a cell (one task under one protocol) holds:

        - If conditions `after_first` have fewer answers than those at all positions, add the
          questions that the former lack.
        - If another cell of the claim is below its limit and has fewer answers, add none.
        - If there are answers, but the finding has no numbers yet, add the questions that only the
          intact model was asked. If there are no such questions, the next rule holds only if
          another cell has more answers.
        - Add the questions up to the next look, under all of the cell's conditions.
        """
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
                # To show skill, all examples that the intact model was asked may be needed.
                targets.ask(cell, names, n_intact)
            elif not is_unknown or n < max(counts):
                targets.ask_on(cell, [*names, *kept])

    def expect(self, targets: Targets) -> None:
        """Add to `targets` all questions that the claim is likely to need under this ablation."""
        for cell, names, kept in self.cells:
            needed = self.finding.needed
            n = targets.limit(cell) if math.isinf(needed) else needed
            n = targets.n_asked(cell, [INTACT]) if math.isnan(n) else n
            targets.ask(cell, [INTACT, *names, *kept], math.ceil(n))


def open_claims(result: SweepResult, plan: Plan) -> list[OpenClaim]:
    """Return the claims that a command (`plan`) may still decide, each with its conditions.

    Kinds of ablation that belong only to other commands in the folder are left out. The mechanism
    of a kind (such as deletion) is the one that it declares, since a few answers cannot show that
    two kinds do the same.

    Args:
        result: all rows so far.
        plan: the command; see `next_cells.is_answered`.
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
    """Finds the conditions under which to ask questions for a claim.

    Args:
        result: all rows so far.
        plan: the command; see `next_cells.is_answered`.
    """

    def __init__(self, result: SweepResult, plan: Plan) -> None:
        manifest = result.manifest
        waiting = find_waiting(manifest["conditions"]) if manifest.get("only_needed") else {}
        self._cells = cells_of(result)
        self._decisions = decisions_of(self._cells, manifest) if waiting else []
        planned = set(plan["conditions"]) - set(waiting)
        self._planned = [entry for entry in manifest["conditions"] if entry["hash"] in planned]

    def of(self, claim: Claim, finding: Finding) -> tuple[CellConditions, ...]:
        """Return `OpenClaim.cells` for a claim and the kind of ablation of a finding."""
        names = tuple(
            str(entry["name"])
            for entry in self._planned
            if entry["ablation"] == finding.ablation
            and (not claim.layers or set(entry["layers"]) <= set(claim.layers))
        )
        return tuple(
            (cell, names, self._kept(cell, names, finding) if finding.asks_kept else ())
            for cell in self._cells
            if (cell.family, cell.protocol) in claim.keys
            and cell.has_skill
            and (not claim.tasks or cell.task in claim.tasks)
        )

    def _kept(self, cell: Cell, names: tuple[str, ...], finding: Finding) -> tuple[str, ...]:
        """Return the names of the `after_first` conditions of some layers.

        The layers are the critical ones, and those of `Finding.kept_layers`.

        Args:
            cell: the cell; a critical layer is critical in those of the family's cells in which it
                was ablated.
            names: the names of the conditions at all positions that show which layers are critical.
            finding: what these conditions say about the claim.
        """
        layer_of = cell.conditions["layer"]
        return tuple(
            decision.after_first_condition
            for decision in self._decisions
            if decision.condition in names
            and (decision.family, decision.protocol) == (cell.family, cell.protocol)
            and decision.after_first_condition is not None
            and (
                harm_where_asked(decision.cells, decision.condition).interval.low > CRITICAL
                or layer_of.get(decision.condition) in finding.kept_layers
            )
        )


def expected_for_claims(result: SweepResult, plan: Plan) -> dict[str, float]:
    """Return, by task, how many questions open claims are expected to need after the first look.

    A question is one example under one condition, in one or more of the task's cells. Only those
    under each claim's next kind of ablation are counted, not those of later kinds.

    Args:
        result: all rows so far.
        plan: the command; see `next_cells.is_answered`.
    """
    targets = Targets(result, plan)
    for claim in open_claims(result, plan):
        claim.expect(targets)
    names = {entry["hash"]: str(entry["name"]) for entry in result.manifest["conditions"]}
    cells = {(cell.task, cell.protocol): cell for cell in cells_of(result)}
    looks = result.manifest.get("looks", {})
    questions: dict[tuple[str, str], float] = {}
    for (condition, task, protocol), n in targets.counts.items():
        cell = cells[task, protocol]
        first = count_first(plan, looks, task, targets.limit(cell))
        n_asked = max(first, targets.n_asked(cell, [names[condition]]))
        key = task, condition
        questions[key] = max(questions.get(key, 0.0), n - n_asked)
    return sum_by_task(questions)


def sum_by_task(questions: Mapping[tuple[str, str], float]) -> dict[str, float]:
    """Return sums by task, of numbers by task and condition; without tasks whose sum is 0."""
    sums: defaultdict[str, float] = defaultdict(float)
    for (task, _), n in questions.items():
        sums[task] += n
    return {task: n for task, n in sums.items() if n}
