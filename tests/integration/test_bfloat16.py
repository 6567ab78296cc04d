"""The real model in bfloat16: as far from float32 as rounding takes it, and no further."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import layerroles as lr
from tests.support import smollm2

pytestmark = pytest.mark.real
N = 40
LAYERS = [0, 1, 6, 15, 29]
# docs/engine.md, of ARC-easy: the largest and the mean difference of accuracies on 200 questions.
# What n questions leave of a difference by chance shrinks with the root of n.
LARGEST, MEAN = (bound * math.sqrt(200 / N) for bound in (0.025, 0.007))


def asked_in(model: object, run: Path) -> pd.DataFrame:
    mean = lr.Mean(lr.Reference(["Some text of a few words.", "And another, of a few more."]))
    conditions = [
        *lr.each_layer(model, lr.Skip(), layers=LAYERS),
        *lr.each_layer(model, lr.Zero(), part="attn", layers=LAYERS),
        *lr.each_layer(model, lr.Zero(), part="mlp", layers=LAYERS),
        *lr.each_layer(model, mean, layers=LAYERS),
        *lr.each_layer(model, lr.Noise(), layers=LAYERS),
    ]
    task = lr.task("facts")
    sweep = lr.Sweep(
        model, [task], conditions, protocols=["continuation"], limit=N, noise_floor=False
    )
    return sweep.run(run).frame.set_index(["condition", "example"]).sort_index()


def test_scores_are_within_the_noise_table_and_every_log_likelihood_is_finite(
    tmp_path: Path,
) -> None:
    exact = asked_in(smollm2.model(), tmp_path / "float32")
    rounded = asked_in(lr.load("smollm2-135m", dtype="bfloat16"), tmp_path / "bfloat16")
    assert exact.index.equals(rounded.index)
    assert len(exact) == N * (1 + 5 * len(LAYERS))
    logprobs = np.array([json.loads(details)["logprobs"] for details in rounded["details"]])
    assert np.isfinite(logprobs).all()
    assert not exact["details"].equals(rounded["details"])  # it was another dtype

    accuracies = [frame["score"].groupby("condition").mean() for frame in (exact, rounded)]
    apart = (accuracies[0] - accuracies[1]).abs()
    assert apart.max() <= LARGEST, apart.nlargest(5)
    assert apart.mean() <= MEAN, apart.nlargest(5)
