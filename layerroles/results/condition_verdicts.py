"""Verdicts on conditions: each family's harm under each condition, and whether it is decided.

A family's harm is the mean of the harms in its tasks with skill above chance. A verdict is decided
once the whole interval of the harm lies in one region (see `results.verdict_thresholds`). A
condition that ablates one whole layer or one head at all positions may be critical only because the
layer writes the attention sink, at the first token. If the sweep also has the same ablation
`after_first`, which leaves the first token as it is, and the harm is shown to go away under it, the
verdict on the layer or head is "sink" (see `judge`). The `after_first` condition of a layer may be
deferred: questions are asked under it only if the layer is critical when it is ablated at all
positions. A sweep with `until` looks at its results several times and asks no further questions
under a condition once the verdict on it, or the claims that depend on it, are decided.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results.task_protocol_cells import INTACT, Cell
from layerroles.results.verdict_thresholds import CRITICAL, UNDECIDED, count_needed, judge_interval

AFTER_FIRST = "after_first"
# The verdict on a condition whose harm is unknown although the family has skill: a task in which
# the intact score is shown to lie above chance.
NOT_MEASURED = "not measured"
# The verdict on every condition in a family without skill.
NOT_MEASURABLE = "not measurable"
COLUMNS = [
    *("family", "task", "protocol", "condition", "ablation", "at", "layer", "verdict"),
    *("harm", "low", "high", "n", "look", "needed"),
]


@dataclass(frozen=True, eq=False)
class Decision:
    """The verdict on one condition in one family under one protocol.

    Attributes:
        family: the family.
        protocol: the protocol.
        condition: the name of the condition.
        cells: the family's cells (tasks under the protocol) with skill; empty if there are none.
        harm: the mean harm over the cells; its interval has the level of `verdict_levels`.
        after_first_condition: the name of the condition with the same ablation `after_first`, which
            does not ablate the first token. It shows whether the layer or head is a sink. None if
            the sweep has no such condition.
        is_deferred: whether questions are asked under `after_first_condition` only if the layer is
            critical.
        after_first_harm: the mean harm under `after_first_condition`; unknown if `harm` is not
            critical or no questions were asked under that condition.
        removed_harm: the part of `harm` that goes if the first token is not ablated: `harm` minus
            `after_first_harm`, paired by question; unknown if `after_first_harm` is.
    """

    family: str
    protocol: str
    condition: str
    cells: tuple[Cell, ...]
    harm: stats.Contrast = stats.NO_CONTRAST
    after_first_condition: str | None = None
    is_deferred: bool = False
    after_first_harm: stats.Contrast = stats.NO_CONTRAST
    removed_harm: stats.Contrast = stats.NO_CONTRAST

    @property
    def verdict(self) -> str:
        """A verdict of `verdict_thresholds`, or "sink", "not measured" or "not measurable"."""
        if not self.cells:
            return NOT_MEASURABLE
        return judge(
            self.harm, self.after_first_harm, self.removed_harm, sink_asked=self.is_deferred
        )

    @property
    def may_be_sink(self) -> bool:
        """Whether the harm is critical and more questions may show that the layer is a sink.

        False once the layer is shown to be a sink. False once more than half of the harm, or a harm
        above 0.2, is shown to remain when the first token is not ablated. False also if the sweep
        has no condition that leaves the first token as it is (`after_first_condition`).
        """
        if (
            self.after_first_condition is None
            or judge(self.harm, self.after_first_harm, self.removed_harm) != "critical"
        ):
            return False
        remains = self.removed_harm.interval.high < self.harm.value / 2
        return not (remains or self.after_first_harm.interval.low > CRITICAL)

    @property
    def needs_after_first(self) -> bool:
        """Whether the questions of this condition are needed with the first token kept, too.

        True while the layer may be a sink. If such questions are deferred, true for every critical
        layer, so that a run that resumes with more questions asks what a fresh run of that size
        asks.
        """
        return self.may_be_sink or (
            self.is_deferred and judge_interval(self.harm.interval) == "critical"
        )

    @property
    def is_open(self) -> bool:
        """Whether more questions may decide the verdict, or change "critical" to "sink".

        "not measured" is open unless the condition was asked in some cell and is not known to
        ablate tokens there. A decided verdict is not open, although its harm is still an estimate.
        """
        if self.verdict == NOT_MEASURED:
            return all(map(self._may_ablate_tokens, self.cells))
        return self.may_be_sink or self.verdict == UNDECIDED

    def _may_ablate_tokens(self, cell: Cell) -> bool:
        return self.condition not in cell.conditions.index or cell.ablates_tokens(self.condition)


def judge(
    harm: stats.Contrast,
    after_first_harm: stats.Contrast,
    removed_harm: stats.Contrast,
    *,
    sink_asked: bool = False,
) -> str:
    """Return the verdict on a harm: that of `judge_interval`, "sink" or "not measured".

    The verdict on a critical harm is "sink" if sparing the first token is shown to remove more than
    half of the harm and to leave less than 0.2.

    Args:
        harm: the harm if all tokens are ablated.
        after_first_harm: the harm if the first token is not ablated; unknown if not measured.
        removed_harm: `harm` minus `after_first_harm`; unknown if not measured.
        sink_asked: whether the sweep measures `after_first_harm` wherever the harm is critical. A
            critical harm is then "undecided" as long as `after_first_harm` is unknown.
    """
    if math.isnan(harm.value):
        return NOT_MEASURED
    verdict = judge_interval(harm.interval)
    if verdict == "critical" and sink_asked and not after_first_harm.known:
        return UNDECIDED
    goes = drops_by_half(harm.value, removed_harm.interval.low)
    is_sink = verdict == "critical" and goes and after_first_harm.interval.high < CRITICAL
    return "sink" if is_sink else verdict


def drops_by_half(harm: float, removed_low: float) -> bool:
    """Return whether sparing the first token is shown to remove more than half of a harm.

    Args:
        harm: the harm if the first token is ablated too.
        removed_low: the lower bound of the part of the harm that sparing the first token removes.
    """
    return bool(removed_low > max(0.0, harm / 2))


def decisions_of(cells: Sequence[Cell], manifest: Mapping[str, Any]) -> list[Decision]:
    """Return a decision for each family, protocol and condition.

    Deferred conditions (see `find_waiting`) have no decision of their own.

    Args:
        cells: the cells of a result.
        manifest: the manifest of the run.
    """
    entries = manifest.get("conditions", [])
    pairs = _pairs_by_name(entries) | _pairs_by_name(entries, "head")
    after_first_of = {at_all: after_first for after_first, at_all in pairs.items()}
    deferred = set(_pairs_by_name(entries)) if manifest.get("only_needed") else set()
    level_of = verdict_levels(manifest)
    found = []
    for (family, protocol), own in group_by_family(cells).items():
        skilled = tuple(cell for cell in own if cell.has_skill)
        names = dict.fromkeys(str(name) for cell in own for name in cell.conditions.index)
        for name in names:
            if name not in deferred:
                decision = Decision(
                    family,
                    protocol,
                    name,
                    skilled,
                    after_first_condition=after_first_of.get(name),
                    is_deferred=after_first_of.get(name) in deferred,
                )
                found.append(_measure(decision, level_of.get(name, stats.LEVEL)))
    return found


def _measure(decision: Decision, level: float) -> Decision:
    """Return the decision with its harm and, if that is critical, its two other harms computed."""
    cells, name = decision.cells, decision.condition
    after_first = decision.after_first_condition
    harm = mean_harm(cells, {name: 1.0}, level)
    if after_first is None or not harm.interval.low > CRITICAL:
        return replace(decision, harm=harm)
    after_first_harm = mean_harm(cells, {after_first: 1.0}, level)
    removed_harm = mean_harm(cells, {name: 1.0, after_first: -1.0}, level)
    return replace(
        decision, harm=harm, after_first_harm=after_first_harm, removed_harm=removed_harm
    )


def group_by_family(cells: Sequence[Cell]) -> dict[tuple[str, str], list[Cell]]:
    """Map family and protocol to their cells."""
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.family, cell.protocol), []).append(cell)
    return groups


def mean_harm(
    cells: Sequence[Cell], weights: Mapping[str, float], level: float = stats.LEVEL
) -> stats.Contrast:
    """Return a weighted sum of the harms of conditions, averaged over cells."""
    return stats.mean_of([cell.harm(weights, level=level) for cell in cells])


def harm_where_asked(
    cells: Sequence[Cell], condition: str, level: float = stats.LEVEL
) -> stats.Contrast:
    """Return the harm of one condition, averaged over the cells in which it was asked."""
    asked = [cell for cell in cells if condition in cell.conditions.index]
    return mean_harm(asked, {condition: 1.0}, level)


def tabulate_decisions(
    cells: Sequence[Cell], manifest: Mapping[str, Any], *, interim: bool
) -> pd.DataFrame:
    """Return the table of `SweepResult.decisions`.

    Args:
        cells: the cells of a result.
        manifest: the manifest of the run.
        interim: whether the run is unfinished. Every condition with a known harm is then given as
            undecided.
    """
    rows = []
    for decision in decisions_of(cells, manifest):
        n_asked = {cell.task: cell.n_asked([decision.condition]) for cell in decision.cells}
        n = sum(n_asked.values())
        about = next(
            cell.conditions.loc[decision.condition]
            for cell in cells
            if decision.condition in cell.conditions.index
        )
        looks = [sum(size <= n_asked[c.task] for size in c.looks.sizes) for c in decision.cells]
        verdict, (harm, low, high) = decision.verdict, decision.harm.numbers
        if interim and verdict not in (NOT_MEASURED, NOT_MEASURABLE):
            verdict = UNDECIDED
        rows.append(
            {
                "family": decision.family,
                "task": ", ".join(n_asked),
                "protocol": decision.protocol,
                **about[["condition", "ablation", "at", "layer"]].to_dict(),
                **{"verdict": verdict, "harm": harm, "low": low, "high": high},
                "n": n,
                "look": min(looks, default=0),
                "needed": count_needed(decision.harm, n) if verdict == UNDECIDED else math.nan,
            }
        )
    return pd.DataFrame(rows, columns=COLUMNS).astype({"layer": "Int64", "n": int, "look": int})


def describe_decisions(cells: Sequence[Cell], manifest: Mapping[str, Any]) -> str:
    """Return a phrase on how many verdicts are decided, from how many answers, at what error.

    Verdicts in families without skill are not counted. "" for a sweep without `until`.
    """
    if not manifest.get("until"):
        return ""
    decisions = [decision for decision in decisions_of(cells, manifest) if decision.cells]
    undecided = (UNDECIDED, NOT_MEASURED)
    decided = [decision for decision in decisions if decision.verdict not in undecided]
    answers = describe_answers(cells, manifest)
    text = f"{len(decided)} of {len(decisions)} verdicts decided, with {answers}"
    error = manifest["until"]["error"]
    if not decided:
        return text
    if manifest["until"]["simultaneous"]:
        return (
            f"{text}; those of one ablation of the same parts at the same positions, in one family "
            f"under one protocol, are all right with probability {1 - error:g} or more"
        )
    expected_wrong = min(len(decisions) * error, len(decided))
    return f"{text}; at most {expected_wrong:.1f} of them are expected to be wrong"


def describe_answers(cells: Sequence[Cell], manifest: Mapping[str, Any]) -> str:
    """Return a phrase on how many answers a sweep has, with their share of all possible answers.

    All possible answers are those to every question, up to the limit, under every condition; a
    deferred condition (see `find_waiting`) counts only in the cells in which it was asked.
    """
    n_answers = sum(len(cell.rows) for cell in cells)
    names = [str(entry["name"]) for entry in manifest["conditions"]]
    deferred = set(_pairs_by_name(manifest["conditions"])) if manifest.get("only_needed") else set()
    limits = {(str(c["task"]), str(c["protocol"])): int(c["n"]) for c in manifest["cells"]}
    n_all = (len(names) - len(deferred)) * sum(limits.values())
    n_all += sum(
        limits.get((cell.task, cell.protocol), 0) * len(deferred.intersection(cell.n_rows))
        for cell in cells
    )
    share = n_answers / max(1, n_all)
    return f"{n_answers:,} answers ({share:.0%} of asking everything up to the limit)"


def verdict_levels(manifest: Mapping[str, Any]) -> dict[str, float]:
    """Map each condition's name to the confidence level of the harm interval of its verdict.

    The level is `1 - Decided.error`. With `Decided.simultaneous`, the error is first divided by the
    number of conditions with the same ablation, `at` and parts. It then bounds the probability that
    any of their verdicts in one family under one protocol is wrong. The map is empty for a sweep
    without `until`; the level is then 95%.
    """
    until = manifest.get("until")
    if not until:
        return {}
    kinds = {
        str(entry["name"]): json.dumps([entry["ablation"], entry["at"], entry.get("parts")])
        for entry in manifest.get("conditions", [])
        if entry["name"] != INTACT
    }
    n_alike = pd.Series(kinds).value_counts()
    return {
        name: 1 - until["error"] / (int(n_alike[kind]) if until["simultaneous"] else 1)
        for name, kind in kinds.items()
    }


def find_waiting(conditions: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Map the hash of each deferred condition to the name of the condition that it waits for.

    A deferred condition ablates one whole layer `after_first`, and the sweep also has the same
    ablation of that layer at all positions: the condition that it waits for. Questions are asked
    under the deferred condition only if the layer turns out to be critical at all positions.

    Args:
        conditions: entries of a manifest.
    """
    hashes = {str(entry["name"]): str(entry["hash"]) for entry in conditions}
    return {hashes[name]: at_all for name, at_all in _pairs_by_name(conditions).items()}


def count_deferred(
    manifest: Mapping[str, Any], kind: tuple[object, object, object], asked: Collection[str]
) -> int:
    """Return how many deferred conditions (see `find_waiting`) a sweep did not need to ask.

    Only those are counted for which the same ablation at all positions was asked. When p values are
    corrected, each counts as a test, since it was planned. 0 for a sweep that defers no conditions,
    and if `kind` is not about whole layers `after_first`.

    Args:
        manifest: the manifest of the run.
        kind: the ablation, `at` and part of the tests that are corrected together.
        asked: the names of all conditions with answers that are compared.
    """
    ablation, at, part = kind
    if not manifest.get("only_needed") or (at, part) != (AFTER_FIRST, "block"):
        return 0
    entries = manifest.get("conditions", [])
    own = {str(entry["name"]) for entry in entries if entry["ablation"] == ablation}
    return sum(
        after_first in own and at_all in asked and after_first not in asked
        for after_first, at_all in _pairs_by_name(entries).items()
    )


def find_deferred(
    conditions: Sequence[Mapping[str, Any]], plan: Mapping[str, Any], *, only_needed: bool
) -> set[str]:
    """Return the hashes of the conditions that earlier answers may make unnecessary.

    With `only_needed`, these are the conditions of `find_waiting`. If the plan stops once claims
    are decided, all conditions of its second and further ablations are added.

    Args:
        conditions: entries of a manifest.
        plan: what one call of `Sweep.run` asks: its `conditions` (hashes, in order) and, if it may
            stop early, `until`: "layers" if it stops once the verdicts on layers are decided,
            "claims" if once the claims are.
        only_needed: whether a layer is ablated `after_first` only if it is critical at all
            positions.
    """
    deferred = set(find_waiting(conditions)) if only_needed else set()
    if plan.get("until") != "claims":
        return deferred
    kind_of = {entry["hash"]: entry["ablation"] for entry in conditions}
    kinds = ablations_asked(conditions, plan)
    return deferred | {hash for hash in plan["conditions"] if kind_of[hash] in kinds[1:]}


def ablations_asked(conditions: Sequence[Mapping[str, Any]], plan: Mapping[str, Any]) -> list[str]:
    """Return the names of the ablations in a plan's conditions, in order of first appearance.

    Args:
        conditions: entries of a manifest.
        plan: what one call of `Sweep.run` asks: its `conditions` (hashes, in order).
    """
    kind_of = {entry["hash"]: str(entry["ablation"]) for entry in conditions}
    kinds = dict.fromkeys(kind_of[hash] for hash in plan["conditions"])
    return [kind for kind in kinds if kind != INTACT]


def _pairs_by_name(conditions: Sequence[Mapping[str, Any]], part: str = "block") -> dict[str, str]:
    """Map the name of each `after_first` condition to that of the same ablation at all positions.

    Args:
        conditions: entries of a manifest.
        part: only conditions that ablate one such part: a `"block"` (whole layer) or a `"head"`.
    """
    places = [
        entry for entry in conditions if (entry.get("parts"), len(entry["sites"])) == ([part], 1)
    ]
    at_all = {_content(entry): str(entry["name"]) for entry in places if entry["at"] == "all"}
    return {
        str(entry["name"]): at_all[_content(entry)]
        for entry in places
        if entry["at"] == AFTER_FIRST and _content(entry) in at_all
    }


def _content(condition: Mapping[str, Any]) -> str:
    """Return a condition's ablation, sites and parameters as JSON, without its positions."""
    content = [condition["ablation"], condition["sites"], condition.get("parameters")]
    return json.dumps(content, sort_keys=True, default=str)
