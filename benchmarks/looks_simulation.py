"""Simulated sweeps that ask about a layer until it has a verdict.

The answers of the layers are drawn from known harms and no model is loaded. At each look, an
interval lies within a region if the score test rejects the bounds of the region. So the simulation
computes the statistic at these bounds, for all sweeps at once, and not the interval
(`tests/unit/stats/test_interim_looks.py` compares the two).
"""

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats as distributions

from layerroles import stats
from layerroles.results.verdict_thresholds import REGIONS

ERROR = 1 - stats.LEVEL
FIRST, LIMIT, LONG_LIMIT = 32, 512, 2000
FIXED = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
LOOKS = stats.Looks().extended(FIRST, LIMIT)
LONG_LOOKS = LOOKS.extended(FIRST, LONG_LIMIT)
SIZES = tuple(sorted({*LONG_LOOKS.sizes, *FIXED}))
BOUNDS = tuple(
    sorted({bound for r in REGIONS for bound in (r.low, r.high) if math.isfinite(bound)})
)


@dataclass(frozen=True)
class Setting:
    """The truth from which sweeps are drawn.

    Attributes:
        kind: the kind of setting, for the rows of the tables.
        harms: the harm of each layer; nearer to 0 where probabilities do not allow it.
        intact: the score of the intact model.
        chance: the score of guessing.
        churn: the share of answers that change without net effect, half of them gained and half
            lost; less where probabilities do not allow it.
    """

    kind: str
    harms: tuple[float, ...]
    intact: float
    chance: float
    churn: float

    @property
    def skill(self) -> float:
        """The intact score above chance."""
        return self.intact - self.chance

    @functools.cached_property
    def shares(self) -> tuple[np.ndarray, np.ndarray]:
        """The shares of answers that each layer loses and gains."""
        net = np.array(self.harms) * self.skill
        net = np.clip(net, self.intact - 1, self.intact)
        room = np.minimum(self.intact - np.maximum(net, 0), 1 - self.intact + np.minimum(net, 0))
        churned = np.clip(room, 0, self.churn / 2)
        return np.maximum(net, 0) + churned, np.maximum(-net, 0) + churned

    @functools.cached_property
    def truth(self) -> np.ndarray:
        """The harm of each layer."""
        lost, gained = self.shares
        return np.round((lost - gained) / self.skill, 9) + 0.0


class Sweeps:
    """Simulated sweeps of a setting, all layers of a sweep asked the same questions.

    Questions are exchangeable, so the numbers of answers that were right and that each layer lost
    and gained are drawn, between one size and the next.
    """

    def __init__(self, setting: Setting, count: int, sizes: Sequence[int] = SIZES) -> None:
        self.setting = setting
        self.sizes = tuple(sizes)
        numbers = [*setting.harms, setting.intact, setting.chance, setting.churn]
        rng = np.random.default_rng([round(1000 * (1 + number)) for number in numbers])
        lost_share, gained_share = setting.shares
        wrong_share = 1 - setting.intact
        p_lost = np.minimum(1, lost_share / setting.intact)
        p_gained = np.minimum(1, gained_share / wrong_share) if wrong_share else gained_share * 0
        steps = np.diff([0, *sizes])
        right = rng.binomial(steps[:, None], setting.intact, (len(steps), count))[..., None]
        lost = rng.binomial(right, p_lost, (len(steps), count, len(p_lost)))
        gained = rng.binomial(steps[:, None, None] - right, p_gained, lost.shape)
        self._right, self._lost, self._gained = (
            array.cumsum(axis=0) for array in (right, lost, gained)
        )
        self.shape = lost.shape[1:]
        self._statistics: dict[tuple[int, float], np.ndarray] = {}
        self._distinct: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def counts(self, n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return how many of `n` answers are right, and each layer's lost and gained ones."""
        look = self.sizes.index(n)
        return self._right[look], self._lost[look], self._gained[look]

    def estimates(self, n: int) -> np.ndarray:
        """Return the estimates of harm by sweep and layer."""
        right, lost, gained = self.counts(n)
        with np.errstate(divide="ignore", invalid="ignore"):
            return (lost - gained) / (right - self.setting.chance * n)

    def above_chance(self, n: int) -> np.ndarray:
        """Return the statistic for the intact score above chance, by sweep."""
        skill = self.counts(n)[0] / n - self.setting.chance
        spread = math.sqrt(self.setting.chance * (1 - self.setting.chance))
        return skill * math.sqrt(n) / spread if spread else np.where(skill > 0, math.inf, 0.0)

    def statistics(self, n: int, harm: float) -> np.ndarray:
        """Return the score statistic of a harm by sweep and layer; positive if it is too low."""
        if (n, harm) not in self._statistics:
            if n not in self._distinct:
                self._distinct[n] = distinct_tables(self.tables(n))
            tables, places = self._distinct[n]
            found = score_statistics(tables, harm, self.setting.chance)
            self._statistics[n, harm] = found[places].reshape(self.shape)
        return self._statistics[n, harm]

    def true_statistics(self, n: int) -> np.ndarray:
        """Return the score statistic of each layer's true harm."""
        found = np.empty(self.shape)
        for harm in np.unique(self.setting.truth):
            layers = self.setting.truth == harm
            tables, places = distinct_tables(self.tables(n)[:, layers])
            statistics = score_statistics(tables, harm, self.setting.chance)
            found[:, layers] = statistics[places].reshape(len(found), -1)
        return found

    def tables(self, n: int) -> np.ndarray:
        """Return how many of `n` answers are right twice, lost, gained and wrong twice."""
        right, lost, gained = self.counts(n)
        return np.stack([right - lost, lost, gained, n - right - gained], axis=-1)


@dataclass(frozen=True)
class Stopped:
    """Where the layers of simulated sweeps stopped; arrays by sweep and layer.

    Attributes:
        verdict: the index of the verdict in `REGIONS`; -1 if undecided.
        n: the number of questions asked.
        estimate: the estimate of harm; NaN if harm is not defined.
        covered: whether the interval contains the true harm; where `defined`.
        wrong: whether the verdict is one whose region does not contain the true harm.
    """

    verdict: np.ndarray
    n: np.ndarray
    estimate: np.ndarray
    covered: np.ndarray
    wrong: np.ndarray

    @property
    def defined(self) -> np.ndarray:
        """Whether the intact score was above chance when asking stopped."""
        return ~np.isnan(self.estimate)


def stop_at_looks(
    sweeps: Sweeps, looks: stats.Looks = LOOKS, level: float = stats.LEVEL
) -> Stopped:
    """Stop as a sweep with `until="decided"` does."""
    return stop(sweeps, looks.sizes, [looks.level(n, level) for n in looks.sizes])


def stop(sweeps: Sweeps, sizes: Sequence[int], levels: Sequence[float]) -> Stopped:
    """Look at each of `sizes`; stop each layer at its first verdict, or else at the last look."""
    shape = sweeps.shape
    verdict, asked = np.full(shape, -1), np.full(shape, sizes[-1])
    estimate, covered = np.full(shape, math.nan), np.zeros(shape, dtype=bool)
    for n, level in zip(sizes, levels, strict=True):
        critical = float(distributions.norm.isf((1 - level) / 2)) * math.sqrt(n / (n - 1))
        above_chance = sweeps.above_chance(n) > critical
        is_open = (verdict < 0) & above_chance
        judged = np.where(is_open, judge(sweeps, n, critical), -1)
        verdict = np.maximum(verdict, judged)
        asked = np.where(judged >= 0, n, asked)
        stops = is_open if n == sizes[-1] else judged >= 0
        if stops.any():
            estimate = np.where(stops, sweeps.estimates(n), estimate)
            inside = np.abs(sweeps.true_statistics(n)) <= critical + 1e-9
            covered = np.where(stops, inside, covered)
    return Stopped(verdict, asked, estimate, covered, is_wrong(verdict, sweeps.setting.truth))


def judge(sweeps: Sweeps, n: int, critical: float) -> np.ndarray:
    """Return the index of the first region that contains each interval; -1 if none does."""
    return first_region(
        lambda bound: sweeps.statistics(n, bound) > critical,
        lambda bound: sweeps.statistics(n, bound) < -critical,
        sweeps.shape,
    )


def first_region(
    above: Callable[[float], np.ndarray],
    below: Callable[[float], np.ndarray],
    shape: tuple[int, ...],
) -> np.ndarray:
    """Return the index of the first region between whose bounds the intervals lie, or -1.

    Args:
        above: returns which intervals lie above a bound.
        below: returns which intervals lie below a bound.
        shape: the shape of the arrays that these return.
    """
    found = np.full(shape, -1)
    for index, region in reversed(list(enumerate(REGIONS))):
        inside = np.ones(shape, dtype=bool)
        if math.isfinite(region.low):
            inside &= above(region.low)
        if math.isfinite(region.high):
            inside &= below(region.high)
        found[inside] = index
    return found


def is_wrong(verdict: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return which verdicts, by sweep and layer, have a region without the layer's true harm."""
    right = [
        [region.holds(stats.Interval(harm, harm)) for harm in truth.tolist()] for region in REGIONS
    ]
    return (verdict >= 0) & ~np.array(right)[verdict, np.arange(len(truth))]


def fixed_size(sweeps: Sweeps, decided: float) -> float:
    """Return the smallest fixed number of questions that decides this share; inf if none does."""
    for n in FIXED:
        if (stop(sweeps, (n,), (stats.LEVEL,)).verdict >= 0).mean() >= decided:
            return n
    return math.inf


def standard_error(by_sweep: np.ndarray) -> float:
    """Return the simulation error of a mean over sweeps."""
    return float(by_sweep.std(ddof=1) / math.sqrt(len(by_sweep)))


def distinct_tables(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct tables, all of as many answers, and the place of each among them."""
    tables = tables.reshape(-1, 4)
    base = int(tables[0].sum()) + 1
    codes = (tables[:, 0] * base + tables[:, 1]) * base + tables[:, 2]
    _, first, places = np.unique(codes, return_index=True, return_inverse=True)
    return tables[first], places


def score_statistics(tables: np.ndarray, harm: float, chance: float) -> np.ndarray:
    """Return `layerroles.stats.ratio_score_test.score` for many tables at once.

    Args:
        tables: a row for each sample: right twice, lost, gained and wrong twice.
        harm: the ratio under the null hypothesis.
        chance: the score of guessing.
    """
    values = cell_values(harm, chance)
    counts = tables.astype(float)
    n = counts.sum(axis=1)
    means = counts @ values / n
    found = np.zeros(len(tables))
    if values.max() <= 0 or values.min() >= 0:
        return np.where(np.abs(means) < 1e-9, 0.0, np.copysign(math.inf, means))
    for sign in (1.0, -1.0):
        rows = means * sign >= 1e-9
        if rows.any():
            found[rows] = sign * _positive_scores(counts[rows], n[rows], values * sign)
    return found


def cell_values(harm: float, chance: float) -> np.ndarray:
    """Return `lost - harm * skill` of an answer right twice, lost, gained and wrong twice."""
    lost = np.array([0.0, 1.0, -1.0, 0.0])
    return lost - harm * (np.array([1.0, 1.0, 0.0, 0.0]) - chance)


def _positive_scores(counts: np.ndarray, n: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the score statistics of samples with a mean above 0."""
    least = values.min()
    end = -1 / least
    extreme = np.isclose(values, least)
    with np.errstate(divide="ignore"):
        parts = np.where(extreme, 0.0, values / (1 + end * values))
    seen = counts[:, extreme].any(axis=1)
    # Where the equation has no root, a value that was not seen has weight.
    tilts = np.full(len(counts), end)
    rooted = seen | (counts @ parts < 0)
    tilts[rooted] = _find_tilts(counts[rooted], values, end)
    divisors = 1 + tilts[:, None] * values
    divisors[:, extreme] = np.where(rooted[:, None], divisors[:, extreme], 1.0)
    weights = counts / (n[:, None] * divisors)
    variance = weights @ values**2
    variance += np.maximum(0.0, 1 - weights.sum(axis=1)) * least**2
    return counts @ values / n / np.sqrt(variance / n)


def _find_tilts(counts: np.ndarray, values: np.ndarray, end: float) -> np.ndarray:
    """Find the root of `sum(counts * values / (1 + t * values))` between 0 and `end`, by row."""
    found = np.empty(len(counts))
    open_rows = np.arange(len(counts))
    low, high = np.zeros(len(counts)), np.full(len(counts), end)
    t = high / 2
    tolerance = 1e-10 * (counts @ np.abs(values))
    for _ in range(100):
        parts = values / (1 + t[:, None] * values)
        total = np.einsum("rv,rv->r", counts, parts)
        change = -np.einsum("rv,rv->r", counts, parts * parts)
        low, high = np.where(total > 0, t, low), np.where(total > 0, high, t)
        step = t - total / change
        left = (np.abs(total) > tolerance) & (high - low > 1e-14 * end)
        found[open_rows] = t
        if not left.any():
            break
        t = np.where((low < step) & (step < high), step, (low + high) / 2)[left]
        counts, tolerance, open_rows = counts[left], tolerance[left], open_rows[left]
        low, high = low[left], high[left]
    return found
