"""Claims of the literature on the layers (early, middle or late) that a family needs.

The claims are those of "Demystifying the Roles of LLM Layers in Retrieval, Knowledge, and
Reasoning" (arXiv 2510.02091). `claim_status` has the rule that decides them. Claims on protocols
are in `protocol_claims`, on heads in `critical_heads`, on contexts in
`retrieval_augmentation_claims`, and on a model and its base in `distilled_model_claims`. A
family leans on shallow layers if its mean harm is larger over the first third of layers than over
the last third.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from layerroles import stats
from layerroles.results import AFTER_FIRST, CRITICAL
from layerroles.roles.claim_findings import (
    SMALLEST,
    Finding,
    Key,
    Number,
    find_by_kind,
    judge_kinds,
    make_empty_finding,
    make_record,
    mark_undecided,
    max_known,
    measure_number,
)
from layerroles.roles.claim_status import Claim, decide_status, describe_unmeasured_families
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import AblationKind
from layerroles.roles.sentence_parts import format_estimate, format_layers

SHALLOW = {
    "retrieval": "Retrieval leans on shallow layers",
    "knowledge": "Knowledge leans on shallow layers",
    "commonsense": "Commonsense leans on shallow layers",
}
DEEP = "Reasoning needs middle and deep layers"
ORDER = "Reasoning leans on deeper layers than retrieval"


def literature_claims(kinds: Sequence[AblationKind], control: str) -> Iterator[Claim]:
    """Yield the claims on depth that ablations of single layers can test.

    Args:
        kinds: kinds of ablation at the same positions; the first was run on the most families.
        control: the copying control: a family whose answers are as long as those of other families
            but need no skill except writing them.
    """
    yield from _claims_on_shallow(kinds, control)
    yield from _claims_on_order(kinds)
    yield from _claims_on_deep(kinds, control)


def _claims_on_shallow(kinds: Sequence[AblationKind], control: str) -> Iterator[Claim]:
    """Yield claims that families lean on shallow layers, and more than copying does.

    If the copying control was not swept, the claim is about the family alone; if the control is not
    above chance, the claim is undecided.
    """
    first = kinds[0].harms
    early, _, late = first.thirds()
    make_claim = partial(Claim, layers=(*early, *late))
    for family, protocol in first.keys:
        if family not in SHALLOW:
            continue
        key, control_key = (family, protocol), (control, protocol)
        keys = [key, control_key]
        missing = describe_unmeasured_families(first, [key])
        leans = partial(_early_minus_late, key=key)
        alone = find_by_kind(kinds, [key], [leans])
        if control_key not in first.keys:
            note = "no copying control: whether any text leans so is not known"
            yield make_claim(SHALLOW[family], family, protocol, alone, missing, [key], note=note)
            continue
        if first.measured(*control_key).empty:
            # The claim is about the excess over copying, which is not known.
            undecided = [mark_undecided(finding) for finding in alone]
            note = (
                "the copying control is not shown to be above chance: whether any text leans so is "
                "not known"
            )
            yield make_claim(SHALLOW[family], family, protocol, undecided, missing, keys, note=note)
            continue
        leans_beyond = partial(_difference_over_depth, key=key, other=control_key)
        both_findings = find_by_kind(kinds, keys, [leans, leans_beyond])
        beyond = find_by_kind(kinds, keys, [leans_beyond])
        note = _compare_with_copying("leans", alone, beyond, both_findings)
        yield make_claim(SHALLOW[family], family, protocol, both_findings, missing, keys, note=note)


def _compare_with_copying(
    verb: str, alone: Sequence[Finding], beyond: Sequence[Finding], both_findings: Sequence[Finding]
) -> str:
    """Return text on whether a family needs a part of the depth, and more than copying does.

    Empty if neither `alone` nor `both_findings` support the claim.

    Args:
        verb: the verb of the text, "leans" (on shallow layers) or "needs them" (deeper layers).
        alone: findings on the family's own harm, one per kind of ablation.
        beyond: findings on the family's harm minus that of copying.
        both_findings: findings on the claim about both numbers together.
    """
    statuses = [decide_status(findings)[0] for findings in (alone, beyond, both_findings)]
    return _describe_against_copying(
        verb, *statuses, no_more=f"no more than copying: {verb}, as any text does"
    )


def _describe_against_copying(
    verb: str, alone: str, beyond: str, both_statuses: str, *, no_more: str
) -> str:
    if both_statuses == "supported":
        return f"{verb} more than any text does"
    if alone != "supported":
        return ""
    if beyond == "contradicted":
        return no_more
    return f"{verb}; not shown to do so beyond copying"


def _early_minus_late(harms: Harms, key: Key) -> Number:
    return measure_number(harms, "early minus late", lambda at: harms.early_minus_late(*key, at))


def _difference_over_depth(
    harms: Harms, key: Key, other: Key, quantity: str = "beyond copying"
) -> Number:
    """Return the early minus late harm of the family `key` minus that of the family `other`."""
    return measure_number(
        harms, quantity, lambda at: harms.early_minus_late_difference(key, other, at=at)
    )


def _late_difference(harms: Harms, key: Key, other: Key, quantity: str) -> Number:
    """Return the mean harm of the last third of layers in `key` minus that in `other`."""
    *_, late = harms.thirds()
    weights = harms.mean_over(late)
    return measure_number(harms, quantity, lambda at: harms.difference(key, other, weights, at=at))


def _claims_on_order(kinds: Sequence[AblationKind]) -> Iterator[Claim]:
    """Yield claims that reasoning leans on deeper layers than retrieval.

    A smaller difference between early and late layers is not enough, since it is also that of a
    family that every layer harms less: reasoning has to need the last third more than retrieval.
    """
    first = kinds[0].harms
    early, _, late = first.thirds()
    layers = (*early, *late)
    for protocol in dict.fromkeys(protocol for _, protocol in first.keys):
        keys = ("retrieval", protocol), ("reasoning", protocol)
        if set(keys) <= set(first.keys):
            leans_less = partial(
                _difference_over_depth,
                key=keys[0],
                other=keys[1],
                quantity="early minus late, retrieval minus reasoning",
            )
            needs_late = partial(
                _late_difference,
                key=keys[1],
                other=keys[0],
                quantity="last third, reasoning minus retrieval",
            )
            findings = find_by_kind(kinds, keys, [leans_less, needs_late])
            missing = describe_unmeasured_families(first, keys)
            yield Claim(ORDER, "reasoning", protocol, findings, missing, keys, layers=layers)


def _claims_on_deep(kinds: Sequence[AblationKind], control: str) -> Iterator[Claim]:
    """Yield claims that reasoning needs middle and deep layers, and more than copying does.

    These are the middle and the last third of the layers.
    """
    first = kinds[0].harms
    _, middle, late = first.thirds()
    layers = (*middle, *late)
    for family, protocol in first.keys:
        if family == "reasoning":
            keys = [(family, protocol), (control, protocol)]
            beyond, alone = (
                judge_kinds(
                    kinds, keys, partial(_judge_need, protocol=protocol, control=subtracted)
                )
                for subtracted in (control, None)
            )
            missing = describe_unmeasured_families(first, [(family, protocol)])
            both_findings = list(map(_join_needs, alone, beyond))
            statuses = [decide_status(findings)[0] for findings in (alone, beyond, both_findings)]
            note = _describe_against_copying(
                "needs them", *statuses, no_more="needs them, but not both thirds more than copying"
            )
            yield Claim(
                DEEP, family, protocol, both_findings, missing, keys, layers=layers, note=note
            )


def _join_needs(alone: Finding, beyond: Finding) -> Finding:
    """Return the finding of one kind on both: that layers are needed, and beyond copying.

    The lower sign decides: where copying gets better without a layer, harm beyond copying does not
    show that the layer is needed.
    """
    if alone.words == beyond.words:  # neither was measured, for one reason
        return beyond
    sign = min(beyond.sign, alone.sign)
    undecided = [finding for finding in (beyond, alone) if not finding.sign]
    is_open = not sign and any(finding.is_open for finding in undecided)
    # More questions decide open ones only: without a copying control, that is harm alone.
    open_findings = [finding for finding in undecided if finding.is_open]
    asks_kept = not sign and all(finding.asks_kept for finding in open_findings or undecided)
    return replace(
        beyond,
        sign=sign,
        words=f"{beyond.words}, {alone.words.partition(': ')[2]}",
        numbers=beyond.numbers + alone.numbers,
        needed=math.nan if sign else max_known(finding.needed for finding in undecided),
        is_open=is_open,
        asks_kept=asks_kept,
        lacks_kept=asks_kept and any(finding.lacks_kept for finding in undecided),
        is_near=not sign and not is_open and any(finding.is_near for finding in undecided),
    )


def _judge_need(kind: AblationKind, protocol: str, control: str | None) -> Finding:
    """Return the finding of one kind on whether reasoning needs the middle and the last third.

    All harms are those to reasoning minus those to the family `control`; if `control` is None,
    nothing is subtracted. A third of the layers is needed if the mean harm of its layers is shown
    to be above the smallest effect, or the harm of one of its layers above 0.2. It is not needed if
    the mean is shown to be below the smallest effect, and the harm of every layer below 0.2.
    """
    harms = kind.harms
    if control is not None and not harms.tasks(control, protocol):
        reason = f"it takes the copying control (family {control}), above chance"
        return make_empty_finding(kind, reason)
    _, *parts = harms.thirds()
    if not all(parts) or not {layer for part in parts for layer in part} <= set(harms.swept):
        reason = "not known, for not all layers were measured"
        return make_empty_finding(kind, reason, is_open=True)
    quantity = "mean harm" if control is None else "mean harm beyond copying"
    needs = {at: [_Need(harms, protocol, control, part, at) for part in parts] for at in harms.ats}
    signs = [min(need.sign for need in at_position) for at_position in needs.values()]
    judged = dict(zip(("middle", "last third"), needs[harms.at], strict=True))
    words = [
        f"{name} {format_estimate(*need.mean.numbers)}{need.single_layers_text}"
        for name, need in judged.items()
    ]
    if len(set(signs)) > 1:
        first_token_kept = [format_estimate(*need.mean.numbers) for need in needs[AFTER_FIRST]]
        words.append(f"with the first token kept {' and '.join(first_token_kept)}")
    numbers = tuple(
        make_record(kind.ablation, f"{quantity}, {name}", need.mean)
        for name, need in judged.items()
        if need.mean.known
    )
    sign = signs[0] if len(set(signs)) == 1 else 0
    # Of the first `at` at which the sign is 0.
    open_needs = next((n for n, own in zip(needs.values(), signs, strict=True) if not own), ())
    asks_kept = not sign and signs[0] != 0
    undecided = [need for at_position in needs.values() for need in at_position if not need.sign]
    return Finding(
        kind.ablation,
        kind.mechanism,
        sign,
        f"{kind.ablation}: {quantity}, {', '.join(words)}",
        numbers,
        max_known(need.needed for need in open_needs),
        is_open=not sign and not all(need.is_near for need in undecided),
        asks_kept=asks_kept,
        lacks_kept=asks_kept and not all(need.mean.known for need in needs[harms.ats[-1]]),
        is_near=not sign and bool(undecided) and all(need.is_near for need in undecided),
    )


class _Need:
    """Test of whether reasoning needs the layers `part`, by harm at the positions `at`.

    Attributes:
        mean: the mean harm of the layers, minus that to the copying control if one is given.
        sign: 1 if the layers are needed, -1 if not, 0 if undecided; see `_judge_need`.
        needed: the number of questions that would decide `sign`; NaN if decided or not known.
        is_near: whether the harms are known to lie so near the limits of `_judge_need` that more
            questions would not decide `sign`.
    """

    def __init__(
        self, harms: Harms, protocol: str, control: str | None, part: range, at: str
    ) -> None:
        def beyond(layers: Iterable[int], level: float = stats.LEVEL) -> stats.Contrast:
            weights, key = harms.mean_over(layers), ("reasoning", protocol)
            if control is None:
                return harms.harm(*key, weights, at=at, level=level)
            return harms.difference(key, (control, protocol), weights, at=at, level=level)

        self.mean = beyond(part)
        mean_number = Number("", self.mean)
        # Bonferroni over layers: the largest of many harms may lie above 0.2 by chance.
        level = 1 - (1 - stats.LEVEL) / len(part)
        self._above = [layer for layer in part if beyond([layer], level).interval.low > CRITICAL]
        singles = [beyond([layer]) for layer in part]
        below = all(single.interval.high < CRITICAL for single in singles)
        self.sign = (
            1
            if mean_number.sign > 0 or self._above
            else -1
            if mean_number.sign < 0 and below
            else 0
        )
        single_numbers = [Number("", single, smallest=CRITICAL) for single in singles]
        by_mean = (
            max_known(number.needed for number in single_numbers)
            if mean_number.judged_sign
            else mean_number.needed
        )
        self.needed = math.nan if self.sign else by_mean
        # More questions would show a need neither by the mean nor by a single layer.
        reach = max(single.interval.high for single in singles)
        is_near_alone = any(single.interval.low > CRITICAL - SMALLEST for single in singles)
        self.is_near = reach < CRITICAL + SMALLEST and (
            mean_number.is_near or (mean_number.judged_sign < 0 and is_near_alone)
        )

    @property
    def single_layers_text(self) -> str:
        """Text on the layers whose harm is above 0.2 by itself; empty if there are none."""
        return f" (above {CRITICAL} alone: {format_layers(self._above)})" if self._above else ""
