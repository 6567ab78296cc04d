r"""Time a whole layer sweep against the loops that one would write instead, in one run.

    python benchmarks/speed.py --requests FOLDER [--examples 32] [--out docs/results/performance.md]

FOLDER holds request files, one workload each (`NAME.jsonl`), a JSON object a line:

    {"kind": "loglikelihood", "context": "...", "continuation": "..."}
    {"kind": "generate_until", "context": "...", "until": ["\n"], "max_gen_toks": 64}

A loop costs the same for each condition, so it is timed on the intact model and on one skipped
layer in the middle, and multiplied; the engine is timed on all of them. Peer and engine take turns.
Without --requests, the package's own tasks are asked.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peers import ask, hook_loop, lm_eval_loop
from torch.profiler import ProfilerActivity, profile

import layerroles as lr

PACKAGES = ("torch", "transformers", "transformer-lens", "lm-eval")
KINDS = {
    "matrix products": ("aten::mm", "aten::addmm", "aten::bmm", "aten::linear"),
    "attention kernel": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "softmax and choice of tokens": ("aten::logsumexp", "aten::argmax", "aten::exp_", "aten::sum"),
    "copies and indexing": ("aten::index", "aten::copy_", "aten::cat", "aten::_index_put_impl_"),
}


def main() -> None:
    """Read the command line, measure, write the page as it grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=Path, help="a folder of request files")
    parser.add_argument("--examples", type=int, default=32, help="of the package's own tasks")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-sizes", default="16,32", help="that the peers may choose from")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--only", default="", help="names of workloads, by commas")
    parser.add_argument("--out", type=Path, default=Path("docs/results/performance.md"))
    args = parser.parse_args()

    model = lr.load(args.model, dtype=args.dtype)
    folder = str(lr.model_folder(args.model))
    wanted = [name for name in args.only.split(",") if name]
    workloads = _workloads(args.requests, args.examples)
    sizes = [int(size) for size in args.batch_sizes.split(",")]
    rows = []
    for name, asked in workloads.items():
        if not wanted or name in wanted:
            row = measure(name, model, folder, asked, sizes, args.repeat)
            rows.append(row)
            print(json.dumps(row), flush=True)
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(page(rows, model, args), encoding="utf-8")


def measure(
    name: str, model: Any, folder: str, asked: list[dict[str, Any]], sizes: list[int], repeat: int
) -> dict[str, Any]:
    """Time the engine on a whole sweep, and each peer on two of its conditions, in turn."""
    n_layers = model.cfg.n_layers
    conditions = [lr.Condition({}), *lr.each_layer(model, lr.Skip())]
    engine = lr.Engine(model)
    middle = n_layers // 2
    loops = {f"lm-eval, batch {size}": lm_eval_loop(folder, model.cfg.dtype, asked, size)
             for size in sizes}  # fmt: skip
    loops[f"hooks, batch {sizes[0]}"] = hook_loop(model, asked, sizes[0])
    took: dict[str, list[float]] = {label: [] for label in (*loops, "engine")}
    before = _memory("VmRSS", reset=True)
    took["engine"].append(timed(lambda: ask(engine, asked, conditions)))
    after = _memory("VmHWM")
    for turn in range(repeat):
        for label, loop in loops.items():
            pair = [timed(partial(loop, layer)) for layer in (None, middle)]
            took[label].append(sum(pair) / len(pair))
        if turn + 1 < repeat:
            took["engine"].append(timed(lambda: ask(engine, asked, conditions)))
    seconds = {label: statistics.median(found) for label, found in took.items()}
    return {
        "name": name,
        "requests": len(asked),
        "conditions": len(conditions),
        "engine": seconds.pop("engine"),
        "loops": seconds,
        "peak_mb": None if before is None or after is None else after - before,
        "executors": sorted(engine.used),
        "shares": shares(lambda: ask(engine, asked, conditions[:: len(conditions) // 4])),
    }


def timed(work: Callable[[], object]) -> float:
    """Seconds that it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def shares(work: Callable[[], object]) -> dict[str, float]:
    """Where the time of a smaller sweep goes, as shares of it."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        took = timed(work)
    own = {event.key: event.self_cpu_time_total / 1e6 for event in seen.key_averages()}
    found = {kind: sum(own.get(name, 0) for name in names) for kind, names in KINDS.items()}
    found["other operations"] = sum(own.values()) - sum(found.values())
    found["Python"] = max(0.0, took - sum(own.values()))
    return {kind: seconds / max(took, sum(own.values())) for kind, seconds in found.items()}


def page(rows: list[dict[str, Any]], model: Any, args: argparse.Namespace) -> str:
    """The measurements as a page of the documentation."""
    table = ["| workload | requests | sweep, s | lm-eval loop, s | ratio | hooks loop, s | ratio "
             "| peak, MB |", "|---|---|---|---|---|---|---|---|"]  # fmt: skip
    for row in rows:
        n = row["conditions"]
        best = {
            kind: n * min(s for label, s in row["loops"].items() if label.startswith(kind))
            for kind in ("lm-eval", "hooks")
        }
        peak = "-" if row["peak_mb"] is None else f"{row['peak_mb']:.0f}"
        table.append(
            f"| {row['name']} | {row['requests']} | {row['engine']:.0f} | {best['lm-eval']:.0f} "
            f"| {best['lm-eval'] / row['engine']:.1f} | {best['hooks']:.0f} "
            f"| {best['hooks'] / row['engine']:.1f} | {peak} |"
        )
    kinds = list(rows[0]["shares"])
    where = [f"| workload | {' | '.join(kinds)} |", "|---" * (len(kinds) + 1) + "|"]
    where += [
        f"| {row['name']} | " + " | ".join(f"{row['shares'][kind]:.0%}" for kind in kinds) + " |"
        for row in rows
    ]
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    versions = f"layerroles {lr.__version__}, {versions}"
    conditions = rows[0]["conditions"]
    command = (
        f"python benchmarks/speed.py --model {args.model} --dtype {args.dtype} "
        f"--examples {args.examples} --repeat {args.repeat} --batch-sizes {args.batch_sizes}"
        f"{' --requests FOLDER' if args.requests else ''}"
        f"{f' --only {args.only}' if args.only else ''}"
    )
    return f"""# Performance

What a whole layer sweep (the intact model and each of its {conditions - 1} layers skipped) costs,
and what it costs in loops that evaluate once for each condition. Written by `make bench`; the
numbers below are of this run:

- command: `{command}`
- model: {args.model}, {str(model.cfg.dtype).removeprefix("torch.")} on {model.cfg.device}
- machine: {_processor()}, {torch.get_num_threads()} threads, {platform.system()}
- versions: Python {platform.python_version()}, {versions}
- allocator: {_allocator()}

{chr(10).join(table)}

*lm-eval loop*: lm-eval's `HFLM` on the Hugging Face model, the layer replaced by the identity, at
the best of batch sizes {args.batch_sizes}. *hooks loop*: TransformerLens hooks around padded
batches (`executor="plain"`), the reference for exactness. A loop costs the same for each condition:
it is timed on the intact model and on one skipped layer, and multiplied by {conditions}. The
engine's time is that of all {conditions} conditions, its checks against the reference included.
*peak* is what the process grew by during the sweep. CUDA was not timed.

Where the engine's time goes (a smaller sweep under torch's profiler):

{chr(10).join(where)}
"""


def _workloads(folder: Path | None, n: int) -> dict[str, list[dict[str, Any]]]:
    if folder is not None:
        found = {}
        for file in sorted(folder.glob("*.jsonl")):
            with file.open(encoding="utf-8", newline="\n") as lines:
                found[file.stem] = [json.loads(line) for line in lines if line.strip()]
        return found
    likelihood, generation = lr.task("facts"), lr.task("kv_retrieval")
    return {
        "facts, endings": [
            {"kind": "loglikelihood", "context": e.context(), "continuation": f" {choice}"}
            for e in likelihood.examples(n, 0)
            for choice in e.choices
        ],
        "kv_retrieval, generation": [
            {
                "kind": "generate_until",
                "context": e.context(worked=True),
                "until": list(generation.until),
                "max_gen_toks": generation.max_gen_toks,
            }
            for e in generation.examples(n, 0)
        ],
    }


def _memory(what: str, *, reset: bool = False) -> float | None:
    """A line of `/proc/self/status` in MB, the highest mark set back first if asked; else None."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
    except OSError:  # not Linux, or not allowed
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _allocator() -> str:
    tuned = [name for name in sorted(os.environ) if name.startswith(("MALLOC_", "GLIBC_TUNABLES"))]
    return ", ".join(f"{name}={os.environ[name]}" for name in tuned) or "as it comes"


if __name__ == "__main__":
    main()
