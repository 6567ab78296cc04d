"""Results written score by score, with pairs of layers and single heads among the conditions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from layerroles.results import SweepResult
from tests.support.synthetic import TASKS

Scores = Mapping[str, np.ndarray]
GENERATION = ("retrieval", "generation")


def scripted_result(
    cells: Mapping[tuple[str, str], Scores], *, n_layers: int, n_heads: int = 2, chance: float = 0.0
) -> SweepResult:
    """A sweep with these scores of each condition, for each (family, protocol).

    Conditions are called by kind and sites: `"intact"`, `"skip L2"`, `"skip L2+L4"`,
    `"zero L3.H1"`; ` after_first` at the end says where they act.
    """
    blocks = [
        _rows(family, protocol, name, np.asarray(scores, dtype=float))
        for (family, protocol), conditions in cells.items()
        for name, scores in conditions.items()
    ]
    frame = pd.concat(blocks, ignore_index=True)
    frame = frame.astype({"layer": "Int64", "head": "Int64", "changed": "boolean"})
    manifest = {
        "model": {"name": "scripted", "n_layers": n_layers, "n_heads": n_heads},
        "seed": 0,
        "cells": [
            {"task": TASKS[family], "protocol": protocol, "chance": chance, "unit": "accuracy"}
            for family, protocol in cells
        ],
    }
    return SweepResult(frame, manifest)


def lost(n: int, first: int, right: int) -> np.ndarray:
    """`n` scores of which the first `right` are 1, but for the first `first`."""
    scores = np.zeros(n)
    scores[first:right] = 1
    return scores


def pairs_result(n: int = 100) -> SweepResult:
    """Layers 0 and 1 stand in for each other; 2 and 3 lose the same answers, 4 others."""
    right, other = 80, lost(n, 0, 80)
    other[50:70] = 0
    one = {"intact": lost(n, 0, right)}
    one |= {f"skip L{layer}": lost(n, 0, right) for layer in (0, 1, 5)}
    one |= {f"skip L{layer}": lost(n, 40, right) for layer in (2, 3)}
    one["skip L4"] = other
    both = lost(n, 40, right)
    both[50:70] = 0
    pairs = {"0+L1": lost(n, 76, right), "2+L3": lost(n, 40, right), "2+L4": both, "1+L5": one[
        "intact"]}  # fmt: skip
    cells = {GENERATION: one | {f"skip L{name}": scores for name, scores in pairs.items()}}
    return scripted_result(cells, n_layers=6)


def scored_heads(kind: str, n: int = 100) -> dict[str, np.ndarray]:
    """Scores without each of 24 heads, of which one is needed."""
    return {
        f"{kind} L{layer}.H{head}": lost(n, 40 * (layer == 2 and head == 1), 80)
        for layer in range(6)
        for head in range(4)
    }


def heads_result(*kinds: str, n: int = 100) -> SweepResult:
    """Layers that nothing needs, and heads of which one is needed."""
    scores = {"intact": lost(n, 0, 80)}
    scores |= {f"skip L{layer}": lost(n, 0, 80) for layer in range(6)}
    for kind in kinds or ("zero",):
        scores |= scored_heads(kind, n)
    return scripted_result({GENERATION: scores}, n_layers=6, n_heads=4)


def _rows(family: str, protocol: str, name: str, scores: np.ndarray) -> pd.DataFrame:
    kind, _, rest = name.partition(" ")
    site, _, at = rest.partition(" ")
    places = [one.partition(".") for one in site.split("+")] if site else []
    layers = {int(layer[1:]) for layer, _, _ in places}
    head = places[0][2][1:] if len(places) == 1 and places[0][2] else None
    return pd.DataFrame(
        {
            "model": "scripted",
            "condition": name,
            "ablation": kind,
            "at": at or "all",
            "site": site,
            "layer": layers.pop() if len(layers) == 1 else None,
            "part": "" if not site else "head" if places[0][2] else "block",
            "head": None if head is None else int(head),
            "task": TASKS[family],
            "family": family,
            "protocol": protocol,
            "example": [f"{TASKS[family]}-{index:03d}" for index in range(len(scores))],
            "score": scores,
            "response": [f"{name} {index}" for index in range(len(scores))],
            "status": "ok",
            "changed": bool(site),
        }
    )
