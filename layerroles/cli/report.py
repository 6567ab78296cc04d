"""`layerroles report`: one HTML page about a run."""

from pathlib import Path
from typing import Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import Run


def command(
    run: Run,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="The page; by default RUN/report.html."),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Another run, shown side by side on the same page.",
            autocompletion=shell_completion.runs,
        ),
    ] = None,
) -> None:
    """Write one self-contained HTML page about a run; it opens offline.

    [bold]Example:[/bold]
    layerroles report runs/first --out first.html
    layerroles report runs/base --against runs/twin --out both.html
    """
    import layerroles as lr
    from layerroles.sweep import describe_unfinished

    result = lr.read(run)
    other = None if against is None else lr.read(against)
    runs = [run] if against is None else [run, against]
    partly = [line for line in map(describe_unfinished, runs) if line]
    for line in partly:
        typer.echo(f"layerroles: {line}", err=True)
    page = lr.report(
        result,
        probes=lr.probes.read_saved(run),
        findings=partly,
        path=out or run / "report.html",
        against=other,
    )
    typer.echo(f"{page}")
