"""Choose which questions to ask next, given the rows so far.

After its first questions, a sweep asks more only where the answers can matter. A layer may be
critical only because it writes the attention sink; to find out, the layer is ablated again at all
positions but the first token (`at="after_first"`). This is done for critical layers only. A sweep
with `until="decided"` asks more questions only under conditions whose verdict is not decided. A
sweep with `until="claims"` asks more only for undecided claims, with each layer of the claim
ablated by one kind of ablation. Sweeps with `until` pause after planned numbers of questions, the
*looks*, to see which verdicts or claims are decided by then.

A *cell* is one task under one protocol; it has *skill* if its intact score is shown to lie above
chance. The choice depends only on the stored rows, the manifest and the *command* (what one call of
`Sweep.run` asks), so a resumed run asks the same questions.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from layerroles.results import (
    CRITICAL,
    INTACT,
    Decision,
    SweepResult,
    cells_of,
    count_needed,
    decisions_of,
    find_deferred,
)
from layerroles.stats import Contrast
from layerroles.sweep.next_counts import OpenDecision, Plan, Targets, count_first
from layerroles.sweep.store import Key
from layerroles.sweep.undecided_claims import expected_for_claims, open_claims, sum_by_task


def next_cells(result: SweepResult, plan: Plan) -> dict[Key, int]:
    """Return how many examples to ask next, by condition hash, task and protocol.

    The numbers are totals: examples that are answered already are included.

    - A deferred condition (a layer's ablation `after_first`; `results.find_waiting`) needs answers
      in all of a family's cells with skill under a protocol if the same ablation at all positions
      is critical there. The examples are those asked under the ablation at all positions.
      This holds after the verdict is decided, too.
    - In a sweep with `until`, an undecided condition needs answers up to the next look, in all of
      the family's cells with skill. For an undecided claim, so do the conditions of one kind of
      ablation on the claim's layers.
    - In a cell without skill, only the intact model answers further questions.

    Args:
        result: all rows so far.
        plan: the command; see `is_answered`.
    """
    return ask_for(open_decisions(result, plan), result, plan)


def ask_for(decisions: Iterable[OpenDecision], result: SweepResult, plan: Plan) -> dict[Key, int]:
    """Return what `next_cells` returns, but for the given verdicts or claims only.

    Args:
        decisions: undecided verdicts or claims.
        result: all rows so far.
        plan: the command; see `is_answered`.
    """
    targets = Targets(result, plan)
    for cell in cells_of(result):
        if not cell.has_skill:
            targets.ask_on(cell, [INTACT])
    for decision in decisions:
        decision.ask(targets)
    return targets.counts


def open_decisions(result: SweepResult, plan: Plan) -> list[OpenDecision]:
    """Return the undecided verdicts or claims for which a command (`plan`) has questions left.

    Those that are expected to need the fewest further questions come first, and those for which
    this number is not known come last.
    """
    decisions: Sequence[OpenDecision]
    if plan.get("until") == "claims":
        decisions = open_claims(result, plan)
    else:
        decisions = [
            _Verdict(decision) for decision in decisions_of(cells_of(result), result.manifest)
        ]
    asking = []
    for decision in decisions:
        targets = Targets(result, plan)
        decision.ask(targets)
        if targets.counts:
            asking.append(decision)
    return sorted(asking, key=lambda d: math.inf if math.isnan(d.more) else d.more)


@dataclass(frozen=True, eq=False)
class _Verdict:
    """The verdict on one condition in a family under a protocol, and the questions it needs."""

    decision: Decision

    @property
    def more(self) -> float:
        """The expected number of further questions; NaN if not known.

        0 if questions are needed with the first token kept, so that these come first.
        """
        if self.decision.needs_after_first:
            return 0.0
        n = sum(cell.n_asked([self.decision.condition]) for cell in self.decision.cells)
        return count_needed(self.decision.harm, n) - n

    def ask(self, targets: Targets) -> None:
        """Add to `targets` the questions that the verdict needs next; none if it is decided."""
        decision = self.decision
        after_first = decision.after_first_condition if decision.needs_after_first else None
        for cell in decision.cells:
            n = cell.n_asked([decision.condition])
            if after_first is not None and targets.n_asked(cell, [after_first]) < n:
                targets.ask(cell, [after_first], n)
            elif after_first is not None and decision.may_be_sink:
                targets.ask_on(cell, [decision.condition, after_first])
            elif decision.is_open:
                targets.ask_on(cell, [decision.condition])


def expected_next(result: SweepResult, plan: Plan) -> dict[str, float]:
    """Return how many questions `next_cells` is expected to add, by task.

    A question is one example under one condition, in one or more of the task's cells. The number
    can be predicted even before the first questions (`count_first`) are all answered: the width of
    an interval is assumed to shrink with the square root of the number of examples. An undecided
    condition is expected to need as many questions as `results.count_needed` returns.
    """
    if plan.get("until") == "claims":
        return expected_for_claims(result, plan)
    limits = {(task, protocol): n for task, protocol, n in plan["cells"]}
    looks = result.manifest.get("looks", {})
    questions: dict[tuple[str, str], float] = {}
    for decision in decisions_of(cells_of(result), result.manifest):
        for cell in decision.cells:
            n = len(cell.scores.columns)
            limit = limits.get((cell.task, cell.protocol), n)
            first = count_first(plan, looks, cell.task, limit)
            critical = 0.0
            if decision.is_deferred:
                critical = _probability_of_critical(decision.harm, min(1.0, n / first))
            more = 0.0
            if first < limit:
                asked = cell.n_asked([decision.condition])
                needed = count_needed(decision.harm, max(asked, 1))
                more = 0.0 if math.isnan(needed) else min(limit, needed) - max(asked, first)
            more = critical * first + (1 - critical) * max(0.0, more)
            key = cell.task, decision.condition
            questions[key] = max(questions.get(key, 0.0), more)
    return sum_by_task(questions)


def _probability_of_critical(harm: Contrast, share: float) -> float:
    """Return how likely a harm's interval will lie above `CRITICAL` after the first questions.

    Args:
        harm: the harm after a share of the first questions.
        share: this share.
    """
    half = harm.value - harm.interval.low
    above = harm.value - half * math.sqrt(share) - CRITICAL
    spread = half / NormalDist().inv_cdf(0.975) * math.sqrt(1 - share)
    if not 0 < spread < math.inf:  # all are answered, or the harm or its interval is not known
        return float(above > 0)
    return NormalDist().cdf(above / spread)


def is_answered(
    plan: Plan, done: Mapping[Key, Collection[str]], manifest: Mapping[str, Any]
) -> bool:
    """Return whether a run folder holds all answers to a command's first questions.

    Questions that `next_cells` adds to these are not considered.

    Args:
        plan: the command, which is one call of `Sweep.run`, as a dict: `conditions`, a list of
            hashes; `cells`, a list of [task, protocol, number of examples]; and `until`, "claims"
            if it asks until claims are decided, or another text if until verdicts on layers are.
            `until` is missing if the command asks all questions.
        done: the ids of the answered examples, by condition hash, task and protocol.
        manifest: the folder's manifest.
    """
    looks = manifest.get("looks", {})
    deferred = find_deferred(
        manifest["conditions"], plan, only_needed=bool(manifest.get("only_needed"))
    )
    return all(
        len(done.get((condition, task, protocol), ())) >= count_first(plan, looks, task, n)
        for task, protocol, n in plan["cells"]
        for condition in plan["conditions"]
        if condition not in deferred
    )
