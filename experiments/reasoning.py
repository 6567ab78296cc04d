r"""Does reasoning need middle and deep layers, and more of them the more steps it takes?

Claim
    "Reasoning needs middle and deep layers": on GSM8K with a chain of thought, skipping a single
    deep layer costs about 0.6 (arXiv 2510.02091, layer 35 of a Qwen model).

Setting
    Word problems of one, two and three steps with worked solutions as shots, and copying a text of
    the length of a solution: the control for damage that is to long answers. Greedy generation;
    each layer is skipped in turn. With `--data FOLDER`, GSM8K (5 shots, by lm-eval) and MathQA (by
    the likelihood of the options) too, from `gsm8k/` (`train*.jsonl`, `test*.jsonl` of `question`,
    `answer`) and `mathqa/` (`test*.jsonl` of `question`, `options` by letter, `answer`). They are
    asked of the intact model first, and swept only where it is above chance.

Cost
    14 minutes for 24 problems of each kind with a 135M model in bfloat16 on one core, a third of it
    for the benchmarks.

Run
    python experiments/reasoning.py --out runs/reasoning  # again, and it goes on where it was
"""

from collections.abc import Sequence
from pathlib import Path

from lm_eval_files import make_gsm8k_task, make_mathqa_task
from sentences import describe_lean_difference, describe_task, list_claims, select_role
from setting import (
    Options,
    add_thorough,
    add_until_claims,
    ask,
    ask_intact,
    conclude,
    make_layer_conditions,
    run,
)

import layerroles as lr

STEPS = tuple(lr.task("word_problems", steps=steps).label for steps in (1, 2, 3))
COPYING = lr.task("copying").label
BENCHMARKS = {"gsm8k": make_gsm8k_task, "mathqa": make_mathqa_task}


def main(argv: Sequence[str] | None = None) -> None:
    """Sweep the word problems, and the benchmarks that the model can do; report."""
    options = Options(__doc__, limit=24, out="runs/reasoning")
    options.add_argument("--data", type=Path, help="a folder with gsm8k/ and mathqa/, or one")
    add_thorough(options)
    add_until_claims(options)
    args = options.parse(argv)
    given = make_benchmark_tasks(args.data, args.out / "data") if args.data else []
    model = lr.load(args.model, dtype=args.dtype)
    screened = [ask_intact(model, task, args.limit, args.out / "intact") for task in given]
    able = [task for task, one in zip(given, screened, strict=True) if one.above_chance]
    sweep = lr.Sweep(
        model,
        [*(lr.task(name) for name in (*STEPS, COPYING)), *able],
        make_layer_conditions(model, thorough=args.thorough),
        protocols=["generation"],
        until=args.until,
        limit=args.limit,
        noise_floor=False,
    )
    result = ask(sweep, args.out)
    conclude(args, __doc__, result, [one.sentence for one in screened] + findings(result))


def make_benchmark_tasks(source: Path, folder: Path) -> list[lr.Task]:
    """Return tasks on the benchmarks in `source`; write their files to `folder`.

    Raises:
        InputError: `source` holds none.
    """
    held = [name for name in BENCHMARKS if (source / name).is_dir()]
    if not held:
        raise lr.InputError(f"--data {str(source)!r} holds none of {', '.join(BENCHMARKS)}")
    return [BENCHMARKS[name](source / name, folder / name) for name in held]


def findings(result: lr.SweepResult) -> list[str]:
    """A sentence on each kind of problem, on what more steps change, and on the claim."""
    one, two, three = STEPS
    pairs = {
        "Two steps against one": (one, two),
        "Three steps against one": (one, three),
        "Two steps against copying": (COPYING, two),
    }
    return [
        *(
            describe_task(name, select_role(result, name, "generation"))
            for name in (*STEPS, COPYING)
        ),
        *(
            describe_lean_difference(words, result, (first, "generation"), (second, "generation"))
            for words, (first, second) in pairs.items()
        ),
        *list_claims(lr.localize(result, ablation="skip"), "reasoning"),
    ]


if __name__ == "__main__":
    run("reasoning", main)
