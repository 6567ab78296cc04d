"""Read probe tables from a run folder, group them by probe, and select their rows.

A probe table is the pandas frame that `Probe.measure` returns. Nothing here imports PyTorch, so
that the tables of a run are read and drawn within seconds.

>>> import pandas as pd
>>> list(group_by_probe([pd.DataFrame({"probe": ["attention"]})]))
['attention']
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from layerroles.errors import InputError
from layerroles.results import INTACT

SAVED_IN = "probes"  # the folder of frames in a run folder
# The probes of this package; those of users are looked up in the registry, which imports PyTorch.
BUILT_IN = (
    *("attention", "attribution", "decision", "head_scores", "logit_lens", "retrieval_score"),
    *("similarity", "tuned_lens"),
)


def read_saved(run: str | Path, *, condition: str | None = "intact") -> list[pd.DataFrame]:
    """Return the probe frames of a run folder; an empty list if it holds none.

    Args:
        run: the folder.
        condition: the name of the condition whose frames are returned; None for all conditions.

    Raises:
        InputError: a stored frame cannot be read.

    Example:
        lr.probes.measure_into("runs/first", lr.probes.LogitLens(), model, tasks, limit=8)
        [frame["probe"].iloc[0] for frame in lr.probes.read_saved("runs/first")]
    """
    tables = sorted((Path(run) / SAVED_IN).glob("*.csv"))
    frames = [read_table(table) for table in tables if table.with_suffix(".sha256").is_file()]
    return [frame for frame in frames if condition is None or _condition_name(frame) == condition]


def read_table(table: Path) -> pd.DataFrame:
    """Read a stored probe frame.

    Raises:
        InputError: the file cannot be read as a table.
    """
    # A token may be "nan" or "None": only an empty field is a missing value.
    try:
        return pd.read_csv(table, keep_default_na=False, na_values=[""], dtype={"example": str})
    except (OSError, ValueError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"probe's table {str(table)!r} cannot be read: {reason}") from error


def group_by_probe(
    probes: Iterable[pd.DataFrame], condition: str | None = INTACT
) -> dict[str, pd.DataFrame]:
    """Map the name of each probe to a frame of its rows under one condition.

    Args:
        probes: frames that `Probe.measure` returned. A frame without a column `condition` counts as
            the intact model's. Frames of one probe are concatenated; equal frames count once.
        condition: the name of a condition; None for the rows of all conditions.

    Raises:
        InputError: a frame is not of a registered probe, or two frames of one probe have the same
            example under the same condition.
    """
    frames_by_name: dict[str, list[pd.DataFrame]] = {}
    for frame in probes:
        if "probe" not in getattr(frame, "columns", ()):
            raise InputError(
                f"a probe frame has a column 'probe' that names it; got {_describe(frame)}: "
                "pass what LogitLens().measure or Attention().measure gave"
            )
        for name, rows in frame[_is_of_condition(frame, condition)].groupby("probe", sort=False):
            _check_registered(str(name))
            if not any(rows.equals(other) for other in frames_by_name.get(str(name), [])):
                frames_by_name.setdefault(str(name), []).append(rows)
    return {name: _join_frames(name, frames) for name, frames in frames_by_name.items()}


def select_one_condition(frame: pd.DataFrame) -> pd.DataFrame:
    """Return all rows if they are of one condition, else the intact model's rows.

    Returns no rows if there are several conditions and none is the intact model.
    """
    several = "condition" in frame and frame["condition"].nunique() > 1
    return frame[_is_of_condition(frame, INTACT)] if several else frame


def _check_registered(name: str) -> None:
    """Check the name of a probe.

    Raises:
        InputError: no probe of this name is registered.
    """
    if name not in BUILT_IN:
        from layerroles.probes import PROBES

        PROBES[name]


def _condition_name(frame: pd.DataFrame) -> str:
    """Return the name of a frame's condition; "intact" if the frame names none."""
    return str(frame["condition"].iloc[0]) if "condition" in frame and len(frame) else "intact"


def _is_of_condition(frame: pd.DataFrame, condition: str | None) -> "pd.Series[bool]":
    if condition is None:
        return pd.Series(True, frame.index)
    if "condition" not in frame:
        return pd.Series(condition == INTACT, frame.index)
    return frame["condition"] == condition


def _join_frames(name: str, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the frames of a probe.

    Raises:
        InputError: two frames have the same example under the same condition.
    """
    if len(frames) == 1:
        return frames[0]
    frames = [frame.assign(condition=frame.get("condition", INTACT)) for frame in frames]
    examples = [frame[["condition", "task", "example"]].drop_duplicates() for frame in frames]
    repeated = pd.concat(examples)[lambda rows: rows.duplicated()]
    if not repeated.empty:
        raise InputError(
            f"two frames of {name} measured {repeated['task'].iloc[0]} on the same examples: "
            "pass one of them"
        )
    return pd.concat(frames, ignore_index=True)


def _describe(frame: object) -> str:
    if isinstance(frame, pd.DataFrame):
        return (
            f"columns {', '.join(map(str, frame.columns))}" if len(frame.columns) else "no columns"
        )
    return type(frame).__name__
