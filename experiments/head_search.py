r"""Which of a model's hundreds of heads does a task need, and how many does a cheap screen miss?

Question
    A head's harm under generation takes a run of its own. Can a cheap score of all heads say which
    few are worth one, and how sure is it that none was left out?

Method
    Every head is scored: by what zeroing it costs under a likelihood protocol on a few examples
    (`--screen answer_logprob`), or by a probe of the intact model (`--screen PROBE:COLUMN`). The
    best are zeroed one by one under generation on other and more examples, and so is a random
    sample of the rest: from the critical and top heads in it follows how many the screen missed.
    With `--exhaustive-layers 6` all is done on the heads of so many layers, spread over the depth,
    and again without a screen: the truth that the search is held against, with the time of both.

Run
    python experiments/head_search.py --out runs/head_search  # again, and it goes on
    python experiments/head_search.py --exhaustive-layers 6 --audit 8 --out runs/head_search_6

A head costs about what generating for all examples once does.
"""

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
from setting import Options, conclude, run

import layerroles as lr

PLACE = ["layer", "head"]


def main(argv: Sequence[str] | None = None) -> None:
    """Screen, confirm, audit; where asked, do without the screen too."""
    options = Options(__doc__, limit=48, out="runs/head_search")
    options.add_argument("--task", default="kv_retrieval", help="a task's label")
    options.add_argument("--screen", default="answer_logprob", help="a protocol, or PROBE:COLUMN")
    options.add_argument("--screen-limit", type=int, default=8, help="examples of the screen")
    options.add_argument("--confirm", type=int, default=20, help="heads that are confirmed")
    options.add_argument("--audit", type=int, default=20, help="others looked at beside them")
    options.add_argument("--top", type=int, default=10, help="heads sought")
    options.add_argument("--exhaustive-layers", type=int, default=0, help="layers to try in full")
    args = options.parse(argv)
    model, task = lr.load(args.model, dtype=args.dtype), lr.task(args.task)
    tried, depth = args.exhaustive_layers, model.cfg.n_layers
    if not 0 <= tried <= depth:
        raise lr.InputError(f"--exhaustive-layers {tried}: the model has {depth} layers")
    layers = [round(n * (depth - 1) / max(1, tried - 1)) for n in range(tried)] or range(depth)
    every = lr.each_head(model, lr.Zero(), layers=layers)
    asked = {"protocols": ["generation"], "limit": args.limit, "noise_floor": False}

    if ":" in args.screen:
        began = time.monotonic()
        scores = probed(model, task, args.screen, args.screen_limit)
        scores = scores[scores.index.isin(layers, level="layer")]
        seconds = time.monotonic() - began
    else:
        cheap = asked | {"protocols": [args.screen], "limit": args.screen_limit, "seed": 1}
        screen = lr.Sweep(model, [task], every, **cheap).run(args.out / "screen")
        scores = -screen.effects().set_index(PLACE)["effect"]
        seconds = screen.manifest["seconds"]
    search = lr.HeadSearch(scores, confirm=args.confirm, audit=args.audit)
    result = lr.Sweep(model, [task], search.conditions(), **asked).run(args.out)
    found = search.judge(result, top=args.top)
    found.frame.to_csv(args.out / "head_search.csv", index=False)
    lines = [
        best(found.frame, args.top),
        f"{search} (of {len(scores)}): {seconds:.0f} s for the screen, "
        f"{result.manifest['seconds']:.0f} s for the rest.",
        *map(said, found.misses.to_dict("records")),
    ]
    if tried:
        whole = lr.Sweep(model, [task], every, **asked).run(args.out / "exhaustive")
        lines.append(against(search, whole, args.top, list(layers)))
    conclude(args, __doc__, result, lines)


def probed(model: Any, task: lr.Task, screen: str, limit: int) -> "pd.Series[float]":
    """What a probe of the intact model says of each head, on average over examples."""
    probe, _, column = screen.partition(":")
    scores = lr.probes.PROBES.make(probe, {}).measure(model, [task], limit=limit, seed=1)
    if not {*PLACE, column} <= set(scores):
        raise lr.InputError(f"--screen {screen}: {probe} has {', '.join(scores)}")
    return scores.groupby(PLACE)[column].mean()


def best(frame: pd.DataFrame, top: int) -> str:
    """The heads that do most harm, in words."""
    rows = frame.sort_values("harm", ascending=False).head(top).to_dict("records")
    named = ", ".join(f"L{row['layer']}.H{row['head']} {row['harm']:.2f}" for row in rows)
    return f"Most harm where zeroed alone: {named}."


def said(row: dict[str, object]) -> str:
    return (
        "{wanted} heads: {found} among the confirmed; {hits} among {audited} audited, so that "
        "{missed:.1f} [{missed_low:.0f}, {missed_high:.0f}] of {screened_out} were missed."
    ).format(**row)


def against(search: lr.HeadSearch, whole: lr.SweepResult, top: int, layers: list[int]) -> str:
    """How many of the true top the search finds, and whether two halves of the truth agree."""
    rows = whole.frame[whole.frame["condition"] != "intact"]
    scores = rows.pivot(index=PLACE, columns="example", values="score").astype(float)
    truth, one, two = (
        {(int(layer), int(head)) for layer, head in part.mean(axis=1).nsmallest(top).index}
        for part in (scores, scores.iloc[:, ::2], scores.iloc[:, 1::2])
    )
    found = {(site.layer, site.head) for site in search.confirmed} & truth
    return (
        f"Without a screen: {whole.manifest['seconds']:.0f} s for {len(scores)} heads of layers "
        f"{layers}. Of their true top {top} the search confirms {len(found)}; halves of the "
        f"examples, each taken as the truth, share {len(one & two)} of theirs."
    )


if __name__ == "__main__":
    run("head_search", main)
