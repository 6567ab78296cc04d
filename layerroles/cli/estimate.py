"""`layerroles estimate`: the time and memory a sweep would need, on this machine or another."""

from typing import Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import (
    Ablations,
    AsJson,
    Chat,
    Dtype,
    LimitUntil,
    Memory,
    Model,
    NoiseFloor,
    NumFewshot,
    Plugins,
    Positions,
    Protocols,
    Revision,
    Seed,
    Settings,
    Sites,
    Tasks,
    Until,
)
from layerroles.cli.parsing import check_options, split_settings
from layerroles.cli.plugin_files import import_plugins
from layerroles.cli.printing import print_json
from layerroles.cli.sweep import (
    TASKS,
    each_condition,
    make_ablations,
    make_tasks,
    make_until,
    parse_positions,
    parse_protocols,
)
from layerroles.invisible_characters import visible


def command(
    model: Model,
    tasks: Tasks = TASKS,
    ablation: Ablations = "skip",
    sites: Sites = "all",
    at: Positions = "all,after_first",
    protocols: Protocols = "continuation,generation",
    chat: Chat = False,
    noise_floor: NoiseFloor = True,
    until: Until = None,
    limit: LimitUntil = None,
    num_fewshot: NumFewshot = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Annotated[
        str,
        typer.Option(
            metavar="DEVICE",
            help="cpu or measured (the device of this machine), which are measured; a100-40gb, "
            "a100-80gb, h100, h200, l4, l40s, rtx4090, of which half of the published peak is "
            "assumed.",
            autocompletion=shell_completion.one_of(shell_completion.TARGETS),
        ),
    ] = "measured",
    generated: Annotated[
        float,
        typer.Option(
            metavar="SHARE",
            min=0,
            max=1,
            help="Expected share of the allowed output tokens; 1.0 gives an upper bound.",
        ),
    ] = 1.0,
    revision: Revision = None,
    memory: Memory = None,
    settings: Settings = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Estimate the tokens, operations, memory and time of a sweep, without running it.

    It takes the options of layerroles sweep that say what is asked. Only the model's config.json
    and tokenizer are needed; the time to load the weights is not included.

    [bold]Example:[/bold]
    layerroles estimate --model meta-llama/Llama-3.1-8B --device h100 --tasks kv_retrieval
    """
    import_plugins(plugin or [])
    check_options(limit=limit, until=until, protocols=protocols, ablation=ablation, sites=sites)
    tasks_asked = make_tasks(tasks, num_fewshot)
    ats = parse_positions(at)
    protocols_asked = parse_protocols(protocols)
    ablations = make_ablations(ablation, split_settings(settings or []))

    import layerroles as lr
    from layerroles.engine import loading_dtype, parse_memory

    if memory is not None:
        parse_memory(memory)
    kind = loading_dtype(device, dtype)
    bridge = lr.load(model, dtype=kind, device="meta", revision=revision)
    conditions = each_condition(bridge, ablations, sites, ats)
    sweep = lr.Sweep(
        bridge,
        tasks_asked,
        conditions,
        protocols=protocols_asked,
        until=make_until(until),
        limit=limit,
        seed=seed,
        chat=chat,
        noise_floor=noise_floor,
    )
    expected = lr.estimate(sweep, device=device, memory=memory, generated=generated)
    if as_json:
        print_json(expected.to_dict())
    else:
        typer.echo(visible(str(expected)))
