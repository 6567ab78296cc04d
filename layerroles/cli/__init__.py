"""The command line: `layerroles COMMAND`, one module per command.

A mistake in the input is reported in one line on standard error, with exit code 2; a keyboard
interrupt in one line, with exit code 130. Any other exception is a bug and keeps its traceback.

The modules of the commands import the rest of the package inside their functions, so that `--help`
is fast.
"""

import logging
import re
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from layerroles import __version__
from layerroles.cli import (
    ablations,
    compare,
    demo,
    estimate,
    export_rows,
    figures,
    probe,
    prune,
    report,
    sites,
    status,
    sweep,
    tasks,
)
from layerroles.errors import InputError
from layerroles.invisible_characters import visible

app = typer.Typer(
    name="layerroles",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("sweep")(sweep.command)
app.command("estimate")(estimate.command)
app.command("probe")(probe.command)
app.command("status")(status.command)
app.command("report")(report.command)
app.command("figures")(figures.command)
app.command("compare")(compare.command)
app.command("export-rows")(export_rows.command)
app.command("prune")(prune.command)
app.command("tasks")(tasks.command)
app.command("ablations")(ablations.command)
app.command("sites")(sites.command)
app.command("demo")(demo.command)


def _print_version(wanted: bool | None) -> None:
    if wanted:
        typer.echo(f"layerroles {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool | None,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = None,
) -> None:
    """Ablate any part of a language model and see which depth does what, with error bars.

    Start with [bold]layerroles demo[/bold]. Layers and heads are counted from 0.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the command line without the program's name; by default that of the process.
            Empty shows the help.
    """
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    handler = logging.StreamHandler()
    handler.setFormatter(_PlainFormatter("layerroles: %(message)s"))
    log = logging.getLogger("layerroles")
    before = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        _check_values(words)
        command = typer.main.get_command(app)
        code = command.main(words, prog_name="layerroles", standalone_mode=False)
        return int(code or 0)
    except InputError as error:
        return _report_error(str(error))
    except typer.TyperException as error:
        return _report_error(_describe_error(error))
    except (typer.Abort, KeyboardInterrupt):
        print("layerroles: stopped", file=sys.stderr)
        return 130
    finally:
        log.removeHandler(handler)
        log.setLevel(before)


def _check_values(words: Sequence[str]) -> None:
    """Refuse empty values, such as those of a shell variable that is not set.

    Raises:
        InputError: a value is empty. An empty path would be the current folder.
    """
    for before, word in zip(["layerroles", *words], words, strict=False):
        if not word:
            raise InputError(f"the value after {before!r} is empty: give one, or leave it out")
        if re.fullmatch(r"--[\w-]+=", word):
            raise InputError(f"{word!r} has no value: give one, or leave it out")


def _report_error(line: str) -> int:
    print(f"layerroles: error: {visible(line)}", file=sys.stderr)
    return 2


class _PlainFormatter(logging.Formatter):
    """Format log records with control characters escaped."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record))


def _describe_error(error: typer.TyperException) -> str:
    """Describe an error of typer in one line, with the nearest option and a pointer to --help."""
    line = " ".join(error.format_message().split()).rstrip(".")
    near = getattr(error, "possibilities", None)
    if near:
        line = f"no such option: {getattr(error, 'option_name', '')}, did you mean {near[0]}?"
    # typer checks values with pydantic, whose message does not contain the value.
    problems: list[dict[str, object]] = getattr(error.__cause__, "errors", list)()
    if problems:
        line = (
            f"{line.split(', unable')[0].replace(': Input', ': it')}, not {problems[0]['input']!r}"
        )
    context = getattr(error, "ctx", None)
    if context is not None:
        line = f"{line} (see {context.command_path} --help)"
    return line[:1].lower() + line[1:]
