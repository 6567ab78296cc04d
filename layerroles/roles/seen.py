"""What the probes saw, per family: where answers emerge, which heads look at the evidence."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import stats as distributions

from layerroles.errors import InputError
from layerroles.registry import unknown

TOP_HEADS = 3
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
    "evidence",
    "uniform",
]


def summary(probes: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Sum up probe frames, a row per family for the lens and a few per family for attention.

    For `probe == "logit_lens"`: `emerged` is the share of the `n` examples whose answer ends at
    rank 0, and `emergence` the median, over those, of the first layer from which it stays there (-1
    is the embedding), with the order-statistic interval of a median. For `probe == "attention"`:
    the heads (`site`, such as L16.H3) whose mean share of attention to the evidence is largest,
    beside the share that even attention would give. They are the largest of many, so their shares
    are biased upward.

    Raises:
        InputError: a frame that is of neither probe.
    """
    kinds = {"logit_lens": _lens, "attention": _attention}
    rows: list[dict[str, object]] = []
    for frame in probes:
        if "probe" not in getattr(frame, "columns", ()):
            raise InputError(
                f"a probe frame has a column 'probe', and this {type(frame).__name__} has none: "
                "pass what LogitLens().measure or Attention().measure gave"
            )
        for name, own in frame.groupby("probe", sort=False):
            if name not in kinds:
                raise InputError(unknown("probe", str(name), list(kinds)))
            for family, rest in own.groupby("family", sort=False):
                rows += kinds[str(name)](str(family), rest)
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype({"n": int, "layer": "Int64", "head": "Int64"})


def emergence(lens: pd.DataFrame) -> "pd.Series[float]":
    """The first layer from which the answer stays at rank 0, per example; NaN for never."""
    ranks = lens.pivot(index=["task", "example"], columns="layer", values="rank").sort_index(axis=1)
    top = (ranks == 0).to_numpy()
    from_the_end = np.logical_and.accumulate(top[:, ::-1], axis=1).sum(axis=1)
    layers = np.array([*ranks.columns, np.nan], dtype=float)
    first = np.where(from_the_end > 0, top.shape[1] - from_the_end, top.shape[1])
    return pd.Series(layers[first], index=ranks.index)


def _lens(family: str, lens: pd.DataFrame) -> list[dict[str, object]]:
    first = emergence(lens)
    known = first.dropna().sort_values().to_numpy(float)
    low, high = _median_bounds(known)
    return [
        {
            "probe": "logit_lens",
            "family": family,
            "n": len(first),
            "emerged": len(known) / len(first),
            "emergence": float(np.median(known)) if len(known) else np.nan,
            "emergence_low": low,
            "emergence_high": high,
        }
    ]


def _attention(family: str, attention: pd.DataFrame) -> list[dict[str, object]]:
    attention = attention.dropna(subset=["evidence"])
    heads = attention.groupby(["layer", "head"])[["evidence", "uniform"]].mean()
    heads = heads.nlargest(TOP_HEADS, "evidence").reset_index()
    n = len(attention[["task", "example"]].drop_duplicates())
    return [
        {
            "probe": "attention",
            "family": family,
            "n": n,
            "site": f"L{int(row['layer'])}.H{int(row['head'])}",
            "layer": int(row["layer"]),
            "head": int(row["head"]),
            "evidence": row["evidence"],
            "uniform": row["uniform"],
        }
        for _, row in heads.iterrows()
    ]


def _median_bounds(ordered: Float[np.ndarray, " example"]) -> tuple[float, float]:
    """The two ordered values that hold the median with at least 95% confidence."""
    n = len(ordered)
    below = int(distributions.binom.ppf(0.025, n, 0.5)) - 1 if n else -1
    if below < 0:
        return np.nan, np.nan
    return float(ordered[below]), float(ordered[n - 1 - below])
