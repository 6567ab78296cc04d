"""Claims of the literature, held against a sweep: supported, contradicted or not shown.

The claims are those of "Demystifying the Roles of LLM Layers in Retrieval, Knowledge, and
Reasoning" (arXiv 2510.02091) to which ablating single sites can speak. Each kind of ablation shows
a claim, shows the opposite, or neither, by an interval; a claim is

- supported: two kinds show it, and none the opposite (Zero on a whole layer is Skip, no second);
- contradicted: some kind shows the opposite, and none shows it;
- not shown: else;
- not measurable: the intact model has no skill at which harm could be measured.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results import records
from layerroles.roles.claims import listed, number, reason, sign
from layerroles.roles.harms import CRITICAL, Harms

# An estimate and its interval.
Estimate = tuple[float, float, float]

COLUMNS = ["claim", "family", "protocol", "status", "evidence", "numbers"]
SHALLOW = {
    "retrieval": "Retrieval leans on shallow layers",
    "knowledge": "Knowledge leans on shallow layers",
    "commonsense": "Commonsense leans on shallow layers",
}
DEEP = "Reasoning needs middle and deep layers"
ORDER = "Reasoning leans on deeper layers than retrieval"
MORE = "Generation needs more of the depth than likelihood"
FEW = "A few heads carry the family"
# Of all heads: "under 5%" of them retrieve (Wu et al., arXiv 2404.15574).
FEW_HEADS = 0.05


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of ablation: its harms, and the verdicts on its layers."""

    harms: Harms
    layers: pd.DataFrame


@dataclass(frozen=True)
class Finding:
    """What one kind of ablation says to a claim.

    Attributes:
        ablation: the kind.
        sign: 1 if it shows the claim, -1 if the opposite, 0 if neither.
        words: with the numbers.
        numbers: a record each: ablation, quantity, estimate, low, high.
    """

    ablation: str
    sign: int
    words: str
    numbers: tuple[dict[str, Any], ...] = ()


def claims_of(kinds: list[Kind], heads: pd.DataFrame, control: str) -> pd.DataFrame:
    """The rows of `Roles.claims`.

    Args:
        kinds: the kind that is judged, then the others at the same positions.
        heads: the rows of `Roles.heads`.
        control: the family whose answers are as long, and take no reasoning.
    """
    first = kinds[0].harms
    rows = [
        *_depth(kinds, control),
        *_reasoning(kinds, control),
        *_protocols(kinds),
        *_heads(first, heads),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def same_kind(ablation: str) -> str:
    """Ablations that are the same on a whole layer have one name."""
    return {"zero": "skip"}.get(ablation, ablation)


def _depth(kinds: list[Kind], control: str) -> Iterator[dict[str, Any]]:
    """Claims on early against late; they stand or fall with the family, whatever copying does."""
    first = kinds[0].harms
    for family, protocol in first.keys:
        if family in SHALLOW:
            unknown = _unmeasured(first, [(family, protocol)])
            found = [_early(kind.harms, family, protocol, control) for kind in kinds]
            yield _row(SHALLOW[family], family, protocol, unknown, found)
    for protocol in dict.fromkeys(protocol for _, protocol in first.keys):
        both = [(family, protocol) for family in ("retrieval", "reasoning")]
        if set(both) <= set(first.keys):
            found = [_between(kind.harms, *both) for kind in kinds]
            yield _row(ORDER, "reasoning", protocol, _unmeasured(first, both), found)


def _early(harms: Harms, family: str, protocol: str, control: str) -> Finding:
    """Early against late, and how much of it is the family's own: copying has it too."""
    found = _found(harms, "early_minus_late", partial(_whole, harms, family, protocol))
    if (control, protocol) not in harms.keys:
        return found
    beyond = _between(harms, (family, protocol), (control, protocol))
    if not beyond.numbers:
        return found
    words = f"{found.words}, beyond copying {beyond.words.removeprefix(harms.ablation).strip()}"
    own = [one | {"quantity": f"{one['quantity']} beyond copying"} for one in beyond.numbers]
    return Finding(found.ablation, found.sign, words, (*found.numbers, *own))


def _between(harms: Harms, one: tuple[str, str], two: tuple[str, str]) -> Finding:
    """Early against late of one family minus that of another."""

    def measured(at: str) -> Estimate:
        return harms.early_minus_late(*one, at).minus(harms.early_minus_late(*two, at))

    return _found(harms, "early_minus_late", measured)


def _whole(harms: Harms, family: str, protocol: str, at: str) -> Estimate:
    depth = harms.early_minus_late(family, protocol, at)
    return depth.estimate, depth.low, depth.high


def _found(harms: Harms, quantity: str, measured: Callable[[str], Estimate]) -> Finding:
    """What a quantity says, positions of the ablation given.

    Where it says something only because the first token's write is lost, it says nothing: a sink is
    no skill.
    """
    found = _of_interval(harms.ablation, quantity, measured(harms.at))
    if not found.sign or not harms.after_first:
        return found
    kept = measured("after_first")
    if sign(*kept[1:]) == found.sign:
        return found
    if math.isnan(kept[0]):
        words = f"{found.words}, not known with the first token kept"
        return Finding(found.ablation, 0, words, found.numbers)
    words = f"{found.words}, with the first token kept {number(*kept)}"
    record = _record(harms.ablation, f"{quantity}, first token kept", kept)
    return Finding(found.ablation, 0, words, (*found.numbers, record))


def _of_interval(ablation: str, quantity: str, found: Estimate) -> Finding:
    estimate, low, high = found
    if math.isnan(estimate):
        why = "it takes two examples or more at every layer that it is about"
        return Finding(ablation, 0, f"{ablation}: not known ({why})")
    numbers = (_record(ablation, quantity, found),)
    return Finding(ablation, sign(low, high), f"{ablation} {number(*found)}", numbers)


def _record(ablation: str, quantity: str, found: Estimate) -> dict[str, Any]:
    values = dict(zip(("estimate", "low", "high"), found, strict=True))
    return {"ablation": ablation, "quantity": quantity, **values}


def _reasoning(kinds: list[Kind], control: str) -> Iterator[dict[str, Any]]:
    """Layers of the middle and of the last third that reasoning needs, and copying does not."""
    first = kinds[0].harms
    for family, protocol in first.keys:
        if family == "reasoning":
            found = [_needs(kind, protocol, control) for kind in kinds]
            yield _row(DEEP, family, protocol, _unmeasured(first, [(family, protocol)]), found)


def _needs(kind: Kind, protocol: str, control: str) -> Finding:
    name, third = kind.harms.ablation, kind.harms.n_layers // 3
    middle = range(third, kind.harms.n_layers - third)
    deep = range(middle.stop, kind.harms.n_layers)
    own = kind.layers[kind.layers["protocol"] == protocol]
    rows = {row.layer: row for row in records(own[own["family"] == "reasoning"])}
    if not third or not {*middle, *deep} <= set(rows):
        return Finding(name, 0, f"{name}: not known, for not all layers were measured")
    spare = [all(rows[layer].verdict == "spare" for layer in part) for part in (middle, deep)]
    if any(spare):
        part = "middle" if spare[0] else "last third"
        return Finding(name, -1, f"{name}: every layer of the {part} is spare")
    copying = {row.layer: row for row in records(own[own["family"] == control])}
    if own.loc[own["family"] == control, "harm"].isna().all():
        return Finding(name, 0, f"{name}: it takes the copying control (family {control})")
    needed = [
        (layer, *_beyond(rows[layer], copying[layer]))
        for layer in (*middle, *deep)
        if rows[layer].verdict == "critical"
    ]
    needed = [each for each in needed if each[2] > 0]
    parts = [[layer for layer, *_ in needed if layer in part] for part in (middle, deep)]
    words = (
        f"{name}: critical, and more so than for copying, are {listed(parts[0])} of the middle, "
        f"{listed(parts[1])} of the last third"
    )
    numbers = tuple(
        _record(name, f"harm at L{layer} beyond copying", (estimate, low, high))
        for layer, estimate, low, high in needed
    )
    return Finding(name, int(all(parts)), words, numbers)


def _beyond(reasoning: Any, copying: Any) -> tuple[float, float, float]:
    """Harm to reasoning minus harm to the control, whose examples are others."""
    estimate, interval = stats.difference(
        (copying.harm, reasoning.harm),
        (
            stats.Interval(copying.harm_low, copying.harm_high),
            stats.Interval(reasoning.harm_low, reasoning.harm_high),
        ),
    )
    return estimate, interval.low, interval.high


def _protocols(kinds: list[Kind]) -> Iterator[dict[str, Any]]:
    """Mean harm where the model writes minus mean harm where given answers are scored."""
    first = kinds[0].harms
    for family, protocol in first.keys:
        if not _written(protocol):
            continue
        for other, scored in first.keys:
            if other != family or _written(scored):
                continue
            both = [(family, protocol), (family, scored)]
            found = [
                _found(
                    kind.harms,
                    "mean_harm",
                    partial(kind.harms.mean_harm_apart, family, protocol, scored),
                )
                for kind in kinds
            ]
            tasks, others = (set(first.measured(*key)["task"]) for key in both)
            missing = _unmeasured(first, both)
            if not missing and not tasks & others:
                missing = "no task has skill above chance under both"
            yield _row(MORE, family, f"{protocol} - {scored}", missing, found)


def _written(protocol: str) -> bool:
    """Whether the model writes: `generation`, or with parameters in brackets."""
    return protocol.partition("[")[0] == "generation"


def _heads(harms: Harms, heads: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Whether single heads are critical, and how many."""
    known = harms.result.manifest.get("model", {})
    total = int(known.get("n_heads", 0)) * harms.n_layers
    for (family, protocol), rows in heads.groupby(["family", "protocol"], sort=False):
        found = [_few(str(kind), own, total) for kind, own in rows.groupby("ablation", sort=False)]
        measured = rows["harm"].notna().any()
        missing = "" if measured else "the intact model has no skill above chance"
        yield _row(FEW, str(family), str(protocol), missing, found)


def _few(ablation: str, heads: pd.DataFrame, total: int) -> Finding:
    critical = heads[heads["verdict"] == "critical"]
    of_all = max(total, len(heads))
    may_be = len(heads) - int((heads["harm_high"] < CRITICAL).sum()) + of_all - len(heads)
    few = may_be <= FEW_HEADS * of_all  # those that may yet be critical, unswept ones among them
    many = len(critical) > FEW_HEADS * of_all
    none = len(heads) == of_all and bool((heads["harm_high"] < CRITICAL).all())
    words = f"{ablation}: {len(critical)} of {len(heads)} heads are critical"
    if len(heads) < of_all:
        words += f" (the model has {of_all})"
    numbers = tuple(
        {
            "ablation": ablation,
            "quantity": f"harm of L{row.layer}.H{row.head}",
            "estimate": row.harm,
            "low": row.harm_low,
            "high": row.harm_high,
        }
        for row in records(critical)
    )
    shown = -1 if none or many else int(few and len(critical) > 0)
    return Finding(ablation, shown, words, numbers)


def _unmeasured(harms: Harms, keys: Iterable[tuple[str, str]]) -> str:
    """Why one of these has no harm; empty if all have."""
    return "; ".join(
        f"{family} under {protocol}: {reason(harms.cell(family, protocol)).partition(': ')[2]}"
        for family, protocol in keys
        if harms.measured(family, protocol).empty
    )


def _row(
    claim: str, family: str, protocol: str, missing: str, found: list[Finding]
) -> dict[str, Any]:
    status, why = ("not measurable", "") if missing else _status(found)
    words = "; ".join(each.words for each in found)
    return {
        "claim": claim,
        "family": family,
        "protocol": protocol,
        "status": status,
        "evidence": missing or (f"{words}; {why}" if why else words),
        "numbers": [record for each in found for record in each.numbers],
    }


def _status(found: list[Finding]) -> tuple[str, str]:
    """The status of a claim, and why it is not shown where some kind does show it."""
    shown = {same_kind(each.ablation) for each in found if each.sign > 0}
    opposite = {same_kind(each.ablation) for each in found if each.sign < 0}
    if len(shown) > 1 and not opposite:
        return "supported", ""
    if opposite and not shown:
        return "contradicted", ""
    if opposite:
        return "not shown", "the kinds of ablation disagree"
    return "not shown", "a second kind of ablation has to agree" if shown else ""
