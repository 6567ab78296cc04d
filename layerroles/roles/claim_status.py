"""Decide claims, from what several kinds of ablation say about them (`claim_findings`).

A claim is

- supported: two kinds show it, and none shows the opposite;
- contradicted: two kinds show the opposite, and none shows the claim;
- not shown: neither of these; the evidence says what is missing, or that a number is known to lie
  near its smallest effect (between 0 and twice that effect);
- not measurable: the intact model is not shown to be above chance, so harm is not defined;
- described: it has numbers, but there is no rule to decide it.

Ablations with the same mechanism (deletion, mean, resample, noise; see `results.mechanisms`) count
as one kind.
"""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerroles.roles.claim_findings import SMALLEST, Finding, Key
from layerroles.roles.harms import Harms
from layerroles.roles.sentences_per_family import explain_unmeasurable

COLUMNS = ["claim", "family", "protocol", "smallest", "status", "reason", "evidence", "numbers"]
# Larger counts of needed questions are reported as "more than" this.
_MOST_QUESTIONS = 1_000_000


@dataclass(frozen=True, eq=False)
class Claim:
    """A claim, and what each kind of ablation says about it.

    Attributes:
        claim: the claim, in words.
        family: the family that it is about.
        protocol: the protocol, or two as "one - other".
        findings: one per kind of ablation.
        missing: why the claim is not measurable; empty if it is measurable.
        keys: the families and protocols in which its numbers are measured.
        tasks: the tasks that it is about; empty for all tasks of the families.
        layers: the layers whose harm enters its numbers; empty for all layers.
        smallest: its smallest effect of interest.
        note: text added to the evidence; empty for none.
    """

    claim: str
    family: str
    protocol: str
    findings: Sequence[Finding]
    missing: str = ""
    keys: Sequence[Key] = ()
    tasks: Sequence[str] = ()
    layers: Collection[int] = ()
    smallest: float = SMALLEST
    note: str = ""

    @property
    def status(self) -> str:
        """Supported, contradicted, not shown or not measurable, as the module defines them."""
        return "not measurable" if self.missing else decide_status(self.findings)[0]

    @property
    def reason(self) -> str:
        """Why the claim is not shown or not measurable; else empty."""
        return self.missing or decide_status(self.findings)[1]

    def row(self) -> dict[str, Any]:
        """Return the row of `Roles.claims`."""
        words = [*(finding.words for finding in self.findings), self.reason, self.note]
        return {
            "claim": self.claim,
            "family": self.family,
            "protocol": self.protocol,
            "smallest": self.smallest,
            "status": self.status,
            "reason": self.reason,
            "evidence": self.missing or "; ".join(filter(None, words)),
            "numbers": []
            if self.missing
            else [record for finding in self.findings for record in finding.numbers],
        }

    def open_finding(self, unasked: Sequence[Finding] = ()) -> Finding | None:
        """Return the first open finding on which the claim's status depends, if there is one.

        Open means that more questions may decide the finding. A claim is supported or contradicted
        by two mechanisms that agree if none disagrees, so findings of a mechanism that is decided
        already are skipped. None if the claim is decided or not measurable, or if more questions
        can no longer decide it.

        Args:
            unasked: open findings that stand for kinds of ablation that were not run yet.
        """
        if self.missing or self.status in ("supported", "contradicted"):
            return None
        findings = [*self.findings, *unasked]
        for sign in (1, -1):
            if any(finding.sign == -sign and finding.mechanism for finding in findings):
                continue
            decided = {finding.mechanism for finding in findings if finding.sign == sign} - {""}
            open_ = [f for f in findings if f.is_open and f.mechanism not in {"", *decided}]
            if len(decided | {finding.mechanism for finding in open_}) > 1:
                return open_[0]
        return None


def decide_status(findings: Sequence[Finding]) -> tuple[str, str]:
    """Return the status of a claim and, if it is "not shown", the reason; else an empty text."""
    shown = {finding.mechanism for finding in findings if finding.sign > 0 and finding.mechanism}
    opposite = {finding.mechanism for finding in findings if finding.sign < 0 and finding.mechanism}
    if shown and opposite:
        return "not shown", "the kinds of ablation disagree"
    if len(shown) > 1:
        return "supported", ""
    if len(opposite) > 1:
        return "contradicted", ""
    return "not shown", _explain_undecided(findings, shown | opposite)


def _explain_undecided(findings: Sequence[Finding], decided: set[str]) -> str:
    """Return text on why a claim is not decided.

    Mostly it is what would decide the claim: more questions, another kind of ablation, or both. If
    a number is known to lie near its smallest effect, the text says that instead.

    Args:
        findings: the findings of all kinds.
        decided: the mechanisms that show the claim or its opposite.
    """
    if near := [finding.ablation for finding in findings if finding.is_near]:
        return f"by {', '.join(near)} the number lies within its smallest effect of the border"
    kinds = {finding.mechanism for finding in findings if finding.mechanism}
    if not kinds:
        return "two kinds of ablation, of different mechanisms, have to show it"
    if len(kinds) == 1:
        (first,) = kinds
        second = f"a second kind of ablation, of another mechanism beside {first}, has to show it"
        questions = "" if decided else _describe_needed(findings)
        return f"{questions}; {second}, too" if questions else second
    return _describe_needed(
        [finding for finding in findings if finding.mechanism and finding.mechanism not in decided]
    )


def _describe_needed(findings: Sequence[Finding]) -> str:
    """Return text on how many questions would decide a claim under each kind of ablation.

    If no such count is known, the text names the kinds that were not run on all tasks; else those
    that do not show the claim with the first token kept; else it says that the kinds show it for
    different layers. Empty if none of these holds.
    """
    needed = [
        f"{finding.ablation} {_format_count(finding.needed)}"
        for finding in findings
        if not math.isnan(finding.needed)
    ]
    if needed:
        return f"questions that would decide it if the numbers stand: {', '.join(needed)}"
    unasked = [finding.ablation for finding in findings if finding.is_open and not finding.numbers]
    kept = "with the first token kept"
    unasked += [f"{finding.ablation} {kept}" for finding in findings if finding.lacks_kept]
    if unasked:
        return f"not asked about all of it by {', '.join(unasked)}"
    only_all = [finding.ablation for finding in findings if finding.asks_kept]
    if only_all:
        return f"not shown by {', '.join(only_all)} {kept}"
    if any(finding.depends_on_chance for finding in findings):
        return "it depends on whether measured chance is subtracted"
    if any(finding.disagrees for finding in findings):
        return "the kinds of ablation show it of different layers"
    return ""


def _format_count(n: float) -> str:
    return f"more than {_MOST_QUESTIONS:,}" if n > _MOST_QUESTIONS else f"about {math.ceil(n):,}"


def describe_unmeasured_families(harms: Harms, keys: Iterable[Key]) -> str:
    """Return text on which families' harm is not measurable, and why; empty if there are none."""
    unmeasured = [key for key in dict.fromkeys(keys) if harms.measured(*key).empty]
    return "; ".join(
        f"{family} under {protocol}: "
        f"{explain_unmeasurable(harms.intact_rows(family, protocol)).partition(': ')[2]}"
        for family, protocol in unmeasured
    )


def make_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows of claims as a frame with the columns `COLUMNS`."""
    return pd.DataFrame(list(rows), columns=COLUMNS)
