r"""Hold what `layerroles estimate` says against sweeps that are run.

    python benchmarks/estimates.py --out docs/results/estimates.md

Small sweeps of different kinds, each in a process of its own, on one thread: the time that counts
is the processor's, so that what else the machine does meanwhile matters little. The estimate is
made before the sweep; its speed is the best of three measurements of a second.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import layerroles as lr

# Task, protocols, sites, conditions at a time, examples.
CASES: dict[str, dict[str, Any]] = {
    "likelihood, shots shared": {
        "tasks": ["word_problems"],
        "protocols": ["answer_logprob"],
        "layers": range(0, 30, 3),
        "limit": 8,
    },
    "likelihood, nothing shared": {
        "tasks": ["kv_retrieval"],
        "protocols": ["continuation"],
        "layers": range(0, 30, 6),
        "limit": 6,
    },
    "generation": {
        "tasks": ["kv_retrieval"],
        "protocols": ["generation"],
        "layers": range(0, 30, 6),
        "limit": 4,
    },
    "generation, shots shared": {
        "tasks": ["word_problems"],
        "protocols": ["generation"],
        "layers": range(0, 30, 10),
        "limit": 4,
    },
    "all heads of two layers": {
        "tasks": ["facts"],
        "protocols": ["continuation"],
        "heads": [4, 20],
        "limit": 8,
    },
}


def main() -> None:
    """Run every case, write the page as it grows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--kept", type=Path, default=Path("runs/estimates.json"))
    parser.add_argument("--out", type=Path, default=Path("docs/results/estimates.md"))
    parser.add_argument("--case", help="run this one here, and print what came out")
    args = parser.parse_args()
    if args.case:
        print(json.dumps(run(args, CASES[args.case])))
        return

    args.kept.parent.mkdir(parents=True, exist_ok=True)
    found = json.loads(args.kept.read_text()) if args.kept.exists() else {}
    shown: dict[str, Any] = {}
    for name in CASES:
        # Another model or dtype is another measurement.
        key = f"{name} [{args.model}, {args.dtype}]"
        if key not in found:
            command = [sys.executable, __file__, "--case", name]
            command += ["--model", args.model, "--dtype", args.dtype]
            alone = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, check=True, capture_output=True, text=True, env=alone)
            made = json.loads(done.stdout.strip().splitlines()[-1])
            found[key] = {**made, "name": name, "date": time.strftime("%Y-%m-%d")}
            args.kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
            print(key, found[key], flush=True)
        shown[name] = found[key]
        args.out.write_text(page(shown, args), encoding="utf-8")


def run(args: argparse.Namespace, case: dict[str, Any]) -> dict[str, Any]:
    """Estimate a sweep and run it."""
    torch.set_num_threads(1)
    before = memory("VmRSS")
    model = lr.load(args.model, dtype=args.dtype, device="cpu")
    if "heads" in case:
        conditions = lr.each_head(model, lr.Zero(), layers=case["heads"])
    else:
        conditions = lr.each_layer(model, lr.Skip(), layers=case["layers"])
    tasks = [lr.task(name) for name in case["tasks"]]
    sweep = lr.Sweep(model, tasks, conditions, protocols=case["protocols"], limit=case["limit"])
    # What else the machine does can only make the speed that is measured too small.
    bound = min((lr.estimate(sweep, device="cpu") for _ in range(3)), key=lambda one: one.seconds)
    began, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        result = sweep.run(Path(folder) / "run")
    took, spent = time.perf_counter() - began, time.process_time() - spent
    share, expected = 1.0, bound
    if bound.tokens_written:
        rows = result.frame[result.frame["protocol"] == "generation"]
        share = float((rows["n_tokens"] - 1).sum() / (len(rows) * (tasks[0].max_gen_toks - 1)))
        expected = min(
            (lr.estimate(sweep, device="cpu", generated=share) for _ in range(3)),
            key=lambda one: one.seconds,
        )
    return {
        "conditions": bound.n_conditions,
        "rows": len(result.frame),
        "bound": bound.seconds,
        "estimated": expected.seconds,
        "processor": spent,
        "wall": took,
        "share": share,
        "estimated_bytes": expected.peak_bytes,
        "peak_bytes": memory("VmHWM") - before,
        "executors": result.manifest["executors"],
    }


def memory(name: str) -> int:
    """A line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def page(found: dict[str, Any], args: argparse.Namespace) -> str:
    """What came out, as Markdown."""
    rows, reached = [], []
    for name, one in found.items():
        ratio = one["estimated"] / one["processor"]
        reached.append(1 / 1.5 <= ratio <= 1.5)
        written = f"{one['share']:.0%}" if one["bound"] != one["estimated"] else "-"
        rows.append(
            f"| {name} | {one['conditions']} | {written} | {one['estimated']:.1f} | "
            f"{one['processor']:.1f} | **{ratio:.2f}** | {one['estimated_bytes'] / 1e6:,.0f} | "
            f"{one['peak_bytes'] / 1e6:,.0f} |"
        )
    versions = ", ".join(
        f"{package} {importlib.metadata.version(package)}" for package in ("torch", "transformers")
    )
    return f"""# Estimates against runs

What `lr.estimate` says, and what sweeps then took. Written by `python benchmarks/estimates.py`:

- model: {args.model}, {args.dtype}, on the CPU with one thread ({platform.machine()}); {versions}
- layers skipped one at a time, or heads zeroed; the intact model is one of the conditions, and its
  noise floor is part of the times
- date: {" and ".join(sorted({one["date"] for one in found.values()}))}

| sweep | conditions | written | estimated, s | took, s | ratio | estimated, MB | took, MB |
|---|---|---|---|---|---|---|---|
{chr(10).join(rows)}

Within a factor of 1.5: {sum(reached)} of {len(reached)}.

*took, s*: seconds of the processor, loading left out, which other programs on the machine move less
than wall-clock time. *written*: how much of what might be written was, over all
conditions; the estimate is given this share after the run, since it is not
known before (`--generated`). Without it, an estimate is the bound for texts that all run to their
limit.
*estimated, MB*: the weights and the largest plan; *took, MB*: what the process grew by from before
the model was loaded. PyTorch's own memory is not counted; that of the libraries imported with the
model is.

The speed of matrix products is measured with one matrix of the model's size, and 80% of it is
assumed; no number of the model was fitted to these runs.
"""


if __name__ == "__main__":
    main()
