"""The intervals of all looks together miss as rarely as one interval; looks may be added later."""

import itertools
import math

import numpy as np
import pytest

from benchmarks import looks_designs
from benchmarks import looks_simulation as simulation
from layerroles import stats
from layerroles.results.verdict_thresholds import REGIONS, UNDECIDED, judge_interval
from layerroles.stats.intervals import critical_value

NAMES = [region.verdict for region in REGIONS]
SCHEDULES = [
    stats.Looks().extended(32, 512),
    stats.Looks().extended(40, 77).extended(32, 600),
    stats.Looks((32, 33, 200)),
]


def spent(looks: stats.Looks) -> np.ndarray:
    """The share of the error that is spent up to each look, by which p values are divided."""
    return np.cumsum([1e-9 / looks.adjust_p(1e-9, n) for n in looks.sizes])


@pytest.mark.parametrize("looks", SCHEDULES, ids=str)
@pytest.mark.parametrize("level", [0.95, 1 - 0.05 / 30])
def test_a_normal_process_leaves_its_intervals_as_often_as_error_is_spent(
    looks: stats.Looks, level: float
) -> None:
    rng, paths = np.random.default_rng(0), 60_000
    critical = [critical_value(looks.level(n, level), None) for n in looks.sizes]
    total, missed = np.zeros(paths), np.zeros(paths, dtype=bool)
    steps = np.diff([0, *looks.sizes])
    for n, step, z, share in zip(looks.sizes, steps, critical, spent(looks), strict=True):
        total += math.sqrt(step) * rng.standard_normal(paths)
        missed |= np.abs(total) > z * math.sqrt(n)
        expected = (1 - level) * share
        assert abs(missed.mean() - expected) < 4 * math.sqrt(expected / paths)


def test_critical_values_agree_with_those_of_another_integration_rule() -> None:
    for looks in SCHEDULES:
        critical = looks_designs.critical_values(looks.sizes, 0.05 * spent(looks))
        levels = [looks.level(n) for n in looks.sizes]
        assert looks_designs.levels_of(critical) == pytest.approx(levels, abs=1e-5)


def test_further_looks_do_not_change_the_levels_of_earlier_ones() -> None:
    short = stats.Looks().extended(32, 77)
    long = short.extended(32, 512).extended(32, 5000)
    assert long.sizes[: len(short.sizes)] == short.sizes
    for n, level in itertools.product(short.sizes, (0.95, 0.99)):
        assert long.level(n, level) == short.level(n, level)
        assert long.adjust_p(0.01, n) == short.adjust_p(0.01, n)
    assert all(long.level(n) > 0.95 for n in long.sizes)


def test_looks_are_extended_at_ratios_of_about_the_root_of_two() -> None:
    regular = (32, 48, 64, 96, 128, 192, 256, 384, 512)
    assert stats.Looks().extended(32, 512).sizes == regular
    later = {
        limit: stats.Looks().extended(32, limit).extended(32, 512).sizes
        for limit in (20, 32, 40, 77, 100)
    }
    assert later[32] == regular
    assert later[20] == (20, *regular)
    assert later[40] == (40, 64, 96, 128, 192, 256, 384, 512)
    assert later[77] == (32, 48, 77, 128, 192, 256, 384, 512)
    assert later[100] == (32, 48, 64, 100, 128, 192, 256, 384, 512)
    for limit in (32, 40, 77, 100, 512):
        assert stats.Looks(regular).extended(32, limit).sizes == regular


@pytest.mark.parametrize("sizes", [(32, 32), (48, 32), (32, 64, 48), (0, 32), (-1,)], ids=str)
def test_sizes_that_do_not_increase_from_1_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not increase from 1"):
        stats.Looks(sizes)


@pytest.mark.parametrize("first", [0, -32])
def test_a_first_look_below_1_is_refused(first: int) -> None:
    with pytest.raises(ValueError, match=f"first={first}: the first look needs"):
        stats.Looks().extended(first, 512)


def test_between_looks_the_last_one_counts() -> None:
    looks = stats.Looks((32, 48, 64))
    assert looks.level(31) == 0.95
    assert looks.level(50) == looks.level(48) != looks.level(64) == looks.level(1000)
    assert [looks.complete(n) for n in (20, 32, 50, 64, 100)] == [20, 32, 48, 64, 64]
    assert [looks.next(n) for n in (20, 32, 50, 64)] == [32, 48, 64, None]


def test_p_values_are_divided_by_the_share_that_their_look_spends() -> None:
    looks = stats.Looks((32, 48, 64))
    # At the first look the interval and the p value are the same test; later, p is divided by
    # Bonferroni's bound.
    assert looks.adjust_p(1 - looks.level(32), 32) == pytest.approx(0.05)
    assert all(looks.adjust_p(1 - looks.level(n), n) > 0.05 for n in (48, 64))
    assert looks.adjust_p(0.001, 50) == looks.adjust_p(0.001, 48)
    assert looks.adjust_p(0.9, 32) == 1.0
    assert looks.adjust_p(0.9, 31) == 0.9
    for some in SCHEDULES:
        assert (np.diff([0.0, *spent(some), 1.0]) > 0).all()


def test_without_looks_nothing_changes() -> None:
    none = stats.Looks()
    for n in (1, 32, 1000):
        assert (none.level(n), none.level(n, 0.9)) == (stats.LEVEL, 0.9)
        assert none.adjust_p(0.3, n) == 0.3
        assert none.complete(n) == n
        assert none.next(n) is None


def test_the_simulation_gives_the_verdicts_of_the_intervals() -> None:
    rng, decided = np.random.default_rng(1), 0
    for chance, level, n in itertools.product((0.0, 0.25), (0.95, 0.9987), (32, 128)):
        tables = rng.multinomial(n, rng.dirichlet((3, 0.5, 0.3, 0.7), size=20))
        critical = critical_value(level, None) * math.sqrt(n / (n - 1))
        statistics = {
            bound: simulation.score_statistics(tables, bound, chance) for bound in simulation.BOUNDS
        }
        verdicts = simulation.first_region(
            lambda bound, found=statistics, z=critical: found[bound] > z,
            lambda bound, found=statistics, z=critical: found[bound] < -z,
            (len(tables),),
        )
        for table, verdict in zip(tables, verdicts, strict=True):
            intact = np.repeat([1.0, 1.0, 0.0, 0.0], table)
            ablated = np.repeat([1.0, 0.0, 1.0, 0.0], table)
            if stats.is_above(intact, chance, level=level):
                _, interval = stats.harm_interval(intact, ablated, chance, level=level)
                expected = judge_interval(interval)
                assert (NAMES[verdict] if verdict >= 0 else UNDECIDED) == expected
                decided += expected != UNDECIDED
    assert decided > 40


@pytest.mark.parametrize("harm", [0.0, 0.1, 0.2, 0.4])
def test_verdicts_are_wrong_no_more_often_than_the_error_allows(harm: float) -> None:
    setting = simulation.Setting("", (harm,) * 10, 0.7, 0.0, 0.06)
    stopped = simulation.stop_at_looks(simulation.Sweeps(setting, 200, simulation.LOOKS.sizes))
    error = simulation.standard_error(stopped.wrong.mean(axis=1))
    assert stopped.wrong.mean() - 4 * error < 0.05
    assert stopped.covered.mean() > 0.925
    assert (stopped.verdict >= 0).mean() > 0.8
    assert stopped.n.mean() < 400


def test_a_look_that_adds_few_questions_spends_no_more_than_its_share() -> None:
    """The mass that has not crossed stays below 1, however narrow the step is."""
    looks = stats.Looks((32, 10_000, 10_001, 20_000))
    levels = [looks.level(size) for size in looks.sizes]
    apart = stats.Looks((32, 10_000, 20_000))
    assert levels[1] < levels[2] < 1
    assert levels[3] == pytest.approx(apart.level(20_000), abs=1e-3)


def test_an_unknown_p_stays_unknown() -> None:
    assert math.isnan(stats.Looks((32, 48)).adjust_p(math.nan, 48))
