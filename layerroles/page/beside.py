"""Two runs in one page: how their effects differ, in words, tables and figures that stand still."""

from collections.abc import Iterator
from typing import Any

import plotly.graph_objects as go

from layerroles import figures
from layerroles.figures import select
from layerroles.page.sections import drawing
from layerroles.results import Comparison, SweepResult


def names(comparison: Comparison) -> tuple[str, str]:
    """What the two runs are called on the page."""
    return f"a: {comparison.names[0]}", f"b: {comparison.names[1]}"


def beside(a: SweepResult, b: SweepResult, comparison: Comparison) -> dict[str, Any]:
    """The section on two runs: what is compared, profiles, effects side by side, figures."""
    drawn = list(_profiles(a, b, comparison))
    return {
        "names": names(comparison),
        "unmatched": comparison.unmatched,
        "profiles": comparison.profiles.to_dict("records"),
        "rows": comparison.frame[comparison.frame["n"] > 0].to_dict("records"),
        "figures": [drawing(f"runs-{index}", figure) for index, figure in enumerate(drawn)],
    }


def _profiles(a: SweepResult, b: SweepResult, comparison: Comparison) -> Iterator[go.Figure]:
    """Harm over depth in both, for each cell in which both have skill, at the first positions."""
    frame = comparison.frame
    layers = frame[(frame["part"] == "block") & frame["layer"].notna() & (frame["n"] > 0)]
    one, two = names(comparison)
    for (task, protocol, ablation), rows in layers.groupby(
        ["task", "protocol", "ablation"], sort=False
    ):
        at = select.ats(rows)[0]
        known = rows.loc[rows["at"] == at, ["harm_a", "harm_b"]].notna().any()
        if known.any():
            yield figures.harm_profiles(
                {one: a, two: b}, task=task, protocol=protocol, ablation=ablation, at=at
            )
