"""`layerroles sweep`: ablate sites of a model one at a time and ask it the same questions."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from layerroles.cli import shell_completion
from layerroles.cli.options import (
    Ablations,
    AsJson,
    Chat,
    Device,
    Dtype,
    LimitUntil,
    Memory,
    Minutes,
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
from layerroles.cli.parsing import (
    check_options,
    describe_parameters,
    parameters_of,
    parse_parameters,
    split_list,
    split_settings,
)
from layerroles.cli.plugin_files import import_plugins
from layerroles.cli.printing import (
    STOPPED,
    exit_on_interrupt,
    json_records,
    most_harmful,
    print_json,
    print_result,
)
from layerroles.errors import InputError
from layerroles.sites import ATS

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge

    from layerroles.ablations import Ablation, At, Condition
    from layerroles.backends import Backend
    from layerroles.engine import ExecutorName
    from layerroles.results import SweepResult
    from layerroles.sweep import Decided
    from layerroles.tasks import Task

TASKS = "kv_retrieval,facts,word_problems,copying"


def command(
    model: Model,
    out: Annotated[
        Path,
        typer.Option(
            metavar="RUN", help="The run folder; a run that lies there is resumed or extended."
        ),
    ],
    tasks: Tasks = TASKS,
    ablation: Ablations = "skip",
    sites: Sites = "all",
    at: Positions = "all,after_first",
    protocols: Protocols = "continuation,generation",
    chat: Chat = False,
    coherence: Annotated[
        bool,
        typer.Option(
            "--coherence",
            help="Measure how likely the intact model finds what was written, in nats per token; "
            "adds about a third to the time of generation.",
        ),
    ] = False,
    noise_floor: NoiseFloor = True,
    only_needed: Annotated[
        bool,
        typer.Option(
            "--only-needed/--every-layer",
            help="Ablate at after_first (which spares the attention sink) only layers that are "
            "critical at all positions, in the end; or every layer.",
        ),
    ] = True,
    report: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.html",
            help="An HTML report, written after each round of questions and in the end.",
        ),
    ] = None,
    until: Until = None,
    minutes: Minutes = None,
    limit: LimitUntil = None,
    num_fewshot: NumFewshot = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    executor: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto, the fastest that gives what the reference gives; plain, the reference; "
            "hooked or fused.",
            autocompletion=shell_completion.one_of(shell_completion.EXECUTORS),
        ),
    ] = "auto",
    memory: Memory = None,
    backend: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="local, this process; ray, workers of a Ray cluster, each with a model of its "
            "own (this process then holds none).",
            autocompletion=shell_completion.one_of(shell_completion.BACKENDS),
        ),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Address of the Ray cluster of which this machine is a node, such as auto; by "
            "default a cluster is started on this machine.",
        ),
    ] = None,
    workers: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="Number of workers; auto: as many as the GPUs allow, without GPUs one per node.",
        ),
    ] = "auto",
    gpus_per_worker: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="GPUs of each worker; above 1 the model is split over them, below 1 workers share "
            "one.",
        ),
    ] = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Seconds a worker may take for one job before it is replaced; by default an hour.",
        ),
    ] = None,
    settings: Settings = None,
    plugin: Plugins = None,
    top: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            help="Most harmful conditions shown per task, protocol; by default 5, with --json all.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ablate sites one at a time and ask the same questions, the intact model's answers beside.

    The run folder keeps every row: the same command resumes a run that was
    cut off; a larger limit, more sites, tasks or protocols extend it.

    [bold]Example:[/bold]
    layerroles sweep --model smollm2-135m --tasks facts,word_problems --sites L0:10 --out runs/first
    """
    import_plugins(plugin or [])
    until = "decided" if until is None and minutes is not None else until
    check_options(
        limit=limit,
        until=until,
        minutes=minutes,
        protocols=protocols,
        ablation=ablation,
        sites=sites,
        executor=executor,
        backend=backend,
    )
    tasks_asked = make_tasks(tasks, num_fewshot)
    ats = parse_positions(at)
    protocols_asked = parse_protocols(protocols)
    check_engine(executor, memory)
    ablations = make_ablations(ablation, split_settings(settings or []))
    chosen_backend = parse_backend(backend, address, workers, gpus_per_worker, timeout)
    if backend == "ray" and device is not None:
        raise InputError(
            f"--device {device} is of --backend local: with ray, each worker takes what it is given"
        )

    import layerroles as lr

    device = "meta" if backend == "ray" else device  # the workers read the weights
    bridge = lr.load(model, dtype=dtype, device=device, revision=revision)
    conditions = each_condition(bridge, ablations, sites, ats)
    engine = lr.Engine(bridge, executor=cast("ExecutorName", executor), memory=memory)
    sweep = lr.Sweep(
        bridge,
        tasks_asked,
        conditions,
        protocols=protocols_asked,
        until=make_until(until, minutes),
        limit=limit,
        seed=seed,
        engine=engine,
        chat=chat,
        coherence=coherence,
        noise_floor=noise_floor,
        only_needed=only_needed,
    )
    with exit_on_interrupt(STOPPED.format(out)):
        result = sweep.run(out, backend=chosen_backend, report=report)
    if as_json:
        effects = result.effects()
        worst = most_harmful(effects, len(effects) if top is None else top)
        print_json(
            {
                "run": str(out),
                "intact": json_records(result.intact()),
                **({} if until is None else {"decisions": json_records(result.decisions())}),
                **({} if until != "claims" else {"claims": _claim_records(result, conditions)}),
                "effects": json_records(worst),
            }
        )
        return
    print_result(result, top=5 if top is None else top)
    page = f"layerroles report {out}" if report is None else report
    typer.echo(f"Rows are in {out}. A page to read them: {page}")


def _claim_records(
    result: "SweepResult", conditions: Sequence["Condition"]
) -> list[dict[str, object]]:
    """Return, as JSON values, what the run shows of the literature's claims (`Roles.claims`).

    The claims are about the harm of the first condition's ablation.
    """
    import layerroles as lr

    return json_records(lr.localize(result, ablation=conditions[0].ablation).claims)


def make_until(until: str | None, minutes: float | None = None) -> "Decided | None":
    """Return the rule by which a sweep ends once layers or claims are decided; None for no rule.

    Args:
        until: the value of `--until`: `decided` (layers), `claims`, or None for no rule.
        minutes: the value of `--minutes`: the time to spend.
    """
    import layerroles as lr

    if until is None:
        return None
    return lr.Decided(minutes=minutes, goal="claims" if until == "claims" else "layers")


def each_condition(
    model: "TransformerBridge", ablations: Sequence["Ablation"], sites: str, ats: Sequence["At"]
) -> list["Condition"]:
    """Return a condition for each ablation, position and site.

    Raises:
        InputError: `sites` is not a list of sites, or names one that the model does not have.
    """
    import layerroles as lr
    from layerroles.sites import parse_sites, size_of

    where = parse_sites(sites, size_of(model.cfg))
    return [
        lr.Condition({site: edit}, at=position)
        for edit in ablations
        for position in ats
        for site in where
    ]


def make_tasks(text: str, num_fewshot: int | None) -> list["Task"]:
    """Make the tasks that `--tasks` names, with `num_fewshot` worked examples unless it is None.

    Raises:
        InputError: unknown task or parameter, a value that a parameter does not take, or a task
            named twice.
    """
    from layerroles.tasks import task

    shots = {} if num_fewshot is None else {"num_fewshot": num_fewshot}
    return [task(name, **shots) for name in split_list(text, "--tasks")]


def parse_protocols(text: str) -> list[str]:
    """Return the labels of the protocols that `--protocols` names.

    Raises:
        InputError: unknown protocol or parameter, a value that a parameter does not take, or a
            protocol named twice.
    """
    from layerroles.protocols import protocol

    names = split_list(text, "--protocols")
    for name in names:
        protocol(name)
    return names


def parse_positions(text: str) -> list["At"]:
    """Return the ablation positions (`at` of a condition) that `--at` names.

    Raises:
        InputError: a name is unknown, or occurs twice.
    """
    names = split_list(text, "--at")
    for name in names:
        if name not in ATS:
            raise InputError(f"unknown at={name!r}: known are {', '.join(ATS)}")
    return [cast("At", name) for name in names]


def check_engine(executor: str, memory: str | None) -> None:
    """Check the values of `--executor` and `--memory`.

    Raises:
        InputError: an unknown executor, or a memory that is not a size.
    """
    from layerroles.engine import check_executor, parse_memory

    check_executor(executor)
    if memory is not None:
        parse_memory(memory)


def parse_backend(
    name: str,
    address: str | None,
    workers: str,
    gpus_per_worker: float | None,
    timeout: float | None,
) -> "Backend":
    """Make the backend that `--backend` names, with its options.

    Raises:
        InputError: unknown backend, an option that the backend does not have, or a value that the
            option does not take.
    """
    from layerroles.backends import make_backend

    if workers != "auto" and not (workers.isdecimal() and len(workers) < 10):
        raise InputError(f"--workers {workers!r} is neither auto nor a number")
    options = {
        "address": address,
        "workers": None if workers == "auto" else int(workers),
        "gpus_per_worker": gpus_per_worker,
        "timeout": timeout,
    }
    return make_backend(name, options)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def make_ablations(text: str, settings: dict[str, str]) -> list["Ablation"]:
    """Make the ablations that `--ablation` names, with the settings that each of them takes.

    A parameter `reference` that is not set becomes `Reference()`, for which a sweep takes held-out
    prompts of each task.

    Raises:
        InputError: an ablation that is unknown or named twice, a setting that none of them has, or
            a parameter whose value is missing or refused.
    """
    from layerroles.ablations import ABLATIONS, Reference

    classes = {name: ABLATIONS[name] for name in split_list(text, "--ablation")}
    described = {name: describe_parameters(cls) or "none" for name, cls in classes.items()}
    unused = set(settings)
    ablations = []
    for name, cls in classes.items():
        fields = parameters_of(cls)
        own_settings = {key: value for key, value in settings.items() if key in fields}
        unused -= set(own_settings)
        values = parse_parameters(cls, own_settings)
        if "reference" in fields and "reference" not in values:
            values["reference"] = Reference()
        missing = [
            key for key, field in fields.items() if key not in values and _is_required(field)
        ]
        if missing:
            raise InputError(
                f"ablation {name!r} needs --set {missing[0]}=VALUE; what is no number or text, "
                f"such as a model, can be given from Python only"
            )
        try:
            ablations.append(cls(**values))
        except (TypeError, ValueError) as error:  # a parameter without value, or one refused
            raise InputError(f"ablation {name!r} ({described[name]}): {error}") from error
    if unused:
        of = "; ".join(f"{name}: {parameters}" for name, parameters in described.items())
        raise InputError(f"--set {sorted(unused)[0]!r}: no such parameter, known are {of}")
    return ablations
