"""Turn a sweep into roles: layer verdicts, lists of layers per family, harm over depth."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results import AFTER_FIRST, CRITICAL, SweepResult, check_result, records
from layerroles.roles import probe_summary
from layerroles.roles.all_claims import CONTROL, decide_claims, describe_decided
from layerroles.roles.critical_heads import heads_of
from layerroles.roles.harms import Harms
from layerroles.roles.harms_by_ablation import measure_kinds
from layerroles.roles.layer_verdicts import tabulate_verdicts
from layerroles.roles.protocol_claims import mean_harm_apart
from layerroles.roles.redundancy import effective_number, measure_pairs
from layerroles.roles.result import Roles, Sentence
from layerroles.roles.sentence_parts import Setting, sign_of
from layerroles.roles.sentences_per_family import (
    describe_agreement,
    describe_family,
    explain_unmeasurable,
)
from layerroles.roles.verdict_sentences import interim_sentence, verdict_sentences

# Label of the difference: harm under ablation at `Harms.at` minus at all positions but the first.
_KEPT = f"{{}} - {AFTER_FIRST}"
_MEAN = ("mean_harm", "mean_harm_low", "mean_harm_high")
# Verdicts of which `Roles.frame` has a list of layers.
_VERDICTS = ("critical", "spare", "partial", "helps", "undecided", "sink")


def localize(
    result: SweepResult,
    probes: pd.DataFrame | Sequence[pd.DataFrame] = (),
    *,
    ablation: str | None = None,
    at: str | None = None,
    base: SweepResult | None = None,
) -> Roles:
    """Say which layers each family needs, under each protocol, and how sure that is.

    For an unfinished run (`result.interim`) there are estimates and intervals, but no verdicts: if
    runs were stopped as soon as a verdict looks right, more than 5% of verdicts would be wrong.

    Args:
        result: a sweep with conditions that ablate one whole layer each.
        probes: probe frames, measured on the same tasks; only rows of the intact model are used.
        ablation: the ablation on which verdicts on layers rest, required if the sweep has several.
            The others, unless swept at several settings, serve as the second kind of ablation that
            a claim needs.
        at: the ablation positions on which verdicts and claims rest, such as `"prompt"`; by default
            `"all"` if the sweep has conditions that act there, else the first by name.
        base: a sweep, on the same questions, of the model that the swept model was distilled or
            trained from: `Roles.claims` then says whether the swept model reasons more robustly.

    Raises:
        InputError: no condition ablates one whole layer; `ablation` is unknown, or not given though
            the sweep has several; no condition acts at the positions `at`; the ablation was swept
            at several settings; or a probe frame is not of a registered probe.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        roles = lr.localize(result, probes=[lens])
        print(roles.verdict)
    """
    check_result(result)
    probe_frames = [probes] if isinstance(probes, pd.DataFrame) else list(probes)
    probe_table = probe_summary.summarize_probes(probe_frames)
    kinds = measure_kinds(result, ablation, at)
    harms = kinds[0].harms
    layers = tabulate_verdicts(harms)
    second_kinds = [kind for kind in kinds[1:] if kind.mechanism not in ("", kinds[0].mechanism)]
    summary = _summarize(harms, layers)
    leans = _find_leanings(harms)
    summary["claim"] = [
        _describe_row(line._asdict(), leans, harms, [kind.harms for kind in second_kinds])
        for line in records(summary)
    ]
    roles = Roles(
        frame=summary,
        layers=layers,
        contrasts=_measure_contrasts(harms),
        claims=decide_claims(result, kinds, base, probe_frames),
        pairs=measure_pairs(harms),
        heads=heads_of(result, harms.at),
        probes=probe_table,
        ablation=harms.ablation,
        at=harms.at,
        interim=result.interim,
    )
    if roles.interim:
        only = Sentence(interim_sentence(roles.interim), "setting")
        return dataclasses.replace(roles, sentences=(only,))
    sentences = verdict_sentences(
        roles, _make_setting(result, harms, leans, [kind.ablation for kind in second_kinds])
    )
    return dataclasses.replace(roles, sentences=tuple(sentences))


def _summarize(harms: Harms, layers: pd.DataFrame) -> pd.DataFrame:
    layers_by_verdict: dict[tuple[str, str, str], list[int]] = {}
    for row in records(layers):
        layers_by_verdict.setdefault((row.family, row.protocol, row.verdict), []).append(
            int(row.layer)
        )
    rows = []
    for family, protocol in harms.keys:
        cell = harms.measured(family, protocol)
        cell = harms.intact_rows(family, protocol) if cell.empty else cell
        depth = harms.early_minus_late(family, protocol)
        mean_harm = harms.mean_harm(family, protocol)
        layers_of = {
            verdict: layers_by_verdict.get((family, protocol, verdict), []) for verdict in _VERDICTS
        }
        sinks = layers_of.pop("sink")
        measured_families = _measured_families(harms, protocol)
        other_families = [other for other in measured_families if other != family]
        effective = effective_number(harms, family, protocol, leave_out=sinks)
        rows.append(
            {
                "family": family,
                "protocol": protocol,
                "n": int(cell["n"].sum()),
                "intact": float(cell["score"].mean()),
                "chance": float(cell["chance"].mean()),
                **dict(zip(("early_minus_late", "ci_low", "ci_high"), depth.numbers, strict=True)),
                **layers_of,
                "general": _general_layers(layers_by_verdict, measured_families, protocol)
                if CONTROL in measured_families and family in measured_families and other_families
                else [],
                "specific": _specific_layers(
                    layers, layers_of["critical"], other_families, protocol
                ),
                "sink": sinks,
                "effective": effective.value,
                "effective_low": effective.interval.low,
                "effective_high": effective.interval.high,
                **dict(zip(_MEAN, mean_harm.numbers, strict=True)),
            }
        )
    return pd.DataFrame(rows)


def _general_layers(
    layers_by_verdict: dict[tuple[str, str, str], list[int]], families: list[str], protocol: str
) -> list[int]:
    """Return the layers that are critical for all of these families."""
    lists = [layers_by_verdict.get((family, protocol, "critical"), []) for family in families]
    return sorted(set.intersection(*map(set, lists)))


def _specific_layers(
    layers: pd.DataFrame, critical: list[int], other_families: list[str], protocol: str
) -> list[int]:
    """Return the critical layers whose harm interval lies below 0.2 for every other family.

    Empty if there is no other family.
    """
    rows = layers[(layers["protocol"] == protocol) & layers["family"].isin(other_families)]
    n_below = rows[rows["harm_high"] < CRITICAL].groupby("layer")["family"].nunique()
    return [
        layer
        for layer in critical
        if other_families and n_below.get(layer, 0) == len(other_families)
    ]


def _measure_contrasts(harms: Harms) -> pd.DataFrame:
    rows: list[tuple[object, ...]] = []
    for first, second in itertools.combinations(harms.keys, 2):
        (family, protocol), (other, other_protocol) = first, second
        if protocol == other_protocol:
            difference = harms.early_minus_late_difference(first, second)
            rows.append(
                ("early_minus_late", harms.at, protocol, family, other, *difference.numbers)
            )
        elif family == other and len(harms.swept) == harms.n_layers:
            difference = mean_harm_apart(harms, family, protocol, other_protocol)
            protocols = f"{protocol} - {other_protocol}"
            rows.append(("mean_harm", harms.at, protocols, family, "", *difference.numbers))
    if harms.after_first:
        for family, protocol in harms.keys:
            first_token_kept = harms.early_minus_late(family, protocol, AFTER_FIRST)
            difference = stats.difference_of(
                harms.early_minus_late(family, protocol), first_token_kept
            )
            key = (protocol, family, "")
            rows.append(("early_minus_late", AFTER_FIRST, *key, *first_token_kept.numbers))
            rows.append(("early_minus_late", _KEPT.format(harms.at), *key, *difference.numbers))
    columns = ["quantity", "at", "protocol", "family", "against", "difference", "ci_low", "ci_high"]
    return pd.DataFrame(rows, columns=columns)


def _describe_row(
    row: dict[str, Any],
    leans: Mapping[tuple[str, str], int],
    harms: Harms,
    second: list[Harms],
) -> str:
    family, protocol = str(row["family"]), str(row["protocol"])
    cell = harms.intact_rows(family, protocol)
    if harms.interim and cell["above_chance"].any():
        return interim_sentence(harms.interim)
    lean, reason = leans[family, protocol], explain_unmeasurable(cell)
    evidence = [f"seen under {harms.ablation}{'' if second else ' only'}"]
    holds = harms.holds_with_first_token_kept(family, protocol)
    if not holds:
        evidence.append("not shown with the first token's write kept")
    for other in second:
        contrast = other.early_minus_late(family, protocol)
        both_hold = holds and other.holds_with_first_token_kept(family, protocol)
        evidence.append(describe_agreement(lean, contrast, other.ablation, both_hold))
    tasks_left_out = list(cell.loc[~cell["above_chance"], "task"])
    return describe_family(row, lean, reason, tasks_left_out, ", ".join(evidence))


def _make_setting(
    result: SweepResult,
    harms: Harms,
    leans: Mapping[tuple[str, str], int],
    second: Sequence[str],
) -> Setting:
    model = result.manifest.get("model", {})
    return Setting(
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
        leans=leans,
        apart=_find_differences(harms),
        only_needed=bool(result.manifest.get("only_needed", False)),
        decided=describe_decided(result),
    )


def _find_leanings(harms: Harms) -> dict[tuple[str, str], int]:
    """Map family and protocol to 1 if early layers matter more, -1 if late ones do, else 0.

    This is decided by intervals that are simultaneous over the families of a protocol.
    """
    leanings = {}
    for family, protocol in harms.keys:
        level = _simultaneous_level(len(_measured_families(harms, protocol)))
        depth = harms.early_minus_late(family, protocol, level=level)
        leanings[family, protocol] = sign_of(depth.interval)
    return leanings


def _find_differences(harms: Harms) -> frozenset[tuple[str, str, str, str]]:
    """Return the keys (at, protocol, family, against) of differences shown not to be 0.

    The differences are those of `early_minus_late` in `Roles.contrasts`, between families or
    between `harms.at` and `after_first`. Intervals are simultaneous over all differences of one of
    these two kinds under a protocol.
    """
    differences = set()
    for protocol in dict.fromkeys(protocol for _, protocol in harms.keys):
        families = _measured_families(harms, protocol)
        pairs = list(itertools.combinations(families, 2))
        for first, second in pairs:
            level = _simultaneous_level(len(pairs))
            keys = (first, protocol), (second, protocol)
            difference = harms.early_minus_late_difference(*keys, level=level)
            if sign_of(difference.interval):
                differences.add((harms.at, protocol, first, second))
        for family in families if harms.after_first else ():
            level = _simultaneous_level(len(families))
            depths = [
                harms.early_minus_late(family, protocol, at, level=level)
                for at in (harms.at, AFTER_FIRST)
            ]
            if sign_of(stats.difference_of(*depths).interval):
                differences.add((_KEPT.format(harms.at), protocol, family, ""))
    return frozenset(differences)


def _measured_families(harms: Harms, protocol: str) -> list[str]:
    """Return the families with skill under a protocol."""
    return [f for f, p in harms.keys if p == protocol and not harms.measured(f, p).empty]


def _simultaneous_level(n: int) -> float:
    """Return the confidence level that each of `n` simultaneous intervals needs (Bonferroni)."""
    return 1 - (1 - stats.LEVEL) / max(1, n)
