"""Claims of the literature, held against a sweep: supported, contradicted or not shown.

The claims are those of "Demystifying the Roles of LLM Layers in Retrieval, Knowledge, and
Reasoning" (arXiv 2510.02091) to which ablating layers and heads can speak. Each is about numbers,
and each number has a smallest effect of interest, by default .05 of the skill above chance. A kind
of ablation shows a claim where the intervals of all its numbers lie above the smallest effect, and
the opposite where that of one of them lies below it. A claim is

- supported: two kinds show it, and none the opposite;
- contradicted: two kinds show the opposite, and none shows it;
- not shown: else, and the evidence says what is missing;
- not measurable: the intact model has no skill at which harm could be measured;
- described: there are numbers, and no rule by which they would decide.

A kind is a mechanism (deletion, mean, resample, noise; see `results.mechanisms`). Numbers are also
measured with the first token's write kept, where that was swept, and have to say the same then: a
sink breaks every task, and is no skill.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.roles.claims import listed, number, reason
from layerroles.roles.harms import AFTER_FIRST, CRITICAL, Harms

COLUMNS = ["claim", "family", "protocol", "smallest", "status", "evidence", "numbers"]
SHALLOW = {
    "retrieval": "Retrieval leans on shallow layers",
    "knowledge": "Knowledge leans on shallow layers",
    "commonsense": "Commonsense leans on shallow layers",
}
DEEP = "Reasoning needs middle and deep layers"
ORDER = "Reasoning leans on deeper layers than retrieval"
MORE = "Generation needs more of the depth than likelihood"
# Of the skill above chance: what a claim has to be about to matter.
SMALLEST = 0.05
# More questions than this are not asked for.
_MOST_QUESTIONS = 1_000_000

Key = tuple[str, str]  # family, protocol


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of ablation: its harms, the verdicts on its layers, and its mechanism ("": none)."""

    harms: Harms
    layers: pd.DataFrame
    mechanism: str

    @property
    def ablation(self) -> str:
        """Its name."""
        return self.harms.ablation


@dataclass(frozen=True, eq=False)
class Number:
    """One number that a claim is about, under one kind of ablation.

    Attributes:
        quantity: what it is.
        measured: the number, where the conditions are judged.
        kept: the same with the first token's write kept; None where that was not swept.
        smallest: its smallest effect of interest.
    """

    quantity: str
    measured: stats.Contrast
    kept: stats.Contrast | None = None
    smallest: float = SMALLEST

    @property
    def sign(self) -> int:
        """1 where it lies above the smallest effect, -1 where below, 0 where that is not shown."""
        found = self._side(self.measured)
        return found if self.kept is None or self._side(self.kept) == found else 0

    def _side(self, contrast: stats.Contrast) -> int:
        interval = contrast.interval
        return int(interval.low > self.smallest) - int(interval.high < self.smallest)

    @property
    def words(self) -> str:
        """The numbers."""
        if not self.measured.known:
            return f"{self.quantity} not known (not measured at every layer that it is about)"
        text = f"{self.quantity} {number(*self.measured.numbers)}"
        if self.kept is None or self._side(self.kept) == self._side(self.measured):
            return text
        if not self.kept.known:
            return f"{text}, not known with the first token kept"
        return f"{text}, with the first token kept {number(*self.kept.numbers)}"

    def records(self, ablation: str) -> Iterator[dict[str, Any]]:
        """The numbers, a record each."""
        known = [(self.quantity, self.measured)]
        if self.kept is not None:
            known.append((f"{self.quantity}, first token kept", self.kept))
        for quantity, contrast in known:
            if contrast.known:
                values = dict(zip(("estimate", "low", "high"), contrast.numbers, strict=True))
                yield {"ablation": ablation, "quantity": quantity, **values}

    @property
    def needed(self) -> float:
        """How many questions would decide it if its value stood; NaN where that is not known."""
        for contrast in (self.measured, self.kept):
            if contrast is None or not contrast.known or self._side(contrast):
                continue
            apart = contrast.value - self.smallest
            ends = contrast.value - contrast.interval.low, contrast.interval.high - contrast.value
            reach = ends[0] if apart > 0 else ends[1]
            return contrast.n * (reach / apart) ** 2 if apart else math.inf
        return math.nan


@dataclass(frozen=True)
class Finding:
    """What one kind of ablation says to a claim.

    Attributes:
        ablation: the kind.
        mechanism: its mechanism; empty if a claim cannot rest on it.
        sign: 1 if it shows the claim, -1 if the opposite, 0 if neither.
        words: with the numbers.
        numbers: a record each: ablation, quantity, estimate, low, high.
        needed: how many questions would decide it, if its numbers stood; NaN where not known.
    """

    ablation: str
    mechanism: str
    sign: int
    words: str
    numbers: tuple[dict[str, Any], ...] = ()
    needed: float = math.nan


def found_of(kind: Kind, numbers: Sequence[Number]) -> Finding:
    """What a kind says to a claim that holds if all of some numbers are above their smallest."""
    signs = [one.sign for one in numbers]
    return Finding(
        kind.ablation,
        kind.mechanism,
        min(signs),
        f"{kind.ablation}: {', '.join(one.words for one in numbers)}",
        tuple(record for one in numbers for record in one.records(kind.ablation)),
        max((one.needed for one in numbers if not math.isnan(one.needed)), default=math.nan),
    )


def of_harms(
    harms: Harms,
    quantity: str,
    measured: Callable[[str], stats.Contrast],
    smallest: float = SMALLEST,
) -> Number:
    """A number where it is judged, and with the first token's write kept where that was swept."""
    kept = measured(AFTER_FIRST) if harms.after_first else None
    return Number(quantity, measured(harms.at), kept, smallest)


def claims_of(kinds: Sequence[Kind], control: str) -> Iterator[dict[str, Any]]:
    """The rows of `Roles.claims` that single layers can speak to.

    Args:
        kinds: the kind that is judged, then the others at the same positions.
        control: the family whose answers are as long, and take no skill but to write them.
    """
    yield from _shallow(kinds, control)
    yield from _order(kinds)
    yield from _deep(kinds, control)
    yield from _protocols(kinds)


def _shallow(kinds: Sequence[Kind], control: str) -> Iterator[dict[str, Any]]:
    """Early against late; where copying was asked, more than copying."""
    first = kinds[0].harms
    for family, protocol in first.keys:
        if family not in SHALLOW:
            continue
        key, other = (family, protocol), (control, protocol)
        missing = unmeasured(first, [key])
        whole = [found_of(kind, [_early(kind.harms, key)]) for kind in kinds]
        if other not in first.keys or first.measured(*other).empty:
            note = "no copying control: whether any text leans so is not known"
            yield row(SHALLOW[family], family, protocol, missing, whole, note=note)
            continue
        both = [
            found_of(kind, [_early(kind.harms, key), _beyond(kind.harms, key, other)])
            for kind in kinds
        ]
        beyond = [found_of(kind, [_beyond(kind.harms, key, other)]) for kind in kinds]
        note = _against_copying("leans", whole, beyond, both)
        yield row(SHALLOW[family], family, protocol, missing, both, note=note)


def _against_copying(
    verb: str, whole: Sequence[Finding], beyond: Sequence[Finding], both: Sequence[Finding]
) -> str:
    """Whether a family leans on a depth, and whether more than copying does.

    Args:
        verb: what it does, in words.
        whole: what each kind says of the family alone.
        beyond: of the family beyond copying.
        both: of the two together.
    """
    found = [status(each)[0] for each in (whole, beyond, both)]
    return _in_words(verb, *found)


def _in_words(verb: str, whole: str, beyond: str, both: str) -> str:
    if both == "supported":
        return f"{verb} more than any text does"
    if whole != "supported":
        return ""
    if beyond == "contradicted":
        return f"{verb}, as any text does"
    return f"{verb}; not shown to do so beyond copying"


def _early(harms: Harms, key: Key) -> Number:
    return of_harms(harms, "early minus late", lambda at: harms.early_minus_late(*key, at))


def _beyond(harms: Harms, key: Key, other: Key, quantity: str = "beyond copying") -> Number:
    """Early against late of one family minus that of another."""

    def measured(at: str) -> stats.Contrast:
        return stats.difference_of(
            harms.early_minus_late(*key, at), harms.early_minus_late(*other, at)
        )

    return of_harms(harms, quantity, measured)


def _order(kinds: Sequence[Kind]) -> Iterator[dict[str, Any]]:
    first = kinds[0].harms
    quantity = "early minus late, retrieval minus reasoning"
    for protocol in dict.fromkeys(protocol for _, protocol in first.keys):
        both = ("retrieval", protocol), ("reasoning", protocol)
        if set(both) <= set(first.keys):
            found = [found_of(kind, [_beyond(kind.harms, *both, quantity)]) for kind in kinds]
            yield row(ORDER, "reasoning", protocol, unmeasured(first, both), found)


def _deep(kinds: Sequence[Kind], control: str) -> Iterator[dict[str, Any]]:
    """Middle and last third: what reasoning needs there and copying does not."""
    first = kinds[0].harms
    for family, protocol in first.keys:
        if family == "reasoning":
            beyond = [_needs(kind, protocol, control) for kind in kinds]
            whole = [_needs(kind, protocol, None) for kind in kinds]
            missing = unmeasured(first, [(family, protocol)])
            note = _against_copying("needs them", whole, beyond, beyond)
            yield row(DEEP, family, protocol, missing, beyond, note=note)


def _needs(kind: Kind, protocol: str, control: str | None) -> Finding:
    """Whether reasoning needs both parts of the depth.

    It needs a part if, beyond copying, the mean harm of its layers is above the smallest effect or
    the harm of one of them above 0.2; and does not if neither is. Without a control, of harm alone.
    """
    harms = kind.harms
    nothing = Finding(kind.ablation, kind.mechanism, 0, "")
    _, *parts = harms.thirds()
    if not all(parts) or not {layer for part in parts for layer in part} <= set(harms.swept):
        return _with_words(nothing, "not known, for not all layers were measured")
    if control is not None and not harms.tasks(control, protocol):
        return _with_words(nothing, f"it takes the copying control (family {control})")
    ats = [harms.at, *([AFTER_FIRST] if harms.after_first else [])]
    needs = {at: [_Need(harms, protocol, control, part, at) for part in parts] for at in ats}
    signs = [min(need.sign for need in own) for own in needs.values()]
    judged = needs[harms.at]
    words = [
        f"{name} {number(*need.mean.numbers)}{need.alone}"
        for name, need in zip(("middle", "last third"), judged, strict=True)
    ]
    if len(set(signs)) > 1:
        kept = [number(*need.mean.numbers) for need in needs[AFTER_FIRST]]
        words.append(f"with the first token kept {' and '.join(kept)}")
    numbers = tuple(
        {
            "ablation": kind.ablation,
            "quantity": f"mean harm beyond copying, {name}",
            **dict(zip(("estimate", "low", "high"), need.mean.numbers, strict=True)),
        }
        for name, need in zip(("middle", "last third"), judged, strict=True)
    )
    known = [need.needed for need in judged if not math.isnan(need.needed)]
    return Finding(
        kind.ablation,
        kind.mechanism,
        signs[0] if len(set(signs)) == 1 else 0,
        f"{kind.ablation}: mean harm beyond copying, {', '.join(words)}",
        numbers,
        max(known, default=math.nan),
    )


class _Need:
    """Whether reasoning needs one part of the depth, at some positions of the ablation."""

    def __init__(
        self, harms: Harms, protocol: str, control: str | None, part: range, at: str
    ) -> None:
        def beyond(layers: Iterable[int], level: float = stats.LEVEL) -> stats.Contrast:
            weights = harms.mean_over(layers)
            harm = harms.harm("reasoning", protocol, weights, at=at, level=level)
            if control is None:
                return harm
            copying = harms.harm(control, protocol, weights, at=at, level=level)
            return stats.difference_of(harm, copying)

        self.mean = beyond(part)
        whole = Number("", self.mean)
        # One of many layers lies above by chance: all intervals hold at once.
        level = 1 - (1 - stats.LEVEL) / len(part)
        self._above = [layer for layer in part if beyond([layer], level).interval.low > CRITICAL]
        below = all(beyond([layer]).interval.high < CRITICAL for layer in part)
        self.sign = 1 if whole.sign > 0 or self._above else -1 if whole.sign < 0 and below else 0
        self.needed = math.nan if self.sign else whole.needed

    @property
    def alone(self) -> str:
        """The layers that are needed by themselves, in words."""
        return f" (above {CRITICAL} alone: {listed(self._above)})" if self._above else ""


def _with_words(finding: Finding, words: str) -> Finding:
    text = f"{finding.ablation}: {words}"
    return Finding(finding.ablation, finding.mechanism, finding.sign, text)


def _protocols(kinds: Sequence[Kind]) -> Iterator[dict[str, Any]]:
    """Mean harm where the model writes minus mean harm where given answers are scored."""
    first = kinds[0].harms
    for family, protocol in first.keys:
        scored = [other for same, other in first.keys if same == family and not _written(other)]
        for other in scored if _written(protocol) else ():
            found = [
                found_of(kind, [_more_harm(kind.harms, family, protocol, other)]) for kind in kinds
            ]
            missing = unmeasured(first, [(family, protocol), (family, other)])
            missing = missing or _unpaired(first, family, protocol, other)
            yield row(MORE, family, f"{protocol} - {other}", missing, found)


def _more_harm(harms: Harms, family: str, protocol: str, scored: str) -> Number:
    return of_harms(
        harms, "mean harm", lambda at: harms.mean_harm_apart(family, protocol, scored, at)
    )


def _unpaired(harms: Harms, family: str, protocol: str, scored: str) -> str:
    """Why two protocols cannot be compared though each has a task with skill; empty if they can."""
    if not harms.shares_questions(family, protocol, scored):
        return f"no question of {family} was asked under both"
    if harms.mean_harm_apart(family, protocol, scored).known:
        return ""
    if len(harms.swept) < harms.n_layers:
        return ""
    if not harms.both_have_skill(family, protocol, scored):
        return "of the questions asked under both, none are of tasks above chance under both"
    return ""


def _written(protocol: str) -> bool:
    """Whether the model writes: `generation`, or with parameters in brackets."""
    return protocol.partition("[")[0] == "generation"


def unmeasured(harms: Harms, keys: Iterable[Key]) -> str:
    """Why one of these has no harm; empty if all have."""
    return "; ".join(
        f"{family} under {protocol}: {reason(harms.cell(family, protocol)).partition(': ')[2]}"
        for family, protocol in keys
        if harms.measured(family, protocol).empty
    )


def row(
    claim: str,
    family: str,
    protocol: str,
    missing: str,
    found: Sequence[Finding],
    *,
    smallest: float = SMALLEST,
    note: str = "",
) -> dict[str, Any]:
    """A row of claims: its status by what each kind found, with the reason where it has none.

    Args:
        claim: in words.
        family: that it is about.
        protocol: or two of them.
        missing: why nothing can be measured; empty if it can.
        found: by each kind.
        smallest: the claim's smallest effect of interest.
        note: what else is to be said.
    """
    result, why = ("not measurable", "") if missing else status(found)
    words = [*(one.words for one in found), why, note]
    return {
        "claim": claim,
        "family": family,
        "protocol": protocol,
        "smallest": smallest,
        "status": result,
        "evidence": missing or "; ".join(filter(None, words)),
        "numbers": [] if missing else [record for one in found for record in one.numbers],
    }


def status(found: Sequence[Finding]) -> tuple[str, str]:
    """The status of a claim, and what is missing where it is not shown."""
    shown = {one.mechanism for one in found if one.sign > 0 and one.mechanism}
    opposite = {one.mechanism for one in found if one.sign < 0 and one.mechanism}
    if shown and opposite:
        return "not shown", "the kinds of ablation disagree"
    if len(shown) > 1:
        return "supported", ""
    if len(opposite) > 1:
        return "contradicted", ""
    return "not shown", _lacking(found, shown | opposite)


def _lacking(found: Sequence[Finding], decided: set[str]) -> str:
    """What it takes to decide a claim."""
    kinds = {one.mechanism for one in found if one.mechanism}
    if len(kinds) < 2:
        having = f" beside {', '.join(kinds)}" if kinds else ""
        need = "a second kind" if kinds else "two kinds"
        text = f"{need} of ablation, of another mechanism{having}, has to show it"
        return text if decided or not kinds else f"{text}; {_more(found)}".rstrip("; ")
    return _more([one for one in found if one.mechanism and one.mechanism not in decided])


def _more(found: Sequence[Finding]) -> str:
    """How many questions the undecided kinds take, if their numbers stand."""
    needed = [f"{one.ablation} {_count(one.needed)}" for one in found if not math.isnan(one.needed)]
    return (
        f"questions that would decide it if the numbers stand: {', '.join(needed)}"
        if needed
        else ""
    )


def _count(n: float) -> str:
    return f"more than {_MOST_QUESTIONS:,}" if n > _MOST_QUESTIONS else f"about {math.ceil(n):,}"


def described(
    claim: str, family: str, words: str, numbers: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """A row of claims that has numbers and no verdict."""
    return {
        "claim": claim,
        "family": family,
        "protocol": "",
        "smallest": math.nan,
        "status": "described",
        "evidence": words,
        "numbers": list(numbers),
    }


def table(rows: Iterable[dict[str, Any]]) -> pd.DataFrame:
    """Rows of claims as a frame."""
    return pd.DataFrame(list(rows), columns=COLUMNS)
