"""Contrasts: estimates with intervals, and weighted sums and differences of such estimates.

A `Contrast` holds a value, its interval, and each question's influence on the value. So two
contrasts over the same questions are compared question by question, regardless of the task or
protocol that asked them. Contrasts over different questions are treated as independent. If the
questions come in clusters, such as those that share a template, contrasts are compared cluster by
cluster. The interval of a weighted sum is combined from the intervals of its terms and the
correlations between the terms (MOVER: G. Y. Zou and A. Donner, Statistics in Medicine 27:1693,
2008; for correlated estimates G. Y. Zou, Psychological Methods 12:399, 2007): the distances from
each value to its bounds add as standard errors do, separately for each side.
"""

import dataclasses
import functools
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles.stats.clusters import Clusters, are_clusters, widest
from layerroles.stats.intervals import LEVEL, UNKNOWN, Interval
from layerroles.stats.ratio import ratio
from layerroles.stats.ratio_score_test import ValuePair

# The variance of each contrast is computed as if there were this many more questions, in which no
# other contrast changes (see `error_correlations`).
_ADDED_QUESTIONS = 2.0


@dataclass(frozen=True, eq=False)
class Contrast:
    """An estimate over questions, with the influence of each question on it.

    Attributes:
        value: the estimate; NaN if unknown.
        interval: the interval of the estimate.
        influence: the contribution of each question to the error of the value: the influence
            function, divided by the number of questions. Indexed by question; the sum is 0.
        clusters: the name of each question's cluster, indexed by question; questions in no cluster
            are left out.
        parts: the two contrasts that the interval covers (see `spanning`); else empty.
    """

    value: float
    interval: Interval
    influence: "pd.Series[float]"
    clusters: "pd.Series[Any]" = field(default_factory=lambda: pd.Series(dtype=object))
    parts: "tuple[Contrast, ...]" = ()

    @property
    def known(self) -> bool:
        """Whether both the value and the interval are known."""
        return not math.isnan(self.value) and not math.isnan(self.interval.low)

    @property
    def numbers(self) -> tuple[float, float, float]:
        """The value, and the lower and upper bounds of the interval; NaN if unknown."""
        return self.value, self.interval.low, self.interval.high

    @property
    def n(self) -> int:
        """The number of questions."""
        return len(self.influence)

    @functools.cached_property
    def independent(self) -> "pd.Series[float]":
        """The influence on the value of each independent unit.

        A unit is a cluster (the sum over its questions), or a question in no cluster.
        """
        if self.clusters.empty:
            return self.influence
        names = self.influence.index.to_series()
        return self.influence.groupby(self.clusters.reindex(names).fillna(names)).sum()


NO_CONTRAST = Contrast(math.nan, UNKNOWN, pd.Series(dtype=float))


def ratio_contrast(
    questions: Sequence[Hashable] | np.ndarray,
    numerator: Float[np.ndarray, " question"],
    denominator: Float[np.ndarray, " question"],
    possible: Iterable[ValuePair] = (),
    *,
    clusters: Clusters | None = None,
    level: float = LEVEL,
) -> Contrast:
    """Return the ratio of two means over `questions`, a sequence of names.

    The other arguments are those of `ratio`. Unknown (NaN) if the mean denominator is not above 0.
    """
    value, interval = ratio(numerator, denominator, possible, clusters=clusters, level=level)
    if math.isnan(value):
        return NO_CONTRAST
    influence = (numerator - value * denominator) / denominator.sum()
    index = pd.Index(questions, dtype=object)
    if clusters is None or not are_clusters(clusters):
        return Contrast(value, interval, pd.Series(influence, index=index))
    shared = pd.Series(np.asarray(clusters, dtype=object), index=index)
    return Contrast(value, interval, pd.Series(influence, index=index), shared)


def combined(parts: Sequence[Contrast], weights: Sequence[float]) -> Contrast:
    """Return the weighted sum of contrasts.

    Its interval is combined from the intervals of the parts and the correlations between the parts.
    Questions that several parts share are paired. Parts of weight 0 do not count, even if unknown.
    The sum is unknown (NaN) if another part is unknown, or no part is left.
    """
    # 0 times an interval without end would be NaN.
    parts = [part for part, weight in zip(parts, weights, strict=True) if weight]
    weights = [weight for weight in weights if weight]
    if not parts or not all(part.known for part in parts):
        return NO_CONTRAST
    if len(parts) == 1 and weights[0] == 1:
        return parts[0]
    w = np.asarray(weights, dtype=float)
    value = float(w @ [part.value for part in parts])
    below = np.array([part.value - part.interval.low for part in parts]) * np.abs(w)
    above = np.array([part.interval.high - part.value for part in parts]) * np.abs(w)
    rho = error_correlations(parts) * np.outer(np.sign(w), np.sign(w))
    down, up = (np.where(w > 0, *ends) for ends in ((below, above), (above, below)))
    influence = pd.concat([part.influence * weight for part, weight in zip(parts, w, strict=True)])
    clustered = [part.clusters for part in parts if not part.clusters.empty]
    clusters = pd.concat(clustered) if clustered else pd.Series(dtype=object)
    return Contrast(
        value,
        Interval(value - _combine_distances(down, rho), value + _combine_distances(up, rho)),
        influence.groupby(level=0, sort=False).sum(),
        clusters[~clusters.index.duplicated()],
    )


def difference_of(one: Contrast, two: Contrast) -> Contrast:
    """Return the first contrast minus the second, paired by question; unknown if either is."""
    return combined([one, two], [1.0, -1.0])


def mean_of(parts: Sequence[Contrast]) -> Contrast:
    """Return the unweighted mean of contrasts; unknown if any is unknown or there are none."""
    return combined(parts, [1 / len(parts)] * len(parts)) if parts else NO_CONTRAST


def spanning(one: Contrast, two: Contrast) -> Contrast:
    """Return the contrast whose value is nearer to 0, with an interval that covers both intervals.

    Unknown (NaN) if either contrast is unknown.
    """
    if not one.known or not two.known:
        return NO_CONTRAST
    nearer = min(one, two, key=lambda contrast: abs(contrast.value))
    return dataclasses.replace(
        nearer, interval=widest(one.interval, two.interval), parts=(one, two)
    )


def error_correlations(parts: Sequence[Contrast]) -> Float[np.ndarray, "part part"]:
    """Return the correlation matrix of the errors of contrasts.

    Entries off the diagonal lie strictly between -1 and 1, so the interval of a difference never
    collapses to a point: the variance of each contrast is computed as if there were two more
    questions in which no other contrast changed. Agreement on, say, 32 questions does not show that
    two contrasts always agree.
    """
    rho = np.eye(len(parts))
    for row, first in enumerate(parts):
        for column, second in enumerate(parts[:row]):
            influence_a, influence_b = first.independent, second.independent
            shared_questions = influence_a.index.intersection(influence_b.index)
            if not len(shared_questions):  # the two have no cluster name in common
                influence_a, influence_b = first.influence, second.influence
                shared_questions = influence_a.index.intersection(influence_b.index)
            if not len(shared_questions):
                continue
            shared = float(influence_a[shared_questions] @ influence_b[shared_questions])
            scale = _inflated_variance(influence_a) * _inflated_variance(influence_b)
            rho[row, column] = rho[column, row] = shared / math.sqrt(scale) if scale > 0 else 0.0
    return rho


def _inflated_variance(influence: "pd.Series[float]") -> float:
    squares = influence.to_numpy() ** 2
    nonzero = squares[squares > 0]
    return float(nonzero.sum() + _ADDED_QUESTIONS * nonzero.mean()) if len(nonzero) else 0.0


def _combine_distances(
    distances: Float[np.ndarray, " part"], rho: Float[np.ndarray, "part part"]
) -> float:
    if np.isinf(distances).any():
        return math.inf
    return math.sqrt(max(0.0, float(distances @ rho @ distances)))
