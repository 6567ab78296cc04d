"""The harm of each layer, or of each head, under one ablation, with intervals and resamples.

A family's harm under a protocol is the mean over its tasks that have skill above chance. The
interval of one layer comes from the tasks' own (`stats.pooled`); sums over layers, such as
`early_minus_late`, take bootstrap resamples of examples in which all layers and protocols share the
examples drawn, because their errors are correlated. The denominator of harm, `intact - chance`, is
held fixed in both.
"""

import functools
import math
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.registry import unknown
from layerroles.results import INTACT, SweepResult, acted, records, refuse_twins, twins

CRITICAL = 0.2
SPARE = 0.1
VERDICTS = ("critical", "spare", "undecided", "sink")
# Of a layer without a harm, though the family has skill.
NOT_MEASURED = "not measured"
DRAWS = 2000

# A layer and a head; -1 for all heads and the MLP, the whole layer.
Place = tuple[int, int]

_NOTHING = (float("nan"), stats.UNKNOWN)


@dataclass(frozen=True, eq=False)
class Contrast:
    """A linear sum of harm over layers, in units of harm, with its bootstrap draws."""

    estimate: float
    low: float
    high: float
    n: int
    draws: Float[np.ndarray, " resample"]

    def minus(self, other: "Contrast") -> tuple[float, float, float]:
        """Estimate and interval of the difference; NaN where either is undefined."""
        if not self.n or not other.n:
            return (float("nan"),) * 3
        interval = stats.percentile_interval(self.draws - other.draws, min(self.n, other.n))
        estimate = self.estimate - other.estimate
        # Draws that do not vary say nothing of how sure their side is: its interval does.
        still = [(each.high - each.low) / 2 for each in (self, other) if _still(each.draws)]
        below = math.hypot(estimate - interval.low, *still)
        above = math.hypot(interval.high - estimate, *still)
        return estimate, estimate - below, estimate + above


def _still(draws: Float[np.ndarray, " resample"]) -> bool:
    """Whether draws do not vary, but for rounding."""
    return bool(np.ptp(draws) < 1e-9)


NO_CONTRAST = Contrast(float("nan"), float("nan"), float("nan"), 0, np.empty(0))


class Harms:
    """Harm over sites, per (family, protocol), of the single-site conditions of one ablation.

    Args:
        result: a sweep.
        ablation: the kind.
        at: the positions at which the conditions act; `all` if it is there, else the first.
        part: `"block"` for whole layers, or `"head"`.
    """

    def __init__(
        self, result: SweepResult, ablation: str, at: str | None = None, *, part: str = "block"
    ) -> None:
        effects = single_sites(result, part)
        self.effects = effects[effects["ablation"] == ablation]
        self.ablation, self.part, self.result = ablation, part, result
        refuse_twins(self.effects)
        self._index: dict[tuple[str, str, Place, str], dict[str, Any]] = {
            (row.task, row.protocol, _place(row), row.at): row._asdict()
            for row in records(self.effects)
        }
        ats = set(self.effects["at"])
        if at is not None and at not in ats:
            raise InputError(unknown("at", at, sorted(ats)))
        self.at = at or ("all" if "all" in ats else sorted(ats)[0])
        self.after_first = self.at == "all" and "after_first" in ats
        self.places = sorted({place for _, _, place, _ in self._index})
        self.swept = sorted({layer for layer, _ in self.places})
        known = result.manifest.get("model", {})
        self.n_layers = int(known.get("n_layers", self.swept[-1] + 1))
        intact = result.intact()
        asked = self.effects[["task", "protocol"]].drop_duplicates()
        groups = intact.merge(asked, on=["task", "protocol"]).groupby(
            ["family", "protocol"], sort=False
        )
        self._cells = {(str(f), str(p)): cell for (f, p), cell in groups}
        self._measured = {key: cell[cell["above_chance"]] for key, cell in self._cells.items()}
        self._skills = {
            (row.task, row.protocol): float(row.score - row.chance) for row in records(intact)
        }
        self.keys = list(self._cells)

    def cell(self, family: str, protocol: str) -> pd.DataFrame:
        """The intact rows of a family's tasks under a protocol."""
        return self._cells[family, protocol]

    def measured(self, family: str, protocol: str) -> pd.DataFrame:
        """Those of them with skill above chance."""
        return self._measured[family, protocol]

    def layers(self) -> pd.DataFrame:
        """The rows of `Roles.layers`, a row per family, protocol and place."""
        rows = [
            self._layer(family, protocol, place)
            for family, protocol in self.keys
            for place in self.places
        ]
        return pd.DataFrame(rows)

    def _layer(self, family: str, protocol: str, place: Place) -> dict[str, Any]:
        tasks = list(self.measured(family, protocol)["task"])
        at = self._pooled(tasks, protocol, place, self.at)
        spared = (
            self._pooled(tasks, protocol, place, "after_first") if self.after_first else _NOTHING
        )
        gone = self._gone(tasks, protocol, place) if self.after_first else _NOTHING
        rows = [self._row(task, protocol, place, self.at) for task in tasks]
        return {
            "family": family,
            "protocol": protocol,
            "layer": place[0],
            **({} if place[1] < 0 else {"head": place[1]}),
            "n": sum(row["n"] for row in rows if row is not None),
            "n_failed": sum(row["n_failed"] for row in rows if row is not None),
            "harm": at[0],
            "harm_low": at[1].low,
            "harm_high": at[1].high,
            "after_first_harm": spared[0],
            "after_first_low": spared[1].low,
            "after_first_high": spared[1].high,
            "gone": gone[0],
            "gone_low": gone[1].low,
            "gone_high": gone[1].high,
            "verdict": _verdict(at, spared, gone) if tasks else "not measurable",
        }

    def _row(self, task: str, protocol: str, place: Place, at: str) -> dict[str, Any] | None:
        return self._index.get((task, protocol, place, at))

    def _pooled(
        self, tasks: list[str], protocol: str, place: Place, at: str
    ) -> tuple[float, stats.Interval]:
        rows = [self._row(task, protocol, place, at) for task in tasks]
        known = [row for row in rows if row is not None and not math.isnan(row["harm"])]
        if not known or len(known) < len(tasks):
            return _NOTHING
        intervals = [stats.Interval(row["harm_low"], row["harm_high"]) for row in known]
        return stats.pooled([row["harm"] for row in known], intervals)

    def _gone(self, tasks: list[str], protocol: str, place: Place) -> tuple[float, stats.Interval]:
        """Harm under "all" minus harm under "after_first", on the same examples."""
        estimates, intervals = [], []
        for task in tasks:
            every = self._row(task, protocol, place, "all")
            spared = self._row(task, protocol, place, "after_first")
            if every is None or spared is None:
                return _NOTHING
            scores = self.scores(task, protocol)
            pair = scores.loc[[every["condition"], spared["condition"]]].to_numpy(float)
            before, after = pair[:, ~np.isnan(pair).any(axis=0)]
            if np.isin(pair, (0.0, 1.0)).all():
                paired = stats.paired_binary(before, after)
            else:
                paired = stats.paired_continuous(before, after, self.rng(f"{task} {place}"))
            skill = self.skill(task, protocol)
            estimates.append(paired.effect / skill)
            intervals.append(paired.interval.scaled(1 / skill))
        return stats.pooled(estimates, intervals) if estimates else _NOTHING

    def condition(self, task: str, protocol: str, place: Place) -> str | None:
        """The name of the condition that ablates one place, at the positions that are judged."""
        row = self._row(task, protocol, place, self.at)
        return None if row is None else str(row["condition"])

    def skill(self, task: str, protocol: str) -> float:
        """The intact score above chance, by which effects are divided."""
        return self._skills[task, protocol]

    @functools.cache  # noqa: B019 - lives as long as one call of localize
    def scores(self, task: str, protocol: str) -> pd.DataFrame:
        """Finite scores, condition x example."""
        frame = self.result.frame
        own = frame[(frame["task"] == task) & (frame["protocol"] == protocol)]
        own = own.assign(score=own["score"].where(own["status"] == "ok"))
        return own.pivot(index="condition", columns="example", values="score").astype(float)

    @functools.cache  # noqa: B019 - lives as long as one call of localize
    def draws(
        self, family: str, protocol: str, at: str, tasks: tuple[str, ...] | None = None
    ) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, "resample layer"]] | None:
        """Harm of every layer, as measured and resampled, NaN where it is undefined.

        None if no task has skill above chance. The counts of a task depend on its name and examples
        alone, so that the same examples are drawn for every layer and, where they are the same, for
        every protocol. `tasks`: of those with skill the ones that count; by default all.
        """
        measured = self.measured(family, protocol)["task"]
        harms, draws = [], []
        for task in measured if tasks is None else tasks:
            scores = self.scores(task, protocol)
            ablated = np.full((len(self.places), scores.shape[1]), np.nan)
            for index, place in enumerate(self.places):
                row = self._row(task, protocol, place, at)
                if row is not None and acted(row["at"], int(row["n_changed"])):
                    ablated[index] = scores.loc[row["condition"]].to_numpy(float)
            lost = (scores.loc[INTACT].to_numpy(float) - ablated) / self.skill(task, protocol)
            counts = stats.resampled_counts(lost.shape[1], self.rng(task), DRAWS)
            every = np.vstack([np.ones(lost.shape[1]), counts])
            means = stats.resampled_means(lost, every)
            harms.append(means[0])
            draws.append(means[1:])
        if not harms:
            return None
        return np.mean(harms, axis=0), np.mean(draws, axis=0)

    def early_minus_late(self, family: str, protocol: str, at: str) -> Contrast:
        """Mean harm of the first third of layers minus that of the last third."""
        third, found = self.n_layers // 3, self.draws(family, protocol, at)
        early = set(range(third))
        late = set(range(self.n_layers - third, self.n_layers))
        if found is None or not third or not (early | late) <= set(self.swept):
            return NO_CONTRAST
        weights = np.array([(layer in early) - (layer in late) for layer in self.swept]) / third
        counted = weights != 0  # whether the layers between are known plays no part
        harm, draws = (each[..., counted] @ weights[counted] for each in found)
        return self._contrast(float(harm), draws, self.measured(family, protocol))

    def holds_with_first_token_kept(self, family: str, protocol: str) -> bool:
        """Whether what early against late shows, if anything, is shown then too, where swept."""
        whole = self.early_minus_late(family, protocol, self.at)
        if not self.after_first or not (whole.low > 0 or whole.high < 0):
            return True
        kept = self.early_minus_late(family, protocol, "after_first")
        return kept.low > 0 if whole.low > 0 else kept.high < 0

    def mean_harm(
        self, family: str, protocol: str, at: str, tasks: tuple[str, ...] | None = None
    ) -> Contrast:
        """Mean harm of all layers swept, over some of the tasks with skill or all of them."""
        found = self.draws(family, protocol, at, tasks)
        if found is None:
            return NO_CONTRAST
        cell = self.measured(family, protocol)
        cell = cell if tasks is None else cell[cell["task"].isin(tasks)]
        return self._contrast(float(found[0].mean()), found[1].mean(axis=1), cell)

    def mean_harm_apart(
        self, family: str, protocol: str, other: str, at: str
    ) -> tuple[float, float, float]:
        """Mean harm under one protocol minus another's, over the tasks with skill under both.

        Estimate and interval. NaN unless all layers of the model were swept.
        """
        if len(self.swept) < self.n_layers:
            return NO_CONTRAST.minus(NO_CONTRAST)
        tasks, others = (self.measured(family, each)["task"] for each in (protocol, other))
        both = tuple(task for task in tasks if task in set(others))
        parts = [self.mean_harm(family, each, at, both) for each in (protocol, other)]
        return parts[0].minus(parts[1])

    def _contrast(
        self, estimate: float, draws: Float[np.ndarray, " resample"], cell: pd.DataFrame
    ) -> Contrast:
        """With the interval of its draws; `cell`: the intact rows of the tasks that count."""
        n = int(cell["n"].min())
        interval = stats.percentile_interval(draws, n)
        if math.isnan(interval.low):  # a single example, or a layer that has none in some draw
            return NO_CONTRAST
        if _still(draws):
            # Not one answer changed in a way that counts: bound it as Tango's interval does.
            width = stats.tango(0, 0, n).high / float((cell["score"] - cell["chance"]).min())
            interval = stats.Interval(estimate - width, estimate + width)
        return Contrast(estimate, interval.low, interval.high, n, draws)

    def precision(self) -> pd.DataFrame:
        """Of each task with skill: family, protocol, task, unit, n, skill and detectable."""
        own = self.effects[self.effects["at"] == self.at]
        found = own.groupby(["task", "protocol"])["detectable"].median()
        rows = [
            {
                "family": family,
                "protocol": protocol,
                "task": row.task,
                "unit": row.unit,
                "n": int(row.n),
                "skill": self.skill(row.task, protocol),
                "detectable": float(found.get((row.task, protocol), math.nan)),
            }
            for family, protocol in self.keys
            for row in records(self.measured(family, protocol))
        ]
        columns = ["family", "protocol", "task", "unit", "n", "skill", "detectable"]
        return pd.DataFrame(rows, columns=columns)

    def rng(self, name: str) -> np.random.Generator:
        """Seeded by the sweep and by what it serves."""
        seed = int(self.result.manifest.get("seed", 0))
        return np.random.default_rng([seed, zlib.crc32(name.encode())])


def single_sites(result: SweepResult, part: str = "block") -> pd.DataFrame:
    """The effects of conditions that ablate one whole layer, or one head."""
    effects = result.effects()
    number = "head" if part == "head" else "layer"
    return effects[(effects["part"] == part) & effects[number].notna()]


def ats_of(result: SweepResult, ablation: str, part: str = "block") -> set[str]:
    """The positions at which the single-site conditions of an ablation act."""
    effects = single_sites(result, part)
    return set(effects.loc[effects["ablation"] == ablation, "at"])


def at_one_setting(result: SweepResult, ablation: str) -> bool:
    """Whether an ablation was swept at one setting, so that a layer has one harm."""
    effects = single_sites(result)
    return bool(twins(effects[effects["ablation"] == ablation]).empty)


def _place(row: Any) -> Place:
    return int(row.layer), -1 if pd.isna(row.head) else int(row.head)


def _verdict(
    harm: tuple[float, stats.Interval],
    spared: tuple[float, stats.Interval],
    gone: tuple[float, stats.Interval],
) -> str:
    interval = harm[1]
    if math.isnan(harm[0]):
        return NOT_MEASURED
    if interval.low > CRITICAL:
        shown = gone[1].low > 0 and gone[0] > harm[0] / 2
        return "sink" if shown and spared[1].low <= CRITICAL else "critical"
    return "spare" if interval.low >= -SPARE and interval.high <= SPARE else "undecided"
