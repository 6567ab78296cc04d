"""Sentences: what the numbers allow to be said in all, each with its numbers."""

import math
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results import records
from layerroles.roles.claims import Setting, least, listed, number, sign
from layerroles.roles.harms import SPARE


def verdict(
    frame: pd.DataFrame,
    layers: pd.DataFrame,
    contrasts: pd.DataFrame,
    probes: pd.DataFrame,
    setting: Setting,
) -> list[str]:
    """The sentences that may be claimed in all."""
    lines = [_opening(setting)]
    for protocol, rows in frame.groupby("protocol", sort=False):
        own = layers[layers["protocol"] == protocol]
        known = rows[rows["early_minus_late"].notna()]
        lines += _depth(str(protocol), known, contrasts)
        lines += _layers(str(protocol), rows, own, setting)
        lines += _precision(str(protocol), rows, own)
    lines += _protocols(contrasts)
    lines += _unmeasured(frame, layers)
    lines += _failures(layers)
    lines.append(_kinds(setting))
    return lines + _probes(probes)


_WHERE = {
    "all": "every position",
    "after_first": "every position but the first",
    "prompt": "the positions of the prompt",
    "generated": "the positions of the answer",
    "evidence": "the positions of the evidence",
    "last": "the prompt's last position",
}


def _opening(setting: Setting) -> str:
    where = _WHERE.get(setting.at, f"the positions of {setting.at}")
    beside = "; again with the first token's write kept" if setting.after_first else ""
    return (
        f"{setting.model}: {setting.ablation} of one layer at a time, {setting.swept} of "
        f"{setting.n_layers} layers (0-based), at {where}{beside}. Harm 1 is the whole skill "
        f"above chance."
    )


def _depth(protocol: str, rows: pd.DataFrame, contrasts: pd.DataFrame) -> list[str]:
    if rows.empty:
        return []
    kinds = (
        ("early layers matter more for", rows[rows["ci_low"] > 0]),
        ("late layers matter more for", rows[rows["ci_high"] < 0]),
        ("no difference is shown for", rows[(rows["ci_low"] <= 0) & (rows["ci_high"] >= 0)]),
    )
    parts = [
        f"{words} "
        + ", ".join(
            f"{r.family} {number(r.early_minus_late, r.ci_low, r.ci_high)}" for r in records(some)
        )
        for words, some in kinds
        if not some.empty
    ]
    lines = [
        f"Under {protocol}, by harm of the first third of layers minus the last: "
        f"{'; '.join(parts)}."
    ]
    own = contrasts[contrasts["protocol"] == protocol]
    lines += _kept(protocol, rows, own[own["against"] == ""])
    own = own[own["against"] != ""]
    apart = own[(own["ci_low"] > 0) | (own["ci_high"] < 0)]
    if not apart.empty:
        pairs = ", ".join(_pair(r) for r in records(apart))
        lines.append(f"Under {protocol}, families differ in this: {pairs}.")
    elif own["difference"].notna().any():
        lines.append(f"Under {protocol}, no two families are shown to differ in this.")
    return lines


def _kept(protocol: str, rows: pd.DataFrame, kept: pd.DataFrame) -> list[str]:
    """Where keeping the first token's write changes what is said of early against late."""
    both = rows.merge(kept[["family", "difference", "ci_low", "ci_high"]], on="family")
    changed = [
        f"{r.family} {number(r.difference, r.ci_low_y, r.ci_high_y)}"
        for r in records(both)
        if sign(r.ci_low_x, r.ci_high_x) != sign(r.ci_low_y, r.ci_high_y)
    ]
    if not changed:
        return []
    return [f"Under {protocol}, this changes with the first token kept: {', '.join(changed)}."]


def _pair(pair: Any) -> str:
    line = pair._asdict()
    one, two, sign = line["family"], line["against"], 1.0
    low, high = line["ci_low"], line["ci_high"]
    if high < 0:
        one, two, sign, low, high = two, one, -1.0, -high, -low
    return f"{one} earlier than {two} by {number(sign * line['difference'], low, high)}"


def _layers(protocol: str, rows: pd.DataFrame, layers: pd.DataFrame, setting: Setting) -> list[str]:
    measured = set(layers.loc[layers["verdict"] != "not measurable", "family"])
    rows = rows[rows["family"].isin(measured)]
    if rows.empty:
        return []
    told = []
    for name in ("critical", "specific", "spare"):
        found = [f"{r['family']} {listed(r[name])}" for _, r in rows.iterrows() if r[name]]
        told.append(f"{name}: {'; '.join(found) or 'no layer'}")
    lines = [f"Under {protocol}, {'. '.join(word[0].upper() + word[1:] for word in told)}."]
    lines[0] = lines[0].replace("Critical", "critical", 1)
    lines.append(_general(protocol, rows, measured, setting))
    sinks = layers[layers["verdict"] == "sink"]
    if not sinks.empty:
        found = []
        for layer, own in sinks.groupby("layer"):
            harms = [
                f"{r.family} {r.harm:+.2f} to {r.after_first_harm:+.2f} "
                f"(goes away: [{r.gone_low:+.2f}, {r.gone_high:+.2f}])"
                for r in records(own)
            ]
            found.append(f"layer {layer} for {', '.join(harms)}")
        lines.append(
            f"Under {protocol}, sinks, whose harm goes away when the first token's write is kept: "
            f"{'; '.join(found)}."
        )
    elif not setting.after_first:
        lines.append(
            f"Under {protocol}, sinks cannot be told: that takes both all and after_first."
        )
    return lines


def _general(protocol: str, rows: pd.DataFrame, measured: set[str], setting: Setting) -> str:
    if setting.control not in measured or len(measured) < 2:
        return (
            f"Under {protocol}, no layer can be called general: that takes the copying control "
            f"(family {setting.control}) and another family, both above chance."
        )
    general = rows["general"].iloc[0]
    return (
        f"Under {protocol}, critical for all {len(measured)} measured families, the copying "
        f"control included (general): {listed(general)}."
    )


def _precision(protocol: str, rows: pd.DataFrame, layers: pd.DataFrame) -> list[str]:
    """How fine the measurement is, and what it could have called spare at best."""
    known = layers[layers["harm"].notna()]
    if known.empty:
        return []
    half = ((known["harm_high"] - known["harm_low"]) / 2).median()
    n, most = int(known["n"].min()), int(known["n"].max())
    rows = rows[rows["family"].isin(set(known["family"]))]
    undecided, total = int((known["verdict"] == "undecided").sum()), len(known)
    text = (
        f"Under {protocol}, at n={n if n == most else f'{n} to {most}'} the interval of a layer's "
        f"harm is about ±{half:.2f} wide, so {undecided} of {total} layer verdicts are undecided"
    )
    short = [
        f"{r.family} {least(r.intact - r.chance)}"
        for r in records(rows)
        if r.n < least(r.intact - r.chance)
    ]
    if short:
        text += (
            f"; no layer could be spare (within ±{SPARE}) for {len(short)} of {len(rows)} families "
            f"even if not one answer changed: that takes n={', '.join(short)}"
        )
    found = stats.minimum_detectable(n, tests=known["layer"].nunique())
    least_drop = "no drop" if math.isnan(found) else f"a drop of {found:.2f} or more"
    return [f"{text}. Of accuracy {least_drop} is found with 80% power after correction."]


def _protocols(contrasts: pd.DataFrame) -> list[str]:
    own = contrasts[(contrasts["quantity"] == "mean_harm") & contrasts["difference"].notna()]
    return [
        f"Mean harm over all layers, {between}: "
        + ", ".join(
            f"{r.family} {number(r.difference, r.ci_low, r.ci_high)}" for r in records(rows)
        )
        + "."
        for between, rows in own.groupby("protocol", sort=False)
    ]


def _unmeasured(frame: pd.DataFrame, layers: pd.DataFrame) -> list[str]:
    gone = layers[layers["verdict"] == "not measurable"][["family", "protocol"]].drop_duplicates()
    rows = frame.merge(gone, on=["family", "protocol"])
    return [
        f"{r.family} under {r.protocol}: {r.claim[0].lower()}{r.claim[1:]}" for r in records(rows)
    ]


def _failures(layers: pd.DataFrame) -> list[str]:
    failed, rows = int(layers["n_failed"].sum()), int((layers["n_failed"] > 0).sum())
    if not failed:
        return []
    return [
        f"{failed} pairs were left out because a score was not finite, in {rows} of {len(layers)} "
        f"layer verdicts: those rest on the examples that remain."
    ]


def _kinds(setting: Setting) -> str:
    if setting.second:
        return (
            f"All this was seen under {setting.ablation}; what another ablation of this sweep says "
            f"to early against late stands in each row's claim."
        )
    same = " (Zero on a whole layer is Skip)" if setting.ablation in ("skip", "zero") else ""
    return (
        f"All this was seen under {setting.ablation} only: a claim counts as supported when a "
        f"second kind of ablation agrees{same}."
    )
