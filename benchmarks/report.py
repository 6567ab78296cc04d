"""The measurements as a page of the documentation."""

import argparse
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import layerroles as lr

PACKAGES = ("torch", "transformers", "transformer-lens", "lm-eval", "nnsight")
# Describes the request files; lies beside them and is written by their author.
WORKLOADS = "workloads.md"
# Beside the measurements, written by scripts of their own.
SECTIONS = ("shares.md", "growth.md")
# The ways of `runner.py` whose ratios are shown if they were timed; the column's name, and a note.
LOOPS = {
    "hooks": (
        "hooks loop",
        "TransformerLens's `run_with_hooks` on padded batches of 16, texts by its `generate`; a "
        "hook gives the block's input back as its output",
    ),
    "nnsight": ("nnsight loop", "its `skip`, batches of 16"),
    "plain": ("plain", 'the reference for exactness (`executor="plain"`), batches of 16'),
}


def page(found: dict[str, Any], args: argparse.Namespace) -> str:
    """What was measured so far."""
    work = {name: row for name, row in found.items() if "same" in row}
    graded = {name[7:]: row for name, row in found.items() if name.startswith("scores ")}
    dates = sorted({row["date"] for row in found.values() if "date" in row})
    asked = _sections(args.requests, WORKLOADS) if args.requests else []
    parts = [_head(args, dates), *asked, "## Sweeps", _speed(work)]
    if "heads" in found:
        parts.append(_heads(found["heads"]))
    if "demo" in found:
        parts.append(_demo(found["demo"]))
    if "start" in found:
        parts.append(_start(found["start"]))
    parts.append(_same(work))
    if graded:
        parts.append(_graded(graded))
    parts.append(_memory(work, args.memory))
    parts += _sections(args.kept, *SECTIONS)
    return "\n\n".join(parts) + "\n"


def _sections(folder: Path, *names: str) -> list[str]:
    files = [folder / name for name in names]
    return [file.read_text(encoding="utf-8").strip() for file in files if file.exists()]


def _head(args: argparse.Namespace, dates: list[str]) -> str:
    versions = [f"layerroles {lr.__version__}", *filter(None, map(version_line, PACKAGES))]
    command = f"python benchmarks/speed.py --model {args.model} --dtype {args.dtype} "
    command += f"--batch-sizes {args.batch_sizes} --repeat N"
    command += f" --ways {args.ways}" + (" --requests FOLDER" if args.requests else "")
    command += f" --heads {args.heads}" if args.heads else ""
    command += " --start" if args.start else ""
    command += " --demo runs/demo" if args.demo else ""
    command += " --scores SCORED --score-sizes N,N" if args.scores else ""
    return f"""# Performance

What a whole layer sweep (the intact model and each of its layers skipped) costs, and what it costs
in loops that evaluate once for each condition. Written by `make bench` with this command's options;
parts may be measured one by one, on different days (what is measured is kept):

- command: `{command}`
- model: {args.model}, dtype {args.dtype}
- machine: {processor()}, {torch.get_num_threads()} threads, {platform.system()}; CUDA is not timed
- measured: {" to ".join(dict.fromkeys((dates[0], dates[-1]))) if dates else "not yet"}
- versions: Python {platform.python_version()}, {", ".join(versions)}

FOLDER and SCORED hold request files, one workload each (`benchmarks/runner.py` says how they are
written; those in SCORED have to say what is right). N are numbers.
Each way of answering runs in a process of its own, one after the other; the machine should be idle.
The engine and lm-eval's loops take turns, N of them, and their medians count. Speeds of different
days may differ: what is compared was measured one after the other."""


def _speed(work: dict[str, Any]) -> str:
    loops = [way for way in LOOPS if any(way in row["seconds"] for row in work.values())]
    names = ["workload", "requests", "turns", "sweep, s", "lm-eval loop, s", "ratio", "untuned, s"]
    names += ["ratio", *(LOOPS[way][0] for way in loops)]
    lines = [f"| {' | '.join(names)} |", "|---" * len(names) + "|"]
    for name, row in work.items():
        took, n = row["seconds"], row["conditions"]
        tuned = {k: s for k, s in took.items() if k.startswith("lm-eval ") and k[8:].isdigit()}
        best = min(tuned, key=tuned.__getitem__)
        cells = [name, str(row["requests"]), str(row["turns"]), f"{took['engine']:.0f}"]
        for seconds in (tuned[best], took.get("lm-eval untuned")):
            if seconds is None:
                cells += ["-", "-"]
            else:
                cells += [f"{n * seconds:.0f}", f"**{n * seconds / took['engine']:.1f}**"]
        for way in loops:
            cells.append(f"{n * took[way] / took['engine']:.1f}" if way in took else "-")
        lines.append(f"| {' | '.join(cells)} |")
    notes = [f"*{name}*: {note}." for name, note in map(LOOPS.__getitem__, loops)]
    if loops:
        notes.append(
            "Of these, ratios are given, timed on the middle layer and half of the questions, and "
            "multiplied; they ask each choice, where lm-eval asks a question once whose choices "
            "are single tokens (MMLU's letters)."
        )
    return (
        "\n".join(lines)
        + f"""

*lm-eval loop*: lm-eval's `HFLM` on the Hugging Face model, the layer replaced by the identity, at
the best batch size of those given, with glibc's allocator tuned so that it keeps its pages;
*untuned*: the same as it comes. Both are timed on the intact model and the middle layer, and
multiplied. {" ".join(notes)}

Likelihoods cost a loop the same under each condition; texts cost what is written, so for those the
ratios are estimates. The sweep's time is that of all conditions, its checks against the reference
included."""
    )


def _heads(row: dict[str, Any]) -> str:
    took, n = row["seconds"], row["conditions"]
    return f"""## All heads

`Zero` on each of {n} heads, {row["workload"]}: {took["engine"]:.0f} s in one sweep. lm-eval's loop
takes {took["lm-eval"]:.1f} s for a head (six were timed), {n * took["lm-eval"]:.0f} s for all:
**{n * took["lm-eval"] / took["engine"]:.1f} times** as long (at its best batch size)."""


def _demo(row: dict[str, Any]) -> str:
    took, n = row["seconds"], row["conditions"]
    return f"""## The demo

The sweep of `make demo` ({n} conditions, {row["rows"]:,} rows) took {took["engine"]:.0f} s. With
`executor="plain"` a condition takes {took["plain"]:.1f} s (the mean of the intact model and the
middle layer, timed after it), all of them {n * took["plain"]:.0f} s:
**{n * took["plain"] / took["engine"]:.1f} times** as long."""


def _start(row: dict[str, Any]) -> str:
    return f"""## Starting up

`{row["command"]}`, a whole process: {row["auto"]:.1f} s; with `--executor plain` {row["plain"]:.1f}
s (medians of {row["turns"]}, in turn)."""


def _same(work: dict[str, Any]) -> str:
    pairs = list(next(iter(work.values()))["same"]) if work else []
    lines = [f"| workload | {' | '.join(pairs)} |", "|---" * (len(pairs) + 1) + "|"]
    for name, row in work.items():
        shares = [f"{row['same'][pair]:.0%}" for pair in pairs]
        lines.append(f"| {name} | {' | '.join(shares)} |")
    return (
        "## Rounding\n\nOf the choices (or texts) under two conditions, intact and the middle "
        "layer skipped, the share that is the same. *float32* is the engine in float32; the "
        "number behind *lm-eval* is its batch size. Rounding changes some choices in each run, "
        "so two runs need not agree more than each agrees with float32.\n\n" + "\n".join(lines)
    )


def _graded(graded: dict[str, Any]) -> str:
    lines = [
        "| workload, examples | between | conditions | largest | mean | same | only one right |",
        "|---" * 7 + "|",
    ]
    for name, row in graded.items():
        for pair in row["pairs"]:
            ways = ", ".join(f"`{way}`" for way in pair["between"])  # a star is no emphasis
            cells = [f"{name}, {row['examples']}", ways, pair["conditions"]]
            cells += [f"{pair['largest']:.3f}", f"{pair['mean']:.3f}", f"{pair['same']:.1%}"]
            cells.append(f"{pair['first_right']} : {pair['second_right']}")
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return (
        "## Task scores\n\nBy how much the accuracies of two ways of answering differ, over "
        "conditions (intact, layers skipped); the share of choices or texts that are the same; and "
        "on how many questions only the first, or only the second, is right. If only rounding "
        "differs, these two counts are equal up to chance. "
        "*float32* is the engine in float32, in which it and lm-eval's loop answer alike; the "
        "number behind *lm-eval* is its batch size. As it comes, lm-eval rounds each token's "
        "log-probability and a continuation's sum to the model's dtype (in bfloat16, a sum of -25 "
        'to an eighth); the star is its `softmax_dtype="float32"`, with which '
        "only the logits are. (What the engine itself rounds is on the page "
        "[Rounding](rounding.md).) Two ways are compared under the conditions that both were asked "
        "under, and under those that all ways were; two loops, if they differ in one thing. Layers "
        "below the skipped one are read back from the loop's pass over the intact model, in the "
        "same calls and shapes, which gives the loop's own answers bit for bit "
        "(`benchmarks/read_back.py`); but for texts with layer 0 skipped, where transformers loses "
        "count of what it has read, and the keys are counted right here. What either is away from "
        "float32 is what rounding does to it.\n\n" + "\n".join(lines)
    )


def _memory(work: dict[str, Any], budget: str) -> str:
    lines = [
        f"| workload | planned, MB | measured, MB | planned under {budget}, MB | measured, MB |",
        "|---|---|---|---|---|",
    ]
    for name, row in work.items():
        cells = []
        for found in (row, row["bounded"]):
            peak = "-" if found["peak_mb"] is None else f"{found['peak_mb']:.0f}"
            cells += [f"{found['planned_mb']:.0f}", peak]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return (
        "## Memory\n\nThe most that a sweep's tensors take in addition to the weights according to "
        "the plan, and the growth of the process, with what libraries keep for themselves: with "
        "the default budget, half of what is free on the machine, and on every third condition "
        f'with `memory="{budget}"`, which should be kept to within a tenth.\n\n' + "\n".join(lines)
    )


def version_line(package: str) -> str:
    """Return a package's name and version; empty if it is not installed."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return ""


def processor() -> str:
    """Return the name of the processor, and what it does in bfloat16."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    if torch.cpu._is_amx_tile_supported():
        bfloat16 = "bfloat16 by AMX"
    elif torch.cpu._is_avx512_bf16_supported():
        bfloat16 = "bfloat16 by AVX-512"
    else:
        bfloat16 = "without bfloat16 in hardware"
    allocator = [name for name in sorted(os.environ) if name.startswith("MALLOC_")]
    return f"{name} ({bfloat16})" + (f", {', '.join(allocator)} set" if allocator else "")
