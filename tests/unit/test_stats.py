"""Intervals and p values against published numbers, exact coverage, the traps of few examples."""

import math

import numpy as np
import pytest
from scipy.stats import multinomial
from statsmodels.stats.multitest import multipletests

from layerroles import stats


def coverage(n: int, gain: float, loss: float) -> float:
    """The exact chance that Tango's interval holds `gain - loss`, over all tables of n pairs."""
    tables = np.array([(g, k, n - g - k) for g in range(n + 1) for k in range(n + 1 - g)])
    weights = multinomial.pmf(tables, n, [gain, loss, 1 - gain - loss])
    total = 0.0
    for (gained, lost, _), weight in zip(tables.tolist(), weights, strict=True):
        if weight > 1e-9:
            interval = stats.tango(gained, lost, n)
            total += weight * (interval.low <= gain - loss <= interval.high)
    return total


def test_tango_agrees_with_a_published_interval():
    """Complete response (Cavo et al. 2012): the R package contingencytables, chapter 8."""
    interval = stats.tango(6, 16, 161)
    assert (round(interval.low, 4), round(interval.high, 4)) == (-0.1240, -0.0054)


@pytest.mark.parametrize(("gained", "lost", "n"), [(40, 20, 160), (13, 3, 400), (1, 7, 21)])
def test_tangos_bounds_solve_the_score_equation(gained, lost, n):
    """Written out in the constrained likelihood: q maximises it under gain - loss = d."""
    interval = stats.tango(gained, lost, n)
    for d, sign in ((interval.low, 1), (interval.high, -1)):
        grid = np.linspace(max(0, -d) + 1e-9, (1 - d) / 2 - 1e-9, 400_001)
        likelihood = (
            gained * np.log(grid + d)
            + lost * np.log(grid)
            + (n - gained - lost) * np.log(1 - 2 * grid - d)
        )
        q = grid[likelihood.argmax()]
        t = (gained - lost - n * d) / math.sqrt(n * (2 * q + d - d**2))
        assert t == pytest.approx(sign * 1.959964, abs=1e-3)


@pytest.mark.parametrize("n", [32, 64])
@pytest.mark.parametrize(
    ("gain", "loss"),
    [(0.05, 0.05), (0.10, 0.02), (0.02, 0.10), (0.02, 0.02), (0.02, 0.5), (0, 0.9)],
)
def test_tango_covers_where_a_bootstrap_does_not(n, gain, loss):
    assert coverage(n, gain, loss) >= 0.93


def test_tango_refuses_impossible_counts():
    for counts in ((-1, 0, 3), (2, 2, 3), (0, 0, 0)):
        with pytest.raises(ValueError, match="pairs"):
            stats.tango(*counts)


def test_four_of_sixty_against_seven_of_sixty_is_noise():
    before = np.r_[np.ones(4), np.zeros(56)]
    for after in (np.r_[np.ones(7), np.zeros(53)], np.r_[np.zeros(53), np.ones(7)]):
        paired = stats.paired_binary(before, after)
        assert paired.effect == pytest.approx(0.05)
        assert paired.interval.low < 0 < paired.interval.high
        assert paired.p > 0.2


def test_mcnemar_is_the_exact_binomial():
    assert stats.mcnemar_p(0, 0) == 1
    assert stats.mcnemar_p(0, 5) == pytest.approx(2 * 0.5**5)
    assert stats.mcnemar_p(1, 7) == pytest.approx(2 * 9 * 0.5**8)


def test_wilson_agrees_with_newcombe():
    """Newcombe, Statistics in Medicine 17:857 (1998), table I, method 3."""
    for right, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
    ):
        interval = stats.wilson(right, n)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)
    assert math.isnan(stats.wilson(0, 0).low)


def test_holm_leaves_unknown_p_values_out():
    adjusted = stats.holm(np.array([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06, 0.06])
    assert np.isnan(stats.holm(np.array([np.nan]))).all()
    p = np.random.default_rng(0).random(30) ** 3
    np.testing.assert_allclose(stats.holm(p), multipletests(p, method="holm")[1])


def test_a_continuous_effect_is_found_and_its_p_is_a_sign_flip():
    rng = np.random.default_rng(3)
    before = rng.normal(-2, 1, 40)
    paired = stats.paired_continuous(before, before - 0.5 + rng.normal(0, 0.4, 40), rng)
    assert paired.interval.low < -0.5 < paired.interval.high < 0
    assert paired.p < 0.001
    few = stats.paired_continuous(np.zeros(4), np.array([-1.0, -2, -1, -3]), rng)
    assert few.p == pytest.approx(2 / 2**4)


def test_the_same_generator_gives_the_same_interval():
    values = np.random.default_rng(0).normal(size=20)
    one, two = (stats.mean_interval(values, np.random.default_rng(7)) for _ in range(2))
    assert one == two


def test_values_without_spread_have_an_unknown_interval_not_a_point():
    rng = np.random.default_rng(0)
    for values in (np.full(5, 2.0), np.array([1.0]), np.array([])):
        assert math.isnan(stats.mean_interval(values, rng).low)
    same = stats.paired_continuous(np.full(5, 2.0), np.full(5, 2.0), rng)
    assert (same.effect, same.p) == (0, 1)
    assert math.isnan(same.interval.low)


def test_no_pairs_say_nothing():
    none = np.array([])
    assert stats.paired_binary(none, none).n == 0
    assert math.isnan(stats.paired_continuous(none, none, np.random.default_rng(0)).effect)
    with pytest.raises(ValueError, match="0 or 1"):
        stats.paired_binary(np.array([0.5]), np.array([1.0]))


def test_the_bootstrap_of_continuous_scores_covers():
    rng, inside = np.random.default_rng(1), 0
    for _ in range(200):
        counts = stats.resampled_counts(32, rng, 1000)
        values = rng.exponential(1.0, 32)
        interval = stats.percentile_interval(counts @ values / 32, 32)
        inside += interval.low <= 1 <= interval.high
    assert inside / 200 >= 0.90  # skewed on purpose: exponential


def test_pooling_one_estimate_changes_nothing():
    one = stats.Interval(0.1, 0.6)
    center, interval = stats.pooled([0.3], [one])
    assert (center, interval.low, interval.high) == pytest.approx((0.3, 0.1, 0.6))
    _, two = stats.pooled([0.3, 0.3], [one, one])
    assert two.high - two.low == pytest.approx((one.high - one.low) / math.sqrt(2))
