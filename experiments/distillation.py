r"""Does distillation move reasoning over the depth: is it more robust, and spread over more layers?

Question
    The paper says that distilled models reason more robustly, with harm spread over more layers.
    Others find that twins share their critical layers. Which holds for a base and its twins?

Method
    Each layer is skipped in turn in the base and in each twin, on the same questions. Compared are
    mean harm, the effective number of layers over which it is spread, and early minus late, with
    the control beside the taught twins: what the control does too is not due to reasoning taught.
    With `--thorough`, if skipping shows that a twin is more robust than the base, or that it is
    not, critical layers are also skipped with the first token kept, and all layers are replaced by
    their means: the claim takes two kinds of ablation.
    Then layers of a twin are put into the base and back: single ones, spans, growing fractions,
    with the embedding and unembedding of either (see `swapping.py`).

Run
    python experiments/distillation.py --twin runs/twins/solver --twin runs/twins/self \
        --control runs/twins/control --thorough --limit 100 --out runs/distillation
    python experiments/distillation.py --model meta-llama/Llama-3.1-8B --dtype bfloat16 \
        --twin deepseek-ai/DeepSeek-R1-Distill-Llama-8B --limit 200 --out runs/distilled_llama
    python experiments/distillation.py --model Qwen/Qwen2.5-Math-7B --dtype bfloat16 \
        --twin deepseek-ai/DeepSeek-R1-Distill-Qwen-7B --limit 200 --out runs/distilled_qwen

Profiles cost one run of the questions for each layer and model, swaps one for each set of layers
and direction: with a 135M model in bfloat16 on one core seven rows a second. Swaps of single layers
(`--swaps single,span,fraction`) take three times as long as the others. Run again, it goes on.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from held_out import list_scores
from setting import Options, ask, conclude, make_layer_conditions, run
from swapping import KINDS, list_largest_changes, make_swaps, measure_both_ways
from twins import list_twin_changes, needs_second_kind

import layerroles as lr


def main(argv: Sequence[str] | None = None) -> None:
    """Profiles of all models, their differences, swaps, and the verdict."""
    options = Options(__doc__, limit=32, out="runs/distillation")
    options.add_argument("--twin", action="append", default=[], help="taught; several times")
    options.add_argument("--control", action="append", default=[], help="taught something else")
    options.add_argument("--task", default="word_problems", help="a task's label")
    options.add_argument("--protocol", default="generation")
    options.add_argument("--swap-limit", type=int, default=16, help="of the swaps; 0 for none")
    options.add_argument("--swaps", default="span,fraction", help=f"of {', '.join(KINDS)}")
    options.add_argument("--parts", type=int, default=4, help="parts of the depth, for swaps")
    options.add_argument(
        "--thorough",
        action="store_true",
        help="of a reasoning task: if skipping shows that a twin is more robust than the base, or "
        "that it is not, also spare the first token, and put means in place of layers",
    )
    args = options.parse(argv)
    names = {Path(name).name: name for name in [*args.twin, *args.control]}
    if not args.twin or len(names) < len(args.twin) + len(args.control) or "base" in names:
        raise lr.InputError(
            "name at least one --twin; the last parts of names differ, none is base"
        )
    kinds = args.swaps.split(",")
    if not set(kinds) <= set(KINDS) or args.parts < 1 or args.swap_limit < 0:
        raise lr.InputError(
            f"--swaps {args.swaps} --parts {args.parts} --swap-limit {args.swap_limit}: known are "
            f"{', '.join(KINDS)}, 1 or more parts, 0 or more questions"
        )

    asked: dict[str, Any] = {"tasks": [lr.task(args.task)], "protocols": [args.protocol]}
    base = lr.load(args.model, dtype=args.dtype)
    for name in names.values():  # a donor of another shape is refused before anything is run
        make_swaps(base, lr.load(name, dtype=args.dtype), ["fraction"], 1)
    models = {"base": args.model, **names}
    runs = profile_layers(models, args, asked, thorough=False)
    if args.thorough and needs_second_kind(runs):
        runs = profile_layers(models, args, asked, thorough=True)
    tables = []
    for short, name in names.items():
        lr.report(runs[short], path=args.out / short / "report.html")
        if args.swap_limit:
            twin = lr.load(name, dtype=args.dtype)
            given = (base, twin, short, args.out / "swaps", kinds, args.parts)
            tables.append(measure_both_ways(*given, limit=args.swap_limit, **asked))
    lines = list_scores(runs)
    if tables:
        swapped = pd.concat(tables, ignore_index=True)
        swapped.to_csv(args.out / "swaps.csv", index=False)
        lines += list_largest_changes(swapped)
    lines += list_twin_changes(runs, [Path(name).name for name in args.control], args.out)
    conclude(args, __doc__, runs["base"], lines)


def profile_layers(
    models: Mapping[str, str], args: argparse.Namespace, asked: Mapping[str, Any], *, thorough: bool
) -> dict[str, lr.SweepResult]:
    """Sweep each model over `make_layer_conditions`; one of them is in memory at a time.

    Args:
        models: what to load: the base, by that name, and twins.
        args: `dtype`, `limit`, and `out`: the base's run folder; those of twins lie in it, by name.
        asked: the tasks and protocols.
        thorough: whether to use the second kind of ablation.
    """
    runs = {}
    for name, source in models.items():
        model = lr.load(source, dtype=args.dtype)
        conditions = make_layer_conditions(model, thorough=thorough)
        sweep = lr.Sweep(model, conditions=conditions, limit=args.limit, noise_floor=False, **asked)
        runs[name] = ask(sweep, args.out if name == "base" else args.out / name)
    return runs


if __name__ == "__main__":
    run("distillation", main)
