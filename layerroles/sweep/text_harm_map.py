"""Harm over depth as text: one row per family and protocol, one character per layer.

Such a row of characters is called a *strip*. `layer_strips` makes a table for a terminal, with a
coloured block for each layer; `strip_lines` makes the same for a log, with digits. Both accept the
result of an unfinished run as well as a finished one: they show estimates and no verdicts. The harm
of a layer is the mean over the family's tasks with skill above chance, as in `Roles.layers`.

Example:
    for line in strip_lines(lr.read("runs/first")):
        print(line)
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.invisible_characters import visible
from layerroles.results import (
    INTACT,
    Cell,
    SweepResult,
    cells_of,
    check_result,
    records,
)
from layerroles.roles import describe_decided

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_LAYERS_BETWEEN_NUMBERS = 10
# The wider the interval of a harm, the fainter its block. At the width `_WIDEST` (in units of harm)
# or more, a block keeps the share `_FAINTEST` of its colour.
_FAINTEST = 0.3
_WIDEST = 2.0
# Not spaces, since rich would drop spaces or break lines at them.
_CELL, _UNKNOWN, _FILLER = "\N{FULL BLOCK}", "\N{MIDDLE DOT}", "\N{BOX DRAWINGS LIGHT HORIZONTAL}"
_LEGEND = (
    "Harm in tenths: 0 below 0.1, 9 below 1, + 1 or more; - the ablation helps by 0.1 or more; "
    ". not known. Layers are counted from 0."
)


@dataclass(frozen=True)
class _Strip:
    """The harm of each layer for one family under one protocol, shown as a row of characters.

    Attributes:
        family: the family.
        protocol: the protocol.
        n: the number of scored answers of the intact model, summed over tasks.
        intact: the intact score, averaged over tasks; NaN if there is none yet.
        chance: the score of guessing, averaged over tasks; NaN if unknown.
        why: the reason, as text, if harm cannot be measured; "" if it can.
        harms: the harm of each layer; unknown if no condition ablates the layer, or if no
            answer under that condition is stored yet.
    """

    family: str
    protocol: str
    n: int
    intact: float
    chance: float
    why: str
    harms: tuple[stats.Contrast, ...]


def layer_strips(result: SweepResult) -> "Table":
    """Return a table of harm over depth: a row per family and protocol, a block per layer.

    A block is orange if ablating the layer hurts and blue if it helps, in the full colour at a harm
    of 1 or -1; the wider the interval, the fainter the block. Only one ablation at one choice of
    positions (`at`) is shown: the first ablation of the result, at `"all"` if it has such
    conditions, else at the `at` that comes first in the alphabet. If no condition ablates exactly
    one whole layer, the table says so.

    Args:
        result: the result of a sweep, finished or not.

    Raises:
        InputError: `result` is not a `SweepResult`.

    Example:
        rich.print(layer_strips(lr.read("runs/first")))
    """
    from rich.table import Table
    from rich.text import Text

    from layerroles.figures.style import family_colour

    title, strips = _measure_strips(result)
    table = Table(
        title=Text(title),
        title_justify="left",
        caption_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    if not strips:
        table.show_header = False
        table.add_row(_describe_missing(result))
        return table
    for name in ("family", "protocol", "n", "intact", "chance"):
        is_number = name in ("n", "intact", "chance")
        table.add_column(name, no_wrap=True, justify="right" if is_number else "left")
    # If the table is too narrow, the layers' numbers and blocks are folded at the same layers.
    table.add_column(Text(_number_layers(len(strips[0].harms), _FILLER)), overflow="fold")
    for strip in strips:
        family, *others = map(Text, _format_names_and_scores(strip))
        square = Text("\N{BLACK SQUARE} ", style=family_colour(strip.family))
        cells = Text(strip.why, style="dim") if strip.why else _colour_cells(strip.harms)
        table.add_row(Text.assemble(square, family), *others, cells)
    legend = Text(style="not italic")
    for word, harm in {"hurts": 1.0, "no change": 0.0, "helps": -1.0}.items():
        legend.append(_CELL, style=_colour_of(harm)).append(f" {word}  ")
    table.caption = legend.append(f"{_UNKNOWN} not known  faint: wide interval")
    return table


def strip_lines(result: SweepResult) -> list[str]:
    """Return the table of `layer_strips` as lines of plain text: a title, the rows and a legend.

    A layer is one character: its harm in tenths, `+` for a harm of 1 or more, `-` where the
    ablation helps by 0.1 or more, `.` where the harm is not known.

    Raises:
        InputError: `result` is not a `SweepResult`.
    """
    title, strips = _measure_strips(result)
    if not strips:
        return [title, _describe_missing(result)]
    numbers = _number_layers(len(strips[0].harms), " ")
    rows = [("family", "protocol", "n", "intact", "chance", numbers)]
    for strip in strips:
        cells = strip.why or "".join(map(_format_tenths, strip.harms))
        rows.append((*_format_names_and_scores(strip), cells))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for *texts, cells in rows:
        padded = [
            text.ljust(width) if place < 2 else text.rjust(width)
            for place, (text, width) in enumerate(zip(texts, widths, strict=False))
        ]
        lines.append("  ".join([*padded, cells]).rstrip())
    return [title, *lines, _LEGEND]


def _measure_strips(result: SweepResult) -> tuple[str, list[_Strip]]:
    """Return a title, and the harm of each layer (a `_Strip`) for each family and protocol.

    The list is empty if no condition that ablates one whole layer has answers.
    """
    check_result(result)
    what, condition_of = _choose_conditions(result)
    title = f"Harm of each layer{what}"
    if result.interim:
        title += f"; estimates after {result.interim}"
    elif decided := describe_decided(result):
        title += f"; {decided}"
    n_layers = int(result.manifest.get("model", {}).get("n_layers", 0))
    n_layers = max([n_layers, *(layer + 1 for layer in condition_of)])
    conditions = [condition_of.get(layer) for layer in range(n_layers)]
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells_of(result) if condition_of else []:
        groups.setdefault((cell.family, cell.protocol), []).append(cell)
    return visible(title), [_measure_strip(group, conditions) for group in groups.values()]


def _choose_conditions(result: SweepResult) -> tuple[str, dict[int, str]]:
    """Choose the ablation and positions to show, as described in `layer_strips`.

    Returns the choice in words, for the title, and a map from each layer to the name of the
    condition that ablates it. Both are empty if no such condition has answers.
    """
    # Read from the cells, not with `Harms`, which would compute each effect's test and interval.
    places = {
        str(row.condition): (str(row.ablation), str(row.at), int(row.layer))
        for cell in cells_of(result)
        for row in records(cell.conditions)
        if row.part == "block" and not pd.isna(row.layer)
    }
    if not places:
        return "", {}
    ablations = list(dict.fromkeys(ablation for ablation, _, _ in places.values()))
    ats = {at for ablation, at, _ in places.values() if ablation == ablations[0]}
    judged = (ablations[0], "all" if "all" in ats else min(ats))
    names = [(place[2], name) for name, place in places.items() if place[:2] == judged]
    what = f": {judged[0]} at {judged[1]}"
    condition_of = dict(reversed(names))  # keeps the first of several settings
    if len(condition_of) < len(names):
        what += ", its first setting"
    if len(ablations) > 1:
        what += f", the first of {len(ablations)} ablations"
    return what, condition_of


def _measure_strip(cells: Sequence[Cell], conditions: Iterable[str | None]) -> _Strip:
    """Return the harm of each layer for one family under one protocol.

    Args:
        cells: the family's tasks under the protocol.
        conditions: for each layer, the name of the condition that ablates it, or None.
    """
    with_skill = [cell for cell in cells if cell.has_skill]
    shown = with_skill or cells
    scores = [cell.scores.loc[INTACT].dropna() for cell in shown]
    n = sum(map(len, scores))
    chance = sum(cell.chance for cell in shown) / len(shown)
    why = "" if with_skill else "skill not shown"
    if math.isnan(chance):
        why = "no chance level"
    elif not n:
        why = "no scored answer"
    harms = (
        stats.mean_of([cell.harm({name: 1.0}) for cell in with_skill])
        if name
        else stats.NO_CONTRAST
        for name in conditions
    )
    return _Strip(
        family=cells[0].family,
        protocol=cells[0].protocol,
        n=n,
        intact=sum(float(of_task.mean()) for of_task in scores) / len(scores) if n else math.nan,
        chance=chance,
        why=why,
        harms=tuple(harms),
    )


def _describe_missing(result: SweepResult) -> str:
    """Return the line to show if no condition that ablates one whole layer has answers."""
    yet = " yet" if result.interim else ""
    return f"no answer under a condition that ablates one whole layer{yet}"


def _format_names_and_scores(strip: _Strip) -> tuple[str, str, str, str, str]:
    intact, chance = (
        "-" if math.isnan(score) else f"{score:.2f}" for score in (strip.intact, strip.chance)
    )
    return visible(strip.family), visible(strip.protocol), str(strip.n), intact, chance


def _number_layers(n_layers: int, filler: str) -> str:
    """Return a line with the numbers of layers 0, 10, 20, ..., each above its layer's character.

    Args:
        n_layers: the number of layers, each of which has one character in the rows below.
        filler: the character between the numbers.
    """
    step = _LAYERS_BETWEEN_NUMBERS
    numbers = "".join(f"{layer:{filler}<{step}}" for layer in range(0, n_layers, step))
    last = (n_layers - 1) // step * step
    return numbers[: max(n_layers, last + len(str(last)))]


def _format_tenths(harm: stats.Contrast) -> str:
    """Return a harm as one character; see `strip_lines`."""
    if not harm.known:
        return "."
    tenths = math.floor(harm.value * 10 + 1e-9)  # 0.3 may come as 0.29999999999999993
    return "-" if harm.value <= -0.1 + 1e-9 else "+" if tenths > 9 else str(max(0, tenths))


def _colour_cells(harms: Iterable[stats.Contrast]) -> "Text":
    """Return one character per layer, coloured by its harm; the wider the interval, the fainter."""
    from rich.text import Text

    cells = Text()
    for harm in harms:
        if harm.known:
            width = min(_WIDEST, harm.interval.high - harm.interval.low)
            strength = 1 - (1 - _FAINTEST) * width / _WIDEST
            cells.append(_CELL, style=_colour_of(harm.value, strength))
        else:
            cells.append(_UNKNOWN, style="dim")
    return cells


def _colour_of(harm: float, strength: float = 1.0) -> str:
    """Return the colour of a harm, `#rrggbb`, on the figures' diverging scale.

    Args:
        harm: the harm, clipped to -1 to 1; positive values are orange, negative ones blue.
        strength: from 0 (the neutral colour of a harm of 0) to 1 (the full colour).
    """
    from layerroles.figures.style import TEMPLATES

    scale = TEMPLATES["dark"].layout.colorscale.diverging
    stops = [stop for stop, _ in scale]
    channels = [[int(colour[start : start + 2], 16) for _, colour in scale] for start in (1, 3, 5)]
    place = (harm + 1) / 2  # clipped to the scale by `interp`
    full, neutral = (
        np.array([np.interp(at, stops, channel) for channel in channels]) for at in (place, 0.5)
    )
    mixed = np.rint(neutral + strength * (full - neutral)).astype(int)
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
