"""Simulated spreads: what set-ups truly differ by is found, and sampling error is no difference."""

import math

import numpy as np
import pandas as pd
import pytest
from statsmodels.stats.meta_analysis import combine_effects

from layerroles import stats

ERROR = 0.05
DESIGN = np.array(stats.fractional_factorial([4, 2, 2, 2]))
NAMES = ("template", "shots", "ablation", "dtype")
LEVELS = {name: [str(level) for level in DESIGN[:, at]] for at, name in enumerate(NAMES)}
# What each level adds to the number; shots and dtype add nothing.
TEMPLATE = np.array([0.1, 0.0, -0.1, 0.0])
ABLATION = np.array([0.05, -0.05])
TRUE = 0.4 + TEMPLATE[DESIGN[:, 0]] + ABLATION[DESIGN[:, 2]]


def covariance(shared: float) -> np.ndarray:
    """Of errors of which a part is shared, as between set-ups that ask the same questions."""
    return ERROR**2 * ((1 - shared) * np.eye(16) + shared)


def draws(true: np.ndarray, shared: float, n: int) -> np.ndarray:
    rng = np.random.default_rng(3)
    return true + rng.multivariate_normal(np.zeros(16), covariance(shared), size=n)


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_without_a_true_spread_the_interval_holds_0(shared: float) -> None:
    found = [stats.between_sd(y, covariance(shared)) for y in draws(np.full(16, 0.4), shared, 200)]
    holding = np.mean([interval.low == 0 for _, interval in found])
    # 97.5%: the interval can miss 0 on one side only.
    assert holding > 0.94
    assert np.mean([value for value, _ in found]) < ERROR / 3


@pytest.mark.parametrize("shared", [0.0, 0.8])
@pytest.mark.parametrize("true", [0.03, 0.1])
def test_the_interval_covers_a_true_spread(shared: float, true: float) -> None:
    rng = np.random.default_rng(5)
    found = [
        stats.between_sd(y + true * rng.standard_normal(16), covariance(shared))
        for y in draws(np.full(16, 0.4), shared, 200)
    ]
    covered = np.mean([interval.low <= true <= interval.high for _, interval in found])
    assert 0.92 < covered < 0.98
    assert np.mean([value**2 for value, _ in found]) == pytest.approx(true**2, rel=0.25)


def test_errors_that_are_independent_and_equal_give_the_estimate_of_a_meta_analysis() -> None:
    (values,) = draws(TRUE, 0.0, 1)
    theirs = combine_effects(values, np.full(16, ERROR**2), method_re="dl").tau2
    value, interval = stats.between_sd(values, covariance(0.0))
    assert value**2 == pytest.approx(theirs)
    assert interval.low < value < interval.high


def test_errors_that_all_set_ups_share_are_no_spread() -> None:
    value, interval = stats.between_sd(np.full(16, 0.4), covariance(0.999))
    assert value == interval.low == 0
    assert interval.high < ERROR / 5


def test_one_set_up_has_no_spread() -> None:
    value, interval = stats.between_sd(np.array([0.4]), np.eye(1))
    assert math.isnan(value) and math.isnan(interval.low)


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_effects_of_factors_are_recovered(shared: float) -> None:
    tables = [
        stats.factor_spread(y, covariance(shared), LEVELS).set_index("factor")
        for y in draws(TRUE, shared, 60)
    ]
    means = pd.DataFrame([table.loc["template", "means"] for table in tables]).mean()
    assert means.to_numpy() == pytest.approx(0.4 + TEMPLATE, abs=0.02)
    mean = pd.concat([table.drop(columns="means") for table in tables]).groupby(level=0).mean()
    # The range of four noisy means is a little too wide.
    assert mean.loc["template", "range"] == pytest.approx(0.2, abs=0.025)
    assert mean.loc["ablation", "range"] == pytest.approx(0.1, abs=0.01)
    variance = TRUE.var() + ERROR**2 * (1 - shared) * 15 / 16
    assert mean.loc["template", "share"] == pytest.approx(TEMPLATE.var() / variance, abs=0.06)
    assert mean.loc["ablation", "share"] == pytest.approx(ABLATION.var() / variance, abs=0.06)
    for nothing in ("shots", "dtype"):
        assert mean.loc[nothing, "share"] < 0.03
        rows = [table.loc[nothing] for table in tables]
        beyond = [row["range"] > row["range_by_chance"] for row in rows]
        assert np.mean(beyond) < 0.15


def test_an_effect_is_found_though_set_ups_are_missing() -> None:
    kept = np.arange(16) != 5
    levels = {name: np.array(given)[kept].tolist() for name, given in LEVELS.items()}
    table = stats.factor_spread(TRUE[kept], covariance(0)[np.ix_(kept, kept)], levels)
    template = table.set_index("factor").loc["template"]
    assert list(template["means"].values()) == pytest.approx(list(0.4 + TEMPLATE))
    assert template["range"] == pytest.approx(0.2)


def test_confounded_factors_have_no_range() -> None:
    levels = {"one": ["a", "a", "b", "b"], "two": ["c", "c", "d", "d"]}
    table = stats.factor_spread(np.array([0.1, 0.2, 0.3, 0.4]), 0.001 * np.eye(4), levels)
    assert table["range"].isna().all()
    assert table["factor"].tolist() == ["one", "two", "sampling error", "rest"]


def test_equal_numbers_have_no_shares() -> None:
    table = stats.factor_spread(np.full(16, 0.4), covariance(0.5), LEVELS)
    assert table["share"].isna().all()
    assert table["range"].dropna().to_numpy() == pytest.approx(0.0)
