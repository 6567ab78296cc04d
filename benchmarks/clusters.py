"""How often intervals of harm cover the truth if questions come in clusters, by kind of cluster.

The table of docs/statistics.md, from answers drawn from a known truth; no model is loaded:

    OMP_NUM_THREADS=1 python -m benchmarks.clusters --draws 400

It takes 10 minutes on one core. An interval contains the true harm if the score test accepts it, so
the simulation computes that statistic for all draws at once, and not the interval
(`tests/unit/stats/test_clusters.py` compares the two).
"""

import argparse
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from benchmarks.looks_simulation import cell_values, score_statistics
from layerroles import stats
from layerroles.stats import ratio_score_test

LEVELS = (0.95, 0.99, 0.998)
SIZES = (64, 128, 512)
CLUSTERS = (8, 16, 32, 64)
ICCS = (0.0, 0.1, 0.3, 0.6)
HARMS = (0.0, 0.05, 0.1, 0.2, 0.4)
CHURNS = (0.03, 0.06, 0.1)
INTACT = (0.5, 0.8, 0.95)
# The least of many shares is low by chance, so the settings with the lowest are drawn again.
_DRAWN_AGAIN, _MORE = 3, 10


@dataclass(frozen=True)
class Setting:
    """The truth from which questions in clusters are drawn; chance is 0.

    Attributes:
        n: the number of questions.
        n_clusters: the number of clusters.
        icc: the correlation of losses within a cluster (a beta distribution between clusters).
        harm: the true harm.
        churn: the share of answers that change without net effect.
        intact: the score of the intact model.
        unequal: whether the sizes of clusters are as 1, 2, 3 ... instead of equal.
        gains: whether gains vary between clusters too, with the same correlation.
    """

    n: int
    n_clusters: int
    icc: float
    harm: float
    churn: float
    intact: float
    unequal: bool = False
    gains: bool = False

    def sizes(self) -> np.ndarray:
        """Return the number of questions of each cluster, at least 1."""
        weights = np.arange(1, self.n_clusters + 1) if self.unequal else np.ones(self.n_clusters)
        ends = np.rint((self.n - self.n_clusters) * weights.cumsum() / weights.sum()).astype(int)
        sizes: np.ndarray = 1 + np.diff(ends, prepend=0)
        return sizes

    def draw(self, draws: int, seed: int = 0) -> np.ndarray:
        """Draw numbers of answers right twice, lost, gained and wrong twice, by draw and cluster.

        Draws in which no answer changes, or none is right, are left out.
        """
        rng = np.random.default_rng([seed, self.n, self.n_clusters, round(100 * self.icc)])
        p_lost = self.churn / 2 / self.intact + self.harm
        p_gained = self.churn / 2 / (1 - self.intact)
        right = rng.binomial(self.sizes(), self.intact, (draws, self.n_clusters))
        wrong = self.sizes() - right
        lost = rng.binomial(right, self._vary(p_lost, right.shape, rng))
        gained_shares = self._vary(p_gained, right.shape, rng) if self.gains else min(1.0, p_gained)
        gained = rng.binomial(wrong, gained_shares)
        tables = np.stack([right - lost, lost, gained, wrong - gained], axis=-1)
        totals = tables.sum(axis=1)
        usable: np.ndarray = tables[(totals[:, 1:3].any(axis=1)) & (totals[:, :2].any(axis=1))]
        return usable

    def _vary(self, mean: float, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        """Draw probabilities with this mean and the correlation of the setting."""
        if not self.icc or not 0 < mean < 1:
            return np.full(shape, min(1.0, mean))
        concentration = (1 - self.icc) / self.icc
        return rng.beta(mean * concentration, (1 - mean) * concentration, shape)


def answers(table: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the intact scores, the ablated scores and the clusters of one draw, by question."""
    cells = np.tile(np.arange(4), len(table))
    clusters = np.repeat(np.arange(len(table)), 4)
    intact, ablated = (np.isin(cells, right).astype(float) for right in ((0, 1), (0, 2)))
    counts = table.ravel()
    return np.repeat(intact, counts), np.repeat(ablated, counts), np.repeat(clusters, counts)


def accepted(tables: np.ndarray, harm: float) -> np.ndarray:
    """Return whether the intervals of harm contain this harm, by method, level and draw.

    The first method is that of `layerroles.stats`. The second knows only the design effect (CR2)
    and Student's t, without shrinking.
    """
    totals = tables.sum(axis=1).astype(float)
    n, values = totals[0].sum(), cell_values(harm, 0.0)
    estimates = (totals[:, 1] - totals[:, 2]) / (totals[:, 0] + totals[:, 1])
    design, below, above, size, df = _clustering(tables, estimates)

    means = totals @ values / n
    statistics = score_statistics(totals, harm, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        variances = np.where(statistics == 0, 1.0, (means / statistics) ** 2 * n)
    edges = np.where(means < 0, values.max(), values.min())
    is_away = values * edges[:, None] <= 0
    weights = _null_weights(totals, means, variances, values)
    away = (weights * values**2 * is_away).sum(axis=1)
    toward = np.maximum(0.0, variances - away)
    fourth = (weights * values**4 * ~is_away).sum(axis=1)
    fourth += np.maximum(0.0, 1 - weights.sum(axis=1)) * edges**4
    unit = np.maximum(fourth / np.maximum(toward, 1e-9), 1e-9)
    seen = (totals * values**2 * ~is_away).sum(axis=1) / unit
    weight, added = ratio_score_test._EXPECTED_WEIGHT, ratio_score_test._ADDED_EXAMPLES
    examples = (1 - weight) * seen + weight * n * toward / unit
    effective = examples / np.where(edges > 0, above, below)
    shrunk = np.maximum(design, (examples + added * size) / (effective + added))
    known = means / np.sqrt((away * design + toward * shrunk) / n)
    critical = [
        distributions.t.isf((1 - level) / 2, df) * math.sqrt(n / (n - 1)) for level in LEVELS
    ]
    return np.abs([known, statistics / np.sqrt(design)])[:, None] <= np.array(critical)


def _clustering(tables: np.ndarray, estimates: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what `measure_clustering` returns, by draw."""
    sizes = tables[0].sum(axis=1)
    n = sizes.sum()
    residuals = np.array([cell_values(harm, 0.0) for harm in estimates])
    designs = []
    for part in (residuals, residuals.clip(max=0), residuals.clip(min=0)):
        part = part - np.einsum("dgc,dc->d", tables, part)[:, None] / n
        between = (np.einsum("dgc,dc->dg", tables, part) ** 2 / (1 - sizes / n)).sum(axis=1)
        within = np.einsum("dgc,dc->d", tables, part**2) * n / (n - 1)
        ratio = np.divide(between, within, out=np.ones(len(tables)), where=within > 0)
        designs.append(np.maximum(1.0, ratio))
    size = (sizes**2).sum() / n
    correlation = np.minimum(1.0, (designs[0] - 1) / (size - 1))
    spread = sizes * (1 + (sizes - 1) * correlation[:, None])
    df = np.maximum(1.0, spread.sum(axis=1) ** 2 / (spread**2).sum(axis=1) - 1)
    return *designs, size, df


def _null_weights(
    totals: np.ndarray, means: np.ndarray, variances: np.ndarray, values: np.ndarray
) -> np.ndarray:
    """Return the weights of the four kinds of answers under the null hypothesis, by draw.

    A weight is `count / (n (1 + t value))`, and `t` is the mean over the variance: the weights sum
    to 1 with that of the value that was not seen, and their mean is 0.
    """
    tilts = (means / variances)[:, None]
    return totals / totals.sum(axis=1, keepdims=True) / np.maximum(1e-12, 1 + tilts * values)


def widths(setting: Setting, draws: int) -> list[tuple[float, float]]:
    """Return the widths of intervals that know the clusters, and of those that do not."""
    found = []
    for drawn in setting.draw(draws, seed=2):
        intact, ablated, clusters = answers(drawn)
        _, known = stats.harm_interval(intact, ablated, 0.0, clusters=clusters)
        _, plain = stats.harm_interval(intact, ablated, 0.0)
        found.append((known.high - known.low, plain.high - plain.low))
    return found


def settings(n_clusters: int, icc: float) -> list[Setting]:
    """Return all settings with this number of clusters and correlation."""
    drawn = itertools.product(SIZES, HARMS, CHURNS, INTACT, (False, True), (False, True))
    return [
        Setting(n, n_clusters, icc, *truth)
        for n, *truth in drawn
        if n > n_clusters and (icc or not truth[-1])
    ]


def least_coverage(drawn: list[Setting], shares: np.ndarray, draws: int, place: tuple) -> float:
    """Return the least share at a method and level; the lowest ones are drawn again."""
    lowest = np.argsort(shares[(slice(None), *place)])[:_DRAWN_AGAIN]
    again = [
        accepted(drawn[i].draw(draws * _MORE, seed=1), drawn[i].harm)[place].mean() for i in lowest
    ]
    return float(min(again))


def table(draws: int) -> Iterator[str]:
    """Return the lines of the table; a row is of all settings of a number and a correlation."""
    yield (
        "| clusters | correlation | settings | mean | least | at 99%: least | at 99.8%: least | "
        "design effect alone: mean | least | median width | as independent |"
    )
    yield f"|{' --- |' * 11}"
    means, leasts = [], []
    for n_clusters, icc in itertools.product(CLUSTERS, ICCS):
        drawn = settings(n_clusters, icc)
        shares = np.array([accepted(each.draw(draws), each.harm).mean(axis=-1) for each in drawn])
        least = [
            least_coverage(drawn, shares, draws, place)
            for place in ((0, 0), (0, 1), (0, 2), (1, 0))
        ]
        known, plain = np.median([pair for each in drawn for pair in widths(each, 2)], axis=0)
        means += shares[:, 0, 0].tolist()
        leasts.append(least)
        cells = (shares[:, 0, 0].mean(), *least[:3], shares[:, 1, 0].mean(), least[3], known, plain)
        yield (
            f"| {n_clusters} | {icc:g} | {len(drawn)} | "
            f"{' | '.join(f'{number:.3f}' for number in cells)} |"
        )
    at_95, at_99, at_998, alone = np.min(leasts, axis=0)
    yield (
        f"\n{len(means):,} settings: coverage mean {np.mean(means):.4f}, least {at_95:.3f}; at 99% "
        f"{at_99:.3f}, at 99.8% {at_998:.3f}; by the design effect alone {alone:.3f}."
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=400)
    for line in table(parser.parse_args().draws):
        print(line, flush=True)


if __name__ == "__main__":
    main()
