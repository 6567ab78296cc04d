"""Summarize probes per family: where answers emerge, and which heads and layers stand out.

`claims_on_neighbours` describes how similar neighbouring layers are, without a verdict.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerroles import stats
from layerroles.probes import find_lasting_layer, group_by_probe, median_bounds
from layerroles.roles.sentence_parts import format_estimate

ALIKE = "Neighbouring layers are similar"
TOP_HEADS = 3
# Retrieval scores count if the model wrote at least this share of the evidence (Wu et al., arXiv
# 2404.15574).
FOUND = 0.5
COLUMNS = [
    "probe",
    "family",
    "n",
    "emerged",
    "emergence",
    "emergence_low",
    "emergence_high",
    "site",
    "layer",
    "head",
    "measure",
    "value",
    "evidence",
    "uniform",
]


def summarize_probes(probes: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Summarize probe frames of the intact model, by probe and family.

    - `logit_lens`, `tuned_lens`: one row. `emerged` is the share of the `n` examples whose answer
      has rank 0 at the last layer. `emergence` is the median over these examples of the first layer
      from which the answer stays at rank 0 (-1 is the embedding), with its order-statistic
      interval.
    - `decision`: one row with the same columns; the layer is the first from which the margin of the
      right option over the best other option stays above 0.
    - `attention`: a row for each of the three heads (`site`, such as L16.H3) with the largest mean
      share of attention on the evidence (`evidence`); `uniform` is the share that the evidence
      would get if attention were spread evenly.
    - `retrieval_score`, `head_scores`: for each `measure`, a row for each of the three heads with
      the largest mean `value`. Retrieval scores are averaged over the examples in which the model
      wrote at least half of the evidence.
    - `similarity`: a row for each of the three layers whose block changes the residual stream least
      (`influence`, at the answering position or over all tokens, as it was measured).
    - `attribution`: a row for each of the three layers that add most to the answer's logit.

    The heads and layers in the last four items are those with the most extreme values of many, so
    these values are biased: too small for `similarity`, else too large. Other registered probes are
    left out.

    Raises:
        InputError: a frame that no registered probe produced.
    """
    rows: list[dict[str, object]] = []
    for name, frame in group_by_probe(probes).items():
        if name not in _SUMMARIES:
            continue
        for family, rest in frame.groupby("family", sort=False):
            rows += [{"probe": name, "family": family, **row} for row in _SUMMARIES[name](rest)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"n": int, "layer": "Int64", "head": "Int64"})


def emergence_layers(lens: pd.DataFrame) -> "pd.Series[float]":
    """Return per example the first layer from which the answer stays at rank 0; NaN for never."""
    return _first_lasting_layer(lens, "rank", lambda rank: rank == 0)


def claims_on_neighbours(similarity: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yield a row of `Roles.claims` per family on how similar neighbouring layers are.

    The row has the mean angle by which one block turns the residual stream, as a share of pi, and
    the status "described", which is no verdict. Yields nothing if `similarity`, a frame of that
    probe, has no angular distances.
    """
    if "angular" not in similarity:
        return
    single = similarity[similarity["n"] == 1]
    for family, rows in single.groupby("family", sort=False):
        means = rows.groupby(["task", "example"])["angular"].mean().to_numpy(float)
        interval = stats.mean_interval(means, np.random.default_rng(0))
        words = (
            f"mean angular distance over one block "
            f"{format_estimate(means.mean(), interval.low, interval.high)} of pi "
            f"(unrelated streams 0.50), {describe_averaging(rows)}, n={len(means)}"
        )
        record = {
            "ablation": "",
            "quantity": "angular distance over one block",
            "estimate": float(means.mean()),
            "low": interval.low,
            "high": interval.high,
            "n": len(means),
        }
        yield {
            "claim": ALIKE,
            "family": str(family),
            "protocol": "",
            "smallest": math.nan,
            "status": "described",
            "reason": "",
            "evidence": words,
            "numbers": [record],
        }


def _first_lasting_layer(
    frame: pd.DataFrame,
    column: str,
    holds: Callable[[Float[np.ndarray, "example layer"]], Bool[np.ndarray, "example layer"]],
) -> "pd.Series[float]":
    """Return per example the first layer from which `holds(column)` stays true; NaN for never."""
    if "part" in frame:  # a lens may also be read between attention and MLP
        frame = frame[frame["part"] == "block"]
    values = frame.pivot(index=["task", "example"], columns="layer", values=column)
    values = values.sort_index(axis=1)
    first = find_lasting_layer(holds(values.to_numpy(float)), list(values.columns))
    return pd.Series(first, index=values.index)


def _summarize_depth(
    frame: pd.DataFrame, first: Callable[[pd.DataFrame], "pd.Series[float]"]
) -> list[dict[str, object]]:
    """Return one row that summarizes at which layer an answer or a choice emerges.

    Args:
        frame: a probe's rows.
        first: a function that returns that layer for each example; NaN if there is none.

    Returns:
        `n` (the number of examples), `emerged` (the share of them that have a layer), and
        `emergence` (the median of these layers) with its 95% interval (`emergence_low`,
        `emergence_high`).
    """
    layers = first(frame)
    known_layers = layers.dropna().sort_values().to_numpy(float)
    low, high = median_bounds(known_layers)
    return [
        {
            "n": len(layers),
            "emerged": len(known_layers) / len(layers),
            "emergence": float(np.median(known_layers)) if len(known_layers) else np.nan,
            "emergence_low": low,
            "emergence_high": high,
        }
    ]


def _top_attention_heads(attention: pd.DataFrame) -> list[dict[str, object]]:
    attention = attention.dropna(subset=["evidence"])
    heads = attention.groupby(["layer", "head"])[["evidence", "uniform"]].mean()
    n = _count_examples(attention)
    return [
        {
            **_name_site(row["layer"], row["head"]),
            "n": n,
            "evidence": row["evidence"],
            "uniform": row["uniform"],
        }
        for _, row in heads.nlargest(TOP_HEADS, "evidence").reset_index().iterrows()
    ]


def _top_heads(frame: pd.DataFrame, measures: tuple[str, ...]) -> list[dict[str, object]]:
    """Return summary rows of the three heads with the largest mean, for each of `measures`."""
    return [
        {**_name_site(row["layer"], row["head"]), "n": n, "measure": measure, "value": row[measure]}
        for measure in measures
        for known_rows in [frame.dropna(subset=[measure])]
        for n in [_count_examples(known_rows)]
        for _, row in known_rows.groupby(["layer", "head"])[measure]
        .mean()
        .nlargest(TOP_HEADS)
        .reset_index()
        .iterrows()
    ]


def _with_evidence_written(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of examples in which the model wrote at least half of the evidence.

    All rows if the share written (`recall`) is unknown.
    """
    return scores[scores["recall"] >= FOUND] if "recall" in scores else scores


def _least_changing_layers(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Return summary rows of the three layers whose block changes the residual stream least."""
    single = frame[frame["n"] == 1].groupby("layer")["influence"].mean()
    measure = f"influence {describe_averaging(frame)}"
    return [
        {**_name_site(layer), "n": _count_examples(frame), "measure": measure, "value": value}
        for layer, value in single.nsmallest(TOP_HEADS).items()
    ]


def describe_averaging(similarity: pd.DataFrame) -> str:
    """Return text on the positions over which a similarity frame was averaged."""
    if "n_tokens" not in similarity:
        return "at positions not known"
    last = bool((similarity["n_tokens"] == 1).all())
    return "at the answering position" if last else "over all tokens of the prompt"


def _most_writing_layers(frame: pd.DataFrame) -> list[dict[str, object]]:
    """Return summary rows of the three layers that add most to the answer's logit."""
    written = frame[frame["part"].isin(("attn", "mlp"))]
    logits = written.groupby(["task", "example", "layer"])["logit"].sum().groupby("layer").mean()
    return [
        {**_name_site(layer), "n": _count_examples(frame), "measure": "logit", "value": value}
        for layer, value in logits.nlargest(TOP_HEADS).items()
    ]


_SUMMARIES: dict[str, Callable[[pd.DataFrame], list[dict[str, object]]]] = {
    "logit_lens": partial(_summarize_depth, first=emergence_layers),
    "tuned_lens": partial(_summarize_depth, first=emergence_layers),
    "decision": partial(
        _summarize_depth,
        first=partial(_first_lasting_layer, column="margin", holds=lambda margin: margin > 0),
    ),
    "attention": _top_attention_heads,
    "retrieval_score": lambda frame: _top_heads(_with_evidence_written(frame), ("score",)),
    "head_scores": partial(_top_heads, measures=("previous", "duplicate", "induction")),
    "similarity": _least_changing_layers,
    "attribution": _most_writing_layers,
}


def _name_site(layer: object, head: object = None) -> dict[str, object]:
    site = f"L{layer:.0f}" if head is None else f"L{layer:.0f}.H{head:.0f}"
    return {"site": site, "layer": layer, "head": head}


def _count_examples(frame: pd.DataFrame) -> int:
    return len(frame[["task", "example"]].drop_duplicates())
