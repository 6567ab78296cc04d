"""Estimate how much numbers differ beyond their sampling error, and which factors make them differ.

The numbers `y` were measured in several set-ups: combinations of levels of factors, such as the
template and the dtype. Their sampling errors have the covariance `V`, which is not diagonal, since
set-ups share questions. With `C` the centring matrix and `tau` the standard deviation of the true
values between set-ups,

    y' C y  ~  sum_i (lambda_i + tau^2) z_i^2,    lambda_i: eigenvalues of C V C, z_i normal

The estimate of `tau^2` equates both sides' means (Hedges, Psychological Bulletin 93:388, 1983), and
the interval inverts the distribution (Jackson, Research Synthesis Methods 4:220, 2013, with equal
weights: those by inverse variance are unstable for correlated errors). The main effects of factors
are fitted by least squares; the sum of squares that sampling error alone gives on average is
subtracted from that of each factor.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy import optimize

from layerroles.stats.intervals import LEVEL, UNKNOWN, Interval, IntervalEstimate

_DRAWS = 10_000
SPREAD_COLUMNS = ["factor", "means", "range", "range_by_chance", "share"]
SAMPLING, REST = "sampling error", "rest"


def between_sd(
    values: Float[np.ndarray, " setup"],
    covariance: Float[np.ndarray, "setup setup"],
    *,
    level: float = LEVEL,
) -> IntervalEstimate:
    """Estimate the standard deviation of the true values between set-ups, with its interval.

    The estimate is 0 if the values spread no more than sampling error alone would spread them on
    average; the interval may then still reach above 0. NaN for fewer than two set-ups.

    Args:
        values: the measured number of each set-up.
        covariance: the covariance of their sampling errors.
        level: the confidence level of the interval.
    """
    n = len(values)
    if n < 2:
        return IntervalEstimate(math.nan, UNKNOWN)
    squares = float(((values - values.mean()) ** 2).sum())
    centring = np.eye(n) - 1 / n
    # One eigenvalue, that of the mean, is 0.
    variances = np.linalg.eigvalsh(centring @ covariance @ centring)[1:].clip(min=0)
    normal_squares = np.random.default_rng(0).standard_normal((_DRAWS, n - 1)) ** 2

    def bound(share: float) -> float:
        """Return the `tau` under which this share of draws has a sum of squares below `squares`."""

        def excess(tau: float) -> float:
            return float(np.quantile(normal_squares @ (variances + tau**2), share)) - squares

        if excess(0.0) >= 0:
            return 0.0
        most = math.sqrt(squares)
        while excess(most) < 0:
            most *= 2
        return float(optimize.brentq(excess, 0.0, most))

    tail = (1 - level) / 2
    value = math.sqrt(max(0.0, (squares - variances.sum()) / (n - 1)))
    return IntervalEstimate(value, Interval(bound(1 - tail), bound(tail)))


def factor_spread(
    values: Float[np.ndarray, " setup"],
    covariance: Float[np.ndarray, "setup setup"],
    levels: Mapping[str, Sequence[str]],
) -> pd.DataFrame:
    """Return a row per factor with its contribution to the spread of the values.

    Two more rows have the shares of "sampling error" and of "rest" (interactions of factors).

    Columns: factor; means (by level: the mean of the value, adjusted for the other factors if the
    design is not balanced); range (of the means); range_by_chance (a range that sampling error
    alone exceeds in 5% of cases); share (of the variance of the values, minus the part that
    sampling error adds; a negative share is set to 0, so the shares need not add up to 1). If the
    set-ups do not separate a factor from the others, its numbers are NaN and its `means` empty.

    Args:
        values: the measured number of each set-up.
        covariance: the covariance of their sampling errors.
        levels: the level of each set-up, by factor.
    """
    n = len(values)
    nothing = {"means": {}, "range": math.nan, "range_by_chance": math.nan}
    if n < 2:
        rows = [
            {"factor": name, **nothing, "share": math.nan} for name in (*levels, SAMPLING, REST)
        ]
        return pd.DataFrame(rows, columns=SPREAD_COLUMNS)
    columns = {name: pd.get_dummies(pd.Series(list(given))) for name, given in levels.items()}
    total = float(((values - values.mean()) ** 2).sum())
    # If all values are equal but for rounding errors, a share of their variance means nothing.
    known = total > 1e-12 * max(1.0, float((values**2).sum()))

    def share(squares: float) -> float:
        return max(0.0, squares) / total if known else math.nan

    fitted = _projection(list(columns.values()), n)
    errors = _draw_errors(covariance)
    rows = []
    for name, own in columns.items():
        others = [column for other, column in columns.items() if other != name]
        alone = fitted - _projection(others, n)
        degrees = round(float(np.trace(alone)))
        is_told_apart = degrees == own.shape[1] - 1
        weights = _mean_weights(own, others, n)
        means = weights @ values
        squares = float(values @ alone @ values - np.trace(alone @ covariance))
        spread = np.ptp(means) if is_told_apart else math.nan
        by_chance = np.quantile(np.ptp(errors @ weights.T, axis=1), LEVEL)
        rows.append(
            {
                "factor": name,
                "means": dict(zip(map(str, own.columns), map(float, means), strict=True))
                if is_told_apart
                else {},
                "range": float(spread),
                "range_by_chance": float(by_chance) if is_told_apart else math.nan,
                "share": share(squares) if is_told_apart and degrees else math.nan,
            }
        )
    within = np.eye(n) - fitted
    centring = np.eye(n) - 1 / n
    sampling = min(float(np.trace(centring @ covariance)), total)
    rest = float(values @ within @ values - np.trace(within @ covariance))
    for name, squares in ((SAMPLING, sampling), (REST, rest)):
        rows.append({"factor": name, **nothing, "share": share(squares)})
    return pd.DataFrame(rows, columns=SPREAD_COLUMNS)


def _projection(columns: Sequence[pd.DataFrame], n: int) -> Float[np.ndarray, "setup setup"]:
    """Return the matrix that projects values onto a mean plus the main effects of these factors."""
    design = _design(columns, n)
    projection: np.ndarray = design @ np.linalg.pinv(design)
    return projection


def _design(columns: Sequence[pd.DataFrame], n: int) -> Float[np.ndarray, "setup column"]:
    return np.hstack([np.ones((n, 1)), *(column.to_numpy(dtype=float) for column in columns)])


def _mean_weights(
    own: pd.DataFrame, others: Sequence[pd.DataFrame], n: int
) -> Float[np.ndarray, "level setup"]:
    """Return the weight of each set-up in each level's mean, adjusted for the other factors.

    Args:
        own: the factor's levels as dummy columns: a row per set-up, a column per level.
        others: the same for each other factor.
        n: the number of set-ups.
    """
    mean_row = [np.full(column.shape[1], 1 / column.shape[1]) for column in others]
    rows = [np.concatenate([[1.0], level, *mean_row]) for level in np.eye(own.shape[1])]
    weights: np.ndarray = np.array(rows) @ np.linalg.pinv(_design([own, *others], n))
    return weights


def _draw_errors(covariance: Float[np.ndarray, "setup setup"]) -> Float[np.ndarray, "draw setup"]:
    """Draw normal sampling errors with this covariance, from a fixed seed."""
    variances, directions = np.linalg.eigh(covariance)
    normal = np.random.default_rng(0).standard_normal((_DRAWS, len(covariance)))
    drawn: np.ndarray = (normal * np.sqrt(variances.clip(min=0))) @ directions.T
    return drawn
