"""How far each layer's stream is from the model's own output, read raw and through a tuned lens.

A tuned lens (one affine map a layer, arXiv 2303.08112) is trained on some rows of a file, and both
lenses are read on others:

    python experiments/lens.py boolq/validation.jsonl --field passage --out runs/lens

The output is `KL(final || lens)` in nats at every layer, over all tokens but each text's first (on
which the tuned lens is not trained); intervals are of means over texts.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from setting import Parser, run

import layerroles as lr
from layerroles import stats
from layerroles.models import provenance


def main(argv: Sequence[str] | None = None) -> None:
    """Train, read held-out texts, and write the table."""
    parser = Parser(__doc__)
    parser.add_argument("texts", type=Path, help="a JSONL file with a text in each row")
    parser.add_argument("--field", default="text", help="the field that holds the text")
    parser.add_argument("--train", type=int, default=240, help="rows to train on, from the first")
    parser.add_argument("--held-out", type=int, default=8, help="rows to read, from the last")
    parser.add_argument("--length", type=int, default=300, help="characters of each text")
    parser.add_argument("--steps", type=int, default=60, help="training steps")
    parser.add_argument("--tokens", type=int, default=32, help="tokens of a step")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate of the first step")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dtype", default="float32", help="auto, float32, bfloat16 or float16")
    parser.add_argument("--out", type=Path, required=True, help="a folder")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    try:
        with args.texts.open(encoding="utf-8") as lines:
            texts = [json.loads(line)[args.field][: args.length] for line in lines]
    except (OSError, ValueError, KeyError, TypeError) as error:
        parser.error(f"{args.texts} is no JSONL file with texts in {args.field!r}: {error}")
    texts = list(dict.fromkeys(texts))  # none is on both sides
    if min(args.train, args.held_out) < 1:
        parser.error("--train and --held-out are 1 or more")
    if len(texts) < args.train + args.held_out:
        parser.error(f"{args.texts} holds {len(texts)} texts: fewer than are asked for")
    model = lr.load(args.model, dtype=args.dtype)
    asked = {name: getattr(args, name) for name in ("steps", "tokens", "rate", "seed")}
    fitted = provenance(model)
    kept, note = args.out / "tuned.safetensors", args.out / "asked.json"
    of_model = {"weights": fitted.weights, "config": fitted.config, "dtype": fitted.dtype}
    settings = json.dumps({**asked, **of_model, "texts": texts[: args.train]}, sort_keys=True)
    if kept.is_file() and note.is_file() and note.read_text(encoding="utf-8") == settings:
        tuned = lr.probes.TunedLens.load(kept)
    else:
        tuned = lr.probes.TunedLens.fit(model, texts[: args.train], **asked)
        tuned.save(kept)
        note.write_text(settings, encoding="utf-8")
    held = texts[-args.held_out :]
    raw, mapped = (
        average_by_text(lens.read(model, held)) for lens in (lr.probes.LogitLens(), tuned)
    )
    table = compare_lenses(raw, mapped)
    table.to_csv(args.out / "lens.csv", index=False)
    text = format_markdown(table)
    (args.out / "lens.md").write_text(text, encoding="utf-8")
    print(text)


def average_by_text(frame: pd.DataFrame) -> pd.DataFrame:
    """The mean divergence of each text (columns) at each layer (rows)."""
    later = frame[frame["position"] > 0]
    return later.groupby(["layer", "text"])["kl"].mean().unstack("text")


def compare_lenses(raw: pd.DataFrame, tuned: pd.DataFrame) -> pd.DataFrame:
    """Both lenses' divergence at each layer, and the paired difference with its interval."""
    rng = np.random.default_rng(0)
    rows = []
    for layer in raw.index:
        difference = (tuned.loc[layer] - raw.loc[layer]).to_numpy()
        interval = stats.mean_interval(difference, rng)
        row = {
            "layer": layer,
            "raw": raw.loc[layer].mean(),
            "tuned": tuned.loc[layer].mean(),
            "difference": difference.mean(),
            "low": interval.low,
            "high": interval.high,
        }
        rows.append(row)
    return pd.DataFrame(rows)


def format_markdown(table: pd.DataFrame) -> str:
    """Return the table from `compare_lenses` in Markdown."""
    head = "| after layer | raw | tuned | difference |\n| --- | --- | --- | --- |\n"
    lines = []
    for row in table.itertuples():
        name = "embedding" if row.layer < 0 else str(row.layer)
        change = f"{row.difference:+.2f} [{row.low:+.2f}, {row.high:+.2f}]"
        if pd.isna(row.low):  # the last depth has no map
            change = "0"
        lines.append(f"| {name} | {row.raw:.2f} | {row.tuned:.2f} | {change} |")
    return head + "\n".join(lines) + "\n"


if __name__ == "__main__":
    run("lens", main)
