r"""Time a whole layer sweep against the loops that one would write instead, in one run.

    python benchmarks/speed.py [--requests FOLDER] [--only arc_5shot] [--heads arc_5shot]

FOLDER holds request files, one workload each (see `runner.py`; `workloads.py` makes some); without
it, the package's own tasks are asked. A file `workloads.md` beside them may describe what they ask;
it is put on the page. Each way of answering runs in a process of its own, one after the other. A
loop is timed on the intact model and on one skipped layer in the middle, and multiplied; the engine
is timed on all conditions. Measurements are kept in runs/bench and are not made again; delete it to
measure again, or on another model, or with another dtype.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any

from report import LOOPS, page
from runner import read, timed
from scores import choices, compared, same_share

import layerroles as lr

# The allocator as lm-eval runs fastest on it (fewer page faults).
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**28),
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
}
# Slower loops are timed on every second question (whole batches), and multiplied.
SHARE = 2
N_HEADS_TIMED = 6
# Under a small budget, on so many of the conditions.
BUDGET_SHARE = 3
N_LAYERS_SCORED = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line, and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=Path, help="a folder of request files")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-sizes", default="8,32", help="that lm-eval may choose from")
    parser.add_argument("--repeat", type=int, default=1, help="turns; their median counts")
    parser.add_argument("--memory", default="512MB", help="a budget to measure the peak under")
    parser.add_argument("--only", default="", help="names of workloads, by commas")
    parser.add_argument("--heads", default="", help="a workload on which all heads are zeroed too")
    parser.add_argument("--scores", type=Path, help="a folder of request files with answers")
    parser.add_argument(
        "--score-sizes", default="", help="lm-eval's there; texts at the first under all conditions"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="scores, not timed: processes at once; each holds 35 KB a token",
    )
    parser.add_argument("--start", action="store_true", help="time a tiny sweep as a process")
    parser.add_argument("--demo", type=Path, help="a finished run of make demo, to time its loop")
    parser.add_argument(
        "--ways", default="untuned,hooks,nnsight", help="timed in addition (plain is another)"
    )
    parser.add_argument("--kept", type=Path, default=Path("runs/bench"), help="measurements")
    parser.add_argument("--out", type=Path, default=Path("docs/results/performance.md"))
    args = parser.parse_args(argv)

    args.sizes = [int(size) for size in args.batch_sizes.split(",")]
    args.score_sizes = [int(size) for size in (args.score_sizes or args.batch_sizes).split(",")]
    with tempfile.TemporaryDirectory() as own:
        if args.requests is None:
            write_own(Path(own))
        measure_each(args, args.requests or Path(own))


def measure_each(args: argparse.Namespace, folder: Path) -> None:
    """Measure what is not kept, write the page as it grows."""
    args.kept.mkdir(parents=True, exist_ok=True)
    kept = args.kept / "speed.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    options = {name: getattr(args, name) for name in ("model", "dtype", "batch_sizes", "memory")}
    if found.setdefault("options", options) != options:
        raise SystemExit(f"{kept} was measured with {found['options']}: give these, or delete it")
    wanted = [name for name in args.only.split(",") if name]
    work = {
        file.stem: partial(measure, args, file)
        for file in sorted(folder.glob("*.jsonl"))
        if not wanted or file.stem in wanted
    }
    if args.heads:
        file = folder / f"{args.heads}.jsonl"
        work["heads"] = partial(heads, args, file)
    if args.demo:
        work["demo"] = partial(demo, args)
    for file in sorted(args.scores.glob("*.jsonl")) if args.scores else ():
        work[f"scores {file.stem}"] = partial(scores, args, file)
    if args.start:
        work["start"] = partial(start, args)
    for name, make in work.items():
        sizes = found.get(name, {}).get("sizes", args.score_sizes)
        if sizes != args.score_sizes:
            raise SystemExit(f"{kept}: {name} were asked with --score-sizes {sizes}: give these")
        if name not in found:
            found[name] = {"date": date.today().isoformat(), **make()}
            print(name, json.dumps(found[name]), flush=True)
            kept.write_text(json.dumps(found, indent=1), encoding="utf-8")
        args.out.write_text(page(found, args), encoding="utf-8")


def measure(args: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Time everyone on one workload, and compare what they answer."""
    rows = read(file)
    n_layers, ways = _layers(args.model), set(args.ways.split(","))
    pair = ["intact", f"L{n_layers // 2}"]
    whole = ["intact", *(f"L{layer}" for layer in range(n_layers))]
    took: dict[str, list[float]] = {}
    runs: dict[str, dict[str, Any]] = {}

    def turn(
        label: str, way: str, conditions: list[str], *, requests: Path = file, **options: Any
    ) -> None:
        runs[label] = run(args, way, requests, conditions, **options)
        seconds = runs[label]["seconds"]
        each = seconds if isinstance(seconds, float) else statistics.fmean(seconds)
        took.setdefault(label, []).append(each)

    for _ in range(args.repeat):
        turn("engine", "engine", whole)
        for size in args.sizes:
            turn(f"lm-eval {size}", "lm-eval", pair, size=size)
        if "untuned" in ways:
            best = min(args.sizes, key=lambda size: took[f"lm-eval {size}"][0])
            turn("lm-eval untuned", "lm-eval", pair, size=best, tuned=False)
    less, share = _some(rows)
    writes = rows[0]["kind"] != "loglikelihood"
    loops = [way for way in LOOPS if way in ways and not (writes and way == "nnsight")]
    for way in loops:
        turn(way, way, pair[1:], requests=less)
    less.unlink()
    runs["float32"] = run(args, "engine", file, pair, dtype="float32")
    bounded = run(args, "engine", file, whole[::BUDGET_SHARE], memory=args.memory)
    seconds = {label: statistics.median(each) for label, each in took.items()}
    for way in loops:
        seconds[way] *= share
    names = ["float32", "engine", *(f"lm-eval {size}" for size in args.sizes)]
    answers = {label: choices(rows, runs[label], pair) for label in names}
    return {
        "requests": len(rows),
        "conditions": len(whole),
        "turns": args.repeat,
        "seconds": seconds,
        **{name: runs["engine"][name] for name in ("peak_mb", "planned_mb", "executors")},
        "bounded": {name: bounded[name] for name in ("peak_mb", "planned_mb")},
        "same": {
            f"{one} = {two}": same_share(answers[one], answers[two])
            for i, one in enumerate(names)
            for two in names[i + 1 :]
        },
    }


def heads(args: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Time a sweep over all heads, and the loop on some of them."""
    config = lr.load(args.model, dtype=args.dtype, device="cpu").cfg
    every = [f"L{x}.H{y}" for x in range(config.n_layers) for y in range(config.n_heads)]
    some = every[:: len(every) // N_HEADS_TIMED][:N_HEADS_TIMED]
    ours = run(args, "engine", file, every)
    # The best size of one run each.
    peers = [run(args, "lm-eval", file, some[:1], size=size) for size in args.sizes]
    size = min(zip(args.sizes, peers, strict=True), key=lambda pair: pair[1]["seconds"])[0]
    peer = run(args, "lm-eval", file, some, size=size)
    return {
        "workload": file.stem,
        "conditions": len(every),
        "seconds": {"engine": ours["seconds"], "lm-eval": statistics.fmean(peer["seconds"])},
        "executors": ours["executors"],
        "peak_mb": ours["peak_mb"],
    }


def demo(args: argparse.Namespace) -> dict[str, Any]:
    """What the demo's sweep took, and what it takes condition by condition."""
    done = lr.read(args.demo)
    limit = int(done.manifest["limit"])
    model = lr.load(args.model, dtype=done.manifest["model"]["dtype"], device="cpu")
    names = ("kv_retrieval", "facts", "word_problems", "copying")
    engine = lr.Engine(model, executor="plain")
    middle = lr.each_layer(model, lr.Skip(), layers=[model.cfg.n_layers // 2])
    with tempfile.TemporaryDirectory() as folder:
        sweep = lr.Sweep(
            model,
            [lr.task(name) for name in names],
            middle,
            limit=limit,
            engine=engine,
            noise_floor=False,
        )
        took, _ = timed(lambda: sweep.run(Path(folder) / "plain"))
    n = len(done.manifest["conditions"])
    return {
        "conditions": n,
        "rows": len(done.frame),
        "seconds": {"engine": done.manifest["seconds"], "plain": took / 2},
        "executors": done.manifest["executors"],
    }


def scores(args: argparse.Namespace, file: Path) -> dict[str, Any]:
    """Accuracies, and the share of same answers, by the engine and by lm-eval's loop.

    The loop answers at each batch size, by reading back what lies below a skipped layer.
    Likelihoods are asked under all conditions, and again with `softmax_dtype` in float32 (a star
    marks it). Texts, which take long, are asked under all conditions at the first size, under some
    at the others and in float32.
    """
    rows = read(file)
    n_layers = _layers(args.model)
    whole = ["intact", *(f"L{layer}" for layer in range(n_layers))]
    step = n_layers // N_LAYERS_SCORED
    some = ["intact", *(f"L{layer}" for layer in range(step // 2, n_layers, step))]
    are_scored = rows[0]["kind"] == "loglikelihood"
    ask = partial(run, args, requests=file)
    exact = whole if are_scored else some
    ways = {
        "engine": partial(ask, "engine", conditions=whole),
        "float32": partial(ask, "engine", conditions=exact, dtype="float32"),
    }
    for n in args.score_sizes:
        asked = whole if are_scored or n == args.score_sizes[0] else some
        loop = partial(ask, "lm-eval", conditions=asked, size=n, read_back=True)
        ways[f"lm-eval {n}"] = loop
        if are_scored:
            ways[f"lm-eval {n}*"] = partial(loop, softmax_dtype="float32")
    with ThreadPoolExecutor(args.jobs) as pool:
        found = dict(zip(ways, pool.map(lambda way: way(), ways.values()), strict=True))
    return {"sizes": args.score_sizes, **compared(rows, found)}


def start(args: argparse.Namespace, turns: int = 5) -> dict[str, Any]:
    """Seconds of a tiny sweep from the command line, start-up included."""
    tiny = f"layerroles sweep --model {args.model} --dtype {args.dtype} --tasks facts --limit 2"
    tiny += " --sites L3 --out RUN"
    took: dict[str, list[float]] = {"auto": [], "plain": []}
    for _ in range(turns):
        for executor, each in took.items():
            with tempfile.TemporaryDirectory() as folder:
                words = tiny.replace("RUN", folder + "/run").split()
                command = [sys.executable, "-m", *words, "--executor", executor]
                run = partial(subprocess.run, command, check=True, stdout=subprocess.DEVNULL)
                each.append(timed(run)[0])
    medians = {executor: statistics.median(each) for executor, each in took.items()}
    return {"command": tiny, "turns": turns, **medians}


def write_own(folder: Path, n: int = 32) -> None:
    """Request files from the package's own tasks: endings of facts, look-up by generation."""
    facts, lookup = lr.task("facts"), lr.task("kv_retrieval")
    rows = {
        "facts": [
            {"kind": "loglikelihood", "context": e.context(), "continuation": f" {choice}"}
            for e in facts.examples(n, 0)
            for choice in e.choices
        ],
        "kv_retrieval": [
            {
                "kind": "generate_until",
                "context": e.context(worked=True),
                "until": list(lookup.until),
                "max_gen_toks": lookup.max_gen_toks,
            }
            for e in lookup.examples(n, 0)
        ],
    }
    for name, asked in rows.items():
        text = "".join(json.dumps(row) + "\n" for row in asked)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")


def run(
    args: argparse.Namespace,
    way: str,
    requests: Path,
    conditions: list[str],
    *,
    size: int = 16,
    tuned: bool = True,
    dtype: str | None = None,
    memory: str | None = None,
    read_back: bool = False,
    softmax_dtype: str | None = None,
) -> dict[str, Any]:
    """Let `runner.py` answer in a process of its own; the engine's allocator is never tuned."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        command = [sys.executable, str(Path(__file__).with_name("runner.py")), way]
        command += ["--model", args.model, "--requests", str(requests), "--out", str(out)]
        command += ["--conditions", ",".join(conditions), "--batch-size", str(size)]
        command += ["--dtype", dtype or args.dtype]
        command += ["--memory", memory] if memory else []
        command += ["--read-back"] if read_back else []
        command += ["--softmax-dtype", softmax_dtype] if softmax_dtype else []
        tuning = ("MALLOC_", "GLIBC_TUNABLES")
        environment = {k: v for k, v in os.environ.items() if not k.startswith(tuning)}
        if tuned and way != "engine":
            environment |= TUNED
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(out.read_text())
    return found


def _some(rows: list[dict[str, Any]]) -> tuple[Path, float]:
    """Half of the questions in a file of their own, and how often they go into all."""
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    some = set(contexts[::SHARE])
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", delete=False) as out:
        out.writelines(json.dumps(row) + "\n" for row in rows if row["context"] in some)
    return Path(out.name), len(contexts) / len(some)


def _layers(model: str) -> int:
    config = json.loads((lr.model_folder(model) / "config.json").read_text())
    return int(config["num_hidden_layers"])


if __name__ == "__main__":
    main()
