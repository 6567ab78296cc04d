"""Group frames from `Probe.measure` by probe, and select their rows by condition.

>>> import pandas as pd
>>> list(group_by_probe([pd.DataFrame({"probe": ["attention"]})]))
['attention']
"""

from collections.abc import Iterable, Sequence

import pandas as pd

from layerroles.ablations import INTACT
from layerroles.errors import InputError
from layerroles.probes.base import PROBES


def group_by_probe(
    probes: Iterable[pd.DataFrame], condition: str | None = INTACT.name
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
            PROBES[str(name)]  # an unknown name is refused
            if not any(rows.equals(other) for other in frames_by_name.get(str(name), [])):
                frames_by_name.setdefault(str(name), []).append(rows)
    return {name: _join_frames(name, frames) for name, frames in frames_by_name.items()}


def select_one_condition(frame: pd.DataFrame) -> pd.DataFrame:
    """Return all rows if they are of one condition, else the intact model's rows.

    Returns no rows if there are several conditions and none is the intact model.
    """
    several = "condition" in frame and frame["condition"].nunique() > 1
    return frame[_is_of_condition(frame, INTACT.name)] if several else frame


def _is_of_condition(frame: pd.DataFrame, condition: str | None) -> "pd.Series[bool]":
    if condition is None:
        return pd.Series(True, frame.index)
    if "condition" not in frame:
        return pd.Series(condition == INTACT.name, frame.index)
    return frame["condition"] == condition


def _join_frames(name: str, frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Concatenate the frames of a probe.

    Raises:
        InputError: two frames have the same example under the same condition.
    """
    if len(frames) == 1:
        return frames[0]
    frames = [frame.assign(condition=frame.get("condition", INTACT.name)) for frame in frames]
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
