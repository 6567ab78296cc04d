"""What must hold of the intervals for any counts and any scores."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from layerroles import stats

TABLES = st.integers(1, 400).flatmap(
    lambda n: st.integers(0, n).flatmap(
        lambda gained: st.tuples(st.just(gained), st.integers(0, n - gained), st.just(n))
    )
)


@given(TABLES)
def test_tango_holds_its_estimate_inside_minus_one_and_one(table):
    gained, lost, n = table
    interval = stats.tango(gained, lost, n)
    assert -1 <= interval.low <= (gained - lost) / n <= interval.high <= 1
    assert interval.high - interval.low > 0


@given(TABLES)
def test_tango_is_mirrored_when_gains_and_losses_are(table):
    gained, lost, n = table
    one, two = stats.tango(gained, lost, n), stats.tango(lost, gained, n)
    assert (one.low, one.high) == (-two.high, -two.low)


@given(TABLES)
def test_mcnemar_and_tango_rarely_differ_about_zero(table):
    """An interval that holds 0 goes with a p of at least .02, whatever the table."""
    gained, lost, n = table
    interval = stats.tango(gained, lost, n)
    if interval.low <= 0 <= interval.high:
        assert stats.mcnemar_p(gained, lost) > 0.02


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_paired_effect_is_the_difference_of_means(pairs):
    before, after = np.array(pairs, dtype=float).T
    paired = stats.paired_binary(before, after)
    assert abs(paired.effect - (after.mean() - before.mean())) < 1e-12
    assert paired.interval.low < paired.interval.high


@given(TABLES, TABLES, st.floats(-0.999, 0.999))
def test_a_difference_never_collapses_and_is_mirrored(one, two, correlation):
    estimates = [(gained - lost) / n for gained, lost, n in (one, two)]
    intervals = [stats.tango(*table) for table in (one, two)]
    there, way = stats.difference(tuple(estimates), tuple(intervals), correlation)
    back, other = stats.difference(tuple(estimates[::-1]), tuple(intervals[::-1]), correlation)
    assert there == -back
    assert way.low <= there <= way.high
    assert way.high - way.low > 1e-4
    assert abs(way.low + other.high) < 1e-9


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=1, max_size=60), st.randoms())
def test_the_correlation_of_changes_stays_within_its_bounds(changes, shuffle):
    one = np.array(changes)
    two = one.copy()
    shuffle.shuffle(two)
    for other in (one, -one, two):
        assert -1 < stats.correlation(one, other) < 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_benjamini_and_hochberg_lies_between_p_and_holm(values):
    p = np.array(values)
    adjusted = stats.benjamini_hochberg(p)
    assert (adjusted >= p - 1e-12).all()
    assert (adjusted <= stats.holm(p) + 1e-12).all()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_holm_only_raises_p_and_keeps_their_order(values):
    p = np.array(values)
    adjusted = stats.holm(p)
    assert (adjusted >= p - 1e-12).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= -1e-12).all()
