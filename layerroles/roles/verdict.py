"""The verdict: what can be claimed from the numbers, a sentence each, with its numbers."""

import math
from collections.abc import Iterator

import pandas as pd

from layerroles.results import records
from layerroles.roles import comparisons, heads, literature
from layerroles.roles.claims import Setting, number, where
from layerroles.roles.probed import probed
from layerroles.roles.table import Roles, Sentence
from layerroles.roles.under import under

# By which claims of the literature are decided.
_DECIDED_BY = {
    literature.DEEP: "layers",
    **dict.fromkeys((literature.MORE, literature.STRICTER, literature.WRITING), "protocols"),
    heads.FEW: "heads",
    comparisons.CONTEXT: "protocols",
    comparisons.ALIKE: "similarity",
}
# If rounding changes a larger share of answers than this, the verdict says so.
_NOISY = 0.1


def verdict(roles: Roles, setting: Setting) -> Iterator[Sentence]:
    """Yield the sentences of the verdict on roles that have none yet."""
    yield Sentence(_opening(setting), "setting")
    for protocol in dict.fromkeys(roles.frame["protocol"]):
        yield from under(str(protocol), roles, setting)
    yield from (Sentence(line, "protocols") for line in _protocols(roles.contrasts))
    yield from (Sentence(line, "unmeasured") for line in _unmeasured(roles.frame, roles.layers))
    yield from (Sentence(line, "noise") for line in _noise(setting.noise_floor))
    yield from (Sentence(line, "failures") for line in _failures(roles.layers))
    if roles.pairs.empty:
        yield Sentence(_unpaired(setting), "pairs")
    yield from _claims(roles.claims)
    yield Sentence(_kinds(setting), "setting")
    yield from probed(roles.probes)


def _opening(setting: Setting) -> str:
    place = where(setting.at)
    beside = "; again with the first token's write kept" if setting.after_first else ""
    return (
        f"{setting.model}: {setting.ablation} of one layer at a time, {setting.swept} of "
        f"{setting.n_layers} layers (0-based), at {place}{beside}. Harm 1 is the whole skill "
        f"above chance."
    )


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


def _noise(floor: pd.DataFrame) -> list[str]:
    # Scores in nats change slightly in every batch, so counting changes says nothing.
    noisy = floor[(floor["changed"] > _NOISY) & (floor["unit"] == "accuracy")]
    if noisy.empty:
        return []
    shares = [f"{r.n_changed} of {r.n} to {r.task} ({r.protocol})" for r in records(noisy)]
    return [
        f"Other batches, which only round otherwise, change these answers of the intact model: "
        f"{', '.join(shares)}. An effect on as few answers as that is none."
    ]


def _failures(layers: pd.DataFrame) -> list[str]:
    failed, rows = int(layers["n_failed"].sum()), int((layers["n_failed"] > 0).sum())
    if not failed:
        return []
    return [
        f"{failed} pairs were left out because a score was not finite, in {rows} of {len(layers)} "
        f"layer verdicts: those rest on the examples that remain."
    ]


def _unpaired(setting: Setting) -> str:
    return (
        f"No pairs of layers were ablated by {setting.ablation} at {where(setting.at)}: a layer "
        "for which another stands in (a backup) looks spare when it is ablated alone, so one at a "
        "time cannot tell the two apart."
    )


def _claims(claims: pd.DataFrame) -> Iterator[Sentence]:
    """What this sweep says to each claim of the literature, a sentence a family and protocol."""
    families = claims.groupby("claim")["family"].nunique()
    for row in records(claims):
        size = "" if math.isnan(row.smallest) else f" (by {row.smallest:g} of the skill or more)"
        family = f" for {row.family}" if families[row.claim] > 1 else ""
        protocol = f" under {row.protocol}" if row.protocol else ""
        part = row.claim in (literature.STRICTER, literature.WRITING)
        whose = "Part of the claim on generation" if part else "Claim of the literature"
        text = (
            f"{whose}, {row.claim[0].lower()}{row.claim[1:]}{size}: {row.status}"
            f"{family}{protocol} ({row.evidence})."
        )
        yield Sentence(text, _DECIDED_BY.get(str(row.claim), "depth"))


def _kinds(setting: Setting) -> str:
    if setting.second:
        return (
            f"What is said of layers was seen under {setting.ablation}; the claims were held "
            f"against {', '.join(setting.second)} too."
        )
    same = " (Zero on a whole layer is Skip)" if setting.ablation in ("skip", "zero") else ""
    return (
        f"What is said of layers was seen under {setting.ablation} only: a claim takes two "
        f"kinds of ablation, of different mechanisms, to be supported or contradicted{same}."
    )
