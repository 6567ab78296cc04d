"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from layerroles.cli import shell_completion
from layerroles.sites import ATS

Run = Annotated[
    Path, typer.Argument(metavar="RUN", help="A run folder.", autocompletion=shell_completion.runs)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Width = Annotated[
    str,
    typer.Option(
        metavar="WIDTH",
        help="column (3.25 in), full (6.75 in), or a width of your own: 5.5, 5.5in, 89mm.",
        autocompletion=shell_completion.one_of(shell_completion.WIDTHS),
    ),
]
Model = Annotated[
    str,
    typer.Option(
        help="A Hugging Face name, a local folder, a .gguf file, or the built-in smollm2-135m.",
        autocompletion=shell_completion.models,
    ),
]
Tasks = Annotated[
    str,
    typer.Option(
        metavar="TASK,...",
        help="What is asked, parameters in brackets: facts, kv_retrieval\\[pairs=20], "
        "local:FILE.jsonl, lm_eval:NAME. See: layerroles tasks.",
        autocompletion=shell_completion.list_of(shell_completion.TASKS),
    ),
]
Ablations = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        help="What is done. See: layerroles ablations.",
        autocompletion=shell_completion.list_of(shell_completion.ABLATIONS),
    ),
]
Sites = Annotated[
    str,
    typer.Option(
        metavar="SITE,...",
        help="Where, one at a time: all, L3, L5:9 (half-open), L3.attn, L3.mlp, L3.mixer, "
        "L3.H7, L3.KV2, L3.stream, all.attn. See: layerroles sites MODEL.",
    ),
]
Positions = Annotated[
    str,
    typer.Option(
        metavar="AT,...",
        help="At which positions: all; after_first, which spares the attention sink; prompt; "
        "generated; evidence; last (of the prompt).",
        autocompletion=shell_completion.list_of(ATS),
    ),
]
Protocols = Annotated[
    str,
    typer.Option(
        metavar="NAME,...",
        help="How it is asked, parameters in brackets: generation, exact, letter, "
        "answer_logprob, chain_logprob, continuation\\[norm=byte]; its norms are sum, token, "
        "byte and unconditional. plain_text is always asked under text_logprob.",
        autocompletion=shell_completion.list_of(shell_completion.PROTOCOLS),
    ),
]
Chat = Annotated[
    bool, typer.Option("--chat", help="Ask in the chat template of the model's tokenizer.")
]
NoiseFloor = Annotated[
    bool,
    typer.Option(
        help="Ask the intact model once more, in batches of another shape, and note how many "
        "answers change."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="A parameter of the ablation, as in factor=0.25; repeatable.",
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Memory for a computation, in addition to the weights, as in 8GB; by default half "
        "of what is free.",
    ),
]
Limit = Annotated[int, typer.Option(metavar="N", help="Examples of each task.")]
# Of commands that also have `--until`.
LimitUntil = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Examples of each task (default 32); the largest number where layers are asked until "
        "they are decided (default 512).",
    ),
]
Minutes = Annotated[
    float | None,
    typer.Option(
        metavar="M",
        help="Minutes to spend: ask until each layer's verdict (or, with --until claims, each "
        "claim) is decided; what is nearly decided comes first.",
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="GOAL",
        help="decided: ask about each layer only until its verdict is decided, in looks at 32, 48, "
        "64, 96, ... examples; easy layers then cost little. claims: until each claim of the "
        "literature is decided; of two ablations, the second is asked only where a claim depends "
        "on it.",
        autocompletion=shell_completion.one_of(shell_completion.UNTIL),
    ),
]
NumFewshot = Annotated[
    int | None,
    typer.Option(metavar="N", help="Worked examples shown first; by default each task's own."),
]
Seed = Annotated[int, typer.Option(metavar="N", help="Draws the examples.")]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="DTYPE",
        help="auto, float32, bfloat16 or float16.",
        autocompletion=shell_completion.one_of(shell_completion.DTYPES),
    ),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="DEVICE",
        help="cpu, cuda, cuda:1; by default the best.",
        autocompletion=shell_completion.one_of(shell_completion.DEVICES),
    ),
]
Revision = Annotated[
    str | None, typer.Option(metavar="REV", help="A branch, tag or commit of the hub.")
]
OtherModel = Annotated[
    str, typer.Option(help="Any model that `sweep` takes.", autocompletion=shell_completion.models)
]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="A file that registers ablations, tasks or protocols of your own; repeatable.",
    ),
]
