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
    python experiments/head_search.py --limit 48 --out runs/head_search
    python experiments/head_search.py --exhaustive-layers 6 --audit 8 --out runs/head_search_6

A head costs about what generating for all examples once does. Run again, it goes on where it was.
"""

import argparse
import logging
import sys
import time
from pathlib import Path

import layerroles as lr

PLACE = ["layer", "head"]


def main() -> None:
    """Screen, confirm, audit; where asked, do without the screen too."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--task", default="kv_retrieval", help="a task's label")
    parser.add_argument("--screen", default="answer_logprob", help="a protocol, or PROBE:COLUMN")
    parser.add_argument("--screen-limit", type=int, default=8, help="examples of the screen")
    parser.add_argument("--confirm", type=int, default=20, help="heads that are confirmed")
    parser.add_argument("--audit", type=int, default=20, help="others looked at beside them")
    parser.add_argument("--top", type=int, default=10, help="heads sought")
    parser.add_argument("--limit", type=int, default=48, help="examples that confirm")
    parser.add_argument("--exhaustive-layers", type=int, default=0, help="layers to try in full")
    parser.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")

    model, task = lr.load(args.model, dtype=args.dtype), lr.task(args.task)
    tried, depth = args.exhaustive_layers, model.cfg.n_layers
    if not 0 <= tried <= depth:
        raise lr.InputError(f"--exhaustive-layers {tried}: the model has {depth} layers")
    layers = [round(n * (depth - 1) / max(1, tried - 1)) for n in range(tried)] or range(depth)
    every = lr.each_head(model, lr.Zero(), layers=layers)

    def swept(name: str, conditions: list[lr.Condition], protocol: str, limit: int, seed: int = 0):
        options = {"protocols": [protocol], "limit": limit, "seed": seed, "noise_floor": False}
        return lr.Sweep(model, [task], conditions, **options).run(args.out / name)

    probe, colon, column = args.screen.partition(":")
    if colon:
        began, measured = time.monotonic(), lr.probes.PROBES.make(probe, {})
        scores = measured.measure(model, [task], limit=args.screen_limit, seed=1)
        if not {*PLACE, column} <= set(scores):
            raise lr.InputError(f"--screen {args.screen}: {probe} has {', '.join(scores)}")
        scores = scores[scores["layer"].isin(layers)].groupby(PLACE)[column].mean()
        seconds = time.monotonic() - began
    else:
        screen = swept("screen", every, args.screen, args.screen_limit, seed=1)
        scores = -screen.effects().set_index(PLACE)["effect"]
        seconds = screen.manifest["seconds"]
    search = lr.HeadSearch(scores, confirm=args.confirm, audit=args.audit)
    result = swept("confirm", search.conditions(), "generation", args.limit)
    found = search.judge(result, top=args.top)
    seconds = f"{seconds:.0f} s for the screen, {result.manifest['seconds']:.0f} s for the rest"
    lines = [
        f"{search} (of {len(scores)}): {seconds}.",
        *map(said, found.misses.to_dict("records")),
    ]
    if tried:
        whole = swept("exhaustive", every, "generation", args.limit)
        lines.append(against(search, whole, args.top, list(layers)))
    found.frame.to_csv(args.out / "head_search.csv", index=False)
    best = found.frame.sort_values("harm", ascending=False).head(args.top)
    text = "\n".join([best.round(3).to_string(index=False), "", *lines, ""])
    (args.out / "head_search.txt").write_text(text, encoding="utf-8")
    print(text)


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
    try:
        main()
    except lr.InputError as error:
        print(f"head_search: error: {error}", file=sys.stderr)
        sys.exit(2)
