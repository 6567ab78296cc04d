"""Verdicts on conditions: how sinks are found, and the joint error rate of all verdicts."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated import Simulation
from layerroles.results import SweepResult, cells_of, describe_decisions, verdict_levels
from layerroles.roles.critical_heads import heads_of

G = "generation"
RETRIEVAL = ("retrieval", G)


@pytest.fixture(scope="module")
def sink() -> SweepResult:
    """A sweep in which layer 0 is critical only if the first token is ablated too."""
    truth, kept = {RETRIEVAL: [0.6] + [0.0] * 3}, {RETRIEVAL: [0.0] * 4}
    return Simulation(truth, n=300, kinds=("zero",), spared=kept).draw(0)


def of_heads(result: SweepResult) -> SweepResult:
    """Return the same answers as those of ablating the first head of each layer."""
    ablated = result.frame["condition"] != "intact"
    frame = result.frame.assign(
        site=result.frame["site"].mask(ablated, result.frame["site"] + ".H0"),
        part=result.frame["part"].mask(ablated, "head"),
        head=pd.Series(np.where(ablated, 0, None), index=result.frame.index).astype("Int64"),
    )
    entries = [
        entry | {"parts": ["head"], "sites": [f"{site}.H0" for site in entry["sites"]]}
        for entry in result.manifest["conditions"]
    ]
    return dataclasses.replace(
        result, frame=frame, manifest=result.manifest | {"conditions": entries}
    )


def test_a_head_that_harms_by_the_first_token_alone_is_a_sink(sink: SweepResult) -> None:
    heads = of_heads(sink)
    decisions = heads.decisions().set_index("condition")["verdict"]
    assert decisions["zero L0"] == "sink"
    verdicts = heads_of(heads, "all")["verdict"].to_list()
    assert verdicts == [decisions[f"zero L{layer}"] for layer in range(4)]


@pytest.mark.parametrize("name", ["zero L0", "zero L0 after_first", "zero", G])
def test_a_part_of_a_result_has_the_verdicts_of_the_whole(sink: SweepResult, name: str) -> None:
    whole, part = sink.decisions(), sink[name].decisions()
    assert whole.set_index("condition").loc["zero L0", "verdict"] == "sink"
    names = [name] if name in set(whole["condition"]) else list(whole["condition"])
    expected = whole[whole["condition"].isin(names)].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, expected)


def test_verdicts_are_right_together_in_each_family_under_each_protocol() -> None:
    """The levels are those of three layers, and the verdicts of two protocols are six."""
    truth = {("knowledge", protocol): [0.0, 0.6, 0.6] for protocol in (G, "continuation")}
    result = Simulation(truth, n=100, kinds=("skip",)).draw(0)
    until = {"error": 0.05, "simultaneous": True, "goal": "layers"}
    manifest = result.manifest | {"until": until}
    assert verdict_levels(manifest)["skip L0"] == 1 - 0.05 / 3
    text = describe_decisions(cells_of(result), manifest)
    assert text.endswith(
        "those of one ablation of the same parts at the same positions, in one family under one "
        "protocol, are all right with probability 0.95 or more"
    )
