"""Verdict sentences on what the probes measured."""

from collections.abc import Iterator

import pandas as pd

from layerroles.results import records
from layerroles.roles.claims import bounds
from layerroles.roles.table import Sentence

_EMERGES = {
    "logit_lens": "Logit lens, the layer from which the answer stays on top",
    "tuned_lens": "Tuned lens, the layer from which the answer stays on top",
    "decision": "Decision, the layer from which the right option stays ahead of the others",
}
_TOP = {
    "retrieval_score": "Retrieval score, the heads that copy the largest share of the evidence "
    "where the model wrote at least half of it",
    "similarity": "Similarity, the layers that change the stream least",
    "attribution": "Direct attribution, the layers that write most of the answer's logit",
}


def probed(probes: pd.DataFrame) -> Iterator[Sentence]:
    """Yield a sentence for each probe in a summary; its topic is the probe."""
    for name, rows in probes.groupby("probe", sort=False):
        yield Sentence(_sentence_text(str(name), rows), str(name))


def _sentence_text(name: str, rows: pd.DataFrame) -> str:
    if name in _EMERGES:
        return _emergence(_EMERGES[name], rows)
    if name == "attention":
        return _attention(rows)
    if name in _TOP:
        measured = f" (block {rows['measure'].iloc[0]})" if name == "similarity" else ""
        return f"{_TOP[name]}{measured}: {_top(rows)}."
    measures = [f"{measure}: {_top(part)}" for measure, part in rows.groupby("measure")]
    return f"{name.replace('_', ' ').capitalize()}, {'. '.join(measures)}."


def _emergence(what: str, rows: pd.DataFrame) -> str:
    families = [
        f"{r.family} {r.emergence:.0f}{bounds(r.emergence_low, r.emergence_high, 0)} "
        f"({r.emerged:.0%} of {r.n})"
        if r.emerged
        else f"{r.family} never (0% of {r.n})"
        for r in records(rows)
    ]
    return f"{what}, median (share of examples in which it does): {', '.join(families)}."


def _attention(rows: pd.DataFrame) -> str:
    families = [
        f"{family} {', '.join(f'{r.site} {r.evidence:.2f}' for r in records(part))} "
        f"(even: {part['uniform'].mean():.2f}, n={part['n'].iloc[0]})"
        for family, part in rows.groupby("family", sort=False)
    ]
    return (
        f"Attention, the heads with the largest mean share on the evidence (and what even "
        f"attention would give): {'; '.join(families)}."
    )


def _top(rows: pd.DataFrame) -> str:
    return "; ".join(
        f"{family} {', '.join(f'{r.site} {r.value:.2f}' for r in records(own))} "
        f"(n={own['n'].iloc[0]})"
        for family, own in rows.groupby("family", sort=False)
    )
