"""Simulated sweeps whose questions come in clusters, with the intervals that allow for them.

Questions of a cluster are like those that share a template: of the intact model's right
answers, each layer loses a share that varies between clusters. The intervals are computed by
`layerroles.stats`, not only the statistics at the bounds of regions, so it takes far longer for
each sweep than `looks_simulation.py`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from benchmarks.looks_simulation import LOOKS, Stopped, is_wrong
from layerroles import stats
from layerroles.results.verdict_thresholds import REGIONS, UNDECIDED, judge_interval

# The level of the interval at each number of questions at which a sweep looks, and at the last one
# alone.
LEVELS = {n: LOOKS.level(n) for n in LOOKS.sizes}
FIXED_LEVEL = {LOOKS.sizes[-1]: stats.LEVEL}


@dataclass(frozen=True)
class ClusteredSetting:
    """The truth from which sweeps with clusters are drawn; chance is 0.

    Attributes:
        harm: the harm of each layer.
        icc: the correlation of losses within a cluster.
        size: the number of successive questions that are a cluster; None if questions are dealt to
            33 clusters in turn, as word problems are to their templates.
        intact: the score of the intact model.
        churn: the share of answers that change without net effect.
        n_layers: the number of layers.
    """

    harm: float
    icc: float
    size: int | None = 8
    intact: float = 0.7
    churn: float = 0.06
    n_layers: int = 10

    def clusters(self) -> np.ndarray:
        """Return the cluster of each question."""
        places = np.arange(LOOKS.sizes[-1])
        return places % 33 if self.size is None else places // self.size

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw intact scores by question, and scores by layer and question."""
        clusters = self.clusters()
        lost = (self.churn / 2 + self.harm * self.intact) / self.intact
        gained = self.churn / 2 / (1 - self.intact)
        p_lost = np.full((self.n_layers, clusters.max() + 1), lost)
        if self.icc:
            concentration = (1 - self.icc) / self.icc
            p_lost = rng.beta(lost * concentration, (1 - lost) * concentration, p_lost.shape)
        intact = rng.random(len(clusters)) < self.intact
        u = rng.random((self.n_layers, len(clusters)))
        ablated = np.where(intact, u >= p_lost[:, clusters], u < gained)
        return intact.astype(float), ablated.astype(float)


def stop_clustered(
    setting: ClusteredSetting,
    count: int,
    *,
    levels: Mapping[int, float] = LEVELS,
    aware: bool = True,
) -> Stopped:
    """Stop each layer of `count` sweeps at its first verdict, or else at the last look.

    Args:
        setting: the truth.
        count: the number of sweeps.
        levels: the level of the interval at each look.
        aware: whether the intervals allow for the clusters.
    """
    rng = np.random.default_rng([round(1000 * setting.harm), round(1000 * setting.icc)])
    clusters, names = setting.clusters(), [region.verdict for region in REGIONS]
    shape = (count, setting.n_layers)
    verdicts, asked = np.full(shape, -1), np.full(shape, LOOKS.sizes[-1])
    estimates, covered = np.full(shape, math.nan), np.zeros(shape, dtype=bool)
    for sweep in range(count):
        intact, ablated = setting.draw(rng)
        for layer, scores in enumerate(ablated):
            for n, level in levels.items():
                harm, interval = stats.harm_interval(
                    intact[:n],
                    scores[:n],
                    0.0,
                    clusters=clusters[:n] if aware else None,
                    level=level,
                )
                verdict = judge_interval(interval)
                if verdict != UNDECIDED:
                    verdicts[sweep, layer], asked[sweep, layer] = names.index(verdict), n
                    break
            estimates[sweep, layer] = harm
            covered[sweep, layer] = interval.low <= setting.harm <= interval.high
    wrong = is_wrong(verdicts, np.full(setting.n_layers, setting.harm))
    return Stopped(verdicts, asked, estimates, covered, wrong)
