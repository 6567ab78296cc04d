"""How wide a text is when it is set, near enough to lay a figure out without a browser."""

import html
import re

# Widths of Arial's letters in thousandths of their size; what is not here is as wide as a digit.
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


def plain(text: str) -> str:
    """A label without its tags.

    Example:
        >>> plain("<b>a</b> &lt; b")
        'a < b'
    """
    return html.unescape(re.sub(r"<[^>]*>", "", text))


def text_width(text: str, size: float) -> float:
    """The width of a label, of its widest line, in the unit of `size`."""
    lines = (plain(line) for line in str(text).split("<br>"))
    return max(sum(_WIDTHS.get(letter, _DIGIT) for letter in line) for line in lines) / 1000 * size


def cut(text: str, room: float, size: float) -> str:
    """As much of a label as fits into `room`, and an ellipsis; bold stays bold.

    Example:
        >>> cut("<b>one &lt; two</b>", 40.0, 10.0)
        '<b>one &lt;…</b>'
    """
    words, bold = plain(text), text.startswith("<b>")
    while words and text_width(f"{words}\N{HORIZONTAL ELLIPSIS}", size) > room:
        words = words[:-1]
    short = html.escape(words.rstrip(), quote=False) + "\N{HORIZONTAL ELLIPSIS}"
    return f"<b>{short}</b>" if bold else short


def wrapped(text: str, room: float, size: float) -> list[str]:
    """Break a label between words into lines that fit into `room`; tags are left whole.

    Example:
        >>> wrapped("one two three", 40.0, 10.0)
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
