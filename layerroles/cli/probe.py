"""`layerroles probe`: measure what layers and heads do on the intact model."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from layerroles.cli.printing import exit_on_interrupt, print_json, print_line
from layerroles.cli.sweep import make_tasks
from layerroles.errors import InputError

if TYPE_CHECKING:
    from layerroles.probes import Probe


def command(
    model: OtherModel,
    out: Annotated[
        Path,
        typer.Option(
            metavar="RUN", help="The run folder, of a sweep or not; frames go to RUN/probes."
        ),
    ],
    probe: Annotated[
        str,
        typer.Option(
            metavar="NAME,...",
            help="What is measured, parameters in brackets. An unknown name is answered with all "
            "known ones.",
            autocompletion=shell_completion.list_of(shell_completion.PROBES),
        ),
    ] = "logit_lens,attention",
    tuned_lens: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Measure a tuned lens too: a file that TunedLens.save wrote."
        ),
    ] = None,
    tasks: Tasks = "kv_retrieval,facts,word_problems,copying",
    limit: Limit = 32,
    num_fewshot: NumFewshot = None,
    seed: Seed = 0,
    dtype: Dtype = "auto",
    device: Device = None,
    revision: Revision = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Measure probes on the prompts of tasks, store the frames in a run folder, and summarize them.

    If the folder holds a sweep, its report shows the probes too. Measure the tasks of the sweep, so
    that the report's verdicts and probes are about the same prompts.

    [bold]Example:[/bold]
    layerroles probe --model smollm2-135m --tasks facts --probe logit_lens --out runs/first
    """
    import_plugins(plugin or [])
    check_options(limit=limit, probe=probe)
    tasks_asked = make_tasks(tasks, num_fewshot)
    probes = make_probes(probe, tuned_lens)

    import layerroles as lr
    from layerroles.roles import probe_sentences, summarize_probes

    bridge = lr.load(model, dtype=dtype, device=device, revision=revision)
    summaries: list[dict[str, object]] = []
    for probe_asked in probes:
        with exit_on_interrupt(f"stopped; the probes that were done are kept in {out}"):
            frame = lr.probes.measure_into(
                out, probe_asked, bridge, tasks_asked, limit=limit, seed=seed
            )
        n = 0 if frame.empty else len(frame[["task", "example"]].drop_duplicates())
        probe_words = [] if frame.empty else probe_sentences(summarize_probes([frame]))
        sentences = [sentence.text for sentence in probe_words]
        summaries.append(
            {"probe": probe_asked.name, "rows": len(frame), "examples": n, "sentences": sentences}
        )
        if as_json:
            continue
        if frame.empty:
            print_line(f"{probe_asked.name}: none of these examples has what it measures")
            continue
        print_line(f"{probe_asked.name}: {len(frame)} rows on {n} examples")
        for sentence in sentences:
            print_line(sentence)
    if as_json:
        print_json({"folder": str(out / "probes"), "probes": summaries})
        return
    typer.echo(f"Frames are in {out / 'probes'}. Layers and heads are counted from 0.")


def make_probes(text: str, tuned_lens: Path | None = None) -> list["Probe"]:
    """Return the probes that `--probe` names, and the lens saved in the file `tuned_lens`, if any.

    Raises:
        InputError: unknown probe or parameter, a value that a parameter does not take, a probe
            named twice, or a file that holds no lens.
    """
    from layerroles.probes import PROBES, TunedLens
    from layerroles.registry import read_label

    labels = [read_label("probe", name) for name in split_list(text, "--probe")]
    if any(name == "tuned_lens" for name, _ in labels):
        raise InputError("a tuned lens is read from its file: give --tuned-lens FILE")
    made: list[Probe] = [PROBES.make(*label) for label in labels]
    return made if tuned_lens is None else [*made, TunedLens.load(tuned_lens)]
