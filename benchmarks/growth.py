"""How a sweep's time grows with layers, conditions, examples, and length of the context.

    python benchmarks/growth.py [--out runs/bench]

Random tokens are asked, so that each quantity can be varied by itself; the others stay at
`START`. Writes `growth.md`, which `speed.py` puts into its page.
"""

import argparse
import random
import statistics
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from runner import timed
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerroles as lr
from layerroles.engine import Scored


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        layers: of the model: as many of its first ones, or as it has.
        conditions: single layers skipped, spread evenly over the depth.
        examples: questions of 20 tokens with 4 endings of 4 tokens.
        shared: tokens that all questions begin with.
        own: tokens that each question has for itself.
    """

    layers: int | None = None
    conditions: int = 10
    examples: int = 16
    shared: int = 256
    own: int = 20


START = Asked()
GRID = {
    "layers": (10, 20, 30),
    "conditions": (5, 10, 15, 30),
    "examples": (8, 16, 32, 64),
    "shared": (0, 256, 512, 1024),
    "own": (20, 80, 160, 320),
}
NAMES = {
    "layers": "layers of the model (each skipped)",
    "conditions": "conditions (layers skipped one by one)",
    "examples": "examples (with 4 endings each)",
    "shared": "tokens that all examples share (shots)",
    "own": "tokens of each example's own context",
}


def main() -> None:
    """Measure each, write the section."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench"))
    args = parser.parse_args()

    model = lr.load(args.model, dtype=args.dtype, device="cpu")
    measure(lr.Engine(model, executor="fused"), replace(START, examples=4))
    models = {None: model, model.cfg.n_layers: model}
    found: dict[str, list[list[float]]] = {}
    for name, values in GRID.items():
        found[name] = []
        for value in values:
            asked = replace(START, **{name: value})
            if asked.layers is not None:
                asked = replace(asked, conditions=asked.layers)
            if asked.layers not in models:
                models[asked.layers] = first_layers(args.model, asked.layers, args.dtype)
            engine = lr.Engine(models[asked.layers], executor="fused")
            found[name].append([measure(engine, asked) for _ in range(args.repeat)])
            print(name, value, found[name][-1], flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "growth.md").write_text(text(found, args.repeat), encoding="utf-8")


def first_layers(name: str, n: int, dtype: str) -> TransformerBridge:
    """A model without the layers above its n-th."""
    model = AutoModelForCausalLM.from_pretrained(lr.model_folder(name), num_hidden_layers=n)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(lr.model_folder(name)).save_pretrained(folder)
        return lr.load(folder, dtype=dtype, device="cpu")


def measure(engine: lr.Engine, asked: Asked) -> float:
    """Seconds of one sweep."""
    draw = random.Random(0)
    n_layers = engine.model.cfg.n_layers

    def some(n: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1000, 20000) for _ in range(n))

    shared = some(asked.shared)
    contexts = [(*shared, *some(asked.own)) for _ in range(asked.examples)]
    requests = [Scored(context, some(4)) for context in contexts for _ in range(4)]
    step = n_layers / asked.conditions
    layers = [int(step * index) for index in range(asked.conditions)]
    conditions = lr.each_layer(engine.model, lr.Skip(), layers=layers)
    return timed(lambda: engine.score(requests, conditions))[0]


def text(found: dict[str, list[list[float]]], repeat: int) -> str:
    """The section of the page."""
    lines = ["| what grows | values | seconds |", "|---|---|---|"]
    for name, rows in found.items():
        values = ", ".join(map(str, GRID[name]))
        seconds = ", ".join(f"{statistics.median(row):.1f}" for row in rows)
        lines.append(f"| {NAMES[name]} | {values} | {seconds} |")
    start = ", ".join(f"{name} {value}" for name, value in vars(START).items() if value)
    return f"""## How cost grows

Seconds of a sweep as one thing grows and the others stay ({start}); medians of {repeat}. Random
tokens, likelihoods. Written by `python benchmarks/growth.py`.

{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
