"""Probe frames that figures draw: attribution, scores of heads, similarity, attention patterns."""

import itertools

import numpy as np
import pandas as pd

from tests.support.synthetic import TASKS

N, LAYERS = 16, 6


def attribution(*families: str) -> pd.DataFrame:
    """Layer l writes l logits, a quarter of them by its attention, give or take."""
    rng = np.random.default_rng(0)
    rows = [
        ("attribution", "m", "intact", TASKS[family], family, f"{TASKS[family]}-{index:04d}",
         layer, part, share * layer + rng.normal(scale=0.1))
        for family in families
        for index in range(N)
        for layer in range(LAYERS)
        for part, share in (("attn", 0.25), ("mlp", 0.75))
    ]  # fmt: skip
    rows += [(*rows[0][:6], -1, part, 50.0) for part in ("embed", "bias")]
    names = ["probe", "model", "condition", "task", "family", "example", "layer", "part", "logit"]
    return pd.DataFrame(rows, columns=names)


def scores(n_layers: int = 30, n_heads: int = 9, n: int = 4) -> pd.DataFrame:
    """Retrieval scores of a few strong heads, and of one on another task."""
    strong = {("kv", 18, 6): 0.9, ("kv", 24, 6): 0.8, ("kv", 25, 6): 0.7, ("facts", 2, 1): 0.5}
    rows = itertools.product(["kv", "facts"], range(n), range(n_layers), range(n_heads))
    frame = pd.DataFrame(rows, columns=["task", "example", "layer", "head"])
    keys = zip(frame.task, frame.layer, frame["head"], strict=True)
    frame["score"] = [strong.get(key, 0.01) for key in keys] + 0.02 * frame.example
    frame["family"] = frame.task.map({"kv": "retrieval", "facts": "knowledge"})
    return frame


def similarity(n_layers: int = 5, n: int = 3) -> pd.DataFrame:
    rows = [
        ("kv", "retrieval", str(example), layer, length, 0.1 * length + 0.01 * example, 0.05)
        for example in range(n)
        for layer in range(n_layers)
        for length in range(1, n_layers - layer + 1)
    ]
    columns = ["task", "family", "example", "layer", "n", "influence", "angular"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(angular=0.1 * frame.n + 0.02 * (frame.layer - 2).abs())


def pattern(n: int = 6, text: str = "ab") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "layer": layer,
            "head": 1,
            "query": query,
            "key": key,
            "query_token": "\n" if query == 0 else f" {text}{query}",
            "key_token": "\n" if key == 0 else f" {text}{key}",
            "weight": 1 / (query + 1) if layer else float(key == query),
        }
        for layer in (0, 3)
        for query in range(n)
        for key in range(query + 1)
    )
