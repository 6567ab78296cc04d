"""Decide claims: compare numbers with a smallest effect, under several kinds of ablation.

A claim is about one or more numbers, and each number has a smallest effect of interest, by default
.05 of the skill above chance. A kind of ablation shows the claim if the interval of every number
lies above that number's smallest effect, and shows the opposite if the interval of one lies below.
The finding of a kind is which of these it shows, if any; it is open if more questions may decide
it. A claim is

- supported: two kinds show it, and none shows the opposite;
- contradicted: two kinds show the opposite, and none shows the claim;
- not shown: neither of these; the evidence says what is missing, or that the number is known to lie
  near its smallest effect (between 0 and twice that effect);
- not measurable: the intact model has no skill above chance, so there is no harm to measure;
- described: it has numbers, but there is no rule to decide it.

Ablations with the same mechanism (deletion, mean, resample, noise; see `results.mechanisms`) count
as one kind. If the sweep also ablated all positions but the first (`after_first`), a number counts
only if it lies on the same side of its smallest effect there too. The first token is often an
attention sink, and ablating a sink breaks every task, so that says nothing about a skill.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results import AFTER_FIRST
from layerroles.roles.family_sentences import explain_unmeasurable
from layerroles.roles.harms import Harms
from layerroles.roles.wording import format_estimate

COLUMNS = ["claim", "family", "protocol", "smallest", "status", "reason", "evidence", "numbers"]
# Default smallest effect of interest, as a share of the skill above chance.
SMALLEST = 0.05
# Larger counts of needed questions are reported as "more than" this.
_MOST_QUESTIONS = 1_000_000

Key = tuple[str, str]  # family, protocol


@dataclass(frozen=True, eq=False)
class AblationKind:
    """A kind of ablation: its harms, and its mechanism, such as "deletion" ("" if not declared)."""

    harms: Harms
    mechanism: str

    @property
    def ablation(self) -> str:
        """Name of the ablation."""
        return self.harms.ablation


@dataclass(frozen=True, eq=False)
class Number:
    """One number that a claim is about, under one kind of ablation.

    Attributes:
        quantity: name of the number.
        measured: its value under ablation at the positions `Harms.at`.
        kept: its value under ablation at `after_first`, which keeps the first token; None if the
            sweep has no such conditions.
        smallest: its smallest effect of interest.
    """

    quantity: str
    measured: stats.Contrast
    kept: stats.Contrast | None = None
    smallest: float = SMALLEST

    @property
    def sign(self) -> int:
        """1 if the interval of `measured` lies above the smallest effect, -1 if below it, else 0.

        Also 0 if `kept` is given and its interval does not lie on the same side.
        """
        side = self.judged_sign
        return side if self.kept is None or self._side(self.kept) == side else 0

    @property
    def judged_sign(self) -> int:
        """1, -1 or 0 as in `sign`, but by the interval of `measured` alone, without `kept`."""
        return self._side(self.measured)

    def _side(self, contrast: stats.Contrast) -> int:
        interval = contrast.interval
        return int(interval.low > self.smallest) - int(interval.high < self.smallest)

    @property
    def is_open(self) -> bool:
        """Whether more questions may decide `sign`.

        False if `sign` is decided, if `measured` and `kept` are shown to lie on different sides of
        the smallest effect, or if the number `is_near`.
        """
        return bool(self._between) and not self.is_near

    @property
    def is_near(self) -> bool:
        """Whether an interval that includes the smallest effect lies from 0 to twice that effect.

        More questions may then show that the number is above or below its smallest effect, but not
        by enough to matter.
        """
        intervals = [contrast.interval for contrast in self._between]
        return any(i.low >= 0 and i.high <= 2 * self.smallest for i in intervals)

    @property
    def _between(self) -> list[stats.Contrast]:
        """Those of `measured` and `kept` that are not shown to be above or below `smallest`."""
        values = [self.measured, *([] if self.kept is None else [self.kept])]
        return [contrast for contrast in values if not self._side(contrast)]

    @property
    def words(self) -> str:
        """Text with the estimate and its interval, or a note that the number is not known."""
        if not self.measured.known:
            return f"{self.quantity} not known (it takes skill, and every layer that it is about)"
        text = f"{self.quantity} {format_estimate(*self.measured.numbers)}"
        if self.kept is None or self._side(self.kept) == self._side(self.measured):
            return text
        if not self.kept.known:
            return f"{text}, not known with the first token kept"
        return f"{text}, with the first token kept {format_estimate(*self.kept.numbers)}"

    def records(self, ablation: str) -> Iterator[dict[str, Any]]:
        """Yield a record for each of `measured` and `kept` that is known.

        Its keys are ablation, quantity, estimate, low, high and n (the number of questions).
        """
        contrasts = [(self.quantity, self.measured)]
        if self.kept is not None:
            contrasts.append((f"{self.quantity}, first token kept", self.kept))
        for quantity, contrast in contrasts:
            if contrast.known:
                values = dict(zip(("estimate", "low", "high"), contrast.numbers, strict=True))
                yield {"ablation": ablation, "quantity": quantity, **values, "n": contrast.n}

    @property
    def needed(self) -> float:
        """The number of questions that would decide `sign` if the estimate stayed the same.

        Computed for `measured` if it is known and undecided, else for `kept` if that is; NaN if
        neither is. Infinite if the estimate equals the smallest effect.
        """
        for contrast in (self.measured, self.kept):
            if contrast is None or not contrast.known or self._side(contrast):
                continue
            distance = contrast.value - self.smallest
            to_ends = (
                contrast.value - contrast.interval.low,
                contrast.interval.high - contrast.value,
            )
            reach = to_ends[0] if distance > 0 else to_ends[1]
            return contrast.n * (reach / distance) ** 2 if distance else math.inf
        return math.nan


@dataclass(frozen=True)
class Finding:
    """What one kind of ablation says about a claim.

    Attributes:
        ablation: name of the kind.
        mechanism: mechanism of the kind; empty if it declares none and so counts for no claim.
        sign: 1 if the kind shows the claim, -1 if it shows the opposite, 0 if neither.
        words: the finding as text, with its numbers.
        numbers: records of ablation, quantity, estimate, low, high, and n, the number of questions.
        needed: number of questions that would decide `sign` if the estimates stayed the same; NaN
            if not known.
        is_open: whether more questions may decide `sign`.
        asks_kept: whether `sign` is 0 only because of the numbers with the first token kept
            (`Number.kept`); those at `Harms.at` alone would decide it.
        lacks_kept: whether `sign` is 0, and numbers with the first token kept that it depends on
            are not known, since not all questions about them were asked.
        kept_layers: layers that have to be ablated with the first token kept to decide `sign`,
            whether or not they are critical.
        disagrees: whether `sign` is 0 because another kind shows the claim for other layers.
        is_near: whether a number is known to lie so near its smallest effect that more questions
            would not decide `sign`.
    """

    ablation: str
    mechanism: str
    sign: int
    words: str
    numbers: tuple[dict[str, Any], ...] = ()
    needed: float = math.nan
    is_open: bool = False
    asks_kept: bool = False
    lacks_kept: bool = False
    kept_layers: frozenset[int] = frozenset()
    disagrees: bool = False
    is_near: bool = False


def make_finding(kind: AblationKind, numbers: Sequence[Number]) -> Finding:
    """Return the finding of one kind of ablation on a claim about one or more numbers.

    The claim holds if each number exceeds its smallest effect.
    """
    sign = min(number.sign for number in numbers)
    undecided = [number for number in numbers if not number.sign]
    # One open number is enough: if it falls below its smallest effect, the opposite is shown.
    is_open = not sign and any(number.is_open for number in undecided)
    asks_kept = not sign and min(number.judged_sign for number in numbers) != 0
    return Finding(
        kind.ablation,
        kind.mechanism,
        sign,
        f"{kind.ablation}: {', '.join(number.words for number in numbers)}",
        tuple(record for number in numbers for record in number.records(kind.ablation)),
        max(
            (number.needed for number in numbers if not math.isnan(number.needed)), default=math.nan
        ),
        is_open=is_open,
        asks_kept=asks_kept,
        lacks_kept=asks_kept
        and any(number.kept is not None and not number.kept.known for number in numbers),
        is_near=not sign and not is_open and any(number.is_near for number in undecided),
    )


def find_by_kind(
    kinds: Sequence[AblationKind],
    keys: Sequence[Key],
    measures: Sequence[Callable[[Harms], Number]],
) -> list[Finding]:
    """Return the finding of each kind on the claim that all numbers exceed their smallest effect.

    Args:
        kinds: the kinds of ablation.
        keys: the families and protocols in which the numbers are measured. The finding has sign 0
            for a kind that was not run on all tasks of these that have skill and that the first
            kind was run on.
        measures: for each number, a function that measures it under one kind.
    """
    return [
        make_finding(kind, [measure(kind.harms) for measure in measures])
        if was_asked(kind, kinds[0], keys)
        else not_asked(kind)
        for kind in kinds
    ]


def was_asked(kind: AblationKind, first: AblationKind, keys: Sequence[Key]) -> bool:
    """Return whether `kind` was run on every task with skill that `first` was run on.

    Only tasks of the families and protocols `keys` count.
    """
    return all(set(first.harms.tasks(*key)) <= set(kind.harms.tasks(*key)) for key in keys)


def not_asked(kind: AblationKind) -> Finding:
    """Return an open finding with sign 0, for a kind that was not run on all tasks of a claim."""
    return Finding(
        kind.ablation,
        kind.mechanism,
        0,
        f"{kind.ablation}: not asked about all of it",
        is_open=True,
    )


def left_undecided(finding: Finding) -> Finding:
    """Return a copy of a finding with sign 0 that is not open: more questions do not decide it."""
    return replace(finding, sign=0, needed=math.nan, is_open=False, is_near=False)


def measure_number(
    harms: Harms,
    quantity: str,
    measured: Callable[[str], stats.Contrast],
    smallest: float = SMALLEST,
) -> Number:
    """Return a number of a claim under one kind of ablation.

    Its value is measured with ablation at `harms.at`. If the sweep has conditions with
    `at="after_first"`, which keep the first token, it is also measured with these.

    Args:
        harms: the harms under that kind.
        quantity: the name of the number.
        measured: a function from `at`, the positions of the ablation, to the value.
        smallest: the smallest effect of interest.
    """
    first_token_kept = measured(AFTER_FIRST) if harms.after_first else None
    return Number(quantity, measured(harms.at), first_token_kept, smallest)


def explain_unmeasured(harms: Harms, keys: Iterable[Key]) -> str:
    """Return text on which families' harm is not measurable, and why; empty if there are none."""
    reasons = {
        (family, protocol): explain_unmeasurable(harms.intact_rows(family, protocol))
        for family, protocol in keys
        if harms.measured(family, protocol).empty
    }
    return "; ".join(
        f"{family} under {protocol}: {reason.partition(': ')[2]}"
        for (family, protocol), reason in reasons.items()
    )


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
        """Return the first finding that more questions may decide, if that may decide the claim.

        None if the claim is not measurable, is supported or contradicted already, or can no longer
        become so: either status takes two mechanisms that agree, and no kind that disagrees.

        Args:
            unasked: open findings of further kinds, which were not run yet.
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

    Mostly it is what would decide the claim: another kind of ablation, or more questions. If a
    number is known to lie near its smallest effect, the text says that instead.

    Args:
        findings: the findings of all kinds.
        decided: the mechanisms that show the claim or its opposite.
    """
    if near := [finding.ablation for finding in findings if finding.is_near]:
        return f"by {', '.join(near)} the number lies within its smallest effect of the border"
    kinds = {finding.mechanism for finding in findings if finding.mechanism}
    if len(kinds) < 2:
        present = f" beside {', '.join(kinds)}" if kinds else ""
        need = "a second kind" if kinds else "two kinds"
        text = f"{need} of ablation, of another mechanism{present}, has to show it"
        return (
            text if decided or not kinds else f"{text}; {_describe_needed(findings)}".rstrip("; ")
        )
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
    if any(finding.disagrees for finding in findings):
        return "the kinds of ablation show it of different layers"
    return ""


def _format_count(n: float) -> str:
    return f"more than {_MOST_QUESTIONS:,}" if n > _MOST_QUESTIONS else f"about {math.ceil(n):,}"


def make_table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Return rows of claims as a frame with the columns `COLUMNS`."""
    return pd.DataFrame(list(rows), columns=COLUMNS)
