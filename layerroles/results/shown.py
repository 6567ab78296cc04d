"""How tables are shown: rounded, escaped, and never without what their n can show."""

import html

import pandas as pd


def as_text(above: str, table: pd.DataFrame, *below: str) -> str:
    """A table between lines, for a terminal."""
    return "\n".join([above, table.round(3).to_string(index=False, na_rep="-"), *below])


def as_html(above: str, table: pd.DataFrame, *below: str) -> str:
    """A table between lines, for a notebook."""
    shown = table.round(3).to_html(index=False, na_rep="–", border=0)
    lines = "".join(f"<p>{html.escape(line)}</p>" for line in below)
    return f"<p>{html.escape(above)}</p>{shown}{lines}"


def detectable_line(table: pd.DataFrame) -> str:
    """One line on the smallest difference that the rows would probably show.

    Args:
        table: with columns unit, n, detectable.
    """
    parts = []
    for unit, rows in table[table["n"] > 0].groupby("unit", sort=False):
        found = rows["detectable"].dropna()
        size = _span(found, ".3f") if len(found) else "none that could be found"
        of_unit = "" if unit == "accuracy" else f" {unit}"
        parts.append(f"{size}{of_unit} at n = {_span(rows['n'], 'd')}")
    said = "; ".join(parts) or "unknown, for no example was scored under both"
    return f"Minimum detectable effect (80% power after correction): {said}"


def _span(values: "pd.Series[float]", form: str) -> str:
    low, high = format(values.min(), form), format(values.max(), form)
    return low if low == high else f"{low} to {high}"
