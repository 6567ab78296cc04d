"""How often verdicts are wrong, and how few questions they take, if a sweep looks several times.

Simulates sweeps of 30 layers that stop asking a layer as soon as it has a verdict. The answers are
drawn from known harms and no model is loaded. The tables of docs/statistics.md:

    OMP_NUM_THREADS=1 python -m benchmarks.looks --sweeps 2000

`--only errors`, `verdicts`, `together`, `bias` or `designs` prints one table, and `--each` prints
one row for each setting instead of one for each kind of setting. At each look, an interval lies
within a region if the score test rejects the bounds of the region, so a simulation computes the
statistic at these bounds, for all sweeps at once, and not the interval
(`tests/unit/stats/test_looks.py` compares the two).
"""

import argparse
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize
from scipy import stats as distributions

from layerroles import stats
from layerroles.results.regions import REGIONS

FIRST, LIMIT, LONG_LIMIT = 32, 512, 2000
N_LAYERS = 30
ERROR = 1 - stats.LEVEL
FIXED = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)
SKILLED = 0.7
LOOKS = stats.Looks().extended(FIRST, LIMIT)
LONG_LOOKS = LOOKS.extended(FIRST, LONG_LIMIT)
SIZES = tuple(sorted({*LONG_LOOKS.sizes, *FIXED}))
BOUNDS = tuple(
    sorted({bound for r in REGIONS for bound in (r.low, r.high) if math.isfinite(bound)})
)
INTACT = (0.3, 0.5, 0.7, 0.8, 0.95, 1.0)
CHANCES = (0.0, 0.25)
CHURNS = (0.03, 0.06, 0.1)
# As the layers of SmolLM2-135M: a few without which nothing is right, many that matter little.
MIXTURE = (
    *([1.0] * 3 + [0.6] * 2 + [0.3] * 3 + [0.2] + [0.15] * 4),
    *([0.08] * 5 + [0.02] * 6 + [0.0] * 5 + [-0.15]),
)
# Which layers a verdict ought to find: those whose true harm lies well within its region.
SOUGHT: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "critical": lambda harm: harm >= 0.3,
    "spare": lambda harm: np.abs(harm) <= 0.05,
    "partial": lambda harm: (harm > 0.1) & (harm <= 0.2),
    "helps": lambda harm: harm < -0.1,
}


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


def settings() -> list[Setting]:
    """Return all settings."""
    models = [pair for pair in itertools.product(INTACT, CHANCES) if pair[0] > pair[1]]
    found = []
    for intact, chance in models:
        for churn in CHURNS:
            found.append(Setting("no harm", (0.0,) * N_LAYERS, intact, chance, churn))
        for border in (0.1, 0.2, 0.4):
            found.append(Setting("at a border", (border,) * N_LAYERS, intact, chance, 0.06))
        rare = 0.02 / (intact - chance)
        found.append(Setting("rare losses", (rare,) * N_LAYERS, intact, chance, 0.0))
        found.append(Setting("mixture", MIXTURE, intact, chance, 0.06))
    spread = tuple(np.resize([0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35], N_LAYERS).tolist())
    for intact, chance, churn in itertools.product((0.4, 0.6, 0.8), CHANCES, CHURNS):
        found.append(Setting("0.05 to 0.35", spread, intact, chance, churn))
    return found


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


def distinct_tables(tables: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct tables, all of as many answers, and the place of each among them."""
    tables = tables.reshape(-1, 4)
    base = int(tables[0].sum()) + 1
    codes = (tables[:, 0] * base + tables[:, 1]) * base + tables[:, 2]
    _, first, places = np.unique(codes, return_index=True, return_inverse=True)
    return tables[first], places


def score_statistics(tables: np.ndarray, harm: float, chance: float) -> np.ndarray:
    """Return `layerroles.stats.score_test.score` for many tables at once.

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


def stop_at_looks(
    sweeps: Sweeps, looks: stats.Looks = LOOKS, level: float = stats.LEVEL
) -> Stopped:
    """Stop as a sweep with `until="decided"` does."""
    return stop(sweeps, looks.sizes, [looks.level(n, level) for n in looks.sizes])


def fixed_size(sweeps: Sweeps, decided: float) -> float:
    """Return the smallest fixed number of questions that decides this share; inf if none does."""
    for n in FIXED:
        if (stop(sweeps, (n,), (stats.LEVEL,)).verdict >= 0).mean() >= decided:
            return n
    return math.inf


# The other ways to stop with which this one is compared.


def critical_values(sizes: Sequence[int], spent: Sequence[float]) -> list[float]:
    """Return the critical value of each look, if so much error is spent up to each.

    As `Looks` computes them, but for any spending and by the trapezoidal rule.
    """
    found: list[float] = []
    grid, density = np.zeros(1), np.ones(1)
    for (before, n), share in zip(
        itertools.pairwise([0, *sizes]), np.diff([0.0, *spent]), strict=True
    ):
        step = math.sqrt(n - before)

        def excess(z: float, n=n, step=step, grid=grid, density=density, share=share) -> float:
            reach = z * math.sqrt(n)
            tails = distributions.norm.sf((reach - grid) / step)
            return float(density @ (tails + tails[::-1])) - share

        found.append(float(optimize.brentq(excess, 0.0, 40.0)))
        end = found[-1] * math.sqrt(n)
        points = np.linspace(-end, end, 501)
        steps = np.full(len(points), points[1] - points[0])
        steps[[0, -1]] /= 2
        moved = distributions.norm.pdf((points[:, None] - grid) / step) / step
        grid, density = points, steps * (moved @ density)
    return found


def levels_of(critical: Sequence[float]) -> list[float]:
    """Return the level of the interval with each critical value."""
    return [float(1 - 2 * distributions.norm.sf(z)) for z in critical]


def questions_in_order(sweeps: Sweeps, sizes: Sequence[int]) -> np.ndarray:
    """Return which cell of its table each answer belongs to, by question, sweep and layer.

    The answers between two sizes are in random order.
    """
    rng = np.random.default_rng(1)
    parts, before = [], np.zeros((*sweeps.shape, 4), dtype=int)
    for n in sizes:
        tables = sweeps.tables(n)
        ends = (tables - before).cumsum(axis=-1)
        step = int(ends.flat[-1])
        order = rng.permuted(np.broadcast_to(np.arange(step), (*sweeps.shape, step)), axis=-1)
        cells = sum((order >= ends[..., cell, None]).astype(np.int8) for cell in range(3))
        parts.append(np.moveaxis(cells, -1, 0))
        before = tables
    return np.concatenate(parts)


def stop_by_betting(sweeps: Sweeps, sizes: Sequence[int], capital: "Capital") -> Stopped:
    """Stop by a confidence sequence: reject a bound if a bet against it has won 2 / error.

    The confidence sequence of a bounded mean (I. Waudby-Smith and A. Ramdas, JRSS B 86:1, 2024),
    for the mean of `lost - bound * skill`, which is 0 if the harm is `bound`. The intervals are
    intersected over all questions and looked at after `sizes`.
    """
    cells = questions_in_order(sweeps, sizes)
    threshold = math.log(2 / ERROR)
    looks = np.array(sizes) - 1
    rejected = {}  # whether the harm is above (1) or below (-1) a bound, by look, sweep and layer
    for bound in BOUNDS:
        values = cell_values(bound, sweeps.setting.chance)
        for sign, won in zip((1, -1), capital(cells, values), strict=True):
            rejected[sign, bound] = np.maximum.accumulate(won)[looks] >= threshold
    verdict, asked = np.full(sweeps.shape, -1), np.full(sweeps.shape, sizes[-1])
    for look, n in enumerate(sizes):
        judged = first_region(
            lambda bound, look=look: rejected[1, bound][look],
            lambda bound, look=look: rejected[-1, bound][look],
            sweeps.shape,
        )
        asked = np.where((verdict < 0) & (judged >= 0), n, asked)
        verdict = np.where(verdict < 0, judged, verdict)
    nothing = np.full(sweeps.shape, math.nan)
    wrong = is_wrong(verdict, sweeps.setting.truth)
    return Stopped(verdict, asked, nothing, np.isfinite(nothing), wrong)


# Cells by question, sweep and layer, and their values -> log capital of bets on a mean above 0 and
# on one below 0, after each question.
Capital = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


def hedged_capital(cells: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log capital of predictable plug-in bets, at most half of what may be bet."""
    low, high = values.min(), values.max()
    scaled, mean = (values - low) / (high - low), -low / (high - low)
    x = scaled[cells]
    t = np.arange(1, len(x) + 1).reshape(-1, 1, 1)
    means = (0.5 + x.cumsum(axis=0)) / (t + 1)
    variances = (0.25 + ((x - means) ** 2).cumsum(axis=0)) / (t + 1)
    before = np.concatenate([np.full_like(variances[:1], 0.25), variances[:-1]])
    bets = np.sqrt(2 * math.log(2 / ERROR) / (before * t * np.log(t + 1)))
    up = np.log1p(np.minimum(bets, 0.5 / mean) * (x - mean))
    down = np.log1p(-np.minimum(bets, 0.5 / (1 - mean)) * (x - mean))
    return up.cumsum(axis=0), down.cumsum(axis=0)


def mixed_capital(cells: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the mean capital of 20 constant bets, from little to nearly all."""
    shares = np.linspace(0.05, 0.999, 20)
    won = []
    for sign in (1.0, -1.0):
        largest = -1 / (sign * values).min()
        bets = shares * largest * sign
        logs = (np.log1p(bet * values)[cells].cumsum(axis=0) for bet in bets)
        won.append(functools.reduce(np.logaddexp, logs) - math.log(len(shares)))
    return won[0], won[1]


def designs(sweeps: Sweeps) -> dict[str, Stopped]:
    """Return where each design stops the same sweeps."""
    sizes = LOOKS.sizes
    u = np.array(sizes) / FIRST
    # Of the error, the share that is spent up to each look.
    spendings = {
        "spending 1 - 0.95 / u^(2/3)": 1 - 0.95 / u ** (2 / 3),
        "spending u / (u + 3)": u / (u + 3),
        "spending u / (u + 4)": u / (u + 4),
        f"all spent at {LIMIT}: log(1 + (e - 1) n / {LIMIT})": np.log1p(
            (math.e - 1) * u * FIRST / LIMIT
        ),
    }
    even = [1 - ERROR / len(sizes)] * len(sizes)
    return {
        "95% at every look: not valid": stop(sweeps, sizes, [stats.LEVEL] * len(sizes)),
        "`stats.Looks`": stop_at_looks(sweeps),
        **{
            name: stop(sweeps, sizes, levels_of(critical_values(sizes, ERROR * spent)))
            for name, spent in spendings.items()
        },
        "Bonferroni over the looks": stop(sweeps, sizes, even),
        "betting, plug-in bets": stop_by_betting(sweeps, sizes, hedged_capital),
        "betting, mixture of constant bets": stop_by_betting(sweeps, sizes, mixed_capital),
    }


# The tables.

BANDS = ((0.0, 0.25), (0.25, 0.5), (0.5, 1.01))


def grouped(each: bool) -> Iterator[tuple[str, list[Setting]]]:
    """Return settings by kind and skill, or one by one, with the cells that name them."""
    if each:
        for one in settings():
            harm = f" {one.harms[0]:.3g}" if len(set(one.harms)) == 1 else ""
            yield f"{one.kind}{harm} | {one.intact:g}, {one.chance:g}, {one.churn:g}", [one]
        return
    every = settings()
    for kind in dict.fromkeys(one.kind for one in every):
        for low, high in BANDS:
            some = [one for one in every if one.kind == kind and low <= one.skill - 1e-9 < high]
            if some:
                skills = [one.skill for one in some]
                yield f"{kind} | {min(skills):.2g} to {max(skills):.2g}", some


def standard_error(by_sweep: np.ndarray) -> float:
    """Return the simulation error of a mean over sweeps."""
    return float(by_sweep.std(ddof=1) / math.sqrt(len(by_sweep)))


@dataclass(frozen=True)
class Tally:
    """What one setting adds to a table; shares are of all layers of all sweeps."""

    wrong: float
    wrong_error: float
    by_verdict: tuple[float, ...]
    defined: float
    coverage: float
    decided: float
    questions: float
    fixed: float
    long_decided: float
    long_wrong: float
    long_coverage: float


@functools.cache
def tally(setting: Setting, count: int) -> Tally:
    """Simulate one setting up to both limits, and find the fixed size that decides as many."""
    sweeps = Sweeps(setting, count)
    stopped = stop_at_looks(sweeps)
    decided = float((stopped.verdict >= 0).mean())
    by_verdict = [
        (stopped.wrong & (stopped.verdict == index)).mean() for index in range(len(REGIONS))
    ]
    longer = None
    if 0.3 <= round(setting.skill, 9) <= 0.5:
        longer = stop_at_looks(sweeps, LONG_LOOKS)
    return Tally(
        wrong=float(stopped.wrong.mean()),
        wrong_error=standard_error(stopped.wrong.mean(axis=1)),
        by_verdict=tuple(float(share) for share in by_verdict),
        defined=float(stopped.defined.mean()),
        coverage=float(stopped.covered.sum() / max(1, stopped.defined.sum())),
        decided=decided,
        questions=float(stopped.n.mean()),
        fixed=fixed_size(sweeps, decided),
        long_decided=float((longer.verdict >= 0).mean()) if longer else math.nan,
        long_wrong=float(longer.wrong.mean()) if longer else math.nan,
        long_coverage=float(longer.covered[longer.defined].mean()) if longer else math.nan,
    )


def errors_table(count: int, each: bool) -> Iterator[str]:
    """Wrong verdicts, coverage at stopping and questions, by kind of setting and skill."""
    names = "setting | intact, chance, churn" if each else "setting | skill"
    yield (
        f"| {names} | wrong verdicts | most | in a sweep | coverage | least | decided at {LIMIT} | "
        f"at {LONG_LIMIT:,} | questions | fixed | of fixed |"
    )
    yield f"|{' --- |' * 12}"
    results: list[tuple[Setting, Tally]] = []
    for name, some in grouped(each):
        tallies = [tally(one, count) for one in some]
        results += zip(some, tallies, strict=True)
        worst = max(tallies, key=lambda one: one.wrong)
        coverage = [one.coverage for one in tallies if one.defined > 0]
        long_decided = [one.long_decided for one in tallies if not math.isnan(one.long_decided)]
        fixed = np.array([one.fixed for one in tallies])
        asked = np.array([one.questions for one in tallies])
        cells = (
            f"{np.mean([one.wrong for one in tallies]):.4f}",
            f"{worst.wrong:.4f} ± {worst.wrong_error:.4f}",
            f"{worst.wrong * N_LAYERS:.2f}",
            f"{np.mean(coverage):.3f}",
            f"{min(coverage):.3f}",
            f"{np.mean([one.decided for one in tallies]):.3f}",
            f"{np.mean(long_decided):.3f}" if long_decided else "",
            f"{asked.mean():.0f}",
            f"{fixed.mean():.0f}",
            f"{asked.mean() / fixed.mean():.2f}",
        )
        yield f"| {name} | {' | '.join(cells)} |"
    every = [found for _, found in results]
    usual = [one.coverage for one in every if one.defined >= 0.8]
    yield (
        f"\nWhere the intact score is above chance for 80% of layers or more: {len(usual)} of "
        f"{len(every)} settings, coverage mean {np.mean(usual):.4f}, least {min(usual):.4f}."
    )
    longer = [one for one in every if not math.isnan(one.long_decided)]
    yield (
        f"Up to {LONG_LIMIT:,} questions: {len(longer)} settings, coverage mean "
        f"{np.mean([one.long_coverage for one in longer]):.4f}, least "
        f"{min(one.long_coverage for one in longer):.4f}; wrong verdicts at most "
        f"{max(one.long_wrong for one in longer):.4f}."
    )
    for churn in CHURNS:
        spare = min(
            found.decided - found.wrong
            for one, found in results
            if one.kind == "no harm" and one.churn == churn and one.skill > SKILLED - 1e-9
        )
        yield f"Layers without harm called spare, churn {churn:g}, skill {SKILLED} up: {spare:.3f}"
    most = [max(one.by_verdict[index] for one in every) for index in range(len(REGIONS))]
    yield "Wrong verdicts at most, by verdict: " + ", ".join(
        f"{region.verdict} {share:.4f}" for region, share in zip(REGIONS, most, strict=True)
    )


def verdicts_table(count: int) -> Iterator[str]:
    """Precision and recall of each verdict on the mixture, by skill."""
    names = [region.verdict for region in REGIONS]
    yield (
        f"| intact | chance | {' | '.join(f'{name}: precision, recall' for name in names)} | "
        "no harm is spare | right | decided | questions | fixed | of fixed |"
    )
    yield f"|{' --- |' * (8 + len(names))}"
    for setting in (one for one in settings() if one.kind == "mixture"):
        stopped, truth = stop_at_looks(Sweeps(setting, count)), setting.truth
        found = tally(setting, count)
        cells = [f"{setting.intact:g}", f"{setting.chance:g}"]
        for index, name in enumerate(names):
            called = stopped.verdict == index
            sought = SOUGHT[name](truth)
            precision = f"{1 - stopped.wrong[called].mean():.3f}" if called.any() else "none"
            recall = f"{called[:, sought].mean():.3f}" if sought.any() else "none"
            cells.append(f"{precision}, {recall}")
        cells += [
            f"{(stopped.verdict[:, truth == 0] == names.index('spare')).mean():.3f}",
            f"{found.decided - found.wrong:.3f}",
            f"{found.decided:.3f}",
            f"{found.questions:.0f}",
            f"{found.fixed:.0f}",
            f"{found.questions / found.fixed:.2f}",
        ]
        yield f"| {' | '.join(cells)} |"


def together_table(count: int, each: bool) -> Iterator[str]:
    """The same with all 30 verdicts at 95% together (Bonferroni)."""
    names = "setting | intact, chance, churn" if each else "setting | skill"
    yield f"| {names} | any wrong | most | all covered | least | decided | questions |"
    yield f"|{' --- |' * 8}"
    for name, some in grouped(each):
        rows = []
        for setting in some:
            stopped = stop_at_looks(Sweeps(setting, count), level=1 - ERROR / N_LAYERS)
            wrong = stopped.wrong.any(axis=1)
            covered = (stopped.covered | ~stopped.defined).all(axis=1).mean()
            decided = (stopped.verdict >= 0).mean()
            rows.append((wrong.mean(), standard_error(wrong), covered, decided, stopped.n.mean()))
        wrong, _, covered, decided, questions = np.mean(rows, axis=0)
        worst = max(rows)
        yield (
            f"| {name} | {wrong:.4f} | {worst[0]:.4f} ± {worst[1]:.4f} | {covered:.4f} | "
            f"{min(row[2] for row in rows):.4f} | {decided:.3f} | {questions:.0f} |"
        )


def bias_table(count: int) -> Iterator[str]:
    """The mean of the estimate at stopping minus the true harm, by true harm."""
    harms = (-0.15, 0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.8, 0.9, 1.0)
    models = ((0.5, 0.0), (0.7, 0.0), (0.95, 0.25), (0.95, 0.0))
    columns = []
    for intact, chance in models:
        setting = Setting("bias", harms * 2, intact, chance, 0.06)
        stopped = stop_at_looks(Sweeps(setting, count))
        bias = np.nanmean(stopped.estimate, axis=0) - setting.truth
        possible = setting.truth == setting.harms
        both = np.where(possible, bias, math.nan).reshape(2, -1).mean(axis=0)
        columns.append([f"{value:+.3f}" if math.isfinite(value) else "" for value in both])
    titles = [f"intact {intact:g}, chance {chance:g}" for intact, chance in models]
    yield f"| true harm | {' | '.join(titles)} |"
    yield f"|{' --- |' * (1 + len(models))}"
    for harm, row in zip(harms, zip(*columns, strict=True), strict=True):
        yield f"| {harm:g} | {' | '.join(row)} |"


def designs_table(count: int) -> Iterator[str]:
    """Mean questions, share decided and share of wrong verdicts of each design."""
    models = (("mixture", 0.5), ("mixture", 0.7), ("mixture", 0.95), ("at a border", 0.7))
    columns = {}
    for kind, intact in models:
        harms = MIXTURE if kind == "mixture" else (0.2,) * N_LAYERS
        sweeps = Sweeps(Setting(kind, harms, intact, 0.0, 0.06), count, LOOKS.sizes)
        columns[kind, intact] = designs(sweeps)
    titles = [f"{kind}, intact {intact:g}" for kind, intact in models]
    yield f"| design | {' | '.join(titles)} |"
    yield f"|{' --- |' * (1 + len(models))}"
    for name in columns[models[0]]:
        cells = []
        for model in models:
            found = columns[model][name]
            cells.append(
                f"{found.n.mean():.0f}, {(found.verdict >= 0).mean():.3f}, {found.wrong.mean():.4f}"
            )
        yield f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sweeps", type=int, default=2000)
    parser.add_argument("--only", choices=("errors", "verdicts", "together", "bias", "designs"))
    parser.add_argument("--each", action="store_true", help="one row for each setting")
    args = parser.parse_args()
    tables = {
        "errors": errors_table(args.sweeps, args.each),
        "verdicts": verdicts_table(args.sweeps),
        "together": together_table(args.sweeps, args.each),
        "bias": bias_table(args.sweeps),
        "designs": designs_table(max(2, args.sweeps // 5)),
    }
    for name, lines in tables.items():
        if args.only in (None, name):
            print(f"\n{name}\n")
            for line in lines:
                print(line, flush=True)


if __name__ == "__main__":
    main()
