"""Compare pruning plans on examples that were not used to make them.

Example:
    plans = [plan_pruning(model, drop=2, method=name, ...) for name in METHODS]
    result = Sweep(model, tasks, [plan.condition for plan in plans], seed=1).run("runs/held_out")
    compare_plans(result, plans)
"""

from collections.abc import Sequence
from itertools import product
from math import nan
from typing import Any

import pandas as pd

from layerroles.errors import InputError
from layerroles.prune.plan import PruningPlan, label_layers
from layerroles.results import Cell, SweepResult, cells_of, check_result, estimate_paired_effect
from layerroles.sweep import name_in_result

NUMBERS = ["n", "intact", "chance", "score", "effect", "ci_low", "ci_high"]
HARM = ["harm", "harm_low", "harm_high"]
COLUMNS = [
    *("drop", "method", "layers", "task", "family", "protocol", *NUMBERS, *HARM),
    *("difference", "low", "high", "best_baseline", "unit"),
]


def compare_plans(result: SweepResult, plans: Sequence[PruningPlan]) -> pd.DataFrame:
    """Compare the harm of pruning plans: a row per plan, task and protocol.

    The columns are

    - drop (the number of layers), method, layers, task, family, protocol;
    - n, intact, chance, score, effect, ci_low, ci_high, harm, harm_low and harm_high, as in
      `SweepResult.effects`;
    - difference: the score of the plan by method `role_aware` with the same `drop` minus this
      plan's score, so positive if the role-aware plan scores higher. It is paired over examples and
      has the 95% interval `low` to `high`; all three are exactly 0 if both plans drop the same
      layers, and NaN without a role-aware plan;
    - best_baseline: whether the plan has the highest score of all plans by other methods than
      `role_aware` with the same `drop`, in this task and protocol;
    - unit (of scores and differences).

    Args:
        result: a sweep that holds every plan's `condition`, preferably on examples that were not
            used to make the plans.
        plans: at most one for each method and number of layers to drop.

    Raises:
        InputError: there is no plan, two plans have the same method and number of layers, or the
            result lacks a plan's condition in one of its tasks and protocols.

    Example:
        plans = [
            lr.plan_pruning(model, drop=1, method=method, tasks=tasks, limit=12)
            for method in ("role_aware", "random")
        ]
        conditions = [plan.condition for plan in plans]
        asked = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=12, seed=1)
        lr.compare_plans(asked.run("runs/plans"), plans)
    """
    check_result(result)
    keys = [(len(plan.layers), plan.method) for plan in plans]
    repeated = next((key for key in keys if keys.count(key) > 1), None)
    if not plans or repeated:
        raise InputError(
            f"two plans drop {repeated[0]} layers by method {repeated[1]!r}: compare them "
            f"one by one"
            if repeated
            else "there are no plans to compare"
        )
    effects = result.effects().set_index(["condition", "task", "protocol"])
    cells = cells_of(result)
    named_plans = [(plan, _condition_name(result, plan)) for plan in plans]
    for (plan, name), cell in product(named_plans, cells):
        if (name, cell.task, cell.protocol) not in effects.index:
            raise InputError(
                f"{cell.task!r} was not asked under {cell.protocol!r} with "
                f"{plan.condition.name!r}, by method {plan.method!r}: sweep all plans together"
            )
    role_aware = {
        len(plan.layers): name for plan, name in named_plans if plan.method == "role_aware"
    }
    rows: list[dict[str, Any]] = []
    for cell in cells:
        for plan, name in named_plans:
            row = effects.loc[name, cell.task, cell.protocol]
            rows.append(
                {
                    "drop": len(plan.layers),
                    "method": plan.method,
                    "layers": label_layers(plan.layers),
                    "task": cell.task,
                    "family": cell.family,
                    "protocol": cell.protocol,
                    **{column: row[column] for column in (*NUMBERS, *HARM, "unit")},
                    **_score_difference(cell, name, role_aware.get(len(plan.layers))),
                }
            )
    table = pd.DataFrame(rows)
    baselines = table[table["method"] != "role_aware"]
    best = baselines.groupby(["drop", "task", "protocol"])["score"].transform("max")
    table["best_baseline"] = (table["score"] == best.reindex(table.index)).fillna(False)
    return table[COLUMNS]


def _condition_name(result: SweepResult, plan: PruningPlan) -> str:
    """Return the name of the plan's condition in the result."""
    try:
        return name_in_result(result, plan.condition)
    except InputError:
        raise InputError(
            f"the result lacks {plan.condition.name!r}, by method {plan.method!r}: sweep "
            f"plan.condition"
        ) from None


def _score_difference(cell: Cell, name: str, role_aware: str | None) -> dict[str, float]:
    """Return the score under condition `role_aware` minus that under `name`, with its interval.

    All are NaN if `role_aware` is None, and exactly 0 if both are the same condition.
    """
    if role_aware is None:
        return dict.fromkeys(("difference", "low", "high"), nan)
    if role_aware == name:
        return dict.fromkeys(("difference", "low", "high"), 0.0)
    answered = cell.scores.loc[[name, role_aware]].dropna(axis=1)
    clusters = cell.clusters_of(list(answered.columns))
    scores, role_aware_scores = answered.to_numpy(float)
    effect = estimate_paired_effect(
        scores,
        role_aware_scores,
        clusters,
        cell.unit,
        cell.rng(role_aware, name),
        level=cell.level([name, role_aware]),
    )
    interval = effect.interval
    return {"difference": effect.effect, "low": interval.low, "high": interval.high}
