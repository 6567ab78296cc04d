r"""Answer a request file under some conditions in one way, in a process of its own; time it.

    python benchmarks/runner.py engine --requests arc.jsonl --conditions intact,L0,L1 --out a.json

Ways: `engine` (all conditions in one sweep); once for each condition `hooks` (TransformerLens's
`run_with_hooks`, and `generate` within `hooks`), `nnsight` (its `skip`; likelihoods only),
`lm-eval` (its `HFLM`) and `plain` (the engine's reference, which shares nothing:
`executor="plain"`). A condition is `intact`, a layer to skip (`L3`) or a head to zero (`L3.H1`;
not by nnsight's loop). A request is a JSON object a line:

    {"kind": "loglikelihood", "context": "...", "continuation": "..."}
    {"kind": "generate_until", "context": "...", "until": ["\n"], "max_gen_toks": 64}

To compute scores, a continuation states whether it is the right one (`"right": true`), and a text
states what right answers begin with (`"answer"`, a regular expression).
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from loops import Loop, Row, given, hooks, lm_eval, nnsight

import layerroles as lr


def main(argv: Sequence[str] | None = None) -> None:
    """Load, warm up, answer, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("way", choices=("engine", *LOOPS))
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--conditions", default="intact")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--memory", default=None)
    parser.add_argument(
        "--read-back",
        action="store_true",
        help="lm-eval: layers below a skipped one are not computed again; intact comes first",
    )
    parser.add_argument(
        "--softmax-dtype", help="lm-eval: of log-probabilities; without it, the model's"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(argv)
    if args.way != "lm-eval" and (args.read_back or args.softmax_dtype):
        parser.error(f"{args.way}: --read-back and --softmax-dtype are lm-eval's")

    rows = read(args.requests)
    names = args.conditions.split(",")
    sites = [None if name == "intact" else site(name) for name in names]
    run = engine if args.way == "engine" else partial(loop, LOOPS[args.way])
    found = run(args, rows, sites)
    found["answers"] = dict(zip(names, found["answers"], strict=True))
    args.out.write_text(json.dumps(found), encoding="utf-8")


def read(path: Path) -> list[Row]:
    """The requests of a file."""
    with path.open(encoding="utf-8", newline="\n") as lines:  # not splitlines(): U+2028 occurs
        return [json.loads(line) for line in lines if line.strip()]


def site(name: str) -> lr.Site:
    """`L3` or `L3.H1`."""
    layer, _, head = name.removeprefix("L").partition(".H")
    return lr.Site(int(layer), "head", int(head)) if head else lr.Site(int(layer))


def engine(
    args: argparse.Namespace, rows: Sequence[Row], sites: Sequence[lr.Site | None]
) -> dict[str, Any]:
    """The whole sweep at once, the engine's checks against the reference included."""
    model = lr.load(args.model, dtype=args.dtype, device="cpu")
    conditions = [_condition(one) for one in sites]
    ask(lr.Engine(model, memory=args.memory), rows[:1], conditions[:1])
    asked = lr.Engine(model, memory=args.memory)
    before = _memory("VmRSS", reset=True)
    took, answers = timed(lambda: ask(asked, rows, conditions))
    after = _memory("VmHWM")
    plan = asked.plan(given(rows), conditions)
    return {
        "seconds": took,
        "answers": answers,
        "executors": sorted(asked.used),
        "peak_mb": None if before is None or after is None else after - before,
        "planned_mb": plan.n_bytes / 2**20,
    }


def loop(
    make: Callable[[argparse.Namespace, Sequence[Row]], Loop],
    args: argparse.Namespace,
    rows: Sequence[Row],
    sites: Sequence[lr.Site | None],
) -> dict[str, Any]:
    """One condition after the other; seconds for each."""
    make(args, rows[:1])(None)
    ask = make(args, rows)
    found = [timed(partial(ask, one)) for one in sites]
    return {"seconds": [took for took, _ in found], "answers": [answers for _, answers in found]}


def plain(args: argparse.Namespace, rows: Sequence[Row]) -> Loop:
    """The engine's reference: one condition, one batch, one pass, through hooks."""
    asked = lr.Engine(
        lr.load(args.model, dtype=args.dtype, device="cpu"),
        executor="plain",
        batch_size=args.batch_size,
    )
    return lambda one: list(ask(asked, rows, [_condition(one)])[0])


LOOPS = {"hooks": hooks, "plain": plain, "lm-eval": lm_eval, "nnsight": nnsight}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that it takes, and what it returns."""
    began = time.perf_counter()
    found = work()
    return time.perf_counter() - began, found


def _condition(one: lr.Site | None) -> lr.Condition:
    if one is None:
        return lr.Condition({})
    return lr.Condition({one: lr.Zero() if one.part == "head" else lr.Skip()})


def ask(asked: lr.Engine, rows: Sequence[Row], conditions: Sequence[lr.Condition]) -> list[Any]:
    """What an engine answers, `[logprob, is_greedy]` or a text of each row per condition."""
    if rows[0]["kind"] != "loglikelihood":
        return asked.generate_until(given(rows), conditions)
    found = asked.loglikelihood(given(rows), conditions)
    return [
        [[float(p), bool(g)] for p, g in zip(*pair, strict=True)]
        for pair in zip(found.logprob, found.is_greedy, strict=True)
    ]


def _memory(what: str, *, reset: bool = False) -> float | None:
    """A line of `/proc/self/status` in MB, the highest mark set back first if asked; else None."""
    try:
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 1024
    except (OSError, StopIteration):  # not Linux, or not allowed
        return None


if __name__ == "__main__":
    main()
