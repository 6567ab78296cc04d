"""`layerroles demo`: the whole study on a small model."""

from pathlib import Path
from typing import Annotated

import typer

from layerroles.cli.options import Dtype, LimitUntil, Minutes, OtherModel, Seed
from layerroles.cli.parsing import check_options
from layerroles.cli.printing import STOPPED, exit_on_interrupt
from layerroles.invisible_characters import visible

TASKS = ("kv_retrieval", "facts", "word_problems[steps=1]", "copying")
PROTOCOLS = ("continuation", "generation")


def command(
    out: Annotated[Path, typer.Option(metavar="RUN", help="The run folder.")] = Path("runs/demo"),
    model: OtherModel = "smollm2-135m",
    minutes: Minutes = None,
    limit: LimitUntil = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
) -> None:
    """Skip every layer of a real 30-layer model on four families of tasks; write a report.

    Takes a while; the same command goes on where it was stopped.

    [bold]Example:[/bold]
    layerroles demo --limit 8 --out runs/quick
    """
    until = None if minutes is None else "decided"
    check_options(limit=limit, until=until, minutes=minutes)

    import layerroles as lr

    bridge = lr.load(model, dtype=dtype)
    tasks = [lr.task(name) for name in TASKS]
    conditions = [
        *lr.each_layer(bridge, lr.Skip(), at="all"),
        *lr.each_layer(bridge, lr.Skip(), at="after_first"),
    ]
    sweep = lr.Sweep(
        bridge,
        tasks,
        conditions,
        protocols=PROTOCOLS,
        until=None if until is None else lr.Decided(minutes=minutes),
        limit=limit,
        seed=seed,
    )
    page = out / "report.html"
    with exit_on_interrupt(STOPPED.format(out)):
        result = sweep.run(out, report=page)
        probes = [
            lr.probes.measure_into(out, probe, bridge, tasks, limit=min(32, sweep.limit), seed=seed)
            for probe in (lr.probes.LogitLens(), lr.probes.Attention())
        ]
    lr.report(result, probes=probes, path=page)
    typer.echo(visible(lr.localize(result, probes=probes).verdict))
    typer.echo(f"Report: {page}")
