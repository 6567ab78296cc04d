"""The main job: what does each layer of a real 30-layer model do, and how sure is that?

Question
    Which depth of SmolLM2-135M-Instruct carries retrieval, knowledge and reasoning, and does the
    answer depend on how the model is asked?

Material
    Key-value look-up in JSON (retrieval), cloze facts (knowledge), word problems with one sum
    (reasoning; with two, 32 questions do not show that this model is above chance), and copying a
    text of the length of a worked solution: the control for damage that is to long answers and not
    to a skill.

Method
    Each layer is skipped in turn, at all positions; where that is critical, again at all but the
    first token (whose huge write in one layer other layers rely on: the attention sink). Every
    example is asked under every condition by likelihood (`continuation`: which of four choices is
    likeliest) and by greedy `generation`. Effects are paired with the intact model on the same
    examples. The same prompts are read with a logit lens, and attention to the evidence is
    measured per head.

Questions come in rounds of 4, 8, 16 and 32; after each, report.html shows the estimates so far.
Run it again and it goes on where it was; `--limit 200` extends the finished run, and `--minutes 60`
asks on, for an hour, about the layers whose verdict is not decided.
"""

from collections.abc import Sequence

from setting import Options, run

import layerroles as lr


def main(argv: Sequence[str] | None = None) -> None:
    """Sweep, probe, localize, report."""
    options = Options(__doc__, limit=None, out="runs/demo")
    options.add_argument(
        "--minutes",
        type=float,
        help="ask until each layer's verdict is decided, for so long (--limit 512 by default)",
    )
    args = options.parse(argv)
    until = None if args.minutes is None else lr.Decided(minutes=args.minutes)
    model = lr.load(args.model, dtype=args.dtype)
    names = ("kv_retrieval", "facts", "word_problems[steps=1]", "copying")
    tasks = [lr.task(name) for name in names]
    conditions = [
        *lr.each_layer(model, lr.Skip(), at="all"),
        *lr.each_layer(model, lr.Skip(), at="after_first"),
    ]

    sweep = lr.Sweep(
        model,
        tasks,
        conditions,
        protocols=["continuation", "generation"],
        until=until,
        limit=args.limit,
        noise_floor=False,  # it would take as long as several conditions
    )
    page = args.out / "report.html"
    result = sweep.run(args.out, report=page)
    probes = [
        lr.probes.measure_into(args.out, probe, model, tasks, limit=min(32, sweep.limit))
        for probe in (lr.probes.LogitLens(), lr.probes.Attention())
    ]

    roles = lr.localize(result, probes=probes)
    lr.report(result, probes=probes, path=page)
    print(roles)
    print(f"\nReport: {page}")


if __name__ == "__main__":
    run("demo", main)
