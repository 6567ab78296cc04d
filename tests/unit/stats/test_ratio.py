"""Harm's interval covers, never collapses, and is close to Tango's where the skill is certain."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as distributions

from benchmarks.coverage_tables import PROFILES, covered, covered_depth, points
from layerroles import stats
from layerroles.stats.ratio_score_test import score

CRITICAL = distributions.norm.isf(0.025)


def answers(n11: int, n10: int, n01: int, n00: int) -> tuple[np.ndarray, np.ndarray]:
    """Intact and ablated scores with these counts of right and wrong."""
    intact = np.repeat([1.0, 1.0, 0.0, 0.0], [n11, n10, n01, n00])
    return intact, np.repeat([1.0, 0.0, 1.0, 0.0], [n11, n10, n01, n00])


@pytest.mark.truth
def test_harms_interval_covers_wherever_harm_is_defined() -> None:
    found = [covered(32, point, 2000) for point in points()]
    # The largest samples have the most tables: some of the points.
    some = [point for point in points((0.1, 0.35, 0.95)) if point[2] in (-0.5, 0.0, 0.9)]
    found += [covered(n, point, 4000) for n in (128, 512) for point in some if point[3] == 0.03]
    coverage = np.array([share for passed, share in found if passed >= 0.8])
    assert len(coverage) > 150
    assert coverage.mean() >= 0.945
    assert coverage.min() >= 0.925


def test_it_is_close_to_tangos_where_all_intact_answers_are_right() -> None:
    for lost, n in ((3, 32), (20, 64), (76, 100)):
        intact, ablated = answers(n - lost, lost, 0, 0)
        harm, interval = stats.harm_interval(intact, ablated, 0.0)
        tango = stats.tango(0, lost, n)
        assert harm == lost / n
        assert interval.low == pytest.approx(-tango.high, abs=0.02)
        assert interval.high == pytest.approx(-tango.low, abs=0.02)


def test_the_score_test_is_inverted() -> None:
    intact, ablated = answers(40, 20, 3, 17)
    chance = 0.25
    _, interval = stats.harm_interval(intact, ablated, chance)
    for end in (interval.low, interval.high):
        values = (intact - ablated) - end * (intact - chance)
        edges = [(i - a) - end * (i - chance) for i in (0, 1) for a in (0, 1)]
        statistic = score([1] * 80, values.tolist(), edges)
        assert abs(statistic) == pytest.approx(CRITICAL * math.sqrt(80 / 79), rel=1e-6)


@pytest.mark.parametrize("counts", [(32, 0, 0, 0), (0, 32, 0, 0), (20, 0, 0, 12), (0, 20, 0, 12)])
def test_it_never_collapses_to_a_point(counts: tuple[int, int, int, int]) -> None:
    harm, interval = stats.harm_interval(*answers(*counts), 0.0)
    assert interval.low <= harm <= interval.high
    assert interval.high - interval.low > 0.05


@pytest.mark.parametrize("guesses", [(0.25,), (0.0, 1.0), (0.0, 0.5, 0.75)])
def test_the_possible_losses_bound_every_outcome(guesses: tuple[float, ...]) -> None:
    """Also that a right answer which the guess gets too is lost: a loss of 1 at a skill of 0."""
    most, least = 0.5, -1.0  # of a layer with weight .5 and one with weight -1
    possible = stats.possible_losses(np.array(guesses), most, least)
    outcomes = [
        (most * (intact - one) + least * (intact - two), intact - guess)
        for guess in guesses
        for intact, one, two in itertools.product((0, 1), repeat=3)
    ]
    for harm in (-2.0, -0.3, 0.0, 0.4, 1.0, 3.0):
        values, edges = (
            [loss - harm * skill for loss, skill in pairs] for pairs in (outcomes, possible)
        )
        assert min(edges) <= min(values) + 1e-12
        assert max(edges) >= max(values) - 1e-12


def test_a_higher_level_is_wider_and_without_skill_there_is_no_end() -> None:
    intact, ablated = answers(30, 20, 3, 47)
    widths = [
        np.diff([interval.low, interval.high])[0]
        for level in (0.8, 0.95, 0.99)
        for _, interval in [stats.harm_interval(intact, ablated, 0.25, level=level)]
    ]
    assert widths == sorted(widths) and widths[0] > 0
    assert not stats.is_above(np.repeat([1.0, 0.0], [30, 70]), 0.25)
    _, interval = stats.harm_interval(*answers(20, 10, 5, 65), 0.25)
    assert math.isinf(interval.low) or math.isinf(interval.high)
    assert math.isnan(stats.harm_interval(*answers(10, 10, 0, 80), 0.25)[0])
    for level in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="is not between 0 and 1"):
            stats.harm_interval(intact, ablated, 0.0, level=level)


def test_other_scores_have_fiellers_interval() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(400):
        intact = rng.normal(1.0, 1.0, 40)
        ablated = 0.7 * intact + rng.normal(0.0, 0.5, 40)
        _, interval = stats.harm_interval(intact, ablated, 0.0)
        inside += interval.low <= 0.3 <= interval.high
    assert 365 <= inside <= 393
    same = rng.normal(1.0, 0.1, 10)
    harm, interval = stats.harm_interval(same, same, 0.0)
    assert harm == 0 and math.isnan(interval.low)


# As with HellaSwag's skill, and with the pull of looking only where there is skill.
SUMS = [(64, 0.12, 0.25), (200, 0.12, 0.25), (32, 0.7, 0.0), (200, 0.35, 0.25), (400, 0.7, 0.0)]


def test_a_part_of_weight_0_does_not_count_even_if_its_interval_has_no_end() -> None:
    influence = pd.Series([0.1, -0.1], index=["a", "b"])
    bounded = stats.Contrast(0.2, stats.Interval(0.1, 0.4), influence)
    endless = stats.Contrast(0.5, stats.Interval(0.3, math.inf), influence)
    assert stats.combined([bounded, endless], [1.0, 0.0]).numbers == (0.2, 0.1, 0.4)
    assert stats.combined([bounded, stats.NO_CONTRAST], [1.0, 0.0]).numbers == (0.2, 0.1, 0.4)
    assert not stats.combined([bounded, stats.NO_CONTRAST], [1.0, 1.0]).known
    assert not stats.combined([bounded], [0.0]).known
    half = stats.combined([bounded, endless], [0.5, 0.0])
    assert half.numbers == pytest.approx((0.1, 0.05, 0.2))
    assert stats.combined([bounded, endless], [1.0, 1.0]).interval.high == math.inf


@pytest.mark.parametrize(
    ("n", "skill", "chance"),
    [pytest.param(*each, marks=pytest.mark.truth if n else ()) for n, each in enumerate(SUMS)],
)
def test_early_minus_late_covers(n: int, skill: float, chance: float) -> None:
    found = [covered_depth(n, skill, chance, harms, 500)[1] for harms in PROFILES.values()]
    assert np.mean(found) >= 0.945, found
    assert min(found) >= 0.925, found
