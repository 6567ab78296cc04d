"""Peak memory of the attention probes on one long prompt, beside a plain forward pass.

    python benchmarks/probe_memory.py [--tokens 4096] [--dtype float32]

Each is measured in a process of its own: the peak of the resident set while it runs (Linux), and
how far that is above what the process held with the model loaded. Plain passes read the whole
prompt at once and keep the logits of the last position only: `transformers` by its own fused
attention, which shows no patterns, and `bridge` as TransformerLens runs it.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

import layerroles as lr
from layerroles.models import encode, forward

PROBES = {
    "Attention": lr.probes.Attention(),
    "HeadScores": lr.probes.HeadScores(),
    "RetrievalScore": lr.probes.RetrievalScore(max_gen_toks=8),
    "Similarity('all')": lr.probes.Similarity("all"),
}
WAYS = ("transformers", "bridge", *PROBES)


def main() -> None:
    """Measure each way in its own process, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--way", choices=WAYS)
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure(args)))
        return
    print(f"{args.model}, {args.dtype}, {args.tokens} tokens, one prompt\n")
    print("| | peak (MB) | above the loaded model (MB) | peak / transformers | seconds |")
    print("| --- | --- | --- | --- | --- |")
    first = 0.0
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, "--model", args.model]
        command += ["--dtype", args.dtype, "--tokens", str(args.tokens)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found["peak"]
        print(
            f"| {way} | {found['peak']:.0f} | {found['peak'] - found['before']:.0f} | "
            f"{found['peak'] / first:.2f} | {found['seconds']:.1f} |",
            flush=True,
        )


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Run one way once; megabytes before and at the peak."""
    model = lr.load(args.model, dtype=args.dtype, device="cpu")
    task = long_question(model, args.tokens, Path(tempfile.mkdtemp()))
    ids = torch.tensor([encode(model, task.examples(1, 0)[0].prompt)])
    assert ids.shape[1] == args.tokens
    if args.way == "transformers":
        name = lr.model_folder(args.model)
        dtype = model.cfg.dtype
        del model
        plain = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, attn_implementation="sdpa")
    with torch.inference_mode():  # so that the weights are in memory, wherever they come from
        (plain if args.way == "transformers" else model)(ids[:, :8])
    before = resident("VmRSS", reset=True)
    began = time.perf_counter()
    if args.way == "transformers":
        with torch.inference_mode():
            plain(ids, logits_to_keep=1, use_cache=False)
    elif args.way == "bridge":
        forward(model, ids, torch.ones_like(ids), keep=1)
    else:
        PROBES[args.way].measure(model, [task], limit=1)
    seconds = time.perf_counter() - began
    return {"before": before, "peak": resident("VmHWM"), "seconds": seconds}


def long_question(model: TransformerBridge, n_tokens: int, folder: Path) -> lr.Task:
    """A question of so many tokens whose evidence is one sentence in its middle."""
    rng = random.Random(0)
    words = "the river stone house garden under window quiet morning letter field road".split()
    needle = "The special number of the harbour is 7 4 1 9."
    asked = "\n\nThe special number of the harbour is"
    filler = " ".join(rng.choice(words) for _ in range(n_tokens)).split()

    def prompt(n: int) -> str:
        text = " ".join(filler[: n // 2]) + f". {needle} " + " ".join(filler[n // 2 : n])
        return text + asked

    n = n_tokens - len(encode(model, prompt(0)))
    while len(encode(model, prompt(n))) < n_tokens:
        n += 1
    while len(encode(model, prompt(n))) > n_tokens:
        n -= 1
    path = folder / "long.jsonl"
    row = {"prompt": prompt(n), "answer": "7 4 1 9", "evidence": [needle]}
    path.write_text(json.dumps(row))
    return lr.task("local", path=str(path), family="retrieval")


def resident(field: str, *, reset: bool = False) -> float:
    """Memory of this process in MB: `VmRSS` now, `VmHWM` at its peak since it was reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


if __name__ == "__main__":
    main()
