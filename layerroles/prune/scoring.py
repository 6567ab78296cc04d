"""Score candidates for pruning: by harm to the kept skills, or by change of the residual stream.

Harm is the share of the skill above chance that a condition removes. It is a mean over the kept
families; for each family, it is the mean over those tasks that have skill above chance. Its
interval is pooled from those of the tasks (`stats.pooled`). Several protocols of a family share
its examples, so the bounds of their intervals are averaged, as for fully correlated estimates.

The other score is how much some consecutive blocks change the residual stream on the kept tasks,
with equal weights for all families.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition
from layerroles.engine import Engine
from layerroles.errors import InputError
from layerroles.models import first_difference, provenance
from layerroles.probes import Similarity, measure_into
from layerroles.registry import describe_unknown
from layerroles.results import SweepResult, check_result, records
from layerroles.stats import UNKNOWN, Interval, IntervalEstimate, pooled
from layerroles.sweep import Sweep, name_in_result, select_asked
from layerroles.tasks import Task


@dataclass(frozen=True)
class Harm:
    """Mean harm to the kept families under one condition, with its interval; NaN if unknown.

    Attributes:
        value: the mean harm.
        interval: its 95% interval.
        n: the number of examples, summed over tasks and protocols.
        n_failed: the number of further examples, left out since a score was not finite.
    """

    value: float
    interval: Interval
    n: int
    n_failed: int


class PlanningSweep:
    """Sweeps of the kept tasks in one run folder, which reuse the answers stored there.

    Args:
        model: the model to prune.
        tasks: the tasks whose families are kept.
        protocols: the protocols under which the tasks are asked.
        limit: the number of examples of each task.
        seed: the seed of the examples.
        path: the run folder.
    """

    def __init__(
        self,
        model: TransformerBridge,
        tasks: Sequence[Task],
        protocols: Sequence[str],
        limit: int,
        seed: int,
        path: Path,
    ) -> None:
        self.model, self.path = model, path
        self._engine = Engine(model)
        self._tasks, self._protocols = list(tasks), list(protocols)
        self._limit, self._seed = limit, seed

    def intact(self) -> SweepResult:
        """Run only the intact model on the tasks, and return the result.

        Raises:
            InputError: a family has no skill above chance under a protocol.
        """
        return self._run([])

    def harms(self, conditions: Sequence[Condition]) -> list[Harm]:
        """Run all conditions in one sweep, and return the harm of each in the same order.

        Raises:
            InputError: a family has no skill above chance under a protocol.
        """
        result = self._run(conditions)
        harm_by_name = harm_of_conditions(result)
        return [harm_by_name[name_in_result(result, condition)] for condition in conditions]

    def _run(self, conditions: Sequence[Condition]) -> SweepResult:
        sweep = Sweep(
            self.model,
            self._tasks,
            conditions,
            protocols=self._protocols,
            limit=self._limit,
            seed=self._seed,
            engine=self._engine,
            noise_floor=False,
        )
        result = select_asked(sweep.run(self.path), sweep)
        cells_with_skill(result)
        return result


def harm_of_conditions(result: SweepResult) -> dict[str, Harm]:
    """Map the name of each condition of a result to its harm; empty without conditions.

    Raises:
        InputError: a family has no skill above chance under a protocol.
    """
    cells_of_families = cells_with_skill(result)
    effects = result.effects()
    if effects.empty:
        return {}
    rows = {(row.condition, row.task, row.protocol): row for row in records(effects)}
    return {
        str(name): _pool_harms(
            [
                [[rows[name, *cell] for cell in cells] for cells in family.values()]
                for family in cells_of_families.values()
            ]
        )
        for name in dict.fromkeys(effects["condition"])
    }


def cells_with_skill(result: SweepResult) -> Mapping[str, Mapping[str, list[tuple[str, str]]]]:
    """Map family and protocol to the cells (task, protocol) with an intact score above chance.

    Raises:
        InputError: a family has no such cell under a protocol.
    """
    cells_of_families: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for (family, protocol), cells in result.intact().groupby(["family", "protocol"], sort=False):
        measured = cells[cells["above_chance"]]
        if measured.empty:
            raise InputError(_nothing_to_keep(str(family), str(protocol), cells))
        names = [(str(row.task), str(row.protocol)) for row in records(measured)]
        cells_of_families.setdefault(str(family), {})[str(protocol)] = names
    return cells_of_families


def _nothing_to_keep(family: str, protocol: str, cells: pd.DataFrame) -> str:
    scores = "; ".join(
        f"{row.task} {row.score:.2f} [{row.score_low:.2f}, {row.score_high:.2f}] on {row.n} "
        f"examples, " + ("no chance level" if pd.isna(row.chance) else f"chance {row.chance:.2f}")
        for row in records(cells)
    )
    return (
        f"family {family!r} is not shown to be above chance under {protocol!r} "
        f"({scores}): take easier tasks, more examples or another model"
    )


def _pool_harms(families: Sequence[Sequence[Sequence[Any]]]) -> Harm:
    """Pool the harms of rows of `SweepResult.effects`, nested as [family][protocol][task].

    The pooled harm is unknown (NaN) if the harm of any row is. `n` and `n_failed` are summed.
    """
    of_family = []
    for protocols in families:
        pooled_tasks = [
            _pool(
                [IntervalEstimate(row.harm, Interval(row.harm_low, row.harm_high)) for row in rows]
            )
            for rows in protocols
        ]
        value, low, high = np.mean(
            [(value, bound.low, bound.high) for value, bound in pooled_tasks], axis=0
        ).tolist()
        of_family.append(IntervalEstimate(value, Interval(low, high)))
    value, interval = _pool(of_family)
    all_rows = [row for protocols in families for rows in protocols for row in rows]
    return Harm(value, interval, sum(r.n for r in all_rows), sum(r.n_failed for r in all_rows))


def _pool(parts: Sequence[IntervalEstimate]) -> IntervalEstimate:
    if any(np.isnan(value) for value, _ in parts):
        return IntervalEstimate(float("nan"), UNKNOWN)
    return pooled([value for value, _ in parts], [interval for _, interval in parts])


def tasks_with_skill(result: SweepResult) -> tuple[str, ...]:
    """Return the labels of the tasks that are above chance under at least one protocol.

    Raises:
        InputError: a family has no such task under a protocol.
    """
    cells = (
        cells for protocols in cells_with_skill(result).values() for cells in protocols.values()
    )
    return tuple(dict.fromkeys(task for task_cells in cells for task, _ in task_cells))


def select_singles(
    result: SweepResult,
    model: TransformerBridge,
    tasks: Sequence[Task],
    protocols: Sequence[str],
) -> SweepResult:
    """Return a sweep's rows of the intact model and of each layer skipped alone.

    Only the rows of `tasks` under `protocols` are returned.

    Raises:
        InputError: the sweep is of another model, lacks a task, a protocol or a layer, or is not
            finished.
    """
    check_result(result)
    source, model_source = result.manifest.get("model", {}), provenance(model)
    if source.get("weights") != model_source.weights:
        raise InputError(
            f"singles is a sweep of {source.get('name', 'another model')!r} with other weights "
            f"than those of {model_source.name!r}"
        )
    if (differing := first_difference(source.get("config", {}), model_source.config)) is not None:
        raise InputError(f"singles is a sweep of a model with another {differing} in its config")
    frame, labels = result.frame, [task.label for task in tasks]
    for column, names in (("task", labels), ("protocol", protocols)):
        available = list(dict.fromkeys(frame[column]))
        for name in names:
            if name not in available:
                raise InputError(f"singles: {describe_unknown(column, name, available)}")
    frame = frame[frame["task"].isin(labels) & frame["protocol"].isin(protocols)]
    skipped = (frame["ablation"] == "skip") & (frame["part"] == "block") & (frame["at"] == "all")
    alone = skipped & frame["layer"].notna()
    for task, protocol in itertools.product(labels, protocols):
        rows = frame[alone & (frame["task"] == task) & (frame["protocol"] == protocol)]
        if missing := set(range(model_source.n_layers)) - set(rows["layer"].astype(int)):
            raise InputError(
                f"singles skips no layer {min(missing)} at all positions ({task}, {protocol}): "
                f"sweep each_layer(model, Skip())"
            )
    frame = frame[alone | (frame["condition"] == INTACT.name)]
    n_asked = frame.groupby(["task", "protocol", "condition"]).size()
    if result.interim and (n_asked.groupby(["task", "protocol"]).nunique() > 1).any():
        raise InputError(
            f"singles is not finished ({result.interim}): start its sweep again, and it goes on"
        )
    return SweepResult(frame.reset_index(drop=True), result.manifest, result.examples)


def harm_of_layers(alone: SweepResult) -> list[Harm]:
    """Return the harm of each layer, in order of layers, from the result of `select_singles`."""
    harm_by_name, layers = harm_of_conditions(alone), alone.frame[alone.frame["layer"].notna()]
    name_by_layer = dict(zip(layers["layer"].astype(int), layers["condition"], strict=True))
    return [harm_by_name[name_by_layer[layer]] for layer in sorted(name_by_layer)]


@dataclass(frozen=True)
class Change:
    """How much some consecutive blocks change the residual stream: influence or angular distance.

    Attributes:
        value: the mean over examples, tasks and families.
        interval: its 95% interval; NaN if unknown.
        n: the number of examples.
    """

    value: float
    interval: Interval
    n: int


def measure_changes(
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    measure: str,
    n: int,
    limit: int,
    seed: int,
    path: Path,
) -> list[Change]:
    """Return how much each run of `n` consecutive blocks changes the residual stream, on average.

    The list is in order of the first block of each run.

    Influence is measured at all tokens, as in ShortGPT (arXiv 2403.03853), and angular distance at
    the last token, as in the paper that proposed it (arXiv 2403.17887).

    Args:
        model: from `load` or `prepare`.
        tasks: the tasks whose prompts are read.
        measure: `"influence"` or `"angular"`.
        n: the number of blocks in a run.
        limit: the number of examples of each task.
        seed: the seed of the examples.
        path: a folder that stores the measurements; these are for every `n`, and are reused.
    """
    probe = Similarity(position="all" if measure == "influence" else "last")
    # Each measure has its own folder, since a folder holds one frame of a probe.
    frame = measure_into(path / measure, probe, model, tasks, limit=limit, seed=seed)
    runs = frame[frame["n"] == n]
    return [_mean_change(run, measure) for _, run in runs.groupby("layer", sort=True)]


def _mean_change(run: pd.DataFrame, measure: str) -> Change:
    families = []
    for _, family in run.groupby("family", sort=False):
        tasks = [_task_mean(rows[measure]) for _, rows in family.groupby("task", sort=False)]
        families.append(_pool(tasks))
    value, interval = _pool(families)
    # A frame that is read back may differ in the last digit, which must not affect the choice.
    return Change(round(value, 12), interval, len(run))


def _task_mean(values: "pd.Series[float]") -> IntervalEstimate:
    """Return the mean with its 95% Student's t interval, which is NaN for fewer than two values."""
    if len(values) < 2:
        return IntervalEstimate(float(values.mean()), UNKNOWN)
    mean, reach = float(values.mean()), stats.t.ppf(0.975, len(values) - 1) * values.sem()
    return IntervalEstimate(mean, Interval(float(mean - reach), float(mean + reach)))
