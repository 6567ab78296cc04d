"""Print tables, JSON and lines for commands; the output in a pipe is plain text."""

import json
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

from layerroles.invisible_characters import visible

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console
    from rich.table import Table

    from layerroles.results import Comparison, SweepResult


# The message of a command that was interrupted; `{}` stands for the run folder.
STOPPED = "stopped; what is done is kept in {}, the same command goes on"


@contextmanager
def exit_on_interrupt(line: str) -> Iterator[None]:
    """Convert a keyboard interrupt to a line on standard error and the exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        print(f"layerroles: {line}", file=sys.stderr)
        raise typer.Exit(130) from None


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table of text; nothing in it is read as markup."""
    _console().print(_make_table(title, columns, rows))


def print_json(value: object) -> None:
    """Print JSON; numbers that are not finite become null."""
    print(json.dumps(_json_value(value), indent=1, allow_nan=False))


def json_records(frame: "pd.DataFrame") -> list[dict[str, object]]:
    """Return the rows of a frame as JSON values."""
    records: list[dict[str, object]] = json.loads(
        frame.to_json(orient="records", double_precision=15)
    )
    return records


def _json_value(value: object) -> object:
    if isinstance(value, dict):
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_result(result: "SweepResult", *, top: int) -> None:
    """Print the intact scores, and for each task and protocol the `top` most harmful conditions."""
    # Imported late: pandas is slow to load, and commands that only print names do not need it.
    from layerroles.results import detectable_line

    console, effects = _console(), result.effects()
    console.print(intact_table(result.intact()))
    if top:
        console.print(effects_table(most_harmful(effects, top)))
    print_line(detectable_line(effects))


def print_comparison(comparison: "Comparison", *, top: int) -> None:
    """Print how two runs agree over sites, the `top` largest differences, and what is unmatched."""
    from layerroles.results import detectable_line

    console = _console()
    print_line(f"a: {comparison.names[0]}, b: {comparison.names[1]}; differences are b minus a")
    console.print(profiles_table(comparison.profiles))
    if top:
        console.print(differences_table(comparison.largest(top)))
    for line in (detectable_line(comparison.frame), *comparison.unmatched):
        print_line(line)


def print_line(line: str) -> None:
    """Print a line of plain text without wrapping it."""
    from rich.text import Text

    _console().print(Text(visible(line)), soft_wrap=True)


def intact_table(intact: "pd.DataFrame") -> "Table":
    """Return a table of the intact model's scores with their intervals."""
    rows = [
        (
            str(row["task"]),
            str(row["protocol"]),
            str(row["n"]),
            format_interval(row["score"], row["score_low"], row["score_high"]),
            format_number(row["chance"]),
        )
        for _, row in intact.iterrows()
    ]
    return _make_table("Intact", ("task", "protocol", "n", "score", "chance"), rows)


def most_harmful(effects: "pd.DataFrame", top: int) -> "pd.DataFrame":
    """Return the conditions with the most negative effects, `top` of each task and protocol."""
    # A stable sort, so that ties keep the order of the layers.
    ordered = effects.sort_values("effect", kind="stable", na_position="last")
    first = ordered.groupby(["task", "protocol"], sort=False).head(top)
    return first.sort_values(["task", "protocol"], kind="stable")


def effects_table(effects: "pd.DataFrame") -> "Table":
    """Return a table of effects with intervals: negative means that the ablation hurts.

    If answers are generated, the last column is the effect on the format of answers.
    """
    columns = ["task", "protocol", "condition", "score", "effect", "harm", "p adjusted", "format"]
    rows = [
        [
            str(row["task"]),
            str(row["protocol"]),
            str(row["condition"]),
            format_number(row["score"]),
            format_interval(row["effect"], row["ci_low"], row["ci_high"], sign=True),
            format_interval(row["harm"], row["harm_low"], row["harm_high"]),
            format_p(row["p_adjusted"]),
            format_interval(row["format_effect"], row["format_low"], row["format_high"], sign=True),
        ]
        for _, row in effects.iterrows()
    ]
    if effects["format_effect"].isna().all():
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return _make_table("Most harmful (layers are counted from 0)", columns, rows)


def profiles_table(profiles: "pd.DataFrame") -> "Table":
    """Return a table of how similar two runs' effects are over sites."""
    rows = [
        (
            str(row["task"]),
            str(row["protocol"]),
            " ".join(str(row[name]) for name in ("ablation", "part", "at")),
            str(row["n_sites"]),
            str(row["n"]),
            format_interval(row["spearman"], row["low"], row["high"], sign=True),
            format_interval(row["mean_difference"], row["mean_low"], row["mean_high"], sign=True),
        )
        for _, row in profiles.iterrows()
    ]
    columns = ("task", "protocol", "conditions", "sites", "n", "Spearman", "mean difference")
    return _make_table("Profiles over sites", columns, rows)


def differences_table(differences: "pd.DataFrame") -> "Table":
    """Return a table of the effects of two runs, and their differences with intervals."""
    rows = [
        (
            str(row["task"]),
            str(row["protocol"]),
            str(row["condition"]),
            str(row["n"]),
            format_number(row["effect_a"], sign=True),
            format_number(row["effect_b"], sign=True),
            format_interval(row["difference"], row["low"], row["high"], sign=True),
            format_interval(row["harm_difference"], row["harm_low"], row["harm_high"], sign=True),
            format_p(row["p_adjusted"]),
        )
        for _, row in differences.iterrows()
    ]
    columns = (
        *("task", "protocol", "condition", "n", "effect a", "effect b"),
        *("difference", "of harm", "p adjusted"),
    )
    return _make_table("Largest differences (layers are counted from 0)", columns, rows)


def format_number(value: float, *, sign: bool = False) -> str:
    """Format a number with three decimals; a dash if it is not defined.

    Example:
        >>> format_number(0.4375), format_number(-0.5, sign=True), format_number(float("nan"))
        ('0.438', '-0.500', '–')
    """
    if not _is_defined(value):
        return "–"
    return f"{value:+.3f}" if sign else f"{value:.3f}"


def format_interval(value: float, low: float, high: float, *, sign: bool = False) -> str:
    """Format a value with its interval, as in `0.438 [0.300, 0.600]`; a dash if it is undefined."""
    if not _is_defined(value):
        return "–"
    shown, start, end = (format_number(number, sign=sign) for number in (value, low, high))
    return f"{shown} [{start}, {end}]"


def format_p(value: float) -> str:
    """Format a p value: `<.001` below .001, a dash if it is not defined."""
    if not _is_defined(value):
        return "–"
    return "<.001" if value < 0.001 else f"{value:.3f}".lstrip("0") if value < 1 else "1"


def _is_defined(value: float) -> bool:
    try:
        return math.isfinite(value)
    except TypeError:  # None and pandas' NA
        return False


def _make_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
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
    # Imported late: shell completion, at every key press, does not need rich.
    from rich.console import Console

    console = Console()
    # A pipe has no width: do not fold what a program reads.
    if not console.is_terminal:
        console = Console(width=160)
    return console
