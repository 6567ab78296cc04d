"""Measure and break text of figures, and choose the ticks that have room for their labels.

Widths are approximate, but accurate enough to lay out a figure without a browser:

>>> text_width("mm", 10.0) > text_width("ii", 10.0)
True
"""

import html
import re
from collections.abc import Sequence
from typing import Any

# Widths of Arial's characters in thousandths of the type size; others are as wide as a digit.
_WIDTHS = {
    **dict.fromkeys("il'|j", 222),
    **dict.fromkeys(" .,:;!/\\tfI[]\N{MIDDLE DOT}", 278),
    **dict.fromkeys("r-()", 333),
    **dict.fromkeys("ksvxyzcJ", 500),
    **dict.fromkeys("ABEKPSVXY&", 667),
    **dict.fromkeys("CDHNRUw", 722),
    **dict.fromkeys("GOQ", 778),
    **dict.fromkeys("Mm", 833),
    **dict.fromkeys("W%\N{EM DASH}", 960),
    **dict.fromkeys("+<>=~\N{MINUS SIGN}\N{PLUS-MINUS SIGN}", 584),
    "\N{BLACK SQUARE}": 604,
    "\N{HORIZONTAL ELLIPSIS}": 1000,
}
_DIGIT = 556
_STEPS = (1, 2, 4, 5, 10, 20, 50, 100)
_ROW = 1.15  # distance between the baselines of labels, in type sizes


def strip_tags(text: str) -> str:
    """Remove the tags from a label and unescape its entities.

    Example:
        >>> strip_tags("<b>a</b> &lt; b")
        'a < b'
    """
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def text_width(text: str, size: float) -> float:
    """Return the width of a label's widest line, in the unit of `size`."""
    lines = (strip_tags(line) for line in str(text).split("<br>"))
    return max(sum(_WIDTHS.get(letter, _DIGIT) for letter in line) for line in lines) / 1000 * size


def truncate(text: str, room: float, size: float) -> str:
    """Return a label cut to the width `room`, with an ellipsis, in type of size `size`.

    `room` and `size` are in the same unit. The ellipsis is added even if the label fits, so check
    with `text_width` first. A label that starts in bold is wholly bold; other tags are dropped.

    Example:
        >>> truncate("<b>one &lt; two</b>", 40.0, 10.0)
        '<b>one &lt;…</b>'
    """
    words, bold = strip_tags(text), text.startswith("<b>")
    while words and text_width(f"{words}\N{HORIZONTAL ELLIPSIS}", size) > room:
        words = words[:-1]
    short = html.escape(words.rstrip(), quote=False) + "\N{HORIZONTAL ELLIPSIS}"
    return f"<b>{short}</b>" if bold else short


def wrap(text: str, room: float, size: float) -> list[str]:
    """Break a label between words into lines at most `room` wide; tags are left whole.

    Example:
        >>> wrap("one two three", 40.0, 10.0)
        ['one two', 'three']
    """
    # A space inside a tag is no place to break.
    words = re.sub(r"<[^>]*>", lambda tag: tag[0].replace(" ", "\0"), text).split(" ")
    lines = [words[0]]
    for word in words[1:]:
        longer = f"{lines[-1]} {word}"
        if text_width(longer, size) <= room:
            lines[-1] = longer
        else:
            lines.append(word)
    return [line.replace("\0", " ") for line in lines]


def tick_texts(axis: Any) -> Sequence[str]:
    """Return the tick labels of an axis, or labels of typical width if plotly will choose them."""
    if axis.ticktext is not None:
        return [str(text) for text in axis.ticktext] or [""]
    if axis.tickvals is not None:
        return [str(value) for value in axis.tickvals]
    if axis.tickformat and "%" in axis.tickformat:
        return ["100%"]
    return ["\N{MINUS SIGN}0.5" if axis.dtick != 0.25 else "0.75", "10"]


def thin_ticks(x: Any, y: Any, wide: float, high: float, size: float) -> None:
    """Thin the tick labels of a panel until they fit.

    An x axis without a range has tokens as labels: all of them stay, turned upright if they would
    touch.

    Args:
        x: the panel's x axis; changed in place.
        y: the panel's y axis; changed in place.
        wide: width of the panel in pixels.
        high: height of the panel in pixels.
        size: type size in pixels.
    """
    if x.tickvals is not None and len(x.tickvals):
        if x.range is None:  # tokens: each is labelled, upright where they would touch
            if max(text_width(text, size) for text in tick_texts(x)) > wide / len(x.tickvals):
                x.tickangle = -90
        else:
            per = wide / (x.range[1] - x.range[0])
            kept_ticks = _choose_ticks(
                list(zip(x.tickvals, tick_texts(x), strict=True)), per, x, size
            )
            x.tickvals, x.ticktext = (
                [value for value, _ in kept_ticks],
                [text for _, text in kept_ticks],
            )
    if y.dtick and y.range is not None and y.tickvals is None:
        per = high / abs(y.range[1] - y.range[0])
        while y.dtick * per < size * 1.3:
            y.dtick *= 2


def _choose_ticks(
    ticks: list[tuple[Any, str]], per: float, axis: Any, letter: float
) -> list[tuple[Any, str]]:
    """Return the ticks, as (value, text), whose labels fit beside each other.

    Ticks whose label is not a number are kept, such as "emb" and "intact". Of the numbers, those in
    round steps are kept, unless they would touch one of those labels. With fewer than two numbers,
    all ticks are thinned evenly. `per` is pixels per unit of the axis, `letter` the type size in
    pixels.
    """

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


def height_of_rows(y: Any, size: float) -> float:
    """Return the height in pixels that a panel needs for the row labels of its axis `y`.

    The height is 0 if there are no row labels. `size` is the type size in pixels.
    """
    if y.type == "log" or y.tickvals is None or y.ticktext is None or len(y.tickvals) < 2:
        return 0.0
    low, high = y.range or (min(y.tickvals) - 0.5, max(y.tickvals) + 0.5)
    return float(size * _ROW * abs(high - low) / abs(y.tickvals[1] - y.tickvals[0]))
