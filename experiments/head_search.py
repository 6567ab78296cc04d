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

A head costs about what generating for all examples once does. With a 135M model of 270 heads in
bfloat16 on one core all of it takes 6 minutes.
"""

import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
from setting import Options, ask, conclude, run

import layerroles as lr
from layerroles.roles import FoundHeads

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
    if args.confirm < 1 or min(args.audit, args.top - 1, args.screen_limit - 1) < 0:
        raise lr.InputError("--confirm, --top and --screen-limit are 1 or more, --audit 0 or more")
    layers = [round(n * (depth - 1) / max(1, tried - 1)) for n in range(tried)] or range(depth)
    every = lr.each_head(model, lr.Zero(), layers=layers)
    asked = {"protocols": ["generation"], "limit": args.limit, "noise_floor": False}

    if ":" in args.screen:
        began = time.monotonic()
        scores = probe_heads(model, task, args.screen, args.screen_limit)
        seconds = time.monotonic() - began
    else:
        cheap = asked | {"protocols": [args.screen], "limit": args.screen_limit, "seed": 1}
        screen = ask(lr.Sweep(model, [task], every, **cheap), args.out / "screen")
        scores = -screen.effects().set_index(PLACE)["effect"]
        seconds = screen.manifest["seconds"]
    scores = scores[scores.index.isin(layers, level="layer")]
    search = lr.HeadSearch(scores, confirm=args.confirm, audit=args.audit)
    result = ask(lr.Sweep(model, [task], search.conditions(), **asked), args.out)
    found = search.judge(result, top=args.top)
    found.frame.to_csv(args.out / "head_search.csv", index=False)
    lines = [
        describe_most_harmful(found.frame, args.top),
        f"{len(search.confirmed)} of {len(scores)} heads confirmed, {len(search.audited)} of the "
        f"others audited: {seconds:.0f} s for the screen, "
        f"{result.manifest['seconds']:.0f} s for the rest.",
        *describe_misses(found.misses),
    ]
    if tried:
        whole = ask(lr.Sweep(model, [task], every, **asked), args.out / "exhaustive")
        lines.append(compare_with_all(search, whole, args.top, list(layers)))
    conclude(args, __doc__, result, [*lines, describe_verdict(found, args.screen)])


def probe_heads(model: Any, task: lr.Task, screen: str, limit: int) -> "pd.Series[float]":
    """Return each head's mean over examples of a probe's column; `screen` is PROBE:COLUMN."""
    probe, _, column = screen.partition(":")
    scores = lr.probes.PROBES.make(probe, {}).measure(model, [task], limit=limit, seed=1)
    if not {*PLACE, column} <= set(scores):
        raise lr.InputError(f"--screen {screen}: {probe} has {', '.join(scores)}")
    return scores.groupby(PLACE)[column].mean()


def describe_most_harmful(frame: pd.DataFrame, top: int) -> str:
    """The heads that do most harm, among those that were looked at."""
    rows = frame[frame["harm"].notna()].sort_values("harm", ascending=False).head(top)
    named = ", ".join(
        f"L{row['layer']}.H{row['head']} {row['harm']:.2f} [{row['harm_low']:.2f}, "
        f"{row['harm_high']:.2f}]"
        for row in rows.to_dict("records")
    )
    return f"Most harm where zeroed alone (n = {rows['n'].max():.0f}): {named}."


def describe_misses(misses: pd.DataFrame) -> list[str]:
    """How many of the wanted heads the screen missed, estimated from the audited heads."""
    return [
        f"{row['wanted']} heads: {row['found']} among the confirmed; {row['hits']} among "
        f"{row['audited']} audited, so that {row['missed']:.1f} [{row['missed_low']:.0f}, "
        f"{row['missed_high']:.0f}] of {row['screened_out']} were missed."
        if row["audited"]
        else f"{row['wanted']} heads: {row['found']} among the confirmed; none of the others was "
        f"audited, so nothing is known of them."
        for row in misses.to_dict("records")
    ]


def compare_with_all(
    search: lr.HeadSearch, whole: lr.SweepResult, top: int, layers: list[int]
) -> str:
    """Compare the confirmed heads with the worst of `whole`, a sweep of all; compare its halves."""
    rows = whole.frame[whole.frame["layer"].isin(layers)]
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


def describe_verdict(found: FoundHeads, screen: str) -> str:
    """Which heads are needed, and whether the screen is shown to miss any."""
    needed = found.frame[found.frame["verdict"] == "critical"]
    named = ", ".join(f"L{row.layer}.H{row.head}" for row in needed.itertuples()) or "none"
    row = found.misses[found.misses["wanted"] == "critical"].iloc[0]
    if not row["audited"]:
        audit = "what it missed is not known, none was audited"
    elif row["hits"]:
        audit = f"it is shown to miss some, {row['hits']} of {row['audited']} audited"
    else:
        audit = (
            f"it is not shown to miss any, though up to {row['missed_high']:.0f} of "
            f"{row['screened_out']} are not excluded"
        )
    return f"Heads that are critical alone: {named}. The screen by {screen}: {audit}."


if __name__ == "__main__":
    run("head_search", main)
