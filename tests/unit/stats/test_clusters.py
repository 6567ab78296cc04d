"""Intervals take into account that questions of one cluster are not independent."""

import itertools

import numpy as np
import pytest

from benchmarks.clusters import LEVELS, Setting, accepted, answers
from benchmarks.coverage_tables import covered_clusters, covered_mean
from layerroles import stats
from layerroles.stats.clusters import measure_clustering

CLUSTERS = np.repeat(np.arange(16), 8)


def drawn(seed: int, by_cluster: bool) -> tuple[np.ndarray, np.ndarray]:
    """Intact and ablated scores; harm .4, in the same questions of each cluster or of some."""
    rng = np.random.default_rng(seed)
    intact = np.ones(len(CLUSTERS))
    hit = np.repeat(rng.random(16) < 0.4, 8) if by_cluster else rng.random(len(CLUSTERS)) < 0.4
    return intact, np.where(hit, 0.0, intact)


@pytest.mark.parametrize(
    ("size", "icc"),
    [
        pytest.param(size, icc, marks=() if (size, icc) == (2, 0.2) else pytest.mark.truth)
        for size, icc in itertools.product((2, 8), (0.0, 0.1, 0.2, 0.3))
    ],
)
def test_intervals_cover_at_16_clusters(size: int, icc: float) -> None:
    points = [(0.5, 0.0, 0.1), (0.7, 0.25, 0.3), (0.9, 0.0, 0.6)]
    found = np.array([covered_clusters(size, icc, *point, 300) for point in points])
    of_means = np.array([covered_mean(size, icc, right, 300) for right in (0.1, 0.5, 0.95)])
    for covered in (found[:, 0], of_means):
        assert covered.mean() >= 0.93  # over 900 draws
        assert covered.min() >= 0.9  # over 300, of which the standard error is 0.015


# Few clusters have nearly all losses. With the design effect alone, the intervals cover .60 to .87.
FEW_CLUSTERS_LOSE = [
    Setting(512, 16, icc=0.3, harm=0.0, churn=0.06, intact=0.7),
    Setting(512, 8, icc=0.6, harm=0.0, churn=0.1, intact=0.95),
    Setting(512, 32, icc=0.6, harm=0.0, churn=0.1, intact=0.95, unequal=True),
    Setting(512, 16, icc=0.6, harm=0.05, churn=0.06, intact=0.95, gains=True),
]


@pytest.mark.parametrize("setting", FEW_CLUSTERS_LOSE)
def test_intervals_cover_where_few_clusters_have_nearly_all_losses(setting: Setting) -> None:
    inside = []
    for table in setting.draw(150):
        intact, ablated, clusters = answers(table)
        _, interval = stats.harm_interval(intact, ablated, 0.0, clusters=clusters)
        inside.append(interval.low <= setting.harm <= interval.high)
    assert np.mean(inside) >= 0.925


@pytest.mark.parametrize("setting", FEW_CLUSTERS_LOSE)
def test_intervals_cover_at_every_level(setting: Setting) -> None:
    shares = accepted(setting.draw(4000), setting.harm).mean(axis=-1)
    assert (shares[0] >= [0.925, 0.98, 0.995]).all()
    assert shares[1, 0] < 0.9


@pytest.mark.parametrize("setting", FEW_CLUSTERS_LOSE)
def test_the_simulation_of_coverage_agrees_with_the_intervals(setting: Setting) -> None:
    tables = setting.draw(20)
    for table, inside in zip(tables, accepted(tables, setting.harm)[0].T, strict=True):
        intact, ablated, clusters = answers(table)
        for level, expected in zip(LEVELS, inside, strict=True):
            _, interval = stats.harm_interval(intact, ablated, 0.0, clusters=clusters, level=level)
            assert (interval.low <= setting.harm <= interval.high) == expected


def test_clusters_of_one_size_have_one_degree_of_freedom_less_than_there_are() -> None:
    values = np.random.default_rng(6).random(len(CLUSTERS))
    residuals = values - values.mean()
    assert measure_clustering(residuals, CLUSTERS).df == pytest.approx(15)
    # Half of the questions in one cluster: it dominates the variance, the more the more alike.
    one_large = np.where(np.arange(len(CLUSTERS)) < 64, 0, CLUSTERS)
    assert measure_clustering(residuals, one_large).df < 8


def test_an_unchanged_layer_has_a_narrower_interval_in_more_clusters() -> None:
    intact = np.ones(128)
    highs = [
        stats.harm_interval(intact, intact, 0.0, clusters=np.arange(128) % number)[1].high
        for number in (8, 16, 32, 64)
    ]
    assert highs == sorted(highs, reverse=True)
    assert highs[-1] > stats.harm_interval(intact, intact, 0.0)[1].high


def test_p_values_agree_with_the_interval() -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        change = rng.choice([-1.0, 0.0, 1.0], p=[0.15, 0.8, 0.05], size=len(CLUSTERS))
        p = stats.cluster_p(change, CLUSTERS, (-1.0, 1.0))
        interval = stats.clustered(
            stats.Interval(change.mean(), change.mean()), change, CLUSTERS, (-1.0, 1.0)
        )
        assert (p < 0.05) == (not interval.low <= 0 <= interval.high)


def test_an_interval_for_independent_examples_does_not() -> None:
    assert covered_clusters(8, 0.3, 0.9, 0.0, 0.6, 300)[1] < 0.85


def test_harm_of_whole_clusters_has_a_wide_interval() -> None:
    intact, ablated = drawn(0, by_cluster=True)
    harm, wide = stats.harm_interval(intact, ablated, 0.0, clusters=CLUSTERS)
    same, plain = stats.harm_interval(intact, ablated, 0.0)
    _, of_16 = stats.harm_interval(intact[::8], ablated[::8], 0.0)
    assert harm == same
    assert wide.high - wide.low > 2 * (plain.high - plain.low)
    assert wide.high - wide.low > of_16.high - of_16.low


def test_clusters_of_one_change_nothing() -> None:
    intact, ablated = drawn(1, by_cluster=False)
    alone = np.arange(len(intact))
    plain = stats.harm_interval(intact, ablated, 0.0)
    assert stats.harm_interval(intact, ablated, 0.0, clusters=alone) == plain
    assert stats.harm_interval(intact, ablated, 0.0, clusters=np.zeros(len(intact))) == plain
    assert not stats.are_clusters(alone)


def test_skill_that_is_that_of_few_clusters_is_not_above_chance() -> None:
    scores = np.where(np.repeat(np.arange(16) < 6, 8), 1.0, 0.0)
    assert stats.is_above(scores, 0.25)
    assert not stats.is_above(scores, 0.25, clusters=CLUSTERS)
    assert stats.is_above(np.ones(len(CLUSTERS)), 0.25, clusters=CLUSTERS)


def test_chance_on_each_question_is_paired_with_the_score() -> None:
    rng = np.random.default_rng(2)
    guess = (rng.random(200) < 0.3).astype(float)
    more = np.maximum(guess, rng.random(200) < 0.3)
    # What guessing gets right the model does: the difference is known better than either.
    assert stats.is_above(more, guess)
    assert not stats.is_above(guess, guess)
    harm, interval = stats.harm_interval(more, guess, guess)
    assert harm == pytest.approx(1.0)
    assert interval.low < 1 < interval.high
    # The same chance on each is the chance of all.
    assert stats.harm_interval(more, guess, np.full(200, 0.1)) == stats.harm_interval(
        more, guess, 0.1
    )


def test_two_contrasts_in_the_same_clusters_move_together() -> None:
    intact, one = drawn(3, by_cluster=True)
    rng = np.random.default_rng(4)
    # Another question of the cluster each time, so that questions say nothing of one another.
    two = np.concatenate([rng.permutation(part) for part in np.split(one, 16)])
    questions = list(range(len(intact)))
    with_clusters, without = (
        stats.difference_of(
            *(
                stats.ratio_contrast(
                    questions, intact - ablated, intact, [(0.0, 1.0), (1.0, 1.0)], clusters=clusters
                )
                for ablated in (one, two)
            )
        )
        for clusters in (CLUSTERS, None)
    )
    assert with_clusters.value == without.value == 0
    assert with_clusters.clusters.nunique() == 16
    assert len(with_clusters.independent) == 16


def test_signs_are_drawn_by_cluster() -> None:
    # One cluster of 40 questions moves, and 40 questions alone do not: no evidence of a change.
    differences = np.concatenate([np.full(40, 0.5), np.zeros(40)])[None]
    clusters = ["moved"] * 40 + [f"alone {n}" for n in range(40)]
    rng = np.random.default_rng(0)
    assert stats.profiles_differ_p(differences, rng)[0] < 0.001
    assert stats.profiles_differ_p(differences, rng, clusters=clusters)[0] == 1.0


def test_resamples_draw_clusters() -> None:
    counts = stats.resampled_counts(len(CLUSTERS), np.random.default_rng(0), 50, clusters=CLUSTERS)
    assert counts.shape == (50, len(CLUSTERS))
    assert (counts.reshape(50, 16, 8) == counts.reshape(50, 16, 8)[:, :, :1]).all()
    assert (counts.sum(axis=1) == len(CLUSTERS)).all()


def test_an_interval_stays_within_its_bounds() -> None:
    scores = np.repeat([1.0, 0.0], 16)
    two = np.repeat([0, 1], 16)
    interval = stats.clustered(stats.wilson(16, 32), scores, two, (0.0, 1.0))
    # Two clusters, one all right and one all wrong, tell nothing of the mean.
    assert 0 <= interval.low < 0.01
    assert 0.99 < interval.high <= 1


def test_contrasts_in_other_clusters_are_paired_by_question() -> None:
    intact, ablated = drawn(5, by_cluster=False)
    questions = [f"question {n}" for n in range(len(intact))]
    first, second, alone = (
        stats.ratio_contrast(
            questions, intact - ablated, intact, [(0.0, 1.0), (1.0, 1.0)], clusters=clusters
        )
        for clusters in (CLUSTERS, CLUSTERS + 100, None)
    )
    for other in (second, alone):
        found = stats.difference_of(first, other)
        assert found.value == 0
        # Of the same answers; as if they were of others, errors would add.
        assert found.interval.high < 0.5 * np.hypot(
            first.interval.high - first.value, other.value - other.interval.low
        )


@pytest.mark.parametrize("chance", [0.0, 0.25])
def test_an_interval_at_a_higher_level_contains_those_at_lower_ones(chance: float) -> None:
    rng = np.random.default_rng(11)
    samples = [(np.tile([1.0] * 7 + [0.0], 16), np.tile([0.0] + [1.0] * 6 + [0.0], 16), CLUSTERS)]
    for n_clusters, size in ((33, 15), (16, 8), (8, 16)) * 6:
        clusters = np.repeat(np.arange(n_clusters), size)
        intact = (rng.random(len(clusters)) < 0.7).astype(float)
        lost = rng.beta(0.1, 0.6, n_clusters)[clusters]
        kept = np.where(
            intact > 0, rng.random(len(clusters)) >= lost, rng.random(len(clusters)) < 0.05
        )
        samples.append((intact, kept.astype(float), clusters))
    for intact, ablated, clusters in samples:
        intervals = [
            stats.harm_interval(intact, ablated, chance, clusters=clusters, level=level)[1]
            for level in (0.9, 0.945, 0.95, 0.955, 0.97, 0.98, 0.99)
        ]
        lows, highs = [i.low for i in intervals], [i.high for i in intervals]
        assert lows == sorted(lows, reverse=True)
        assert highs == sorted(highs)


def test_every_cluster_counts_for_the_design_effect() -> None:
    """By hand: totals 6, -2, -4 of clusters of two among six, each squared over 1 - 2/6."""
    residuals = np.array([3.0, 3.0, -1.0, -1.0, -2.0, -2.0])
    between, within = (36 + 4 + 16) / (2 / 3), (9 + 9 + 1 + 1 + 4 + 4) * 6 / 5
    assert stats.design_effect(residuals, list("aabbcc")) == pytest.approx(between / within)


def test_without_real_clusters_there_is_no_design_effect() -> None:
    residuals = np.array([0.5, -0.5, 0.25, -0.25])
    for clusters in ([1, 2, 3, 4], [1, 1, 1, 1]):
        assert stats.design_effect(residuals, clusters) == 1
        assert 0 < stats.cluster_p(residuals + 0.5, clusters, (-1.0, 1.0)) < 0.4
