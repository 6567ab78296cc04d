"""Show values and progress in a notebook as plain HTML, which every front end can display.

The HTML has no scripts and sets no colours, so that it is readable on light and dark backgrounds.
Text from models, data and users is escaped, invisible characters in it are written out, and MathJax
is disabled for it: a question about prices has dollar signs but no formula.

How tables are shown: rounded, escaped, and never without what their n can show.
"""

import html
import sys
from collections.abc import Iterable, Sequence

import pandas as pd

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


_ROWS = 40  # that are shown of a table; the frame has them all


def as_text(above: str, table: pd.DataFrame, *below: str) -> str:
    """A table between lines, for a terminal."""
    shown = table.round(3).to_string(index=False, na_rep="-", max_rows=_ROWS)
    return visible("\n".join([above, shown, *_left_out(table), *below]))


def as_html(above: str, table: pd.DataFrame, *below: str) -> str:
    """A table between lines, for a notebook."""
    shown = table.round(3).to_html(index=False, na_rep="–", border=0, max_rows=_ROWS)
    return block(line(above), shown, *map(line, (*_left_out(table), *below)))


def _left_out(table: pd.DataFrame) -> list[str]:
    return [f"({len(table)} rows, {_ROWS} shown)"] if len(table) > _ROWS else []


def detectable_line(table: pd.DataFrame) -> str:
    """One line on the smallest difference that the rows would probably show.

    Args:
        table: with columns unit, n, detectable.
    """
    parts = []
    for unit, rows in table[table["n"] > 0].groupby("unit", sort=False):
        found = rows["detectable"].dropna()
        size = _span(found, ".3f") if len(found) else "none known (too few examples)"
        of_unit = "" if unit == "accuracy" else f" {unit}"
        parts.append(f"{size}{of_unit} at n = {_span(rows['n'], 'd')}")
    said = "; ".join(parts) or "unknown, for no example was scored under both"
    return f"Minimum detectable effect (80% power after correction): {said}"


def _span(values: "pd.Series[float]", form: str) -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"
