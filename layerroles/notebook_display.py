"""Show values in a notebook or a terminal: HTML that every front end displays, and plain text.

The HTML has no scripts and sets no colours, so that it is readable on light and dark backgrounds.
Text from models, data and users is escaped, including its invisible characters, and MathJax is
disabled for it: a question about prices has dollar signs but no formula. Numbers in tables are
rounded. `detectable_line` states the smallest effect that the number of examples in a table can
detect.

>>> html_paragraph("a < b")
'<p>a &lt; b</p>'
"""

import html
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from layerroles.invisible_characters import visible

if TYPE_CHECKING:
    import pandas as pd

_MAX_ROWS = 40  # most rows shown of a table


def in_notebook() -> bool:
    """Return whether the code runs in a notebook kernel, whose output is shown on a page."""
    shell = sys.modules.get("IPython")
    running = shell and shell.get_ipython()
    return getattr(running, "kernel", None) is not None


def as_text(above: str, table: "pd.DataFrame", *below: str) -> str:
    """Return text for a terminal: the line `above`, the table, and the lines `below`.

    Numbers are rounded to 3 decimals. Only 40 rows of a longer table are shown; a line says so.
    """
    shown = table.round(3).to_string(index=False, na_rep="-", max_rows=_MAX_ROWS)
    return visible("\n".join([above, shown, *_describe_cut(table), *below]))


def as_html(above: str, table: "pd.DataFrame", *below: str) -> str:
    """Return HTML for a notebook: the paragraph `above`, the table, and the paragraphs `below`.

    Numbers are rounded to 3 decimals. Only 40 rows of a longer table are shown; a line says so.
    """
    shown = table.round(3).to_html(index=False, na_rep="–", border=0, max_rows=_MAX_ROWS)
    return html_block(
        html_paragraph(above), shown, *map(html_paragraph, (*_describe_cut(table), *below))
    )


def _describe_cut(table: "pd.DataFrame") -> list[str]:
    return [f"({len(table)} rows, {_MAX_ROWS} shown)"] if len(table) > _MAX_ROWS else []


def detectable_line(table: "pd.DataFrame") -> str:
    """Return a line that states, for each unit of score, the smallest effect detectable.

    An effect counts as detectable if it is found with 80% power.

    Args:
        table: a frame with the columns unit, n (number of examples) and detectable (smallest
            detectable effect, in that unit; NaN if not known). Rows with n = 0 are ignored.
    """
    parts = []
    for unit, rows in table[table["n"] > 0].groupby("unit", sort=False):
        sizes = rows["detectable"].dropna()
        size = _format_range(sizes, ".3f") if len(sizes) else "none known (too few examples)"
        of_unit = "" if unit == "accuracy" else f" {unit}"
        parts.append(f"{size}{of_unit} at n = {_format_range(rows['n'], 'd')}")
    text = "; ".join(parts) or "unknown, for no example was scored under both"
    return f"Minimum detectable effect (80% power after correction): {text}"


def _format_range(values: "pd.Series[float]", form: str) -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"


def html_block(*parts: str) -> str:
    """Join HTML into a block that MathJax ignores, with invisible characters escaped."""
    return f'<div class="tex2jax_ignore mathjax_ignore">{visible("".join(parts))}</div>'


def html_paragraph(text: str) -> str:
    """Return a paragraph of escaped text."""
    return f"<p>{html.escape(text)}</p>"


def html_list(texts: Iterable[str]) -> str:
    """Return a bulleted list of escaped texts."""
    return f"<ul>{''.join(f'<li>{html.escape(text)}</li>' for text in texts)}</ul>"


def html_details(name: str, inside: str) -> str:
    """Return the HTML `inside` folded under a name; a click on the name shows it."""
    return f"<details><summary>{html.escape(name)}</summary>{inside}</details>"


def html_preformatted(text: str) -> str:
    """Return escaped text that keeps its line breaks and columns."""
    return f"<pre>{html.escape(text)}</pre>"


def html_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return an HTML table of escaped text, with `columns` as its header row."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def html_marked(text: str, spans: Iterable[tuple[int, int]]) -> str:
    """Return escaped text that keeps its line breaks, with spans `[start, end)` highlighted."""
    marked_indices = {index for start, end in spans for index in range(start, end)}
    parts, inside = [], False
    for index, character in enumerate(text):
        if (index in marked_indices) != inside:
            parts.append("</mark>" if inside else "<mark>")
            inside = not inside
        parts.append(html.escape(character))
    closed = "</mark>" if inside else ""
    return f'<pre style="white-space: pre-wrap">{"".join(parts)}{closed}</pre>'
