"""Options that several commands take, each said once."""

from pathlib import Path
from typing import Annotated

import typer

Limit = Annotated[int, typer.Option(metavar="N", help="Examples of each task.")]
NumFewshot = Annotated[
    int | None,
    typer.Option(metavar="N", help="Worked examples shown first; by default each task's own."),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Draws the examples.")]
Dtype = Annotated[str, typer.Option(metavar="DTYPE", help="auto, float32, bfloat16 or float16.")]
Device = Annotated[
    str | None, typer.Option(metavar="DEVICE", help="cpu, cuda, cuda:1; by default the best.")
]
Revision = Annotated[
    str | None, typer.Option(metavar="REV", help="A branch, tag or commit of the hub.")
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A file that registers ablations, tasks or protocols of your own; repeatable.",
    ),
]
