"""Aggregate the lm-eval metrics of a sweep as lm-eval itself would report them."""

import json
from typing import Any

import pandas as pd

from layerroles.results import SweepResult, check_result


def lm_eval_metrics(result: SweepResult) -> pd.DataFrame:
    """Aggregate the metrics of a sweep's lm-eval tasks with lm-eval's own functions.

    Returns one row per condition, task, member (one of the single lm-eval tasks of a group),
    metric and filter, with the columns condition, task, member, metric, filter, value and n (number
    of documents). For a group, rows with the member `all` have the mean over its members, weighted
    by their numbers of documents. The value is NaN if the task aggregates the metric by a function
    of its own, which a run folder cannot store. Values equal lm-eval's own if the same documents
    are asked; with `order="first"`, a task asks the first ones of its data set, as lm-eval does
    with `limit`.

    Raises:
        InputError: `result` is not the result of a sweep.

    Example:
        lr.lm_eval_metrics(result)  # no rows here: none of these tasks is lm-eval's
    """
    from lm_eval.api.metrics import aggregate_subtask_metrics
    from lm_eval.api.registry import get_aggregation

    check_result(result)
    rows = []
    cells = {cell["task"]: cell for cell in result.manifest["cells"] if "aggregation" in cell}
    measured = result.frame[result.frame["task"].isin(list(cells))]
    measured = measured.assign(member=[name.rpartition("/")[0] for name in measured["example"]])
    for (condition, task), cell in measured.groupby(["condition", "task"], sort=False):
        by_member: dict[str, dict[str, tuple[float, int]]] = {}
        for member, member_rows in cell.groupby("member", sort=False):
            for key, values in _collect_values(member_rows).items():
                metric, _, _ = key.partition(",")
                name = cells[task]["aggregation"].get(metric)
                value = float(get_aggregation(name)(values)) if name else float("nan")
                by_member.setdefault(key, {})[str(member)] = value, len(values)
        for key, member_values in by_member.items():
            if len(member_values) > 1:
                means, sizes = zip(*member_values.values(), strict=True)
                member_values["all"] = aggregate_subtask_metrics(means, sizes), sum(sizes)
            metric, _, filter = key.partition(",")
            rows += [
                {
                    **{"condition": condition, "task": task, "member": member},
                    **{"metric": metric, "filter": filter, "value": value, "n": n},
                }
                for member, (value, n) in member_values.items()
            ]
    columns = ["condition", "task", "member", "metric", "filter", "value", "n"]
    return pd.DataFrame(rows, columns=columns)


def _collect_values(rows: pd.DataFrame) -> dict[str, list[Any]]:
    """Map lm-eval's name of a metric and a filter, such as `acc,none`, to the documents' values.

    Documents that were not scored are left out.
    """
    values: dict[str, list[Any]] = {}
    for text in rows["details"]:
        for key, value in json.loads(text or "{}").items():
            if "," in key:
                values.setdefault(key, []).append(value)
    return values
