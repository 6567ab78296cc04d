r"""Does distillation move reasoning over the depth: is it more robust, and spread over more layers?

Question
    The paper says that distilled models reason more robustly, with harm spread over more layers.
    Others find that twins share their critical layers. Which holds for a base and its twins?

Method
    Each layer is skipped in turn in the base and in each twin, on the same questions. Compared are
    mean harm, the effective number of layers over which it is spread, and early minus late, with
    the control beside the taught twins: what the control does too is not due to reasoning taught.
    Then layers of a twin are put into the base and back: single ones, spans, growing fractions,
    with the embedding and unembedding of either (see `swapping.py`).

Run
    python experiments/distillation.py --twin runs/twins/solver --twin runs/twins/self \
        --control runs/twins/control --limit 100 --out runs/distillation
    python experiments/distillation.py --base meta-llama/Llama-3.1-8B --dtype bfloat16 \
        --twin deepseek-ai/DeepSeek-R1-Distill-Llama-8B --limit 200 --out runs/distilled_llama
    python experiments/distillation.py --base Qwen/Qwen2.5-Math-7B --dtype bfloat16 \
        --twin deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --limit 200 --out runs/distilled_qwen

Profiles cost one run of the questions for each layer and model, swaps one for each set of layers.
Run again, it goes on where it was.
"""

import argparse
import logging
import sys
from pathlib import Path
from typing import Any

from held_out import compared
from setting import asked_now
from swapping import both_ways, swaps
from twins import moved

import layerroles as lr


def main() -> None:
    """Profiles of all models, their differences, swaps, and the verdict."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", default="smollm2-135m")
    parser.add_argument("--twin", action="append", default=[], help="taught; several times")
    parser.add_argument("--control", action="append", default=[], help="taught something else")
    parser.add_argument("--task", default="word_problems", help="a task's label")
    parser.add_argument("--protocol", default="generation")
    parser.add_argument("--limit", type=int, default=100, help="questions of the profiles")
    parser.add_argument("--swap-limit", type=int, default=100, help="of the swaps; 0 for none")
    parser.add_argument("--swaps", default="single,span,fraction", help="kinds, by commas")
    parser.add_argument("--parts", type=int, default=4, help="parts of the depth, for swaps")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    names = {Path(name).name: name for name in [*args.twin, *args.control]}
    if len(names) < max(1, len(args.twin) + len(args.control)) or "base" in names:
        raise lr.InputError(
            "name at least one --twin; the last parts of names differ, none is base"
        )
    kinds = args.swaps.split(",")
    if not set(kinds) <= {"single", "span", "fraction"} or args.parts < 1:
        raise lr.InputError(f"--swaps {args.swaps}: known are single, span, fraction")

    task = lr.task(args.task)
    asked: dict[str, Any] = {"tasks": [task], "protocols": [args.protocol]}
    base = lr.load(args.base, dtype=args.dtype)
    for name in names.values():  # a donor of another shape is refused before anything is run
        swaps(base, lr.load(name, dtype=args.dtype), ["fraction"], 1)
    runs, tables = {"base": profile(base, args.out / "base", args.limit, asked)}, []
    for short, name in names.items():
        twin = lr.load(name, dtype=args.dtype)
        runs[short] = profile(twin, args.out / short, args.limit, asked)
        if args.swap_limit:
            given = (base, twin, short, args.out / "swaps", kinds, args.parts)
            tables.append(both_ways(*given, limit=args.swap_limit, **asked))
    lines = [f"# {args.base} and its twins: {task.label}, {args.protocol}", ""]
    lines += [
        f"- {line}"
        for line in [
            *compared(runs),
            *moved(runs, [Path(name).name for name in args.control], args.out),
        ]
    ]
    for table in tables:
        lines += ["", "```", table.round(3).to_string(index=False), "```"]
        table.to_csv(args.out / f"swaps_{table['swap'].iloc[0].split()[0]}.csv", index=False)
    text = "\n".join([*lines, ""])
    (args.out / "distillation.md").write_text(text, encoding="utf-8")
    print(text)


def profile(model: Any, out: Path, limit: int, asked: dict[str, Any]) -> lr.SweepResult:
    conditions = lr.each_layer(model, lr.Skip())
    result = lr.Sweep(model, conditions=conditions, limit=limit, noise_floor=False, **asked).run(
        out
    )
    lr.report(result, path=out / "report.html")
    return asked_now(result, asked["tasks"][0].label, asked["protocols"][0])


if __name__ == "__main__":
    try:
        main()
    except lr.InputError as error:
        print(f"distillation: error: {error}", file=sys.stderr)
        sys.exit(2)
