"""`layerroles export-rows`: the rows of a run as a table for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from layerroles.atomic_replacement import replace_atomically
from layerroles.cli.options import AsJson, Run
from layerroles.cli.printing import print_json, print_line
from layerroles.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

_ENDINGS = (".parquet", ".csv", ".jsonl")


def command(
    run: Run,
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="What is written: .parquet, .csv or .jsonl."),
    ],
    as_json: AsJson = False,
) -> None:
    """Write the rows of a run, one per condition, task, protocol and example, as a table.

    The columns are those of `result.frame`; the intact model's rows are among them.

    [bold]Example:[/bold]
    layerroles export-rows runs/first rows.parquet
    """
    if file.suffix not in _ENDINGS:
        raise InputError(f"{str(file)!r} ends in none of {', '.join(_ENDINGS)}: choose one")

    import layerroles as lr

    frame = lr.read(run).frame
    try:
        with replace_atomically(file) as scratch:
            try:
                _write(frame, scratch, file.suffix)
            except UnicodeEncodeError:
                texts = [name for name, column in frame.items() if column.dtype == object]
                encodable = {name: frame[name].map(_make_encodable) for name in texts}
                _write(frame.assign(**encodable), scratch, file.suffix)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot write {str(file)!r}: {reason}; choose another path") from error
    if as_json:
        print_json({"file": str(file), "rows": len(frame), "columns": list(frame.columns)})
    else:
        print_line(f"{len(frame)} rows in {file}")


def _make_encodable(value: object) -> object:
    """Replace lone surrogates in a text, which UTF-8 cannot encode, by question marks."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _write(frame: "pd.DataFrame", file: Path, ending: str) -> None:
    if ending == ".parquet":
        frame.to_parquet(file, index=False)
    elif ending == ".csv":
        frame.to_csv(file, index=False)
    else:
        frame.to_json(file, orient="records", lines=True, force_ascii=False)
