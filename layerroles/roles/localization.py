"""From a sweep to roles: layer verdicts, lists per family, contrasts of depth."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.errors import InputError
from layerroles.probes import by_probe
from layerroles.registry import unknown
from layerroles.results import SweepResult, check_result, mechanisms, records
from layerroles.roles import comparisons, decision, literature, probe_summary, wording
from layerroles.roles.decision import Kind
from layerroles.roles.harms import (
    AFTER_FIRST,
    CRITICAL,
    VERDICTS,
    Harms,
    at_one_setting,
    ats_of,
    single_sites,
)
from layerroles.roles.heads import carried_by_few, heads_of
from layerroles.roles.redundancy import effective_number, pairs_of
from layerroles.roles.roles import Roles
from layerroles.roles.verdict import verdict

CONTROL = "language"
# Label of the contrast between the judged positions and all but the first.
_KEPT = f"{{}} - {AFTER_FIRST}"
_MEAN = ("mean_harm", "mean_harm_low", "mean_harm_high")


def localize(
    result: SweepResult,
    probes: pd.DataFrame | Sequence[pd.DataFrame] = (),
    *,
    ablation: str | None = None,
    at: str | None = None,
    base: SweepResult | None = None,
) -> Roles:
    """Say which layers each family needs, under each protocol, and how sure that is.

    Args:
        result: a sweep with conditions that ablate one whole layer each.
        probes: frames of probes, measured on the same tasks; of a frame under several conditions,
            only the rows of the intact model are used.
        ablation: the kind to take where the sweep has several; the others then serve to say
            whether a claim is supported by a second kind, unless swept at several settings.
        at: the positions at which the conditions act that are judged, such as `"prompt"`; by
            default `"all"`, or where that was not swept the first by name.
        base: a sweep of the model that this one was distilled or trained from, on the same
            questions: `claims` then says whether this one reasons more robustly.

    Raises:
        InputError: no single-layer block condition, an unknown or ambiguous ablation, positions
            at which no condition acts, a layer that is ablated twice in the same way, or a probe
            frame of an unknown kind.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        roles = lr.localize(result, probes=[lens])
        print(roles.verdict)
    """
    check_result(result)
    given = [probes] if isinstance(probes, pd.DataFrame) else list(probes)
    measured = probe_summary.summary(given)
    names = _kinds(result)
    chosen = _chosen(names, ablation)
    mechanism_of = mechanisms(result)
    harms = Harms(result, chosen, at)
    layers = harms.layers()
    others = [
        Harms(result, kind, harms.at)
        for kind in names
        if kind != chosen and harms.at in ats_of(result, kind) and at_one_setting(result, kind)
    ]
    kinds = [
        Kind(harms, layers, mechanism_of[chosen]),
        *(Kind(other, other.layers(), mechanism_of[other.ablation]) for other in others),
    ]
    second = [kind for kind in kinds[1:] if kind.mechanism not in ("", kinds[0].mechanism)]
    frame = _frame(harms, layers)
    frame["claim"] = [
        _claim(line._asdict(), harms, [kind.harms for kind in second]) for line in records(frame)
    ]
    roles = Roles(
        frame=frame,
        layers=layers,
        contrasts=_contrasts(harms),
        claims=_claims(result, kinds, base, given),
        pairs=pairs_of(harms),
        heads=heads_of(result, harms.at),
        probes=measured,
        ablation=chosen,
        at=harms.at,
    )
    sentences = verdict(roles, _setting(result, harms, [kind.ablation for kind in second]))
    return dataclasses.replace(roles, sentences=tuple(sentences))


def _claims(
    result: SweepResult,
    kinds: Sequence[Kind],
    base: SweepResult | None,
    probes: Sequence[pd.DataFrame],
) -> pd.DataFrame:
    """The rows of `Roles.claims`."""
    rows = [
        *literature.claims_of(kinds, CONTROL),
        *carried_by_few(result, kinds[0].harms.at),
        *comparisons.contexts(result, kinds),
    ]
    if base is not None:
        check_result(base)
        rows += comparisons.against_base(result, base, kinds)
    if (similarity := by_probe(probes).get("similarity")) is not None:
        rows += comparisons.neighbours(similarity)
    skills = _skills(result)
    for row in rows:
        if skill := skills.get(row["family"]):
            row["evidence"] += f"; what was asked is {skill}"
    return decision.table(rows)


def _skills(result: SweepResult) -> dict[str, str]:
    """By family, what its questions take where all of them take less than the family says."""
    asked: dict[str, set[str]] = {}
    for cell in result.manifest.get("cells", []):
        if "family" in cell:
            asked.setdefault(cell["family"], set()).add(cell.get("skill", ""))
    return {family: " or ".join(sorted(each)) for family, each in asked.items() if "" not in each}


def _frame(harms: Harms, layers: pd.DataFrame) -> pd.DataFrame:
    found: dict[tuple[str, str, str], list[int]] = {}
    for row in records(layers):
        found.setdefault((row.family, row.protocol, row.verdict), []).append(int(row.layer))
    rows = []
    for family, protocol in harms.keys:
        cell = harms.measured(family, protocol)
        cell = harms.cell(family, protocol) if cell.empty else cell
        depth = harms.early_minus_late(family, protocol)
        mean = harms.mean_harm(family, protocol)
        own = {verdict: found.get((family, protocol, verdict), []) for verdict in VERDICTS}
        measured = _measured(harms, protocol)
        others = [other for other in measured if other != family]
        effective, of_effective = effective_number(harms, family, protocol, leave_out=own["sink"])
        rows.append(
            {
                "family": family,
                "protocol": protocol,
                "n": int(cell["n"].sum()),
                "intact": float(cell["score"].mean()),
                "chance": float(cell["chance"].mean()),
                **dict(zip(("early_minus_late", "ci_low", "ci_high"), depth.numbers, strict=True)),
                "critical": own["critical"],
                "spare": own["spare"],
                "undecided": own["undecided"],
                "general": _in_all(found, measured, protocol, "critical")
                if CONTROL in measured and family in measured and others
                else [],
                "specific": _specific(layers, own["critical"], others, protocol),
                "sink": own["sink"],
                "effective": effective,
                "effective_low": of_effective.low,
                "effective_high": of_effective.high,
                **dict(zip(_MEAN, mean.numbers, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _in_all(
    found: dict[tuple[str, str, str], list[int]], families: list[str], protocol: str, verdict: str
) -> list[int]:
    lists = [set(found.get((family, protocol, verdict), [])) for family in families]
    return sorted(set.intersection(*lists)) if lists else []


def _specific(
    layers: pd.DataFrame, critical: list[int], others: list[str], protocol: str
) -> list[int]:
    """The critical layers whose harm is below 0.2 for every other family, by its interval."""
    rows = layers[(layers["protocol"] == protocol) & layers["family"].isin(others)]
    below = rows[rows["harm_high"] < CRITICAL].groupby("layer")["family"].nunique()
    return [layer for layer in critical if others and below.get(layer, 0) == len(others)]


def _contrasts(harms: Harms) -> pd.DataFrame:
    rows: list[tuple[object, ...]] = []
    for one, two in itertools.combinations(harms.keys, 2):
        (family, protocol), (other, second) = one, two
        if protocol == second:
            apart = stats.difference_of(harms.early_minus_late(*one), harms.early_minus_late(*two))
            rows.append(("early_minus_late", harms.at, protocol, family, other, *apart.numbers))
        elif family == other and len(harms.swept) == harms.n_layers:
            apart = harms.mean_harm_apart(family, protocol, second)
            both = f"{protocol} - {second}"
            rows.append(("mean_harm", harms.at, both, family, "", *apart.numbers))
    if harms.after_first:
        for family, protocol in harms.keys:
            kept = harms.early_minus_late(family, protocol, AFTER_FIRST)
            apart = stats.difference_of(harms.early_minus_late(family, protocol), kept)
            own = (protocol, family, "")
            rows.append(("early_minus_late", AFTER_FIRST, *own, *kept.numbers))
            rows.append(("early_minus_late", _KEPT.format(harms.at), *own, *apart.numbers))
    columns = ["quantity", "at", "protocol", "family", "against", "difference", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def _claim(line: dict[str, Any], harms: Harms, second: list[Harms]) -> str:
    family, protocol = str(line["family"]), str(line["protocol"])
    cell = harms.cell(family, protocol)
    standing = [f"seen under {harms.ablation}{'' if second else ' only'}"]
    held = harms.holds_with_first_token_kept(family, protocol)
    if not held:
        standing.append("not shown with the first token's write kept")
    for other in second:
        contrast = other.early_minus_late(family, protocol)
        both = held and other.holds_with_first_token_kept(family, protocol)
        standing.append(wording.agreement(line, contrast, other.ablation, both))
    left_out = list(cell.loc[~cell["above_chance"], "task"])
    return wording.row(line, wording.reason(cell), left_out, ", ".join(standing))


def _kinds(result: SweepResult) -> list[str]:
    kinds = list(dict.fromkeys(single_sites(result)["ablation"]))
    if not kinds:
        raise InputError(
            "roles need conditions that ablate one whole layer each, and this result has none: "
            "sweep each_layer(model, Skip()), or --sites all"
        )
    return kinds


def _chosen(kinds: list[str], ablation: str | None) -> str:
    if ablation is None:
        if len(kinds) > 1:
            raise InputError(
                f"the sweep has several ablations ({', '.join(kinds)}): "
                f"name one, as in localize(result, ablation={kinds[0]!r})"
            )
        return kinds[0]
    if ablation not in kinds:
        raise InputError(unknown("ablation", ablation, kinds))
    return ablation


def _setting(result: SweepResult, harms: Harms, second: Sequence[str]) -> wording.Setting:
    model = result.manifest.get("model", {})
    return wording.Setting(
        model=str(model.get("name", "the model")),
        n_layers=harms.n_layers,
        swept=len(harms.swept),
        ablation=harms.ablation,
        at=harms.at,
        after_first=harms.after_first,
        second=tuple(second),
        control=CONTROL,
        noise_floor=result.noise_floor(),
        tasks=harms.precision(),
        leans=_leans(harms),
        apart=_apart(harms),
    )


def _leans(harms: Harms) -> dict[tuple[str, str], int]:
    """Which families lean on an end of the depth, at once for all of a protocol."""
    found = {}
    for family, protocol in harms.keys:
        level = _at_once(len(_measured(harms, protocol)))
        depth = harms.early_minus_late(family, protocol, level=level).interval
        found[family, protocol] = wording.sign(depth.low, depth.high)
    return found


def _apart(harms: Harms) -> frozenset[tuple[str, str, str, str]]:
    """Contrasts that differ from 0, at once for all of their kind under a protocol."""
    found = set()
    for protocol in dict.fromkeys(protocol for _, protocol in harms.keys):
        families = _measured(harms, protocol)
        pairs = list(itertools.combinations(families, 2))
        for one, two in pairs:
            level = _at_once(len(pairs))
            parts = [harms.early_minus_late(f, protocol, level=level) for f in (one, two)]
            if _differs(stats.difference_of(*parts)):
                found.add((harms.at, protocol, one, two))
        for family in families if harms.after_first else ():
            level = _at_once(len(families))
            parts = [
                harms.early_minus_late(family, protocol, at, level=level)
                for at in (harms.at, AFTER_FIRST)
            ]
            if _differs(stats.difference_of(*parts)):
                found.add((_KEPT.format(harms.at), protocol, family, ""))
    return frozenset(found)


def _measured(harms: Harms, protocol: str) -> list[str]:
    """The families with skill under a protocol."""
    return [f for f, p in harms.keys if p == protocol and not harms.measured(f, p).empty]


def _at_once(n: int) -> float:
    """The level of one of `n` intervals that hold at once (Bonferroni)."""
    return 1 - (1 - stats.LEVEL) / max(1, n)


def _differs(contrast: stats.Contrast) -> bool:
    return contrast.interval.low > 0 or contrast.interval.high < 0
