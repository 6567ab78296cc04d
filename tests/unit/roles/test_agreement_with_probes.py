"""Probes against ablation: a planted order is found, and none is found where there is none."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import layerroles as lr
from tests.support.scripted_result import scripted_result
from tests.support.synthetic import TASKS, synthetic_attention, synthetic_lens, synthetic_result

N, LAYERS = 40, 8


def swept(order: np.ndarray, part: str = "block") -> lr.SweepResult:
    """Ablating a place loses as many answers as its number in `order`, times two."""
    conditions = {"intact": np.ones(N)}
    for place, rank in enumerate(order):
        scores = np.ones(N)
        scores[: 2 * rank] = 0
        name = f"skip L{place}" if part == "block" else f"zero L{place // 2}.H{place % 2}"
        conditions[name] = scores
    return scripted_result({("retrieval", "generation"): conditions}, n_layers=LAYERS)


def measured(probe: str, values: np.ndarray, **columns: object) -> pd.DataFrame:
    """A frame of `values` [layer], alike for each example but for some noise."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "probe": probe,
            "model": "scripted",
            "task": TASKS["retrieval"],
            "family": "retrieval",
            "example": f"{TASKS['retrieval']}-{index:03d}",
            "layer": layer,
            "value": value + rng.normal(scale=0.01),
            **columns,
        }
        for index in range(N)
        for layer, value in enumerate(values)
    )


ORDER = np.array([3, 7, 1, 0, 5, 2, 6, 4])


def test_a_probe_that_ranks_layers_as_ablation_does_correlates() -> None:
    alike = measured("similarity", ORDER.astype(float), n=1).rename(columns={"value": "influence"})
    against = alike.assign(influence=-alike["influence"])
    for frame, expected in ((alike, 1.0), (against, -1.0)):
        found = lr.probe_agreement(swept(ORDER), frame).set_index("probe")
        row = found.loc["similarity"]
        assert row["spearman"] == pytest.approx(expected)
        assert row["low"] <= row["spearman"] <= row["high"]
        assert (row["n"], row["n_sites"], row["part"]) == (N, LAYERS, "block")
        depth = stats.spearmanr(range(LAYERS), ORDER).statistic
        assert found.loc["depth", "spearman"] == pytest.approx(depth)


def test_questions_of_one_cluster_are_drawn_together() -> None:
    probe = measured("similarity", ORDER.astype(float), n=1).rename(columns={"value": "influence"})
    result = swept(ORDER)
    result.manifest["seed"] = 2  # one under which no resample has equal means at all layers
    asked = result.frame.drop_duplicates(["task", "example"])[["task", "example"]]
    in_pairs = (asked["example"].str[-3:].astype(int) // 2).astype(str)
    widths = []
    for cluster in (asked["example"], in_pairs):
        examples = asked.assign(answer="a", question="", guesses="{}", cluster=cluster)
        found = lr.probe_agreement(replace(result, examples=examples), probe)
        row = found.set_index("probe").loc["similarity"]
        widths.append(row["high"] - row["low"])
    assert widths[1] > 1.2 * widths[0] > 0


def test_lenses_count_by_what_a_layer_adds() -> None:
    levels = np.cumsum([0, *ORDER])  # from the embedding on
    frame = measured("logit_lens", levels.astype(float)).rename(columns={"value": "logprob"})
    frame["layer"] -= 1
    row = lr.probe_agreement(swept(ORDER), frame).set_index("probe").loc["logit_lens"]
    assert row["measure"] == "logprob gained"
    assert row["spearman"] == pytest.approx(1)
    assert row["n_sites"] == LAYERS


def test_attribution_counts_attention_and_mlp_together() -> None:
    half = ORDER / 2
    parts = [
        measured("attribution", half + 5, part="attn"),
        measured("attribution", half - 5, part="mlp"),
        measured("attribution", half[:1] - 99, part="embed").assign(layer=-1),
    ]
    frame = pd.concat(parts).rename(columns={"value": "logit"})
    row = lr.probe_agreement(swept(ORDER), frame).set_index("probe").loc["attribution"]
    assert row["spearman"] == pytest.approx(1)


def test_heads_are_compared_with_heads_and_the_strongest_of_a_layer_with_layers() -> None:
    heads = np.array([3, 0, 1, 9, 5, 2, 6, 4])  # of layers 0, 0, 1, 1, 2, 2, 3, 3
    frame = measured("retrieval_score", heads.astype(float)).rename(columns={"value": "score"})
    frame = frame.assign(head=frame["layer"] % 2, layer=frame["layer"] // 2, recall=0.5)
    found = lr.probe_agreement(swept(heads, "head"), frame)
    assert found["part"].tolist() == ["head", "head"]
    row = found.set_index("probe").loc["retrieval_score"]
    assert (row["measure"], row["spearman"], row["n_sites"]) == ("score", pytest.approx(1), 8)
    layers = lr.probe_agreement(swept(np.array([1, 4, 2, 3])), frame).set_index("probe")
    # The strongest are 3, 9, 5, 6.
    assert layers.loc["retrieval_score", "spearman"] == pytest.approx(1)
    assert layers.loc["retrieval_score", "n_sites"] == 4


def test_the_interval_covers_no_correlation_where_there_is_none() -> None:
    inside, n = 0, 30
    for seed in range(n):
        rng = np.random.default_rng(seed)
        values = rng.permutation(LAYERS).astype(float)
        noise = measured("similarity", values, n=1).rename(columns={"value": "influence"})
        harm = {"retrieval": {"all": [0.4] * LAYERS}}
        result = synthetic_result(LAYERS, N, seed, harms=harm, protocols=["generation"])
        ids = dict(zip(noise["example"].unique(), result.frame["example"].unique(), strict=True))
        found = lr.probe_agreement(result, noise.assign(example=noise["example"].map(ids)))
        row = found.set_index("probe").loc["similarity"]
        inside += row["low"] <= 0 <= row["high"]
    assert inside >= 26  # of 30; fewer by chance once in fifty


def test_only_the_intact_model_and_shared_examples_count() -> None:
    frame = measured("similarity", ORDER.astype(float), n=1).rename(columns={"value": "influence"})
    half = frame[frame["example"] < f"{TASKS['retrieval']}-020"].assign(condition="intact")
    other = frame.assign(condition="skip L3", influence=-frame["influence"])
    row = lr.probe_agreement(swept(ORDER), [pd.concat([half, other])]).set_index("probe")
    assert row.loc["similarity", "spearman"] == pytest.approx(1)
    assert row.loc["similarity", "n"] == 20


def test_every_family_protocol_and_position_has_its_row() -> None:
    result = synthetic_result(6, 16, intact={("knowledge", "continuation"): 0.27})
    probes = [synthetic_lens(6, 16), synthetic_attention(6, 16)]
    found = lr.probe_agreement(result, probes)
    lens = found[found["probe"] == "logit_lens"]
    assert len(lens) == 4 * 2 * 2
    unknown = lens[lens["spearman"].isna()][["family", "protocol"]].drop_duplicates()
    assert unknown.to_numpy().tolist() == [["knowledge", "continuation"]]
    assert set(found.loc[found["probe"] == "attention", "measure"]) == {"evidence", "first"}
    some = lr.probe_agreement(result, probes, ablation="skip", at="after_first")
    assert set(some["at"]) == {"after_first"}


def test_what_cannot_be_correlated_is_refused() -> None:
    result = synthetic_result(3, 8)
    with pytest.raises(lr.InputError, match="nothing to correlate"):
        lr.probe_agreement(result, [])
    with pytest.raises(lr.InputError, match="nothing in common"):
        lr.probe_agreement(result, synthetic_lens(3, 8), ablation="mean")
    with pytest.raises(lr.InputError, match="unknown probe 'lens'"):
        lr.probe_agreement(result, synthetic_lens(3, 8).assign(probe="lens"))


def test_examples_that_the_probe_did_not_measure_do_not_count() -> None:
    """Two tasks use the same example ids, and the probe measured only four examples of one."""
    frames = [
        measured("similarity", ORDER.astype(float), n=1).rename(columns={"value": "influence"})
        for _ in range(2)
    ]
    few = frames[0][frames[0].groupby("layer").cumcount() < 4]
    other = frames[1].assign(task="another task")
    rows = [
        lr.probe_agreement(swept(ORDER), frame).set_index("probe").loc["similarity"]
        for frame in (few, pd.concat([few, other], ignore_index=True))
    ]
    assert [row["n"] for row in rows] == [4, 4]
    pd.testing.assert_series_equal(*rows)
