r"""Is a layer needed to read the prompt, or to write the answer?

Question
    A layer skipped everywhere may hurt because the prompt was not taken in, or because the answer
    was not carried on. Which of the two is it, for look-up, word problems and copying?

Setting
    Each layer is skipped at the positions of the prompt only, and at those of the answer only. The
    first token of an answer comes from the prompt's last position, so an answer of one token is
    never hurt by the second. Answers are written greedily; everything is paired with the intact
    model and, between the two, on the same questions.

Cost
    6.5 minutes for 24 questions of each task with a 135M model in bfloat16 on one core.

Run
    python experiments/reading_writing.py --out runs/reading_writing  # again, and it goes on
"""

from collections.abc import Sequence

from sentences import describe_task, format_interval, select_role
from setting import Options, ask, conclude, run

import layerroles as lr

TASKS = tuple(lr.task(name).label for name in ("kv_retrieval", "word_problems", "copying"))
READING, WRITING = "prompt", "generated"


def main(argv: Sequence[str] | None = None) -> None:
    """Skip while reading, skip while writing, compare, report."""
    args = Options(__doc__, limit=24, out="runs/reading_writing").parse(argv)
    model = lr.load(args.model, dtype=args.dtype)
    conditions = [
        condition
        for at in (READING, WRITING)
        for condition in lr.each_layer(model, lr.Skip(), at=at)
    ]
    sweep = lr.Sweep(
        model,
        [lr.task(name) for name in TASKS],
        conditions,
        protocols=["generation"],
        limit=args.limit,
        noise_floor=False,
    )
    result = ask(sweep, args.out)
    conclude(args, __doc__, result, findings(result))


def findings(result: lr.SweepResult) -> list[str]:
    """A sentence on each task and set of positions, comparisons of the two, and the verdict."""
    lines = [
        describe_task(f"{name}, skipped at {at}", select_role(result, name, "generation", at))
        for name in TASKS
        for at in (READING, WRITING)
    ]
    told = [describe_costs(result, name) for name in TASKS]
    return [*lines, *told, describe_verdict(told)]


def describe_verdict(told: Sequence[str]) -> str:
    """Sum up the sentences of `describe_costs` on all tasks in one."""
    parts = {
        "reading needs the layers more in": "reading needs the layers more than writing",
        "writing needs them more in": "writing needs the layers more than reading",
        "no difference is shown in": "no difference is shown",
        "not to be compared, without skill, in": "cannot be compared",
    }
    found = {
        words: [line.split(":")[0] for line in told if said in line]
        for words, said in parts.items()
    }
    return "; ".join(f"{words} {', '.join(of)}" for words, of in found.items() if of) + "."


def describe_costs(result: lr.SweepResult, task: str) -> str:
    """What skipping a layer costs on average while reading and while writing."""
    intact = result.intact().set_index("task").loc[task]
    if not intact["above_chance"]:
        return f"{task}: cannot be compared, the intact model is not shown to be above chance."
    table = result[task].effects()
    names = {at: list(table.loc[table["at"] == at, "condition"]) for at in (READING, WRITING)}
    shares = {at: dict.fromkeys(of, 1 / len(of)) for at, of in names.items()}
    less = {name: -share for name, share in shares[WRITING].items()}
    cost = {at: result.harm(task, "generation", weights).value for at, weights in shares.items()}
    gap, low, high = result.harm(task, "generation", shares[READING] | less).numbers
    if low > 0:
        verdict = "reading needs the layers more than writing"
    elif high < 0:
        verdict = "writing needs the layers more than reading"
    else:
        verdict = "no difference is shown"
    return (
        f"{task}: mean harm over layers {cost[READING]:.2f} while reading and {cost[WRITING]:.2f} "
        f"while writing, {verdict}: {format_interval(gap, low, high)}."
    )


if __name__ == "__main__":
    run("reading_writing", main)
