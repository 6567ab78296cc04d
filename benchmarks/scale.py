"""What a full study takes on many GPUs, by the cost model: prints a table for docs/scale.md.

Nothing is run, and nothing is downloaded: models are folders with a config.json of published sizes
(see paper.py). A sweep's units go to workers as they are free, so that the time is that of the
units, shared out in whole, of the noise floor, which is asked in small parts, and of loading the
model once on each worker.

    python benchmarks/scale.py
"""

import argparse
import math
from pathlib import Path
from typing import Any

from paper import LLAMA, MODELS, make_folder
from transformers import LlamaConfig

import layerroles as lr
from layerroles.engine.planning.memory import FREE_MEMORY_SHARE
from layerroles.engine.planning.published_speeds import DEVICES
from layerroles.progress import format_duration

_LARGER = {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
}
# GPUs a worker: the 70B model's weights alone are 141 GB, and it is spread over the GPUs.
STUDIED = {
    "Llama-3.1-8B": (MODELS["Llama-3.1-8B"], 1),
    "Llama-3.1-70B": (LlamaConfig(**LLAMA | _LARGER), 4),
}
GPUS = (1, 8, 64)
# Bytes a second at which weights are read from disk: assumed.
READING = 2e9


def study(model: Any, limit: int) -> lr.Sweep:
    """Every layer skipped, at all positions and after the first; four tasks, two protocols."""
    names = ("facts", "copying", "kv_retrieval[pairs=20]", "word_problems[steps=2]")
    conditions = [
        *lr.each_layer(model, lr.Skip()),
        *lr.each_layer(model, lr.Skip(), at="after_first"),
    ]
    return lr.Sweep(model, [lr.task(name) for name in names], conditions, limit=limit)


def main() -> None:
    """Estimate, share out, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--folders", type=Path, default=Path("runs/configs"))
    parser.add_argument("--device", default="h100")
    parser.add_argument("--limit", type=int, default=100)
    args = parser.parse_args()
    columns = " | ".join(f"{n} GPU{'s' * (n > 1)}" for n in GPUS)
    print(f"| model | rows | units | {columns} |")
    print("|---" * (3 + len(GPUS)) + "|")
    for name, (config, each) in STUDIED.items():
        make_folder(args.folders / name, config)
        model = lr.load(args.folders / name, dtype="bfloat16", device="meta")
        sweep = study(model, args.limit)
        weights = sum(p.numel() * p.element_size() for p in set(model.original_model.parameters()))
        room = each * DEVICES[args.device].memory - weights
        found = lr.estimate(sweep, device=args.device, memory=int(FREE_MEMORY_SHARE * room))
        n_units = sum(call.name != "noise floor" for call in sweep.calls())
        rows = len(sweep.conditions) * sum(len(cell.examples) for cell in sweep.cells)
        floor = sum(part.seconds for part in found.parts if part.name == "noise floor")
        unit = (found.seconds - floor) / n_units
        times = [
            found.weight_bytes / READING
            + math.ceil(n_units / (n // each)) * unit
            + floor / (n // each)
            for n in GPUS
            if n >= each
        ]
        times_shown = [*["does not fit"] * (len(GPUS) - len(times)), *map(format_duration, times)]
        start = f"| {name} | {rows:,} | {n_units} of {format_duration(unit)}"
        print(f"{start} | {' | '.join(times_shown)} |", flush=True)


if __name__ == "__main__":
    main()
