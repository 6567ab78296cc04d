"""Rank stability: what seeds share is found, what they do not share is not."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import spearmanr

import layerroles as lr
from layerroles import stats


def scores(spread: float, n: int, seed: int, sites: int = 40) -> np.ndarray:
    """Scores of sites whose true means differ by `spread`, with noise of 1."""
    true = spread * np.random.default_rng(0).normal(size=sites)
    return true[:, None] + np.random.default_rng(seed).normal(size=(sites, n))


def test_the_estimate_is_the_mean_of_spearman_over_pairs() -> None:
    draws = [scores(0.5, n, n) for n in (6, 8, 11)]
    rho, bounds = stats.rank_stability(draws, np.random.default_rng(1))
    means = [draw.mean(axis=1) for draw in draws]
    pairs = [spearmanr(means[a], means[b]).statistic for a, b in [(0, 1), (0, 2), (1, 2)]]
    assert rho == pytest.approx(np.mean(pairs))
    assert bounds.low < rho < bounds.high


def test_shared_order_is_distinguished_from_noise() -> None:
    rho, bounds = stats.rank_stability(
        [scores(2, 16, seed) for seed in (1, 2)], np.random.default_rng(1)
    )
    assert bounds.low > 0.9
    flat = [scores(0, 16, seed) for seed in (1, 2)]
    rho, bounds = stats.rank_stability(flat, np.random.default_rng(1))
    assert bounds.low < rho < bounds.high
    assert bounds.low < 0 < bounds.high


def test_the_interval_covers_the_correlation_of_large_draws() -> None:
    means = np.stack([scores(0.4, 12, seed).mean(axis=1) for seed in range(1000, 1060)])
    each = spearmanr(means.T).statistic
    truth = each[np.triu_indices(60, 1)].mean()
    hits = 0
    for trial in range(20):
        some = [scores(0.4, 12, 10 * trial + seed) for seed in (1, 2, 3)]
        _, bounds = stats.rank_stability(some, np.random.default_rng(trial))
        hits += bounds.low <= truth <= bounds.high
    assert hits >= 18


def test_scores_that_cannot_be_compared_give_nan_or_raise() -> None:
    rng = np.random.default_rng(0)
    assert np.isnan(stats.rank_stability([scores(1, 4, 1)], rng)[0])
    assert np.isnan(stats.rank_stability([np.zeros((5, 3)), np.zeros((5, 3))], rng)[0])
    with pytest.raises(ValueError, match="different numbers of sites"):
        stats.rank_stability([scores(1, 4, 1), scores(1, 4, 1, sites=5)], rng)


def frame(seed: int, heads: int = 4) -> pd.DataFrame:
    table = scores(1, 5, seed, sites=3 * heads)
    return pd.DataFrame(
        {
            "task": "kv",
            "family": "retrieval",
            "example": f"{seed}-{example}",
            "layer": place // heads,
            "head": place % heads,
            "score": table[place, example],
        }
        for place in range(3 * heads)
        for example in range(5)
    )


def test_frames_of_several_seeds() -> None:
    found = lr.rank_stability([frame(1), frame(2).sample(frac=1, random_state=0)])
    (row,) = found.itertuples()
    assert (row.family, row.task, row.seeds, row.n) == ("retrieval", "kv", 2, 5)
    means = [frame(seed).groupby(["layer", "head"]).score.mean() for seed in (1, 2)]
    assert row.rho == pytest.approx(spearmanr(*means).statistic)
    assert row.low < row.rho < row.high
    with pytest.raises(lr.InputError, match="two frames or more, not 1"):
        lr.rank_stability([frame(1)])
    with pytest.raises(lr.InputError, match="no column 'induction'"):
        lr.rank_stability([frame(1), frame(2)], value="induction")
    with pytest.raises(lr.InputError, match="not of the same heads"):
        lr.rank_stability([frame(1), frame(2, heads=3)])


def test_examples_that_seeds_share_count_once() -> None:
    """A small task draws the same questions under several seeds, which makes rankings alike."""
    one, two = frame(1), frame(2)
    shared = pd.concat([two, one[one.example == "1-0"]])
    assert lr.rank_stability([one, shared]).equals(lr.rank_stability([one, two]))
    (row,) = lr.rank_stability([one, one]).itertuples()
    assert row.n == 0
    assert np.isnan([row.rho, row.low, row.high]).all()
