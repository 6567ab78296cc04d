"""`layerroles prune`: drop the layers that given families need least; write the smaller model."""

from pathlib import Path
from typing import Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import (
    AsJson,
    Device,
    Dtype,
    Limit,
    NumFewshot,
    OtherModel,
    Plugins,
    Revision,
    Seed,
    Tasks,
)
from layerroles.cli.parsing import check_options, split_list
from layerroles.cli.plugin_files import import_plugins
from layerroles.cli.printing import (
    STOPPED,
    exit_on_interrupt,
    json_records,
    print_json,
    print_line,
)
from layerroles.cli.sweep import make_tasks, parse_protocols


def command(
    model: OtherModel,
    drop: Annotated[int, typer.Option(metavar="K", help="How many layers to drop.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="RUN", help="The run folder; a search that was interrupted there is resumed."
        ),
    ],
    keep: Annotated[
        str,
        typer.Option(
            metavar="FAMILY,...",
            help="Families (or tasks) of --tasks that are to lose least.",
            autocompletion=shell_completion.list_of(shell_completion.FAMILIES),
        ),
    ] = "reasoning",
    tasks: Tasks = "kv_retrieval,facts,word_problems",
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="How layers are chosen: role_aware, or for comparison likelihood, "
            "block_influence, angular, random.",
            autocompletion=shell_completion.one_of(shell_completion.METHODS),
        ),
    ] = "role_aware",
    protocols: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="How it is asked; generation by default, continuation for likelihood.",
            autocompletion=shell_completion.list_of(shell_completion.PROTOCOLS),
        ),
    ] = None,
    screen: Annotated[
        int, typer.Option(metavar="N", help="Layers tried in each step after the first.")
    ] = 8,
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER", help="Write the model without these layers there, for transformers."
        ),
    ] = None,
    limit: Limit = 32,
    num_fewshot: NumFewshot = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Choose layers to drop such that the named families lose least, and write the smaller model.

    By harm, the search is greedy: each layer is skipped alone and the least harmful is dropped;
    then the most promising of the rest are skipped together with those dropped before.

    [bold]Example:[/bold]
    layerroles prune --model smollm2-135m --drop 2 --keep reasoning --out runs/plan --export pruned
    """
    import_plugins(plugin or [])
    check_options(limit=limit, protocols=protocols or "")
    tasks_asked = make_tasks(tasks, num_fewshot)
    names_kept = split_list(keep, "--keep")
    protocols_asked = None if protocols is None else parse_protocols(protocols)

    import layerroles as lr
    from layerroles.prune import check_empty, check_exportable

    if export is not None:
        check_empty(export)  # fail before hours of work, as below
    bridge = lr.load(model, dtype=dtype, device=device, revision=revision)
    if export is not None:
        check_exportable(bridge)
    with exit_on_interrupt(STOPPED.format(out)):
        plan = lr.plan_pruning(
            bridge,
            drop=drop,
            keep=names_kept,
            tasks=tasks_asked,
            method=method,
            protocols=protocols_asked,
            limit=limit,
            seed=seed,
            screen=screen,
            path=out,
        )
    folder = None if export is None else lr.export(bridge, drop=plan.layers, path=export)
    if as_json:
        print_json(
            {
                "model": plan.model,
                "method": plan.method,
                "layers": plan.layers,
                "n_layers": plan.n_layers,
                "keep": plan.keep,
                "without_skill": plan.without_skill,
                "steps": json_records(plan.frame),
                "export": None if folder is None else str(folder),
            }
        )
        return
    for line in str(plan).split("\n"):
        print_line(line)
    if folder is not None:
        typer.echo(f"The model without these layers is in {folder}; it loads with --model {folder}")
