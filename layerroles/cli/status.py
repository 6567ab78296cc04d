"""`layerroles status`: how far a run is, from another terminal."""

import json
from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    top: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also show the effects so far: the N most harmful conditions."
        ),
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")] = False,
) -> None:
    """Tell how far a run is; the run goes on undisturbed.

    [bold]Example:[/bold]
    layerroles status runs/first --top 3
    """
    from layerroles.cli.tables import print_line, print_result
    from layerroles.status import read_status

    found = read_status(run)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), indent=1))
        return
    print_line(str(found))
    if top:
        import layerroles as lr

        print_result(lr.read(run), top=top)
