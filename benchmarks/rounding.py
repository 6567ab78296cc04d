r"""What 16 bits cost: errors of attention by shape and scale, and answers against those in float32.

    python benchmarks/rounding.py --requests REQUESTS [--questions 100] [--texts 24]

REQUESTS are made by `workloads.py`. Each workload is answered by the engine in bfloat16 as it is;
with attention logits and read-out logits rounded to bfloat16, as in the model's own modules (the
engine's way before); in float32; and by lm-eval's loop. Writes `rounding.md`. What is
measured is kept in the same folder and not measured again: delete it to ask with other options.
"""

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from report import processor, version_line
from runner import ask, read, site
from scores import choices, graded, same_share
from speed import run
from torch import Tensor

import layerroles as lr
from layerroles.engine.fused import partial_attention
from layerroles.engine.fused.partial_attention import (
    AttentionRule,
    PartialAttention,
    attend_partially,
)
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.private_apis import flash_attention

# Groups, heads, queries and keys of the parts that attention is computed in.
SHAPES = {
    "blocks of 16": (200, 9, 16, 16),
    "blocks of 48": (60, 9, 48, 48),
    "a long block": (2, 9, 256, 256),
    "a trunk, few queries": (1, 3, 12, 600),
    "a trunk, many queries": (1, 3, 600, 600),
    "trunks of conditions": (30, 3, 96, 600),
    "decoded rows": (480, 3, 3, 96),
    "decoded rows of long texts": (100, 3, 3, 600),
    "generated tokens": (480, 3, 3, 32),
    "contexts of decoded rows": (32, 3, 45, 96),
}
SCALES = (1, 3, 10)
ERRORS = """Errors against float64, of random queries and keys in bfloat16: of outputs in per cent
(root mean square), and the largest of a log-sum-exp, in nats. A scale is the standard deviation of
the logits. *rounded*: products in bfloat16; *engine*: as the engine computes this part; *kernel*:
PyTorch's fused kernel.
"""
ANSWERS = """Shares of questions whose choice, or text, is the same as the engine's in float32, with
the intact model and with layers skipped one at a time; how far the log-likelihoods of continuations
are from those in float32 (nats, root mean square); in how many questions two choices tie for the
best; and how often only this way, and only float32, is right. The loop is lm-eval's `HFLM`, with
fewer layers skipped; the last row of a workload is the engine under the loop's conditions.
"""
TABLE = (
    "| workload | way | questions | conditions | as float32 | nats | ties | only one right | day |",
    "|---|---|---|---|---|---|---|---|---|",
)


def main() -> None:
    """Measure errors and answers, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--requests", type=Path, required=True, help="a folder of request files")
    parser.add_argument("--questions", type=int, default=100, help="of each, at the most")
    parser.add_argument("--texts", type=int, default=24, help="questions whose answer is written")
    parser.add_argument("--layers", type=int, default=10, help="that are skipped, one at a time")
    parser.add_argument("--loop-layers", type=int, default=2, help="of them, for lm-eval's loop")
    parser.add_argument("--loop", type=int, default=8, help="batch size of lm-eval's loop")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()
    args.dtype = "bfloat16"
    args.out.mkdir(parents=True, exist_ok=True)
    sections = [head(args), errors(), "## Answers\n", ANSWERS, *TABLE]
    for file in sorted(args.requests.glob("*.jsonl")):
        kept = args.out / f"rounding-{file.stem}.json"
        if not kept.exists():
            found = {"date": date.today().isoformat(), "rows": measure(args, file)}
            kept.write_text(json.dumps(found), encoding="utf-8")
        found = json.loads(kept.read_text(encoding="utf-8"))
        sections += [f"{row} {found['date']} |" for row in found["rows"]]
        print("\n".join(sections[-4:]), flush=True)
        (args.out / "rounding.md").write_text("\n".join(sections) + "\n", encoding="utf-8")


def head(args: argparse.Namespace) -> str:
    """The first section of the page."""
    options = f"--questions {args.questions} --texts {args.texts} --layers {args.layers}"
    options += f" --loop-layers {args.loop_layers} --loop {args.loop}"
    versions = ", ".join(map(version_line, ("torch", "transformers", "lm-eval")))
    return f"""# Rounding

What bfloat16 does to the engine's answers, and what it would do if attention logits and the logits
that choices are scored by were rounded to it. Written by this command:

- command: `python benchmarks/rounding.py --requests REQUESTS {options}`
- model: {args.model}
- machine: {processor()}, {torch.get_num_threads()} threads; CUDA is not tried
- versions: {versions}
"""


def errors() -> str:
    """A table of attention's errors against float64."""
    lines = [
        "## Attention\n",
        ERRORS,
        "| part | groups, heads, queries, keys | scale | rounded | engine | kernel |",
        "|---|---|---|---|---|---|",
    ]
    for name, (n_groups, n_heads, n_queries, n_keys) in SHAPES.items():
        made = torch.Generator().manual_seed(0)
        q, k, v = (
            torch.randn(n_groups, n_heads, n, 64, generator=made).bfloat16()
            for n in (n_queries, n_keys, n_keys)
        )
        for scale in SCALES:
            factor = AttentionRule(scale / 8)
            logits = factor.factor * (q.double() @ k.double().mT)
            exact = PartialAttention(
                (logits.softmax(-1) @ v.double()).float(), logits.logsumexp(-1).float()
            )
            with before():
                rounded = partial_attention._attend_by_matmul(q, k, v, factor, None)
            out, lse = flash_attention(q, k, v, causal=False, mask=None, scale=scale / 8)
            ways = (rounded, attend_partially(q, k, v, factor), PartialAttention(out, lse))
            cells = [
                f"{100 * float((one.out - exact.out).norm() / exact.out.norm()):.2f}%,"
                f" {float((one.lse - exact.lse).abs().max()):.4f}"
                for one in ways
            ]
            shape = f"{n_groups}, {n_heads}, {n_queries}, {n_keys}"
            lines.append(f"| {name} | {shape} | {scale} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


@contextmanager
def before() -> Iterator[None]:
    """Round attention logits, and the logits that continuations are scored by, to 16 bits."""

    def rounded(q: Tensor, k: Tensor) -> Tensor:
        return (q @ k.transpose(-1, -2)).float()

    with (
        patch.object(partial_attention, "_multiply_in_float32", rounded),
        patch.object(partial_attention, "FEW_HEADS", 0),
        patch.object(Twin, "rounds_logits", False),
    ):
        yield


def measure(args: argparse.Namespace, file: Path) -> list[str]:
    """Answer a request file in every way; return the rows of the table."""
    rows = read(file)
    most = args.questions if rows[0]["kind"] == "loglikelihood" else args.texts
    kept = set(list(dict.fromkeys(row["context"] for row in rows))[:most])
    rows = [row for row in rows if row["context"] in kept]
    bfloat16 = lr.load(args.model, dtype="bfloat16", device="cpu")
    n_layers = bfloat16.cfg.n_layers
    step = n_layers / args.layers
    skipped = [f"L{int(step * n + step / 2)}" for n in range(args.layers)]
    names = ["intact", *skipped]
    few = ["intact", *skipped[:: -(-args.layers // args.loop_layers)]]
    found: dict[str, dict[str, Any]] = {}
    for way, model, context in (
        ("float32", lr.load(args.model, dtype="float32", device="cpu"), nullcontext()),
        ("rounded", bfloat16, before()),
        ("engine", bfloat16, nullcontext()),
    ):
        with context:
            answers = ask(lr.Engine(model), rows, [condition(name) for name in names])
        found[way] = dict(zip(names, answers, strict=True))
    some = args.out / f"{file.stem}-some.jsonl"
    some.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    loop = run(args, "lm-eval", some, few, size=args.loop, read_back=True, softmax_dtype="float32")
    some.unlink()
    found["lm-eval"] = loop["answers"]
    return [
        line(file.stem, rows, way, found, few if way == "lm-eval" else names)
        for way in ("rounded", "engine", "lm-eval")
    ] + [line(file.stem, rows, "engine", found, few)]


def condition(name: str) -> lr.Condition:
    """`intact`, or a layer to skip (`L3`)."""
    return lr.Condition({} if name == "intact" else {site(name): lr.Skip()})


def line(
    workload: str,
    rows: list[dict[str, Any]],
    way: str,
    found: dict[str, dict[str, Any]],
    names: Sequence[str],
) -> str:
    """A row of the table."""
    ours, exact = (
        [choices(rows, {"answers": found[one]}, [name]) for name in names]
        for one in (way, "float32")
    )
    right = [
        pair
        for one, two in zip(ours, exact, strict=True)
        for pair in zip(graded(rows, one), graded(rows, two), strict=True)
    ]
    same = statistics.fmean(same_share(one, two) for one, two in zip(ours, exact, strict=True))
    nats = ties = "-"
    if rows[0]["kind"] == "loglikelihood":
        squares = [
            (one[0] - two[0]) ** 2
            for name in names
            for one, two in zip(found[way][name], found["float32"][name], strict=True)
        ]
        nats = f"{statistics.fmean(squares) ** 0.5:.3f}"
        ties = (
            f"{statistics.fmean(tie for name in names for tie in tied(rows, found[way][name])):.1%}"
        )
    n = len(ours[0])
    pairs = f"{right.count((True, False))} : {right.count((False, True))}"
    return f"| {workload} | {way} | {n} | {len(names)} | {same:.1%} | {nats} | {ties} | {pairs} |"


def tied(rows: list[dict[str, Any]], answers: list[Any]) -> list[bool]:
    """For each question, whether two continuations have the highest score."""
    scores: dict[str, list[float]] = {}
    for row, (logprob, _) in zip(rows, answers, strict=True):
        scores.setdefault(row["context"], []).append(logprob)
    return [each.count(max(each)) > 1 for each in scores.values()]


if __name__ == "__main__":
    main()
