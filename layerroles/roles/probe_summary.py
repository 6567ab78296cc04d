"""What the probes saw, per family: where answers emerge, which heads and layers stand out."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from layerroles.probes import by_probe, first_stays, median_bounds

TOP_HEADS = 3
# A retrieval score counts where the model wrote so much of the evidence (Wu et al., 2404.15574).
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


def summary(probes: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Sum up probe frames, of the intact model, by probe and family.

    - `logit_lens`, `tuned_lens`: a row. `emerged` is the share of the `n` examples whose answer
      ends at rank 0, and `emergence` the median, over those, of the first layer from which it stays
      there (-1 is the embedding), with the order-statistic interval of a median.
    - `decision`: likewise, of the right option's margin over the others staying above 0.
    - `attention`: a row for each of the heads (`site`, such as L16.H3) whose mean share of
      attention to the evidence is largest, beside the share that even attention would give.
    - `retrieval_score`, `head_scores`: a row for each of the heads with the largest mean `value` of
      each `measure`; of retrieval scores over the examples of which the model wrote at least half
      the evidence.
    - `similarity`: a row for each of the layers whose block changes the stream least (`influence`,
      at the answering position or over all tokens, as it was measured).
    - `attribution`: a row for each of the layers that write most of the answer's logit.

    Heads and layers with the largest values of many are named, so their values are biased upward.
    What another registered probe measured is left out.

    Raises:
        InputError: a frame that no registered probe gave.
    """
    rows: list[dict[str, object]] = []
    for name, own in by_probe(probes).items():
        if name not in _KINDS:
            continue
        for family, rest in own.groupby("family", sort=False):
            rows += [{"probe": name, "family": family, **row} for row in _KINDS[name](rest)]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"n": int, "layer": "Int64", "head": "Int64"})


def emergence(lens: pd.DataFrame) -> "pd.Series[float]":
    """The first layer from which the answer stays at rank 0, per example; NaN for never."""
    return _stays(lens, "rank", lambda rank: rank == 0)


def _stays(
    frame: pd.DataFrame,
    column: str,
    holds: Callable[[Float[np.ndarray, "example layer"]], Bool[np.ndarray, "example layer"]],
) -> "pd.Series[float]":
    """The first layer from which something holds to the end, per example; NaN for never."""
    if "part" in frame:  # a lens may also be read between attention and MLP
        frame = frame[frame["part"] == "block"]
    values = frame.pivot(index=["task", "example"], columns="layer", values=column)
    values = values.sort_index(axis=1)
    first = first_stays(holds(values.to_numpy(float)), list(values.columns))
    return pd.Series(first, index=values.index)


def _depth(
    frame: pd.DataFrame, first: Callable[[pd.DataFrame], "pd.Series[float]"]
) -> list[dict[str, object]]:
    """The median of a layer over examples, and in how many of them there is one."""
    found = first(frame)
    known = found.dropna().sort_values().to_numpy(float)
    low, high = median_bounds(known)
    return [
        {
            "n": len(found),
            "emerged": len(known) / len(found),
            "emergence": float(np.median(known)) if len(known) else np.nan,
            "emergence_low": low,
            "emergence_high": high,
        }
    ]


def _attention(attention: pd.DataFrame) -> list[dict[str, object]]:
    attention = attention.dropna(subset=["evidence"])
    heads = attention.groupby(["layer", "head"])[["evidence", "uniform"]].mean()
    n = _n(attention)
    return [
        {
            **_named(row["layer"], row["head"]),
            "n": n,
            "evidence": row["evidence"],
            "uniform": row["uniform"],
        }
        for _, row in heads.nlargest(TOP_HEADS, "evidence").reset_index().iterrows()
    ]


def _heads(frame: pd.DataFrame, measures: tuple[str, ...]) -> list[dict[str, object]]:
    """The heads with the largest means, for each measure."""
    return [
        {**_named(row["layer"], row["head"]), "n": n, "measure": measure, "value": row[measure]}
        for measure in measures
        for known in [frame.dropna(subset=[measure])]
        for n in [_n(known)]
        for _, row in known.groupby(["layer", "head"])[measure]
        .mean()
        .nlargest(TOP_HEADS)
        .reset_index()
        .iterrows()
    ]


def _found(scores: pd.DataFrame) -> pd.DataFrame:
    """The examples of which the model wrote enough of the evidence, where that is known."""
    return scores[scores["recall"] >= FOUND] if "recall" in scores else scores


def _similarity(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The layers whose block turns the stream least."""
    single = frame[frame["n"] == 1].groupby("layer")["influence"].mean()
    measure = f"influence {positions(frame)}"
    return [
        {**_named(layer), "n": _n(frame), "measure": measure, "value": value}
        for layer, value in single.nsmallest(TOP_HEADS).items()
    ]


def positions(similarity: pd.DataFrame) -> str:
    """The positions over which a similarity frame was averaged, in words."""
    if "n_tokens" not in similarity:
        return "at positions not known"
    last = bool((similarity["n_tokens"] == 1).all())
    return "at the answering position" if last else "over all tokens of the prompt"


def _attribution(frame: pd.DataFrame) -> list[dict[str, object]]:
    """The layers whose attention and MLP write most of the answer's logit."""
    written = frame[frame["part"].isin(("attn", "mlp"))]
    whole = written.groupby(["task", "example", "layer"])["logit"].sum().groupby("layer").mean()
    return [
        {**_named(layer), "n": _n(frame), "measure": "logit", "value": value}
        for layer, value in whole.nlargest(TOP_HEADS).items()
    ]


_KINDS: dict[str, Callable[[pd.DataFrame], list[dict[str, object]]]] = {
    "logit_lens": partial(_depth, first=emergence),
    "tuned_lens": partial(_depth, first=emergence),
    "decision": partial(
        _depth, first=partial(_stays, column="margin", holds=lambda margin: margin > 0)
    ),
    "attention": _attention,
    "retrieval_score": lambda frame: _heads(_found(frame), ("score",)),
    "head_scores": partial(_heads, measures=("previous", "duplicate", "induction")),
    "similarity": _similarity,
    "attribution": _attribution,
}


def _named(layer: object, head: object = None) -> dict[str, object]:
    site = f"L{layer:.0f}" if head is None else f"L{layer:.0f}.H{head:.0f}"
    return {"site": site, "layer": layer, "head": head}


def _n(frame: pd.DataFrame) -> int:
    return len(frame[["task", "example"]].drop_duplicates())
