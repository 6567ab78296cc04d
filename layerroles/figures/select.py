"""Select what figures draw: single-layer effects of one ablation, and means of probe frames."""

from collections.abc import Iterable, Sequence

import pandas as pd
from scipy.stats import t

from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.probes import select_one_condition
from layerroles.results import INTACT, SweepResult, check_result, check_unambiguous
from layerroles.sites import ATS


def layer_effects(
    result: SweepResult,
    *,
    ablation: str | None = None,
    task: str | None = None,
    protocol: str | None = None,
) -> pd.DataFrame:
    """Return the effects of ablating one whole block at a time, sorted by layer.

    Args:
        result: a sweep.
        ablation: the kind to draw; needed only where the sweep ran several.
        task: a task label; every task if not given.
        protocol: a protocol; every one if not given.

    Raises:
        InputError: the sweep has no such ablation, task or protocol, has several ablations and none
            was chosen, ablated a layer with several settings, or ablated no single layer.
    """
    check_result(result)
    effects = result.effects()
    if effects.empty:
        raise InputError("the result holds no ablated condition: nothing to draw over depth")
    single = effects[effects["layer"].notna() & (effects["part"] == "block")]
    if single.empty:
        raise InputError(
            "the result ablates no single layer as a whole (part 'block'): run each_layer first"
        )
    kinds = list(dict.fromkeys(single["ablation"]))
    if ablation is None and len(kinds) > 1:
        raise InputError(
            f"the result holds the ablations {', '.join(kinds)}: choose one with ablation="
        )
    single = narrow(single, "ablation", ablation)
    single = narrow(narrow(single, "task", task), "protocol", protocol)
    check_unambiguous(single)
    single = single.assign(layer=single["layer"].astype(int))
    return single.sort_values("layer", kind="stable").reset_index(drop=True)


def positions_of(effects: pd.DataFrame) -> list[str]:
    """Return the distinct values of `at`, in the order of `ATS`; others follow, sorted by name."""
    positions = list(dict.fromkeys(effects["at"]))
    return [at for at in ATS if at in positions] + sorted(at for at in positions if at not in ATS)


def trace_meta(part: pd.DataFrame) -> dict[str, str]:
    """Return task, protocol, ablation and `at`, which the rows of a trace share, escaped for HTML.

    They are stored in the trace's `meta`, so that the report can respond to a click on a mark.
    """
    return {
        name: style.escape(part[name].iloc[0]) for name in ("task", "protocol", "ablation", "at")
    }


def ablation_kinds(result: SweepResult) -> list[str]:
    """Return the kinds of ablation that the sweep ran over single whole layers."""
    check_result(result)
    frame = result.frame
    single = frame[frame["layer"].notna() & (frame["part"] == "block")]
    return list(dict.fromkeys(single["ablation"]))


def n_layers_of(result: SweepResult, effects: pd.DataFrame) -> int:
    """Return the recorded number of layers, or the last ablated layer plus 1 if that is larger."""
    stated = result.manifest.get("model", {}).get("n_layers")
    ablated = int(effects["layer"].max()) + 1
    return max(int(stated), ablated) if stated else ablated


def score_units(result: SweepResult) -> dict[tuple[str, str], str]:
    """Return the unit of the score for each (task, protocol)."""
    cells = result.manifest.get("cells", [])
    return {(cell["task"], cell["protocol"]): cell.get("unit", "accuracy") for cell in cells}


def written_protocols(protocols: Iterable[str]) -> list[str]:
    """Return the protocols in which the model generates text: `generation`, with any parameters."""
    return [label for label in dict.fromkeys(protocols) if label.partition("[")[0] == "generation"]


def narrow(frame: pd.DataFrame, column: str, value: str | None) -> pd.DataFrame:
    """Return the rows in which `column` is `value`; all rows if it is None.

    Raises:
        InputError: no row has that value.
    """
    if value is None:
        return frame
    values = list(dict.fromkeys(frame[column]))
    if value not in values:
        raise InputError(
            f"unknown {column} {value!r}: this result holds {', '.join(map(str, values))}"
        )
    return frame[frame[column] == value]


def mean_by(frame: pd.DataFrame, by: Sequence[str], value: str, *, count: str) -> pd.DataFrame:
    """Return the mean of a column for each group of rows, sorted by family.

    Args:
        frame: the rows.
        by: the columns to group by; they include `family`.
        value: the column to average.
        count: the name of the column that receives the number of values averaged.

    Returns:
        A frame with the columns of `by`, `"value"` (the mean), the number of values, and `"low"`
        and `"high"` (95% interval by Student's t; NaN for a single value). Missing values are left
        out.
    """
    grouped = frame.groupby(list(by), sort=False)[value]
    table = grouped.agg(**{"value": "mean", "error": "sem", count: "count"}).reset_index()
    half = t.ppf(0.975, (table[count] - 1).clip(lower=1)) * table.pop("error")
    table["low"], table["high"] = table["value"] - half, table["value"] + half
    return style.sort_by_family(table).reset_index(drop=True)


def require_columns(frame: pd.DataFrame, columns: tuple[str, ...], what: str) -> None:
    """Check that a frame has rows and the columns that the figure `what` draws.

    Raises:
        InputError: it has not; the message names the figure.
    """
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(
            f"{what} needs the columns {', '.join(columns)}; {', '.join(missing)} not found"
        )
    if frame.empty:
        raise InputError(f"{what} got an empty frame: nothing was measured")


def rows_of_one_condition(frame: pd.DataFrame, what: str) -> pd.DataFrame:
    """Return all rows of a probe frame if they are of one condition, else the intact model's rows.

    `what` names the figure in the error message.

    Raises:
        InputError: there are several conditions, and the intact model is not among them.
    """
    rows = select_one_condition(frame)
    if rows.empty and not frame.empty:
        names = ", ".join(map(str, frame["condition"].unique()))
        raise InputError(
            f"{what} shows one condition, and its frame holds {names}: pass the rows of one"
        )
    return rows


def describe_condition(frame: pd.DataFrame, *, intact: str = "") -> str:
    """Return `, under NAME` for a frame of an ablated model, else the argument `intact`.

    The text is added to the subtitle of a figure.
    """
    name = str(frame["condition"].iloc[0]) if "condition" in frame else INTACT
    return intact if name == INTACT else f", under {name}"
