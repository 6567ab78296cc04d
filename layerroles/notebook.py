"""Show values and progress in a notebook as plain HTML, which every front end can display.

The HTML has no scripts and sets no colours, so that it is readable on light and dark backgrounds.
Text from models, data and users is escaped, invisible characters in it are written out, and MathJax
is disabled for it: a question about prices has dollar signs but no formula.
"""

import html
import sys
from collections.abc import Iterable, Sequence

from layerroles.errors import visible


def in_notebook() -> bool:
    """Whether this is a notebook's kernel: output goes to a page, not to a terminal."""
    shell = sys.modules.get("IPython")
    running = shell and shell.get_ipython()
    return getattr(running, "kernel", None) is not None


def block(*parts: str) -> str:
    """Parts that are HTML, as one whole that MathJax passes over, without unseen signs."""
    return f'<div class="tex2jax_ignore mathjax_ignore">{visible("".join(parts))}</div>'


def line(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{html.escape(text)}</p>"


def lines(texts: Iterable[str]) -> str:
    """A list of texts."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def folded(name: str, inside: str) -> str:
    """Something that is HTML, shown when its name is clicked."""
    return f"<details><summary>{html.escape(name)}</summary>{inside}</details>"


def plain(text: str) -> str:
    """Text with its own line breaks and columns."""
    return f"<pre>{html.escape(text)}</pre>"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def marked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Text with its own line breaks, some spans `[start, end)` of it marked."""
    places = {place for start, end in spans for place in range(start, end)}
    shown, inside = [], False
    for place, character in enumerate(text):
        if (place in places) != inside:
            shown.append("</mark>" if inside else "<mark>")
            inside = not inside
        shown.append(html.escape(character))
    closed = "</mark>" if inside else ""
    return f'<pre style="white-space: pre-wrap">{"".join(shown)}{closed}</pre>'
