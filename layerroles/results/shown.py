"""How tables are shown: rounded, escaped, and never without what their n can show."""

import pandas as pd

from layerroles.errors import visible
from layerroles.notebook import block, line

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
