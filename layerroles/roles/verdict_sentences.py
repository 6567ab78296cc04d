"""The verdict: what can be claimed from the numbers, one sentence at a time.

This module has the sentences on the setting, the comparisons between protocols, the claims of the
literature, and what the probes measured. Those on one protocol are in `sentences_per_protocol`.
"""

import math
from collections.abc import Iterator

import pandas as pd

from layerroles.results import records
from layerroles.roles import (
    critical_heads,
    literature,
    probe_summary,
    protocol_claims,
    retrieval_augmentation_claims,
)
from layerroles.roles.result import Roles, Sentence
from layerroles.roles.sentence_parts import (
    Setting,
    describe_positions,
    format_bounds,
    format_estimate,
)
from layerroles.roles.sentences_per_protocol import protocol_sentences

# Topic of the sentence on each claim of the literature; `depth` for those not listed.
_DECIDED_BY = {
    literature.DEEP: "layers",
    **dict.fromkeys(
        (protocol_claims.MORE, protocol_claims.STRICTER, protocol_claims.WRITING), "protocols"
    ),
    critical_heads.FEW: "heads",
    retrieval_augmentation_claims.CONTEXT: "protocols",
    probe_summary.ALIKE: "similarity",
}
# If rounding changes a larger share of answers than this, the verdict says so.
_NOISY = 0.1
_EMERGES = {
    "logit_lens": "Logit lens, the layer from which the answer stays on top",
    "tuned_lens": "Tuned lens, the layer from which the answer stays on top",
    "decision": "Decision, the layer from which the right option stays ahead of the others",
}
_TOP = {
    "retrieval_score": "Retrieval score, the heads that copy the largest share of the evidence "
    "where the model wrote at least half of it (as the largest of many, overestimated)",
    "similarity": "Similarity, the layers that change the stream least",
    "attribution": "Direct attribution, the layers that write most of the answer's logit",
}


def verdict_sentences(roles: Roles, setting: Setting) -> Iterator[Sentence]:
    """Yield the verdict's sentences, from the tables of `roles`; `roles.sentences` is not read."""
    if setting.decided:
        yield Sentence(f"{setting.decided}.", "setting")
    yield Sentence(_say_opening(setting), "setting")
    for protocol in dict.fromkeys(roles.frame["protocol"]):
        yield from protocol_sentences(str(protocol), roles, setting)
    yield from (Sentence(line, "protocols") for line in _say_protocols(roles.contrasts))
    yield from (Sentence(line, "unmeasured") for line in _say_unmeasured(roles.frame, roles.layers))
    yield from (Sentence(line, "noise") for line in _say_noise(setting.noise_floor))
    yield from (Sentence(line, "failures") for line in _say_failures(roles.layers))
    if roles.pairs.empty:
        yield Sentence(_say_no_pairs(setting), "pairs")
    yield from _claim_sentences(roles.claims)
    yield Sentence(_say_kinds(setting), "setting")
    yield from probe_sentences(roles.probes)


def interim_sentence(interim: str) -> str:
    """Return the sentence that replaces the verdict of an unfinished run.

    Args:
        interim: how much of the run is done, such as "8 of 32 questions".
    """
    return (
        f"Interim ({interim}): estimates with their intervals, and no verdicts before the run is "
        f"finished. A run that was stopped goes on when it is started again."
    )


def _say_opening(setting: Setting) -> str:
    place = describe_positions(setting.at)
    also = ""
    if setting.after_first:
        also = "; again with the first token's write kept"
        if setting.only_needed:
            also += " where a layer is critical (sums take the harm at every position elsewhere)"
    sums = " Sums over layers use only what all of them were asked." if setting.decided else ""
    return (
        f"{setting.model}: {setting.ablation} of one layer at a time, {setting.swept} of "
        f"{setting.n_layers} layers (0-based), at {place}{also}. Harm 1 is the whole skill "
        f"above chance.{sums}"
    )


def _say_protocols(contrasts: pd.DataFrame) -> list[str]:
    mean_harms = contrasts[(contrasts["quantity"] == "mean_harm") & contrasts["difference"].notna()]
    return [
        f"Mean harm over all layers, {between}: "
        + ", ".join(
            f"{r.family} {format_estimate(r.difference, r.ci_low, r.ci_high)}"
            for r in records(rows)
        )
        + "."
        for between, rows in mean_harms.groupby("protocol", sort=False)
    ]


def _say_unmeasured(frame: pd.DataFrame, layers: pd.DataFrame) -> list[str]:
    gone = layers[layers["verdict"] == "not measurable"][["family", "protocol"]].drop_duplicates()
    rows = frame.merge(gone, on=["family", "protocol"])
    return [
        f"{r.family} under {r.protocol}: {r.claim[0].lower()}{r.claim[1:]}" for r in records(rows)
    ]


def _say_noise(floor: pd.DataFrame) -> list[str]:
    # Scores in nats change slightly in every batch, so counting changes says nothing.
    noisy = floor[(floor["changed"] > _NOISY) & (floor["unit"] == "accuracy")]
    if noisy.empty:
        return []
    shares = [f"{r.n_changed} of {r.n} to {r.task} ({r.protocol})" for r in records(noisy)]
    return [
        f"Other batches, which only round otherwise, change these answers of the intact model: "
        f"{', '.join(shares)}. An effect on as few answers as that may be rounding."
    ]


def _say_failures(layers: pd.DataFrame) -> list[str]:
    failed, rows = int(layers["n_failed"].sum()), int((layers["n_failed"] > 0).sum())
    if not failed:
        return []
    return [
        f"{failed} pairs were left out because a score was not finite, in {rows} of {len(layers)} "
        f"layer verdicts: those rest on the examples that remain."
    ]


def _say_no_pairs(setting: Setting) -> str:
    return (
        f"No pairs of layers were ablated by {setting.ablation} at "
        f"{describe_positions(setting.at)}: a layer for which another stands in (a backup) looks "
        "spare when it is ablated alone, so one at a time cannot tell the two apart."
    )


def _claim_sentences(claims: pd.DataFrame) -> Iterator[Sentence]:
    """Yield a sentence for each row of `Roles.claims`."""
    families = claims.groupby("claim")["family"].nunique()
    for row in records(claims):
        size = "" if math.isnan(row.smallest) else f" (by {row.smallest:g} of the skill or more)"
        family = f" for {row.family}" if families[row.claim] > 1 else ""
        protocol = f" under {row.protocol}" if row.protocol else ""
        part = row.claim in (protocol_claims.STRICTER, protocol_claims.WRITING)
        whose = "Part of the claim on generation" if part else "Claim of the literature"
        text = (
            f"{whose}, {row.claim[0].lower()}{row.claim[1:]}{size}: {row.status}"
            f"{family}{protocol} ({row.evidence})."
        )
        yield Sentence(text, _DECIDED_BY.get(str(row.claim), "depth"))


def _say_kinds(setting: Setting) -> str:
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


def probe_sentences(probes: pd.DataFrame) -> Iterator[Sentence]:
    """Yield a sentence for each probe in a table of `summarize_probes`."""
    for name, rows in probes.groupby("probe", sort=False):
        yield Sentence(_probe_text(str(name), rows), str(name))


def _probe_text(name: str, rows: pd.DataFrame) -> str:
    if name in _EMERGES:
        return _say_emergence(_EMERGES[name], rows)
    if name == "attention":
        return _say_attention(rows)
    if name in _TOP:
        measured = f" (block {rows['measure'].iloc[0]})" if name == "similarity" else ""
        return f"{_TOP[name]}{measured}: {_format_top(rows)}."
    measures = [f"{measure}: {_format_top(part)}" for measure, part in rows.groupby("measure")]
    return f"{name.replace('_', ' ').capitalize()}, {'. '.join(measures)}."


def _say_emergence(what: str, rows: pd.DataFrame) -> str:
    families = [
        f"{r.family} {r.emergence:.0f}{format_bounds(r.emergence_low, r.emergence_high, 0)} "
        f"({r.emerged:.0%} of {r.n})"
        if r.emerged
        else f"{r.family} never (0% of {r.n})"
        for r in records(rows)
    ]
    return f"{what}, median (share of examples in which it does): {', '.join(families)}."


def _say_attention(rows: pd.DataFrame) -> str:
    families = [
        f"{family} {', '.join(f'{r.site} {r.evidence:.2f}' for r in records(part))} "
        f"(even: {part['uniform'].mean():.2f}, n={part['n'].iloc[0]})"
        for family, part in rows.groupby("family", sort=False)
    ]
    return (
        f"Attention, the heads with the largest mean share on the evidence, which as the largest "
        f"of many is overestimated (and what even attention would give): {'; '.join(families)}."
    )


def _format_top(rows: pd.DataFrame) -> str:
    return "; ".join(
        f"{family} {', '.join(f'{r.site} {r.value:.2f}' for r in records(family_rows))} "
        f"(n={family_rows['n'].iloc[0]})"
        for family, family_rows in rows.groupby("family", sort=False)
    )
