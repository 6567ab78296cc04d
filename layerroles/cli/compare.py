"""`layerroles compare`: two runs side by side."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Another run folder.")],
    top: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Largest differences shown per task, protocol."),
    ] = 3,
) -> None:
    """Compare two runs: where do effects differ, and do the profiles over sites agree?

    Differences are the second run (b) minus the first (a), over the conditions and examples that
    both have.

    [bold]Example:[/bold]
    layerroles compare runs/first runs/second --top 5
    """
    import layerroles as lr
    from layerroles.cli.tables import print_comparison

    print_comparison(lr.compare(lr.read(first), lr.read(second)), top=top)
