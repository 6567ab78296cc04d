"""Depths at which answers emerge and choices are made."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import layerroles as lr
from layerroles.probes import decision_depths, depth_intervals, emergence_depths
from layerroles.tasks.base import Example
from tests.support.probe_questions import QUESTIONS, Listed
from tests.support.random_models import random_model

OPEN = Example("open", "one two", "three")


def lens_frame(ranks: list[int], logprobs: list[float], example: str = "a") -> pd.DataFrame:
    layers = range(-1, len(ranks) - 1)
    names = {"task": "t", "family": "knowledge", "example": example, "part": "block"}
    return pd.DataFrame({"layer": layers, "rank": ranks, "logprob": logprobs}).assign(
        uniform=-10.0, **names
    )


@pytest.mark.parametrize(
    ("ranks", "logprobs", "top", "half"),
    [
        # From -10, where nothing is known, to -2: the middle is -6, reached for good at layer 2.
        ([9, 0, 4, 0, 0], [-99, -5, -8, -6, -2], 2, 2),
        ([0, 0, 0, 0, 0], [-1, -9, -8, -7, -2], -1, 3),
        ([5, 5, 5, 5, 1], [-9, -3, -3, -3, -2], math.nan, 0),
        ([0, 0, 0, 0, 5], [-2, -2, -2, -2, -4], math.nan, -1),
        ([3, 3, 3, 3, 3], [-4, -1, -1, -1, -10], math.nan, math.nan),  # no likelier in the end
    ],
)
def test_emergence_by_rank_and_by_half_the_way(
    ranks: list[int], logprobs: list[float], top: float, half: float
) -> None:
    frame = lens_frame(ranks, logprobs)
    between = frame.assign(part="attn", rank=7, logprob=-99.0)
    found = emergence_depths(pd.concat([frame, between]).sample(frac=1, random_state=0))
    depth = found.set_index("measure").depth
    assert depth.to_dict() == pytest.approx({"top": top, "half": half}, nan_ok=True)


def test_median_depths_have_order_statistic_intervals() -> None:
    rng = np.random.default_rng(0)
    depths = pd.DataFrame(
        {
            "family": ["knowledge"] * 20 + ["reasoning"] * 5,
            "measure": "top",
            "depth": [*rng.permutation(np.arange(17.0)), *[math.nan] * 3, *range(5)],
        }
    )
    knowledge, reasoning = depth_intervals(depths, ["family", "measure"]).to_dict("records")
    # n = 17: the 5th and the 13th hold the median with probability .951 (David & Nagaraja).
    assert (knowledge["n"], knowledge["reached"]) == (20, 17)
    assert (knowledge["low"], knowledge["median"], knowledge["high"]) == (4, 8, 12)
    assert reasoning["median"] == 2
    assert math.isnan(reasoning["low"]) and math.isnan(reasoning["high"])


def test_median_intervals_cover_the_median() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(400):
        drawn = pd.DataFrame({"measure": "top", "depth": rng.normal(size=25)})
        row = depth_intervals(drawn).iloc[0]
        hits += row.low <= 0 <= row.high
    assert hits / 400 >= 0.93


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "cohere", "neox"])
def test_margins_are_differences_of_logits(architecture: str) -> None:
    model = random_model(architecture)
    frame = lr.probes.Decision().measure(model, [Listed((*QUESTIONS, OPEN))])
    assert set(frame.example) == {"7", "b"}  # an open question has no options
    ids = torch.tensor([lr.models.encode(model, "the cat sat on the ")])
    mat, sofa = (lr.models.encode(model, letter)[0] for letter in "ms")
    with torch.inference_mode():
        logits, cache = model(ids, return_type="logits"), model.run_with_cache(ids)[1]
    mine = frame[frame.example == "7"].set_index("layer")
    assert mine.margin[2] == pytest.approx(
        float(logits[0, -1, mat] - logits[0, -1, sofa]), abs=1e-4
    )
    stream = cache["blocks.0.hook_out"][0, -1:]
    read = lr.probes.streams.read_out(model, stream)[0]
    assert mine.margin[0] == pytest.approx(float(read[mat] - read[sofa]), abs=1e-4)
    assert set(mine.options) == {2}
    right = bool(mine.margin[2] > 0)
    assert set(mine.right) == {right}
    assert mine.lead.tolist() == pytest.approx((mine.margin if right else -mine.margin).tolist())
    # The decisive phase is the last run of layers at which the final choice leads.
    leads = (mine.lead > 0).tolist()
    start = len(leads) - (leads[::-1].index(False) if False in leads else len(leads))
    assert mine.phase.tolist() == ["silent"] * start + ["decisive"] * (len(leads) - start)
    depth = decision_depths(frame).set_index("example").depth
    assert depth["7"] == start - 1


def test_decisions_under_a_condition_and_between_sublayers() -> None:
    model = random_model("llama")
    skip = lr.Condition({lr.Site(2): lr.Skip()})
    probe = lr.probes.Decision(lens=lr.probes.LogitLens(sublayers=True))
    frame = probe.measure(model, [Listed(QUESTIONS)], condition=skip)
    assert set(frame.condition) == {skip.name}
    assert frame.groupby("example").size().tolist() == [7, 7]
    at = frame.set_index(["example", "layer", "part"]).margin
    assert at["7", 2, "block"] == pytest.approx(at["7", 1, "block"])
    assert at["7", 1, "attn"] != pytest.approx(at["7", 1, "block"])


def test_tasks_without_choices_are_refused() -> None:
    with pytest.raises(lr.InputError, match="'decision' needs examples with several choices, and"):
        lr.probes.Decision().measure(random_model("llama"), [Listed((OPEN,))])


def test_frames_of_other_probes_are_refused() -> None:
    with pytest.raises(lr.InputError, match="'rank' is not in it"):
        emergence_depths(pd.DataFrame({"example": ["a"], "layer": [0]}))
    with pytest.raises(lr.InputError, match="takes what emergence_depths"):
        depth_intervals(lens_frame([0], [-1.0]))
