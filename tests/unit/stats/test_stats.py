"""Intervals and p values against published numbers, exact coverage, the traps of few examples."""

import doctest
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import permutation_test, spearmanr
from statsmodels.stats.multitest import multipletests

from layerroles import stats
from tests.support.tiers import mark_rest

Z = 1.959964
SHARES = [round(0.01 * step, 2) for step in range(1, 31)]


def tables(n: int) -> tuple[np.ndarray, np.ndarray]:
    """All counts of gains and losses of n pairs."""
    gained, lost = (axis.ravel() for axis in np.mgrid[: n + 1, : n + 1])
    there = gained + lost <= n
    return gained[there], lost[there]


def weights(gained: np.ndarray, lost: np.ndarray, n: int, gain: float, loss: float) -> np.ndarray:
    """The trinomial chance of each table."""
    same = n - gained - lost
    ways = gammaln(n + 1) - gammaln(gained + 1) - gammaln(lost + 1) - gammaln(same + 1)
    return np.exp(
        ways + gained * np.log(gain) + lost * np.log(loss) + same * np.log1p(-gain - loss)
    )


def score(gained: np.ndarray, lost: np.ndarray, n: int, d: float) -> np.ndarray:
    """Tango's T of every table at a true difference d; 0 where nothing speaks against d."""
    linear = -gained - lost + (2 * n - gained + lost) * d
    root = np.sqrt(np.maximum(0, linear**2 + 8 * n * lost * d * (1 - d)))
    q = (root - linear) / (4 * n)
    variance = n * (2 * q + d * (1 - d))
    away = gained - lost - n * d
    return np.divide(away, np.sqrt(variance), out=np.zeros(len(away)), where=variance > 1e-12)


def worst_coverage(n: int) -> float:
    """The least exact coverage over gains and losses of 1 to 30%, one at least the other."""
    gained, lost = tables(n)
    intervals = [stats.tango(g, k, n) for g, k in zip(gained.tolist(), lost.tolist(), strict=True)]
    lows, highs = np.array([(each.low, each.high) for each in intervals]).T
    found = []
    for place, gain in enumerate(SHARES):
        for loss in SHARES[place:]:  # the other half is its mirror image
            inside = (lows <= gain - loss) & (gain - loss <= highs)
            found.append(weights(gained, lost, n, gain, loss)[inside].sum())
    return float(min(found))


def test_tango_agrees_with_a_published_interval():
    """Complete response (Cavo et al. 2012): the R package contingencytables, chapter 8."""
    interval = stats.tango(6, 16, 161, corrected=False)
    assert (round(interval.low, 4), round(interval.high, 4)) == (-0.1240, -0.0054)
    wider = stats.tango(6, 16, 161)
    assert wider.low < interval.low < interval.high < wider.high < 0


@pytest.mark.parametrize(("gained", "lost", "n"), [(40, 20, 160), (13, 3, 400), (1, 7, 21)])
def test_tangos_bounds_solve_the_score_equation(gained, lost, n):
    """Written out in the constrained likelihood: q maximises it under gain - loss = d."""
    interval = stats.tango(gained, lost, n, corrected=False)
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


# Where coverage is least, among them; all of 32 to 200 stay above .93 as these do.
@pytest.mark.parametrize(
    "n", mark_rest("truth", [32, 36, 40, 64, 80, 94, 100, 118, 158, 200], first=[32, 40])
)
def test_tango_covers_93_percent_at_any_discordance(n):
    assert worst_coverage(n) >= 0.93


@pytest.mark.parametrize("n", [2, 5, 32])
def test_tangos_interval_holds_what_the_score_test_accepts_and_never_collapses(n):
    gained, lost = tables(n)
    bound = Z * math.sqrt(n / (n - 1))
    intervals = [stats.tango(g, k, n) for g, k in zip(gained.tolist(), lost.tolist(), strict=True)]
    lows, highs = np.array([(each.low, each.high) for each in intervals]).T
    assert (highs - lows > 1 / n).all()
    for d in (-0.6, -0.11, 0.003, 0.3):
        accepted = np.abs(score(gained, lost, n, d)) <= bound
        close = np.minimum(np.abs(lows - d), np.abs(highs - d)) < 1e-6
        assert (((lows <= d) & (d <= highs)) == accepted)[~close].all()


def test_tango_of_a_single_pair_covers_the_whole_range():
    assert stats.tango(0, 1, 1) == stats.Interval(-1.0, 1.0)


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
    # To the last bit: a score of 0 is not above a chance of 0.
    assert all(stats.wilson(0, n).low == 0 and stats.wilson(n, n).high == 1 for n in range(1, 60))


def test_wilson_reaches_the_ends_exactly():
    for n in range(1, 200):
        assert stats.wilson(0, n).low == 0
        assert stats.wilson(n, n).high == 1


def test_wilson_ends_at_0_and_1_where_none_or_all_are_right():
    # Rounding would have "none of 6" lie above a chance of 0.
    assert {stats.wilson(0, n).low for n in range(1, 130)} == {0.0}
    assert {stats.wilson(n, n).high for n in range(1, 130)} == {1.0}
    assert 0 < stats.wilson(1, 130).low < stats.wilson(129, 130).high < 1


def test_holm_leaves_unknown_p_values_out():
    adjusted = stats.holm(np.array([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.06, 0.06])
    assert np.isnan(stats.holm(np.array([np.nan]))).all()
    p = np.random.default_rng(0).random(30) ** 3
    np.testing.assert_allclose(stats.holm(p), multipletests(p, method="holm")[1])


def test_benjamini_hochberg_leaves_unknown_p_values_out():
    adjusted = stats.benjamini_hochberg(np.array([0.01, np.nan, 0.04, 0.03]))
    np.testing.assert_allclose(adjusted, [0.03, np.nan, 0.04, 0.04])
    assert np.isnan(stats.benjamini_hochberg(np.array([np.nan]))).all()
    assert stats.benjamini_hochberg(np.array([])).size == 0
    p = np.random.default_rng(0).random(270) ** 3
    np.testing.assert_allclose(stats.benjamini_hochberg(p), multipletests(p, method="fdr_bh")[1])


@pytest.mark.parametrize(("n", "share"), [(32, 0.05), (64, 0.15), (200, 0.30)])
def test_sweeps_without_an_effect_rarely_find_one(n, share):
    """1,000 sweeps of 30 layers, gains as likely as losses: at most 5% have any finding."""
    rng, sweeps = np.random.default_rng(0), 1000
    counts = rng.multinomial(n, [share, share, 1 - 2 * share], size=(sweeps, 30))
    p = [[stats.mcnemar_p(g, k) for g, k, _ in layers] for layers in counts.tolist()]
    found = sum(stats.holm(np.array(each)).min() < 0.05 for each in p)
    assert found / sweeps <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / sweeps)


def power(n: int, tests: int, gain: float, loss: float) -> float:
    """The exact chance that a drop is found, by McNemar's p of every table."""
    gained, lost = tables(n)
    chances = weights(gained, lost, n, gain, loss)
    likely = (chances > 1e-12) & (lost > gained)
    pairs = zip(gained[likely].tolist(), lost[likely].tolist(), strict=True)
    found = np.array([stats.mcnemar_p(g, k) <= 0.05 / tests for g, k in pairs])
    return float(chances[likely][found].sum())


@pytest.mark.parametrize(
    ("n", "tests", "background"), [(32, 1, 0.01), (32, 30, 0.02), (64, 30, 0.05), (100, 270, 0.01)]
)
def test_the_minimum_detectable_effect_is_found_with_80_percent_power(n, tests, background):
    drop = stats.minimum_detectable(n, tests, background)
    assert drop == round(drop, 3)
    assert power(n, tests, background, background + drop) >= 0.8
    assert power(n, tests, background, background + drop - 0.001) < 0.8


def test_what_is_detectable_shrinks_with_n_and_grows_with_tests_and_background():
    by_n = [stats.minimum_detectable(n, 30) for n in (16, 32, 64, 100, 200, 400)]
    assert by_n == sorted(by_n, reverse=True)
    assert stats.minimum_detectable(64, 30) > stats.minimum_detectable(64)
    assert stats.minimum_detectable(64, 30, 0.1) > stats.minimum_detectable(64, 30)


def test_too_few_examples_detect_nothing():
    # Eight losses of eight have p = 2 / 2**8, which is more than .05 / 30.
    assert math.isnan(stats.minimum_detectable(8, 30))
    assert math.isnan(stats.minimum_detectable(0))
    assert math.isnan(stats.minimum_detectable_mean(8, 1.0, 30))
    assert math.isnan(stats.minimum_detectable_mean(64, 0.0, 30))
    assert math.isnan(stats.minimum_detectable_mean(64, 1.0, 1001))
    assert stats.minimum_detectable_mean(64, 1.0, 1000) > 0


def test_a_continuous_drop_that_is_detectable_is_found():
    rng, n, tests = np.random.default_rng(0), 24, 4
    drop = stats.minimum_detectable_mean(n, 2.0, tests)
    found = sum(
        stats.sign_flip_p(rng.normal(-drop, 2.0, n), rng) <= 0.05 / tests for _ in range(300)
    )
    assert found / 300 >= 0.8 - 2 * math.sqrt(0.8 * 0.2 / 300)


def test_a_continuous_effect_is_found_and_its_p_is_a_sign_flip():
    rng = np.random.default_rng(3)
    before = rng.normal(-2, 1, 40)
    paired = stats.paired_continuous(before, before - 0.5 + rng.normal(0, 0.4, 40), rng)
    assert paired.interval.low < -0.5 < paired.interval.high < 0
    assert paired.p < 0.001
    few = stats.paired_continuous(np.zeros(4), np.array([-1.0, -2, -1, -3]), rng)
    assert few.p == pytest.approx(2 / 2**4)
    shifted = rng.normal(-0.4, 1, 20)
    scipys = permutation_test((shifted,), np.mean, permutation_type="samples", rng=rng)
    assert stats.sign_flip_p(shifted, rng) == pytest.approx(scipys.pvalue, abs=0.015)
    assert stats.sign_flip_p(np.full(30, -1.0), rng) == 1 / 20_000
    # What does not change has no sign, and a single change may have either.
    assert stats.sign_flip_p(np.r_[np.zeros(40), [-1.0, -2, -1, -3]], rng) == few.p
    assert stats.sign_flip_p(np.array([0.0, -1.0]), rng) == 1


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


def test_no_pairs_give_no_estimate():
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


def test_a_difference_of_independent_estimates_is_newcombes():
    """Newcombe, Statistics in Medicine 17:873 (1998), method 10: 56/70 - 48/80 by Wilson."""
    one, two = (stats.wilson(48, 80), stats.wilson(56, 70))
    center, interval = stats.difference((48 / 80, 56 / 70), (one, two))
    assert (center, interval.low, interval.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize("bound", [math.nan, math.inf])
def test_a_difference_with_an_unknown_bound_has_an_unknown_interval(bound):
    known, unknown = stats.Interval(-1.5, -0.5), stats.Interval(-bound, bound)
    for intervals in ((unknown, known), (known, unknown), (unknown, unknown)):
        value, interval = stats.difference((0.0, -1.0), intervals)
        assert value == -1.0
        assert math.isnan(interval.low)
        assert math.isnan(interval.high)


def test_correlation_narrows_a_difference_but_never_to_a_point():
    parts = ((-0.3, -0.3), (stats.tango(0, 10, 32), stats.tango(0, 10, 32)))
    widths = []
    for correlation in (-0.5, 0.0, 0.5, 0.999):
        center, interval = stats.difference(*parts, correlation)
        assert interval.low < center == 0 < interval.high
        widths.append(interval.high - interval.low)
    assert widths == sorted(widths, reverse=True)
    for correlation in (1.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="between -1 and 1"):
            stats.difference(*parts, correlation)
    _, unknown = stats.difference((0.1, math.nan), (stats.Interval(0.0, 1.0), stats.UNKNOWN))
    assert math.isnan(unknown.low)


def test_the_correlation_of_equal_differences_is_less_than_1():
    changes = np.r_[-np.ones(10), np.zeros(22)]
    assert 0.7 < stats.correlation(changes, changes) < 1
    assert -1 < stats.correlation(changes, -changes) < -0.7
    assert stats.correlation(changes, np.zeros(32)) == 0
    noise = np.random.default_rng(0).normal(size=(2, 400))
    assert stats.correlation(5 * noise[0], noise[1]) == pytest.approx(
        np.corrcoef(noise)[0, 1], abs=0.01
    )


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_the_difference_of_two_effects_is_covered(shared):
    """Losses of 25% and 10%; of the examples that the one loses, the other loses `shared`."""
    rng, n, inside = np.random.default_rng(5), 64, 0
    for _ in range(400):
        one = -(rng.random(n) < 0.25).astype(float)
        both = 0.10 * shared / 0.25
        rest = 0.10 * (1 - shared) / 0.75
        two = -(rng.random(n) < np.where(one < 0, both, rest)).astype(float)
        parts = [stats.tango(0, int(-each.sum()), n) for each in (one, two)]
        estimates = (float(one.mean()), float(two.mean()))
        _, interval = stats.difference(estimates, (parts[0], parts[1]), stats.correlation(one, two))
        inside += interval.low <= 0.15 <= interval.high
    assert inside / 400 >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / 400)


def test_profile_agreement_equals_scipy_and_narrows_with_n():
    rng, harm = np.random.default_rng(2), np.linspace(0, 0.9, 12)
    for n, widest in ((16, 1.0), (256, 0.2)):
        one, two = (-(rng.random((12, n)) < harm[:, None]).astype(float) for _ in range(2))
        rho, interval = stats.profile_agreement(one, two, rng)
        assert rho == pytest.approx(spearmanr(one.mean(axis=1), two.mean(axis=1)).statistic)
        assert interval.low <= rho <= interval.high
        assert interval.high - interval.low < widest


def test_the_interval_of_agreement_covers_although_noise_lowers_the_correlation():
    rng, n, sites = np.random.default_rng(4), 64, 12
    one = np.linspace(0.05, 0.9, sites)
    two = one[[0, 2, 1, 3, 5, 4, 7, 6, 8, 10, 9, 11]]
    truth = spearmanr(one, two).statistic
    found, inside, runs = [], 0, 100
    for _ in range(runs):
        lots = rng.random((sites, n))  # the same examples break under both
        changes = [-(lots < harm[:, None]).astype(float) for harm in (one, two)]
        changes[1] = np.where(rng.random((sites, n)) < 0.5, changes[1], np.roll(changes[1], 7, 1))
        rho, interval = stats.profile_agreement(*changes, rng)
        found.append(rho)
        inside += interval.low <= truth <= interval.high
    assert np.mean(found) < truth
    assert inside / runs >= 0.9


def test_flat_or_short_profiles_have_no_agreement():
    rng = np.random.default_rng(0)
    steep = rng.normal(size=(5, 20)) + np.arange(5)[:, None]
    for one, two in ((steep, np.zeros((5, 20))), (steep[:2], steep[:2]), (steep[:, :0],) * 2):
        rho, interval = stats.profile_agreement(one, two, rng)
        assert math.isnan(rho)
        assert math.isnan(interval.low)
    holed = steep.copy()
    holed[2, :3] = np.nan
    assert stats.profile_agreement(steep, holed, rng)[0] > 0.8


def test_the_page_on_statistics_shows_what_the_functions_give():
    page = Path(__file__).resolve().parents[3] / "docs" / "statistics.md"
    found = doctest.testfile(str(page), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert (found.failed, found.attempted) == (0, 14)
    lines = page.read_text("utf-8").split("## What so many examples can show")[1].splitlines()
    rows = [line.split("|")[1:-1] for line in lines if "| 0." in line]
    assert len(rows) == 5
    for cells in rows:
        n, *drops = map(float, cells)
        families = ((1, 0.01), (30, 0.01), (30, 0.05), (270, 0.01))
        assert drops == [stats.minimum_detectable(int(n), *family) for family in families]
