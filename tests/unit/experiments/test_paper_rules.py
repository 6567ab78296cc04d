"""The paper's rules for heads and for angular distance, on a random model."""

import re
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch

import layerroles as lr
from layerroles.ablations import pad_left
from layerroles.probes import Batch
from layerroles.sites import size_of
from tests.support.random_models import random_model
from tests.support.synthetic import synthetic_result

Load = Callable[[str], ModuleType]
TEXTS = [torch.tensor(ids) for ids in ([5, 9, 40, 7], [22, 13], [60, 8, 30])]


def real_angles(text: torch.Tensor) -> np.ndarray:
    """What the probe says of a text at its last token, `[layer, n]` for one block and two."""
    model = random_model("llama")
    example = lr.Example("e", "prompt", "answer")
    batch = Batch([example], *pad_left([text.tolist()], model), [0], [()], [lr.Prompt((1,))])
    rows = [values for _, values in lr.probes.Similarity().rows(model, batch)]
    table = pd.DataFrame(rows).pivot(index="layer", columns="n", values="angular")
    return table[[1, 2]].to_numpy()


def padded_angles(distances: torch.Tensor) -> np.ndarray:
    table = np.full((3, 2), np.nan)
    for layer in range(3):
        for n in (1, 2):
            if layer + n <= 3:
                table[layer, n - 1] = distances[layer, layer + n]
    return table


def test_without_pads_both_rules_are_the_same(experiment: Load) -> None:
    found = experiment("paper_rules").measure_last_angles(random_model("llama"), TEXTS)
    np.testing.assert_allclose(padded_angles(found[0]), real_angles(TEXTS[0]), atol=1e-5)
    for text, distances in zip(TEXTS[1:], found[1:], strict=True):  # these end in pads
        assert np.nanmax(np.abs(padded_angles(distances) - real_angles(text))) > 1e-3


def test_pads_are_not_attended_to(experiment: Load) -> None:
    measure = experiment("paper_rules").measure_last_angles
    model = random_model("llama")
    alone = measure(model, TEXTS[:1])
    torch.testing.assert_close(measure(model, TEXTS)[0], alone[0], atol=1e-5, rtol=0)
    # The row of a text does not depend on the others, but on how many pads it takes.
    same_length = [TEXTS[0].flip(0), *TEXTS[1:]]
    torch.testing.assert_close(
        measure(model, same_length)[1:], measure(model, TEXTS)[1:], atol=1e-5, rtol=0
    )


def test_angles_are_paired_by_text(experiment: Load) -> None:
    script = experiment("paper_rules")
    rng = np.random.default_rng(0)
    spread = rng.normal(0, 0.1, size=60)  # of texts, which the pairing takes away
    keys = [(f"e{n}", layer) for n in range(60) for layer in range(3)]
    real = pd.DataFrame(
        {
            "task": "t",
            "example": name,
            "template": name,
            "layer": layer,
            "n": 1,
            "angular": 0.3 + spread[int(name[1:])],
        }
        for name, layer in keys
    )
    theirs = real.drop(columns="template").assign(
        triple=[int(name[1:]) // 3 for name, _ in keys],
        n_pads=1,
        angular=real["angular"] + 0.05 * real["layer"] + rng.normal(0, 0.001, len(real)),
    )
    table = script.compare_angles(real, theirs).set_index("layer")
    assert table["more"].tolist() == pytest.approx([0, 0.05, 0.1], abs=1e-3)
    assert ((table["more_high"] - table["more_low"]) < 0.002).all()
    assert ((table["real_high"] - table["real_low"]) > 0.02).all()
    assert table.loc[2, "three_high"] < table.loc[2, "theirs_high"]
    # Threes of texts are as far apart by either rule, which adds a constant here.
    spans = [table[f"{rule}_high"] - table[f"{rule}_low"] for rule in ("three", "theirs")]
    np.testing.assert_allclose(*spans, atol=5e-3)
    lines = script.describe_angles("task", script.compare_angles(real, theirs), real, theirs)
    assert "most at layer 2: +0.100 [+0.100, +0.100]" in lines[0] and "at 2 of 3 layers" in lines[0]


def test_layers_are_two_past_the_middle_unless_named(experiment: Load) -> None:
    choose_layers, size = (
        experiment("paper_rules").choose_layers,
        size_of(random_model("llama").cfg),
    )
    assert choose_layers("", size) == [2]
    assert choose_layers("L0:2,L2", size) == [0, 1, 2]
    with pytest.raises(lr.InputError, match="layer 9 is out of range"):
        choose_layers("L9", size)


def heads_and_groups() -> lr.SweepResult:
    """Four heads in two groups: the first group harms a little, the second as much as its head."""
    harms = {"retrieval": {"all": [0.0, 0.0, 0.8, 0.0, 0.1, 0.8]}}
    result = synthetic_result(6, 300, 1, harms=harms, protocols=["generation"], churn=0.0)
    sites = {0: "L1.H0", 1: "L1.H1", 2: "L1.H2", 3: "L1.H3", 4: "L1.KV0", 5: "L1.KV1"}
    frame = result.frame.copy()
    ablated = frame["layer"].notna()
    numbers = frame.loc[ablated, "layer"].astype(int)
    frame.loc[ablated, "site"] = numbers.map(sites)
    frame.loc[ablated, "part"] = np.where(numbers < 4, "head", "kv_group")
    frame["head"] = frame["head"].astype("Int64")
    frame.loc[ablated, "head"] = numbers.map({0: 0, 1: 1, 2: 2, 3: 3, 4: 0, 5: 1}).astype("Int64")
    frame.loc[ablated, "layer"] = 1
    return lr.SweepResult(frame, result.manifest, result.examples)


def test_a_head_is_compared_with_its_group(experiment: Load) -> None:
    script, result = experiment("paper_rules"), heads_and_groups()
    size = size_of(random_model("llama").cfg)  # four heads, two groups
    table = script.compare_heads(result, size).set_index("head")
    assert table["group"].tolist() == ["L1.KV0", "L1.KV0", "L1.KV1", "L1.KV1"]
    np.testing.assert_allclose(table["more"], table["theirs"] - table["ours"], atol=1e-9)
    low, high = table["more_low"], table["more_high"]
    assert high["L1.H3"] < -0.3  # the group needs the other head
    assert low["L1.H2"] < 0 < high["L1.H2"]  # the head is what its group does
    verdict, count, line = script.describe_heads(result, table.reset_index(), size)[:3]
    assert verdict.startswith("A head by the paper's rule is 2 heads here: its effect minus that ")
    assert verdict.endswith("4 of them are needed by their rule and 1 by ours; 3 by theirs alone.")
    assert count.startswith("Heads on which both rules differ (Holm, 4 tests): ")
    assert line.startswith("L1.H3: alone")


def test_a_head_is_compared_with_its_group_by_templates(experiment: Load) -> None:
    """Two templates, of which one alone is harmed: this shows nothing of others."""
    script, result = experiment("paper_rules"), heads_and_groups()
    size = size_of(random_model("llama").cfg)
    frame, first = result.frame.copy(), set(result.examples["example"][:150])
    of_head = frame[frame["site"] == "L1.H3"].set_index("example")["score"]
    same = frame["site"].isin(("L1.H2", "L1.KV1")) & ~frame["example"].isin(first)
    frame.loc[same, "score"] = frame.loc[same, "example"].map(of_head)
    clusters = ["one" if name in first else "two" for name in result.examples["example"]]
    clustered = result.examples.assign(guesses="{}", cluster=clusters)
    for examples, is_shown in ((result.examples, True), (clustered, False)):
        result = lr.SweepResult(frame, result.manifest, examples)
        table = script.compare_heads(result, size)
        row = table.set_index("head").loc["L1.H3"]
        assert row["more"] < -0.1 and (row["more_high"] < 0) == (row["p"] < 0.01) == is_shown
        verdict, *_ = script.describe_heads(result, table, size)
        (high,) = re.findall(r"of one head is -0\.\d+ \[-\d\.\d+, ([+-]\d\.\d+)\]", verdict)
        assert (float(high) < 0) == is_shown


def test_texts_of_one_template_are_not_independent(experiment: Load) -> None:
    script, rng = experiment("paper_rules"), np.random.default_rng(0)
    angle, more = rng.normal(0, 0.05, size=(2, 6))  # of each template
    numbers = np.arange(60)
    real = pd.DataFrame({"task": "t", "example": [f"e{n}" for n in numbers], "layer": 0, "n": 1})
    real["angular"] = 0.3 + angle[numbers % 6] + rng.normal(0, 0.001, 60)
    theirs = real.assign(triple=numbers // 3, n_pads=1, angular=real["angular"] + more[numbers % 6])
    alone, clustered = (
        script.compare_angles(real.assign(template=names), theirs).iloc[0]
        for names in (real["example"], numbers % 6)
    )
    for name in ("real", "more"):
        assert clustered[name] == alone[name]
        narrow, wide = (row[f"{name}_high"] - row[f"{name}_low"] for row in (alone, clustered))
        assert wide > 2 * narrow
    for name in ("three_low", "theirs_low", "theirs_high"):  # of single sets of three
        assert clustered[name] == alone[name]
