r"""What the paper's figures take on its models, before anything is run: writes docs/paper.md.

    python benchmarks/paper.py

Nothing is downloaded: a model is a folder with a config.json made of its published
hyper-parameters, and the tokenizer of the built-in model, so that tokens are that tokenizer's.
Every number on the page is printed by the command beside it.
"""

import argparse
import shutil
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, PretrainedConfig, Qwen2Config, Qwen3Config

import layerroles as lr
from layerroles.cli.sweep import each_condition
from layerroles.progress import format_duration
from layerroles.sweep.estimation import format_size

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
}
MODELS: dict[str, PretrainedConfig] = {
    "Llama-3.1-8B": LlamaConfig(**LLAMA),
    "Qwen3-8B": Qwen3Config(
        architectures=["Qwen3ForCausalLM"],
        hidden_size=4096,
        intermediate_size=12288,
        num_hidden_layers=36,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=128,
        vocab_size=151936,
        max_position_embeddings=40960,
        tie_word_embeddings=False,
    ),
    "DeepSeek-R1-Distill-Llama-8B": LlamaConfig(**LLAMA),
    "DeepSeek-R1-Distill-Qwen-7B": Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        vocab_size=152064,
        max_position_embeddings=131072,
        tie_word_embeddings=False,
    ),
}
# For each claim: the options of `layerroles sweep` that come nearest to it, with tasks that need
# no hub, and the experiment with its own material.
CLAIMS: dict[str, tuple[str, dict[str, Any]]] = {
    "the metric decides": (
        "protocols.py",
        {"tasks": "facts", "protocols": "letter,continuation,generation", "limit": 100},
    ),
    "retrieval": (
        "retrieval.py",
        {"tasks": "kv_retrieval[pairs=20]", "protocols": "generation", "limit": 100},
    ),
    "knowledge": ("knowledge.py", {"tasks": "facts", "protocols": "continuation", "limit": 100}),
    "reasoning": (
        "reasoning.py",
        {"tasks": "word_problems[steps=3]", "protocols": "generation", "limit": 100},
    ),
    "heads": (
        "heads.py",
        {
            "tasks": "kv_retrieval",
            "protocols": "continuation",
            "limit": 32,
            "ablation": "zero",
            "sites": "all.head",
        },
    ),
}
ROWS = [
    *((name, "Llama-3.1-8B") for name in CLAIMS),
    *((name, "Qwen3-8B") for name in ("retrieval", "reasoning")),
    ("reasoning", "DeepSeek-R1-Distill-Llama-8B"),
    ("reasoning", "DeepSeek-R1-Distill-Qwen-7B"),
]


def main() -> None:
    """Make the folders, estimate, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folders", type=Path, default=Path("runs/configs"))
    parser.add_argument("--device", default="h100")
    parser.add_argument("--out", type=Path, default=Path("docs/paper.md"))
    args = parser.parse_args()
    for name, config in MODELS.items():
        make_folder(args.folders / name, config)
    lines = []
    models = {
        name: lr.load(args.folders / name, dtype="bfloat16", device="meta") for name in MODELS
    }
    for claim, name in ROWS:
        script, asked = CLAIMS[claim]
        lines.append(row(claim, script, models[name], args.folders / name, asked, args.device))
        print(lines[-1], flush=True)
        args.out.write_text(page(lines, args), encoding="utf-8")


def make_folder(folder: Path, config: PretrainedConfig) -> None:
    """A config.json, and the built-in model's tokenizer beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    for file in lr.model_folder("smollm2-135m").glob("*token*"):
        shutil.copy(file, folder / file.name)


def row(
    claim: str, script: str, model: Any, folder: Path, asked: dict[str, Any], device: str
) -> str:
    """A command, and what it prints, in short."""
    edit = lr.Zero() if asked.get("ablation") == "zero" else lr.Skip()
    conditions = each_condition(model, [edit], asked.get("sites", "all"), ["all"])
    sweep = lr.Sweep(
        model,
        [lr.task(asked["tasks"])],
        conditions,
        protocols=asked["protocols"].split(","),
        limit=asked["limit"],
    )
    found = lr.estimate(sweep, device=device)
    options = " ".join(f"--{name} {value}" for name, value in {**asked, "at": "all"}.items())
    return (
        f"| {claim} (`{script}`) | {folder.name} | `{options}` | {found.tokens_read:,} | "
        f"{found.tokens_written:,} | {found.flops:.2g} | {format_size(found.weight_bytes)} + "
        f"{format_size(found.working_bytes)} | {format_duration(found.seconds)} |"
    )


def page(lines: list[str], args: argparse.Namespace) -> str:
    """The recipes, as Markdown."""
    return PAGE.format(rows="\n".join(lines), device=args.device, folders=args.folders)


PAGE = """# The paper on its own models

Commands for the figures of arXiv 2510.02091, and what they are expected to take. These runs were
not made; times are the cost model's. The models are named as on the hub (`meta-llama/Llama-3.1-8B`,
`Qwen/Qwen3-8B`, `deepseek-ai/DeepSeek-R1-Distill-Llama-8B`,
`deepseek-ai/DeepSeek-R1-Distill-Qwen-7B`); Llama is gated, so log in first.

## The experiments

One script for each claim, bfloat16 throughout. All take `--model --limit --dtype --out`. FOLDER
holds the benchmarks as JSONL files, each in a folder of its own; the scripts' docstrings name them.

```console
$ python experiments/protocols.py mmlu --data FOLDER/mmlu --model meta-llama/Llama-3.1-8B \\
      --limit 1000 --dtype bfloat16 --out runs/llama/protocols
$ python experiments/retrieval.py    --model meta-llama/Llama-3.1-8B --limit 100 \\
      --dtype bfloat16 --out runs/llama/retrieval
$ python experiments/knowledge.py    --model meta-llama/Llama-3.1-8B --limit 100 \\
      --data FOLDER --dtype bfloat16 --out runs/llama/knowledge
$ python experiments/rag.py          --model meta-llama/Llama-3.1-8B --limit 100 \\
      --dtype bfloat16 --out runs/llama/rag
$ python experiments/reasoning.py    --model Qwen/Qwen3-8B --limit 100 \\
      --data FOLDER --dtype bfloat16 --out runs/qwen/reasoning
$ python experiments/heads.py        --model meta-llama/Llama-3.1-8B --limit 48 \\
      --dtype bfloat16 --out runs/llama/heads
$ python experiments/distillation.py --model meta-llama/Llama-3.1-8B --limit 100 \\
      --twin deepseek-ai/DeepSeek-R1-Distill-Llama-8B --dtype bfloat16 --out runs/llama/distillation
$ python experiments/similarity.py   --model meta-llama/Llama-3.1-8B --limit 100 \\
      --dtype bfloat16 --out runs/llama/similarity
$ python experiments/reading_writing.py --model Qwen/Qwen3-8B --limit 100 \\
      --dtype bfloat16 --out runs/qwen/reading_writing
$ python experiments/all.py          --model meta-llama/Llama-3.1-8B --limit 100 \\
      --twin deepseek-ai/DeepSeek-R1-Distill-Llama-8B --data FOLDER --dtype bfloat16 \\
      --out runs/llama/all
```

## What sweeps take

The same questions put by `layerroles sweep` with the package's own tasks, which need no hub: one
layer skipped at a time (heads: zeroed), including the intact model and its noise floor. The
scripts above ask more tasks or longer ones, so these totals do not apply to them. Retrieval
augmentation, similarity and layers put into another model have no command of this kind: their
times are not estimated.

```console
$ python benchmarks/paper.py
$ layerroles estimate --model {folders}/Llama-3.1-8B --device {device} --dtype bfloat16 OPTIONS
```

The first line makes the folders and this table, the second gives one row of it again: OPTIONS are
those of the row. `layerroles sweep` takes the same, with `--out RUN` in place of `--device`.

| claim | model | options | tokens read | tokens written | FLOP | memory | time |
|---|---|---|---|---|---|---|---|
{rows}

- Tokens are counted by SmolLM2's tokenizer, which the folders hold beside a config.json of the
  models' published sizes. The models' own vocabularies are larger: they make fewer tokens.
- Every text is taken to run to its limit: time and tokens written are bounds. `--generated 0.4`
  says that 40% of what may be written is expected to be. Models that think first write far more
  than the tasks' limits, which are for short answers.
- *memory*: the weights plus the most that the plan takes; the budget is half of what the
  weights leave free (`--memory`).
- The device is {device}: half of its published peak (20% for attention) and 70% of its bandwidth
  are assumed, and 10 microseconds to start an operation. The times are not measured on the device:
  they are no more than these assumptions. Loading and downloading are not counted.
"""


if __name__ == "__main__":
    main()
