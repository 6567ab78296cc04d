"""`layerroles figures`: every figure of a run as files for a paper, with captions."""

from pathlib import Path
from typing import Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import AsJson, Run, Width
from layerroles.cli.parsing import split_list
from layerroles.cli.printing import print_json, print_line


def command(
    run: Run,
    formats: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT,...",
            help="pdf, svg, png (these need the extra `export` and Chromium) or html.",
            autocompletion=shell_completion.list_of(shell_completion.FORMATS),
        ),
    ] = "pdf",
    width: Width = "column",
    only: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Some figures, as in depth_profile,harm_map; by default all that the run allows.",
            autocompletion=shell_completion.list_of(shell_completion.FIGURES),
        ),
    ] = None,
    title: Annotated[
        bool, typer.Option("--title", help="Keep titles in the figures, not in captions alone.")
    ] = False,
    dpi: Annotated[
        int, typer.Option(metavar="N", min=30, max=2400, help="Dots per inch of a png.")
    ] = 300,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where files go; by default RUN/figures."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the figures that a run allows, each with its caption (.txt; for LaTeX also .tex).

    What is drawn is what the report shows: of the sweep, and of probes measured into its folder.

    [bold]Example:[/bold]
    layerroles figures runs/first --format pdf,png --width full --only role_map,depth_profile
    """
    from layerroles.figures import check_formats, parse_width

    formats_asked = split_list(formats, "--format")
    check_formats(formats_asked)
    parse_width(width)
    names = [] if only is None else split_list(only, "--only")

    import layerroles as lr
    from layerroles.sweep import describe_unfinished

    result = lr.read(run)
    if line := describe_unfinished(run):
        typer.echo(f"layerroles: {line}", err=True)
    # The probes' module loads torch, which a run without probes does not need.
    saved = lr.probes.read_saved(run) if (run / "probes").is_dir() else []
    drawn = lr.figures.every(result, saved, only=names)
    folder = out or run / "figures"
    written = lr.figures.save(
        drawn, folder, formats=formats_asked, width=width, title=title, dpi=dpi, result=result
    )
    if as_json:
        print_json(
            [
                {
                    "name": name,
                    "kind": figure.layout.meta["figure"],
                    "files": [str(file) for file in written if file.stem == name],
                    "caption": (folder / f"{name}.txt").read_text("utf-8").strip(),
                }
                for name, figure in drawn.items()
            ]
        )
        return
    for file in written:
        print_line(str(file))
