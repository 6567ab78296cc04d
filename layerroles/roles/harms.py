"""The harm of each layer, or of each head, under one ablation, and weighted sums over layers.

Harm is `(intact - ablated) / (intact - chance)`: 1 if an ablation removes the whole skill above
chance. A family's harm under a protocol is the mean over its tasks that have such skill, with equal
weights. A place is a layer or a head. Every harm here is a `stats.Contrast`: its interval includes
the uncertainty of `intact - chance`, and it stores the influence of each question. So layers,
positions, protocols, contexts and tasks that share questions are compared question by question.
"""

import functools
import math
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.errors import InputError
from layerroles.registry import describe_unknown
from layerroles.results import (
    AFTER_FIRST,
    CRITICAL,
    Cell,
    SweepResult,
    ambiguous_rows,
    cells_of,
    check_unambiguous,
    conditions_of,
    find_waiting,
    harm_where_asked,
    nearer_of_both_chances,
    records,
    verdict_levels,
)
from layerroles.roles.sentence_parts import sign_of

# (layer, head); head is -1 for the whole layer.
Place = tuple[int, int]


class Harms:
    """Harm of ablating each layer or head alone, by one kind of ablation, per family and protocol.

    Args:
        result: a sweep.
        ablation: the kind of ablation.
        at: the ablation positions on which verdicts and claims rest; by default `all` if the sweep
            has conditions that act there, else the first of its positions by name.
        part: `"block"` for whole layers, or `"head"`.

    Attributes:
        places: the ablated layers or heads, as (layer, head); head is -1 for a whole layer.
        swept: the layers of `places`.
        n_layers: the number of layers of the model.
        keys: the pairs (family, protocol) that were asked under this ablation.
        after_first: whether `at` is "all" and the sweep also has conditions `after_first`, which
            ablate all positions but the first.
        ats: the positions at which a claim has to hold: `at`, and "after_first" if `after_first`.
        only_if_critical: the layers that the sweep ablates `after_first` only if they are critical
            at all positions.

    Raises:
        InputError: no condition ablates a layer or head by this kind, none of them acts at these
            positions, or this kind ablates a layer or head twice at the same positions, such as
            with two settings.
    """

    def __init__(
        self, result: SweepResult, ablation: str, at: str | None = None, *, part: str = "block"
    ) -> None:
        conditions = single_site_conditions(result, part)
        conditions = conditions[conditions["ablation"] == ablation]
        if conditions.empty:
            known_names = ablations_swept(result, part)
            raise InputError(describe_unknown("ablation", ablation, known_names))
        self.ablation, self.part, self.result = ablation, part, result
        self.interim = result.interim
        check_unambiguous(conditions)
        self._condition_at: dict[tuple[str, str, Place, str], str] = {
            (row.task, row.protocol, _place_of(row), row.at): str(row.condition)
            for row in records(conditions)
        }
        ats = set(conditions["at"])
        if at is not None and at not in ats:
            raise InputError(describe_unknown("at", at, sorted(ats)))
        self.at = at or ("all" if "all" in ats else sorted(ats)[0])
        self.only_if_critical = _waiting_layers(result, ablation) if part == "block" else set()
        self.after_first = self.at == "all" and bool(AFTER_FIRST in ats or self.only_if_critical)
        self.ats = [self.at, AFTER_FIRST] if self.after_first else [self.at]
        self.places = sorted({place for _, _, place, _ in self._condition_at})
        levels = verdict_levels(result.manifest)
        self._levels = {
            place: levels.get(condition, stats.LEVEL)
            for (_, _, place, at), condition in self._condition_at.items()
            if at == self.at
        }
        self.swept = sorted({layer for layer, _ in self.places})
        model = result.manifest.get("model", {})
        self.n_layers = int(model.get("n_layers", self.swept[-1] + 1))
        intact = result.intact()
        cells_swept = conditions[["task", "protocol"]].drop_duplicates()
        groups = intact.merge(cells_swept, on=["task", "protocol"]).groupby(
            ["family", "protocol"], sort=False
        )
        self._intact_rows = {(str(f), str(p)): cell for (f, p), cell in groups}
        self._measured = {
            key: cell[cell["above_chance"]] for key, cell in self._intact_rows.items()
        }
        self._skills = {
            (row.task, row.protocol): float(row.score - row.chance) for row in records(intact)
        }
        self._cell_by_key: dict[tuple[str, str], Cell] = {
            (cell.task, cell.protocol): cell for cell in cells_of(result)
        }
        self._sums: dict[tuple[Any, ...], stats.Contrast] = {}
        self._harms_at_all: dict[tuple[str, str, str], stats.Contrast] = {}
        self.keys = list(self._intact_rows)

    @functools.cached_property
    def effects(self) -> pd.DataFrame:
        """The rows of `SweepResult.effects` for this kind of ablation of one layer or head."""
        effects = self.result.effects()
        places = effects["head" if self.part == "head" else "layer"].notna()
        return effects[
            (effects["ablation"] == self.ablation) & (effects["part"] == self.part) & places
        ]

    def intact_rows(self, family: str, protocol: str) -> pd.DataFrame:
        """Return the intact scores of a family under a protocol, a row per task."""
        return self._intact_rows[family, protocol]

    def measured(self, family: str, protocol: str) -> pd.DataFrame:
        """Return the `intact_rows` of tasks with skill above chance; empty if there are none."""
        if (family, protocol) not in self._measured:
            return pd.DataFrame(columns=["task"])
        return self._measured[family, protocol]

    def tasks(self, family: str, protocol: str) -> list[str]:
        """Return the labels of a family's tasks with skill above chance."""
        return list(self.measured(family, protocol)["task"])

    def level_of(self, place: Place) -> float:
        """Return the confidence level of the interval that decides the verdict on a place."""
        return self._levels.get(place, stats.LEVEL)

    def condition(
        self, task: str, protocol: str, place: Place, at: str | None = None
    ) -> str | None:
        """Return the name of the condition that ablates one place; None if there is none.

        The default of `at` is `self.at`. A sweep with `only_needed` runs `after_first` only for
        layers that are critical at all positions; for other layers, `at="after_first"` returns the
        name of the condition at all positions instead. Critical means in those of the family's
        tasks in which the layer was ablated.
        """
        at = at or self.at
        if at == AFTER_FIRST and place[0] in self.only_if_critical:
            at_all = self._condition_at.get((task, protocol, place, "all"))
            family = self._cell_by_key[task, protocol].family
            if at_all is not None and not self._may_be_critical(family, protocol, place, at_all):
                return at_all
        return self._condition_at.get((task, protocol, place, at))

    def _may_be_critical(self, family: str, protocol: str, place: Place, at_all: str) -> bool:
        """Return whether the harm of the condition `at_all` of one place is critical or unknown."""
        key = family, protocol, at_all
        if key not in self._harms_at_all:
            cells = [self._cell_by_key[task, protocol] for task in self.tasks(family, protocol)]
            self._harms_at_all[key] = harm_where_asked(cells, at_all, self.level_of(place))
        harm = self._harms_at_all[key]
        return not harm.known or harm.interval.low > CRITICAL

    def asked_condition(self, task: str, protocol: str, place: Place, at: str) -> str | None:
        """Return the name of the condition that ablates one place `at`; None if it was not asked.

        Unlike `condition`, it never returns the condition at all positions instead.
        """
        return self._condition_at.get((task, protocol, place, at))

    def conditions(self, task: str, protocol: str) -> dict[Place, str]:
        """Map each place to its condition's name at `self.at`; leaves out places without one."""
        names = {place: self.condition(task, protocol, place) for place in self.places}
        return {place: name for place, name in names.items() if name is not None}

    def level_of_sums(self, task: str, protocol: str) -> float:
        """Return the confidence level of intervals of sums over all places, for one task.

        It is above 95% if the sweep judges its results at several numbers of questions (looks), so
        that the intervals of all looks together hold at 95% (see `stats.Looks`).
        """
        return self.cell_of(task, protocol).level(self.conditions(task, protocol).values())

    def cell_of(self, task: str, protocol: str) -> Cell:
        """Return the cell, the rows of the sweep for one task under one protocol."""
        return self._cell_by_key[task, protocol]

    def skill(self, task: str, protocol: str) -> float:
        """Return the intact score minus chance, the divisor of harm."""
        return self._skills[task, protocol]

    def harm(
        self,
        family: str,
        protocol: str,
        weights: Mapping[Place, float],
        *,
        at: str | None = None,
        level: float = stats.LEVEL,
        guessed: bool = True,
    ) -> stats.Contrast:
        """Return a weighted sum of the harms of places, averaged over the tasks with skill.

        `stats.NO_CONTRAST` (unknown) if there is no such task, or one in which a place was not
        measured.

        Args:
            family: a family.
            protocol: a protocol.
            weights: map of places (layer, head) to weights.
            at: the positions at which the conditions act; `self.at` by default.
            level: confidence level of the interval.
            guessed: see `Cell.harm`.
        """
        at = at or self.at
        cells = [self._cell_by_key[task, protocol] for task in self.tasks(family, protocol)]
        guessed = guessed or not any(cell.measures_chance for cell in cells)
        key = (family, protocol, tuple(weights.items()), at, level, guessed)
        if key not in self._sums:
            self._sums[key] = stats.mean_of(
                [self.cell_harm(cell, weights, at, level=level, guessed=guessed) for cell in cells]
            )
        return self._sums[key]

    def cell_harm(
        self,
        cell: Cell,
        weights: Mapping[Place, float],
        at: str,
        examples: Sequence[str] | None = None,
        *,
        level: float = stats.LEVEL,
        guessed: bool = True,
    ) -> stats.Contrast:
        """Return a weighted sum of the harms of places in one cell.

        `stats.NO_CONTRAST` (unknown) if a place was not measured. For the other arguments, see
        `Cell.harm`.
        """
        weight_of = {self.condition(cell.task, cell.protocol, p, at): w for p, w in weights.items()}
        by_condition = {name: weight for name, weight in weight_of.items() if name is not None}
        if not by_condition or len(by_condition) < len(weights):
            return stats.NO_CONTRAST
        return cell.harm(by_condition, examples, level=level, guessed=guessed)

    def early_minus_late(
        self,
        family: str,
        protocol: str,
        at: str | None = None,
        *,
        level: float = stats.LEVEL,
    ) -> stats.Contrast:
        """Return mean harm of the first third of layers minus that of the last third.

        `stats.NO_CONTRAST` for a model of fewer than three layers, or if one of the layers was not
        measured.
        """
        early, _, late = self.thirds()
        if not early:
            return stats.NO_CONTRAST
        weights = self.mean_over(early) | self.mean_over(late, -1.0)
        return self.harm(family, protocol, weights, at=at, level=level)

    def difference(
        self,
        one: tuple[str, str],
        two: tuple[str, str],
        weights: Mapping[Place, float],
        *,
        at: str | None = None,
        level: float = stats.LEVEL,
    ) -> stats.Contrast:
        """Return a weighted sum of harms in one family and protocol minus that in another.

        Computed under both chances (see `nearer_of_both_chances`). For the other arguments, see
        `harm`.
        """

        def difference(*, guessed: bool) -> stats.Contrast:
            harms = [
                self.harm(*key, weights, at=at, level=level, guessed=guessed) for key in (one, two)
            ]
            return stats.difference_of(*harms)

        cells = [self._cell_by_key[t, key[1]] for key in (one, two) for t in self.tasks(*key)]
        return nearer_of_both_chances(difference, cells)

    def early_minus_late_difference(
        self,
        one: tuple[str, str],
        two: tuple[str, str],
        *,
        at: str | None = None,
        level: float = stats.LEVEL,
    ) -> stats.Contrast:
        """Return `early_minus_late` of one family and protocol minus that of another.

        Computed under both chances, as `difference` is.
        """
        early, _, late = self.thirds()
        if not early:
            return stats.NO_CONTRAST
        weights = self.mean_over(early) | self.mean_over(late, -1.0)
        return self.difference(one, two, weights, at=at, level=level)

    def thirds(self) -> tuple[range, range, range]:
        """Return the first third of the model's layers, the middle, and the last third."""
        third = self.n_layers // 3
        last = self.n_layers - third
        return range(third), range(third, last), range(last, self.n_layers)

    @staticmethod
    def mean_over(layers: Iterable[int], sign: float = 1.0) -> dict[Place, float]:
        """Return equal weights for layers that sum to `sign`, as an argument of `Harms.harm`."""
        chosen = list(layers)
        return {(layer, -1): sign / len(chosen) for layer in chosen}

    def holds_with_first_token_kept(self, family: str, protocol: str) -> bool:
        """Return whether early minus late harm keeps its sign if the first token is not ablated.

        True if the interval at `self.at` contains 0, or lies on the same side of 0 as that under
        `after_first`. True also if `self.after_first` is false: there is nothing to compare with.
        """
        sign = sign_of(self.early_minus_late(family, protocol).interval)
        if not self.after_first or not sign:
            return True
        return sign_of(self.early_minus_late(family, protocol, AFTER_FIRST).interval) == sign

    def mean_harm(self, family: str, protocol: str) -> stats.Contrast:
        """Return the mean harm of all layers that were swept."""
        return self.harm(family, protocol, self.mean_over(self.swept))

    def precision(self) -> pd.DataFrame:
        """Return a row per protocol and task with skill: its scores and smallest detectable drop.

        Columns: family, protocol, task, unit, n (the number of examples), clusters (the number of
        clusters of questions; 0 if there are none), intact, chance, and detectable: the median over
        conditions of the smallest drop of the score that is detected with 80% power (NaN if no drop
        is).
        """
        judged = self.effects[self.effects["at"] == self.at]
        smallest_drop = judged.groupby(["task", "protocol"])["detectable"].median()
        rows = [
            {
                "family": family,
                "protocol": protocol,
                "task": row.task,
                "unit": row.unit,
                "n": int(row.n),
                "clusters": self._count_clusters(row.task, protocol),
                "intact": float(row.score),
                "chance": float(row.chance),
                "detectable": float(smallest_drop.get((row.task, protocol), math.nan)),
            }
            for family, protocol in self.keys
            for row in records(self.measured(family, protocol))
        ]
        columns = [
            *("family", "protocol", "task", "unit", "n", "clusters"),
            *("intact", "chance", "detectable"),
        ]
        return pd.DataFrame(rows, columns=columns)

    def _count_clusters(self, task: str, protocol: str) -> int:
        cell = self._cell_by_key[task, protocol]
        clusters = cell.clusters_of(sorted(cell.asked_by_all([])))
        return len(set(clusters)) if stats.are_clusters(clusters) else 0

    def rng(self, name: str) -> np.random.Generator:
        """Return a random generator seeded by the sweep's seed and a name."""
        seed = int(self.result.manifest.get("seed", 0))
        return np.random.default_rng([seed, zlib.crc32(name.encode())])


def single_site_conditions(result: SweepResult, part: str = "block") -> pd.DataFrame:
    """Return a table of the conditions that ablate one whole layer (for part `head`, one head)."""
    conditions = conditions_of(result)
    number = "head" if part == "head" else "layer"
    return conditions[(conditions["part"] == part) & conditions[number].notna()]


def ablations_swept(result: SweepResult, part: str = "block") -> list[str]:
    """Return the names of the ablations of one whole layer (or one head), in order."""
    return list(dict.fromkeys(single_site_conditions(result, part)["ablation"]))


def positions_swept(result: SweepResult, ablation: str, part: str = "block") -> set[str]:
    """Return the positions (values of `at`) of an ablation's conditions on one layer or head."""
    conditions = single_site_conditions(result, part)
    return set(conditions.loc[conditions["ablation"] == ablation, "at"])


def has_one_setting(result: SweepResult, ablation: str) -> bool:
    """Return whether a sweep has one setting of an ablation, and not, say, two noise scales."""
    conditions = single_site_conditions(result)
    return bool(ambiguous_rows(conditions[conditions["ablation"] == ablation]).empty)


def _place_of(row: Any) -> Place:
    return int(row.layer), -1 if pd.isna(row.head) else int(row.head)


def _waiting_layers(result: SweepResult, ablation: str) -> set[int]:
    """Return the layers that the sweep ablates `after_first` only if they are critical at `all`."""
    if not result.manifest.get("only_needed", False):
        return set()
    entries = result.manifest.get("conditions", [])
    waiting = find_waiting(entries)
    return {
        entry["layers"][0]
        for entry in entries
        if entry["hash"] in waiting and entry["ablation"] == ablation
    }
