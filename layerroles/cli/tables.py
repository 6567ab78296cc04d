"""What commands print: tables for a terminal that stay plain text in a pipe."""

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from layerroles.errors import visible

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from layerroles.results import Comparison, SweepResult


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of text; nothing in it is read as markup."""
    _console().print(_table(title, columns, rows))


def print_json(value: object) -> None:
    """Print JSON: what is not a number, or unknown, is null."""
    print(json.dumps(_plain(value), indent=1, allow_nan=False))


def records(frame: "pd.DataFrame") -> list[dict[str, object]]:
    """The rows of a frame as JSON has them."""
    found: list[dict[str, object]] = json.loads(
        frame.to_json(orient="records", double_precision=15)
    )
    return found


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_result(result: "SweepResult", *, top: int) -> None:
    """Print the intact scores, and for each task and protocol the `top` most harmful conditions."""
    # pandas takes its time, and a command that prints names only does without it.
    from layerroles.results import detectable_line

    console, effects = _console(), result.effects()
    console.print(intact_table(result.intact()))
    if top:
        console.print(effects_table(most_harmful(effects, top)))
    print_line(detectable_line(effects))


def print_comparison(comparison: "Comparison", *, top: int) -> None:
    """Print the profiles of two runs, the `top` largest differences, and what has no match."""
    from layerroles.results import detectable_line

    console = _console()
    print_line(f"a: {comparison.names[0]}, b: {comparison.names[1]}; differences are b minus a")
    console.print(profiles_table(comparison.profiles))
    if top:
        console.print(differences_table(comparison.largest(top)))
    for line in (detectable_line(comparison.frame), *comparison.unmatched):
        print_line(line)


def print_line(line: str) -> None:
    """Print a line of plain text, whole in a pipe."""
    from rich.text import Text

    _console().print(Text(visible(line)), soft_wrap=True)


def intact_table(intact: "pd.DataFrame") -> "Table":
    """The intact model's scores with their intervals."""
    rows = [
        (
            str(row["task"]),
            str(row["protocol"]),
            str(row["n"]),
            interval(row["score"], row["score_low"], row["score_high"]),
            number(row["chance"]),
        )
        for _, row in intact.iterrows()
    ]
    return _table("Intact", ("task", "protocol", "n", "score", "chance"), rows)


def most_harmful(effects: "pd.DataFrame", top: int) -> "pd.DataFrame":
    """The conditions with the most negative effects, `top` of each task and protocol."""
    # A stable sort, so that ties keep the order of the layers.
    ordered = effects.sort_values("effect", kind="stable", na_position="last")
    first = ordered.groupby(["task", "protocol"], sort=False).head(top)
    return first.sort_values(["task", "protocol"], kind="stable")


def effects_table(effects: "pd.DataFrame") -> "Table":
    """Effects with intervals: negative means that the ablation hurts.

    Where the model writes, the effect on the form of answers stands beside that on their skill.
    """
    columns = ["task", "protocol", "condition", "score", "effect", "harm", "p adjusted", "format"]
    rows = [
        [
            str(row["task"]),
            str(row["protocol"]),
            str(row["condition"]),
            number(row["score"]),
            interval(row["effect"], row["ci_low"], row["ci_high"], sign=True),
            interval(row["harm"], row["harm_low"], row["harm_high"]),
            p_value(row["p_adjusted"]),
            interval(row["format_effect"], row["format_low"], row["format_high"], sign=True),
        ]
        for _, row in effects.iterrows()
    ]
    if effects["format_effect"].isna().all():
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return _table("Most harmful (layers are counted from 0)", columns, rows)


def profiles_table(profiles: "pd.DataFrame") -> "Table":
    """How alike two runs' effects are over sites."""
    rows = [
        (
            str(row["task"]),
            str(row["protocol"]),
            " ".join(str(row[name]) for name in ("ablation", "part", "at")),
            str(row["n_sites"]),
            str(row["n"]),
            interval(row["spearman"], row["low"], row["high"], sign=True),
            interval(row["mean_difference"], row["mean_low"], row["mean_high"], sign=True),
        )
        for _, row in profiles.iterrows()
    ]
    columns = ("task", "protocol", "conditions", "sites", "n", "Spearman", "mean difference")
    return _table("Profiles over sites", columns, rows)


def differences_table(differences: "pd.DataFrame") -> "Table":
    """The effects of two runs, and their difference with its interval."""
    rows = [
        (
            str(row["task"]),
            str(row["protocol"]),
            str(row["condition"]),
            str(row["n"]),
            number(row["effect_a"], sign=True),
            number(row["effect_b"], sign=True),
            interval(row["difference"], row["low"], row["high"], sign=True),
            interval(row["harm_difference"], row["harm_low"], row["harm_high"], sign=True),
            p_value(row["p_adjusted"]),
        )
        for _, row in differences.iterrows()
    ]
    columns = (
        *("task", "protocol", "condition", "n", "effect a", "effect b"),
        *("difference", "of harm", "p adjusted"),
    )
    return _table("Largest differences (layers are counted from 0)", columns, rows)


def number(value: float, *, sign: bool = False) -> str:
    """Three decimals, or a dash for what is not defined.

    Example:
        >>> number(0.4375), number(-0.5, sign=True), number(float("nan"))
        ('0.438', '-0.500', '–')
    """
    if not _defined(value):
        return "–"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """A value with its interval, or a dash for what is not defined."""
    if not _defined(value):
        return "–"
    return f"{number(value, sign=sign)} [{number(low, sign=sign)}, {number(high, sign=sign)}]"


def p_value(value: float) -> str:
    """A p value, not shown smaller than .001."""
    if not _defined(value):
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def _defined(value: float) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:  # None and pandas' NA
        return False


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # Names come from users' files: they are text, never markup.
        table.add_row(*(Text(visible(cell)) for cell in row))
    return table


def _console() -> "Console":
    # What is asked at every press of a key does without rich.
    from rich.console import Console

    console = Console()
    # A pipe has no width: do not fold what a program reads.
    if not console.is_terminal:
        console = Console(width=160)
    return console
