"""`layerroles compare`: two runs side by side."""

from pathlib import Path
from typing import Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import AsJson, Run


def command(
    first: Run,
    second: Annotated[
        Path,
        typer.Argument(
            metavar="RUN", help="Another run folder.", autocompletion=shell_completion.runs
        ),
    ],
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Largest differences shown per task, protocol; by default 3, with --json all.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare two runs: where do effects differ, and do the profiles over sites agree?

    Differences are the second run (b) minus the first (a), over the conditions and examples that
    both have.

    [bold]Example:[/bold]
    layerroles compare runs/first runs/second --top 5
    """
    import layerroles as lr
    from layerroles.cli.printing import json_records, print_comparison, print_json

    comparison = lr.compare(lr.read(first), lr.read(second))
    if as_json:
        print_json(
            {
                "a": comparison.names[0],
                "b": comparison.names[1],
                "profiles": json_records(comparison.profiles),
                "differences": json_records(
                    comparison.largest(len(comparison.frame) if top is None else top)
                ),
                "unmatched": comparison.unmatched,
            }
        )
        return
    print_comparison(comparison, top=3 if top is None else top)
