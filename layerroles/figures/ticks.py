"""Which ticks of a panel are labelled: as many as there is room for, at round numbers."""

from collections.abc import Sequence
from typing import Any

from layerroles.figures.words import text_width

_STEPS = (1, 2, 4, 5, 10, 20, 50, 100)
_ROW = 1.15  # from one label to the next below it, in sizes of type


def tick_texts(axis: Any) -> Sequence[str]:
    """The labels of an axis; where plotly chooses them, some that are as wide."""
    if axis.ticktext is not None:
        return [str(text) for text in axis.ticktext] or [""]
    if axis.tickvals is not None:
        return [str(value) for value in axis.tickvals]
    if axis.tickformat and "%" in axis.tickformat:
        return ["100%"]
    return ["\N{MINUS SIGN}0.5" if axis.dtick != 0.25 else "0.75", "10"]


def thin_ticks(x: Any, y: Any, wide: float, high: float, size: float) -> None:
    """Label as many ticks of a panel as there is room for.

    Args:
        x: its axis; it is changed.
        y: likewise.
        wide: in pixels.
        high: likewise.
        size: of the type, in pixels.
    """
    if x.tickvals is not None and len(x.tickvals):
        if x.range is None:  # tokens: each is labelled, upright where they would touch
            if max(text_width(text, size) for text in tick_texts(x)) > wide / len(x.tickvals):
                x.tickangle = -90
        else:
            per = wide / (x.range[1] - x.range[0])
            kept = _kept(list(zip(x.tickvals, tick_texts(x), strict=True)), per, x, size)
            x.tickvals, x.ticktext = [value for value, _ in kept], [text for _, text in kept]
    if y.dtick and y.range is not None and y.tickvals is None:
        per = high / abs(y.range[1] - y.range[0])
        while y.dtick * per < size * 1.3:
            y.dtick *= 2


def rows_high(y: Any, size: float) -> float:
    """Pixels that a panel needs for the labels of its rows not to touch; 0 where it names none."""
    if y.type == "log" or y.tickvals is None or y.ticktext is None or len(y.tickvals) < 2:
        return 0.0
    low, high = y.range or (min(y.tickvals) - 0.5, max(y.tickvals) + 0.5)
    return float(size * _ROW * abs(high - low) / abs(y.tickvals[1] - y.tickvals[0]))


def _kept(
    ticks: list[tuple[Any, str]], per: float, axis: Any, letter: float
) -> list[tuple[Any, str]]:
    """Ticks of round numbers far enough apart; named ones stay, and push away their neighbours."""

    def size(text: str) -> float:
        upright = axis.tickangle in (-90, 90)
        return letter * 0.95 if upright else text_width(text, letter) + 5

    numbers = [(value, text) for value, text in ticks if text.isdecimal()]
    named = [tick for tick in ticks if tick not in numbers]
    widest = max(size(text) for _, text in ticks)
    if len(numbers) < 2:
        step = -(-widest // per) if per < widest else 1
        return ticks[:: max(1, int(step))]
    step = next((s for s in _STEPS if s * per >= max(size(t) for _, t in numbers)), _STEPS[-1])
    numbers = [(value, text) for value, text in numbers if int(text) % step == 0]
    clear = [
        (value, text)
        for value, text in numbers
        if all(abs(value - at) * per >= (size(text) + size(name)) / 2 for at, name in named)
    ]
    return [*named, *clear]
