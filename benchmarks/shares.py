"""Where a sweep's time goes: matrix products, attention, read-out, other tensor work, Python.

    python benchmarks/shares.py [--requests FOLDER] [--only arc_5shot,gsm8k_5shot]

The engine answers some of each request file under the intact model and every sixth layer skipped
while torch's profiler notes how long each operation takes, what it calls left out. Writes
`shares.md`, which `speed.py` puts into its page.
"""

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from runner import ask, read, timed
from speed import write_own
from torch.profiler import ProfilerActivity, profile, record_function

import layerroles as lr
from layerroles.engine.fused.kv_cache import RowCache
from layerroles.engine.fused.packed_attention import AttentionLayout

# The profiler keeps every operation, with its shapes: of each verb so many requests at the most, of
# layers one in so many, of a text so many tokens.
MOST = {"loglikelihood": 64, "generate_until": 8}
STRIDE, MOST_TOKENS = 6, 24
# What operations are called that multiply matrices.
MATMUL = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "mkldnn_linear", "gemm")
COPIES = ("aten::copy_", "aten::index", "aten::index_select", "aten::cat", "aten::index_put_")
ATTENTION = "attention"
KINDS = ("matmul", ATTENTION, "read-out", "copies", "other tensor work", "Python")


def main() -> None:
    """Measure each workload, write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--requests", type=Path, help="a folder of request files")
    parser.add_argument("--only", default="", help="names of workloads, by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()

    args.out.mkdir(parents=True, exist_ok=True)
    own = tempfile.TemporaryDirectory()
    if args.requests is None:
        write_own(Path(own.name))
    wanted = [name for name in args.only.split(",") if name]
    model = lr.load(args.model, dtype=args.dtype, device="cpu")
    lines = [
        f"| workload | requests | seconds | {' | '.join(KINDS)} |",
        "|---" * (len(KINDS) + 3) + "|",
    ]
    for file in sorted((args.requests or Path(own.name)).glob("*.jsonl")):
        if wanted and file.stem not in wanted:
            continue
        rows = read(file)
        rows = [cut(row) for row in rows[: MOST[rows[0]["kind"]]]]
        seconds, found = measure(model, rows)
        cells = " | ".join(f"{found[kind] / seconds:.0%}" for kind in KINDS)
        lines.append(f"| {file.stem} | {len(rows)} | {seconds:.0f} | {cells} |")
        print(lines[-1], flush=True)
        (args.out / "shares.md").write_text(text(lines), encoding="utf-8")


def cut(row: dict[str, Any]) -> dict[str, Any]:
    """The request, its text not longer than what the profiler can keep."""
    if "max_gen_toks" not in row:
        return row
    return {**row, "max_gen_toks": min(row["max_gen_toks"], MOST_TOKENS)}


def measure(model: Any, rows: list[dict[str, Any]]) -> tuple[float, Counter[str]]:
    """Seconds of a sweep, and of each kind of work in it."""
    layers = range(0, model.cfg.n_layers, STRIDE)
    conditions = [lr.Condition({}), *lr.each_layer(model, lr.Skip(), layers=layers)]
    # The first requests answered would otherwise pay for what is set up once.
    ask(lr.Engine(model, executor="fused"), rows[:1], conditions[:2])
    engine = lr.Engine(model, executor="fused")
    with ExitStack() as stack:
        for kind in (AttentionLayout, RowCache):
            stack.enter_context(patch.object(kind, "attend", _marked(kind.attend)))
        noted = stack.enter_context(profile(activities=[ProfilerActivity.CPU], record_shapes=True))
        seconds, _ = timed(lambda: ask(engine, rows, conditions))
    found: Counter[str] = Counter()
    for event in noted.events():
        found[_kind(event, model.cfg.d_vocab)] += event.self_cpu_time_total / 1e6
    found["Python"] = seconds - found.total()
    return seconds, found


def _marked(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Attention, so that what is called within it is known to be."""

    @wraps(attend)
    def marked(*args: Any) -> Any:
        with record_function(ATTENTION):
            return attend(*args)

    return marked


def _kind(event: Any, d_vocab: int) -> str:
    name, above = event.name, event
    while above is not None:
        if above.name == ATTENTION:
            return ATTENTION
        above = above.cpu_parent
    if any(d_vocab in shape for shape in event.input_shapes if isinstance(shape, list)):
        return "read-out"
    if any(part in name for part in MATMUL):
        return "matmul"
    return "copies" if name in COPIES else "other tensor work"


def text(lines: list[str]) -> str:
    """The section of the page."""
    return f"""## Where the time goes

Shares of a sweep's time (the intact model and every {STRIDE}th layer skipped; texts of up to
{MOST_TOKENS} tokens), as torch's profiler saw it, which makes it somewhat longer: *attention* is
all that happens between queries, keys and values, its products and copies included, *read-out* all
that touches the vocabulary, *Python* what is left. Written by `python benchmarks/shares.py`.

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
