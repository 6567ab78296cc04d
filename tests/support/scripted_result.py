"""Results written score by score, with pairs of layers and single heads among the conditions."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from layerroles.results import SweepResult
from tests.support.synthetic import TASKS

Scores = Mapping[str, np.ndarray]


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
