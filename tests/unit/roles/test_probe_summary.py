"""Probes are summarized by family; how alike neighbouring layers are is described."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated import Simulation
from layerroles.roles import localize
from layerroles.roles.probe_summary import ALIKE

G = "generation"


@pytest.mark.parametrize(("n_tokens", "words"), [(1, "answering position"), (20, "all tokens of")])
def test_similarity_is_described_and_has_no_verdict(n_tokens: int, words: str) -> None:
    rng = np.random.default_rng(0)
    rows = [
        {"probe": "similarity", "task": "a", "family": "retrieval", "example": str(example),
         "layer": layer, "n": 1, "influence": 0.1, "angular": rng.uniform(0.05, 0.1),
         "n_tokens": n_tokens}
        for example in range(10)
        for layer in range(9)
    ]  # fmt: skip
    result = Simulation({("retrieval", G): [0.05] * 9}, n=20).draw(0)
    roles = localize(result, [pd.DataFrame(rows)], ablation="skip")
    row = roles.claims.set_index("claim").loc[ALIKE]
    assert row["status"] == "described"
    assert words in row["evidence"]
    assert words in roles.verdict
