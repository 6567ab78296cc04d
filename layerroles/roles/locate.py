"""From a sweep to roles: layer verdicts, lists per family, contrasts of depth."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from layerroles.errors import InputError
from layerroles.registry import unknown
from layerroles.results import SweepResult, check_result, records
from layerroles.roles import claims, seen
from layerroles.roles.backups import pairs_of
from layerroles.roles.effective import effective_number
from layerroles.roles.harms import VERDICTS, Harms, at_one_setting, ats_of, single_sites
from layerroles.roles.heads import heads_of
from layerroles.roles.published import Kind, claims_of, same_kind
from layerroles.roles.table import Roles
from layerroles.roles.verdict import verdict

CONTROL = "language"


def localize(
    result: SweepResult,
    probes: pd.DataFrame | Sequence[pd.DataFrame] = (),
    *,
    ablation: str | None = None,
    at: str | None = None,
) -> Roles:
    """Say which layers each family needs, under each protocol, and how sure that is.

    Args:
        result: a sweep with conditions that ablate one whole layer each.
        probes: frames of probes, measured on the same tasks; of a frame under several conditions
            what was seen of the intact model.
        ablation: the kind to take where the sweep has several; the others then serve to say
            whether a claim is supported by a second kind, unless swept at several settings.
        at: the positions at which the conditions act that are judged, such as `"prompt"`; by
            default `"all"`, or where that was not swept the first by name.

    Raises:
        InputError: no single-layer block condition, an unknown or ambiguous ablation, positions
            at which no condition acts, a layer that
            is ablated twice alike, or a probe frame of an unknown kind.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        roles = lr.localize(result, probes=[lens])
        print(roles.verdict)
    """
    check_result(result)
    given = [probes] if isinstance(probes, pd.DataFrame) else list(probes)
    measured = seen.summary(given)
    kinds = _kinds(result)
    chosen = _chosen(kinds, ablation)
    harms = Harms(result, chosen, at)
    layers = harms.layers()
    frame = _frame(harms, layers)
    second = [
        Harms(result, kind, harms.at)
        for kind in kinds
        if same_kind(kind) != same_kind(chosen)
        and harms.at in ats_of(result, kind)
        and at_one_setting(result, kind)
    ]
    frame["claim"] = [_claim(line._asdict(), harms, second) for line in records(frame)]
    held = [Kind(harms, layers), *(Kind(other, other.layers()) for other in second)]
    heads = heads_of(result, harms.at)
    roles = Roles(
        frame=frame,
        layers=layers,
        contrasts=_contrasts(harms),
        claims=claims_of(held, heads, CONTROL),
        pairs=pairs_of(harms),
        heads=heads,
        probes=measured,
        ablation=chosen,
        at=harms.at,
    )
    told = verdict(roles, _setting(result, harms, bool(second)))
    return dataclasses.replace(roles, sentences=tuple(told))


def _frame(harms: Harms, layers: pd.DataFrame) -> pd.DataFrame:
    found: dict[tuple[str, str, str], list[int]] = {}
    for row in records(layers):
        found.setdefault((row.family, row.protocol, row.verdict), []).append(int(row.layer))
    rows = []
    for family, protocol in harms.keys:
        cell = harms.measured(family, protocol)
        cell = harms.cell(family, protocol) if cell.empty else cell
        depth = harms.early_minus_late(family, protocol, harms.at)
        mean = harms.mean_harm(family, protocol, harms.at)
        own = {verdict: found.get((family, protocol, verdict), []) for verdict in VERDICTS}
        measured = [f for f, p in harms.keys if p == protocol and not harms.measured(f, p).empty]
        others = [other for other in measured if other != family]
        effective, of_effective = effective_number(harms, family, protocol, leave_out=own["sink"])
        rows.append(
            {
                "family": family,
                "protocol": protocol,
                "n": int(cell["n"].sum()),
                "intact": float(cell["score"].mean()),
                "chance": float(cell["chance"].mean()),
                "early_minus_late": depth.estimate,
                "ci_low": depth.low,
                "ci_high": depth.high,
                "critical": own["critical"],
                "spare": own["spare"],
                "undecided": own["undecided"],
                "general": _in_all(found, measured, protocol, "critical")
                if CONTROL in measured and family in measured and others
                else [],
                "specific": sorted(
                    set(own["critical"]) & set(_in_all(found, others, protocol, "spare"))
                ),
                "sink": own["sink"],
                "effective": effective,
                "effective_low": of_effective.low,
                "effective_high": of_effective.high,
                "mean_harm": mean.estimate,
                "mean_harm_low": mean.low,
                "mean_harm_high": mean.high,
            }
        )
    return pd.DataFrame(rows)


def _in_all(
    found: dict[tuple[str, str, str], list[int]], families: list[str], protocol: str, verdict: str
) -> list[int]:
    lists = [set(found.get((family, protocol, verdict), [])) for family in families]
    return sorted(set.intersection(*lists)) if lists else []


def _contrasts(harms: Harms) -> pd.DataFrame:
    rows: list[tuple[object, ...]] = []
    for one, two in itertools.combinations(harms.keys, 2):
        (family, protocol), (other, second) = one, two
        if protocol == second:
            depth = [harms.early_minus_late(*key, harms.at) for key in (one, two)]
            difference = depth[0].minus(depth[1])
            rows.append(("early_minus_late", harms.at, protocol, family, other, *difference))
        elif family == other and len(harms.swept) == harms.n_layers:
            apart = harms.mean_harm_apart(family, protocol, second, harms.at)
            rows.append(("mean_harm", harms.at, f"{protocol} - {second}", family, "", *apart))
    if harms.after_first:
        for family, protocol in harms.keys:
            depth = [harms.early_minus_late(family, protocol, "after_first")]
            own = (depth[0].estimate, depth[0].low, depth[0].high)
            rows.append(("early_minus_late", "after_first", protocol, family, "", *own))
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
        contrast = other.early_minus_late(family, protocol, other.at)
        both = held and other.holds_with_first_token_kept(family, protocol)
        standing.append(claims.agreement(line, contrast, other.ablation, both))
    left_out = list(cell.loc[~cell["above_chance"], "task"])
    return claims.row(line, claims.reason(cell), left_out, ", ".join(standing))


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


def _setting(result: SweepResult, harms: Harms, second: bool) -> claims.Setting:
    model = result.manifest.get("model", {})
    return claims.Setting(
        model=str(model.get("name", "the model")),
        n_layers=harms.n_layers,
        swept=len(harms.swept),
        ablation=harms.ablation,
        at=harms.at,
        after_first=harms.after_first,
        second=second,
        control=CONTROL,
        noise_floor=result.noise_floor(),
        tasks=harms.precision(),
    )
