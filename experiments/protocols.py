r"""A layer's importance depends on how the question is scored.

Question
    Which layers matter for MMLU if the model is asked by the likelihood of a letter, by that of the
    answer's text, or by generation? And for HellaSwag, whose endings are scored by likelihood?
    Where generation needs more layers than likelihood: is that the stricter scoring or the writing?

Material
    MMLU as lm-eval asks it, in its groups `mmlu` (letters), `mmlu_continuation` (the answers) and
    `mmlu_generative`, five worked examples each; HellaSwag without. The data are JSONL files:
    `dev.jsonl` and `test*.jsonl` of `question`, `subject`, `choices`, `answer` (MMLU), and
    `validation*.jsonl` of `query`, `choices`, `gold` (HellaSwag). For strictness, tasks of the
    package without worked solutions, which have the same context under all three protocols: which
    of four choices is likeliest (`continuation`), whether greedy decoding would write the answer
    token by token (`exact`), and what the model writes (`generation`).

Method
    Each layer is skipped in turn; effects are paired with the intact model on the same questions.
    MMLU is asked of the intact model first, and swept only in the ways in which it is above chance.

Run
    python experiments/protocols.py mmlu --data FOLDER --limit 57 --out runs/mmlu
    python experiments/protocols.py hellaswag --data FOLDER --limit 100 --out runs/hellaswag
    python experiments/protocols.py strictness --thorough --limit 100 --out runs/strictness

In bfloat16 HellaSwag takes 12 minutes for 100 questions on one core.
Run again, it goes on where it was.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from pathlib import Path

from lm_eval_files import write_hellaswag, write_mmlu
from sentences import describe_lean_difference, estimate_lean, list_claims
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
from layerroles.roles.protocol_claims import MORE, STRICTER, WRITING

MMLU = ("mmlu", "mmlu_continuation", "mmlu_generative")
OWN = ("kv_retrieval", "facts", "copying")
PROTOCOLS = ("continuation", "exact", "generation")
UNKNOWN = "Importance depends on the scoring: cannot be said, fewer than two ways show skill."
ONE_WAY = "Importance depends on the scoring: cannot be said, only one way was asked."


def main(argv: Sequence[str] | None = None) -> None:
    """Put the data where lm-eval finds them, sweep, report."""
    options = Options(__doc__, limit=16, out="runs/protocols")
    options.add_argument("benchmark", choices=("mmlu", "hellaswag", "strictness"))
    options.add_argument("--data", type=Path, help="a folder of JSONL files, of a benchmark")
    add_thorough(options)
    add_until_claims(options)
    args = options.parse(argv)
    if args.benchmark == "strictness":
        tasks = [lr.task(name) for name in OWN]
    elif args.data is None:
        options.error(f"{args.benchmark} takes --data, a folder of JSONL files")
    elif args.benchmark == "mmlu":
        data = str(write_mmlu(args.data, args.out / "data"))
        tasks = [lr.task(f"lm_eval:{name}", num_fewshot=5, data=data) for name in MMLU]
    else:
        folder = write_hellaswag(args.data, args.out / "data")
        rows = {"include_path": str(folder), "metric": "acc_norm"}
        tasks = [lr.task("lm_eval:hellaswag_rows", **rows)]
    model = lr.load(args.model, dtype=args.dtype)
    screened = []
    if args.benchmark == "mmlu":
        screened = [ask_intact(model, task, args.limit, args.out / "intact") for task in tasks]
        tasks = [task for task, one in zip(tasks, screened, strict=True) if one.above_chance]
    lines = [one.sentence for one in screened]
    if not tasks:
        conclude(args, __doc__, lr.read(args.out / "intact"), [*lines, UNKNOWN])
        return
    how = {"protocols": PROTOCOLS, "until": args.until, "limit": args.limit}
    sweep = lr.Sweep(model, tasks, make_layer_conditions(model, thorough=args.thorough), **how)
    result = ask(sweep, args.out)
    print(result)
    if args.benchmark == "strictness":
        conclude(args, __doc__, result, list_strictness_findings(result))
        return
    metrics = lr.lm_eval_metrics(result).query("condition == 'intact'")
    whole = metrics.groupby("task")["n"].transform("max")  # a group's members are left out
    print(metrics[metrics["n"] == whole].to_string(index=False))
    conclude(args, __doc__, result, lines + findings(result))


def findings(result: lr.SweepResult) -> list[str]:
    """A sentence on each task and protocol, then the verdict."""
    lines = []
    for (task, protocol), own in result.effects().groupby(["task", "protocol"], sort=False):
        row = result.intact().query("task == @task and protocol == @protocol").iloc[0]
        left = list(own.loc[own["p_adjusted"] < 0.05, "condition"])
        lines.append(
            f"{task}, {protocol}: intact {row['score']:.2f} [{row['score_low']:.2f}, "
            f"{row['score_high']:.2f}] (n = {row['n']}, chance {row['chance']:.2f}); effects left "
            f"after Holm's correction: {', '.join(left) or 'none'}."
        )
    return [*lines, describe_verdict(result)]


def list_strictness_findings(result: lr.SweepResult) -> list[str]:
    """Return sentences on each protocol and on the claims `MORE`, `STRICTER` and `WRITING`."""
    roles = lr.localize(result, ablation="skip")
    own = roles.claims[roles.claims["claim"].isin((MORE, STRICTER, WRITING))]
    lines = list_claims(dataclasses.replace(roles, claims=own), *own["family"].unique())
    told = [
        f"{claim}: "
        + ", ".join(f"{row.family} {row.status}" for row in own[own["claim"] == claim].itertuples())
        for claim in (MORE, STRICTER, WRITING)
    ]
    return [*findings(result)[:-1], *lines, f"{'; '.join(told)}."]


def describe_verdict(result: lr.SweepResult) -> str:
    """Whether two ways of scoring lean on different ends of the depth, pair by pair."""
    cells = [(cell["task"], cell["protocol"]) for cell in result.manifest["cells"]]
    ways = [cell for cell in dict.fromkeys(cells) if estimate_lean(result, *cell).known]
    pairs = list(itertools.combinations(ways, 2))
    told = [
        describe_lean_difference(f"{', '.join(two)} against {', '.join(one)}", result, one, two)
        for one, two in pairs
    ]
    shown = [line for line in told if "leans more on" in line]
    if not pairs:
        return UNKNOWN if len(set(cells)) > 1 else ONE_WAY
    if not shown:
        return f"Importance depends on the scoring: not shown in any of {len(pairs)} pairs of ways."
    return (
        f"Importance depends on the scoring: shown in {len(shown)} of {len(pairs)} pairs of ways, "
        f"each by its own interval, not corrected. {' '.join(shown)}"
    )


if __name__ == "__main__":
    run("protocols", main)
