"""`layerroles status`: how far a run is, from another terminal."""

from typing import Annotated

import typer

from layerroles.cli.options import AsJson, Run


def command(
    run: Run,
    top: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also show the effects so far: the N most harmful conditions."
        ),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Tell how far a run is; the run goes on undisturbed.

    [bold]Example:[/bold]
    layerroles status runs/first --top 3
    """
    from layerroles.cli.tables import (
        json_records,
        most_harmful,
        print_json,
        print_line,
        print_result,
    )
    from layerroles.sweep import read_status

    status = read_status(run)
    if as_json:
        values = status.to_dict()
        if top:
            import layerroles as lr

            values["effects"] = json_records(most_harmful(lr.read(run).effects(), top))
        print_json(values)
        return
    print_line(str(status))
    if top:
        import layerroles as lr

        print_result(lr.read(run), top=top)
