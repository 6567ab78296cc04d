"""Pairs, heads, the effective number of layers, and claims: known answers are given back."""

import numpy as np
import pandas as pd
import pytest

from layerroles.errors import InputError
from layerroles.roles import localize
from layerroles.roles.claim_status import decide_status
from layerroles.roles.critical_heads import FEW
from layerroles.roles.literature import DEEP, ORDER, SHALLOW
from layerroles.roles.protocol_claims import MORE
from layerroles.stats import harm_interval, mcnemar_p, ratio
from tests.support.scripted_result import (
    GENERATION,
    heads_result,
    lost,
    pairs_result,
    scripted_result,
)
from tests.support.synthetic import synthetic_result


def test_a_backup_is_what_neither_layer_alone_explains() -> None:
    roles = localize(pairs_result())
    pairs = roles.pairs.set_index(["layer", "other"])
    assert pairs.loc[(0, 1), "verdict"] == "backup"
    assert pairs.loc[(0, 1), "harm"] == pytest.approx(76 / 80)
    assert pairs.loc[(0, 1), "explained"] == pytest.approx(0)
    intact, gone = lost(100, 0, 80), lost(100, 0, 80) - lost(100, 76, 80)
    possible = [(least, right) for least in (-1.0, 1.0) for right in (0.0, 1.0)]
    _, beyond = ratio(gone, intact, possible)
    assert pairs.loc[(0, 1), "excess_low"] == pytest.approx(beyond.low)
    assert pairs.loc[(0, 1), "excess_high"] == pytest.approx(beyond.high)
    assert pairs.loc[(0, 1), "p_adjusted"] == pytest.approx(4 * mcnemar_p(0, 76))
    # 2 and 3 lose the same answers, 2 and 4 different ones: neither pair costs more than that.
    assert pairs.loc[(2, 3), ["harm", "explained", "excess"]].tolist() == pytest.approx(
        [0.5, 0.5, 0.0]
    )
    assert pairs.loc[(2, 4), ["harm", "explained", "excess"]].tolist() == pytest.approx(
        [0.75, 0.75, 0.0]
    )
    assert pairs["verdict"].tolist() == ["backup", "none", "none", "none"]
    assert "backups" in roles.verdict
    assert "0 with 1 +0.95" in roles.verdict
    assert "No pairs of layers were ablated" not in roles.verdict
    assert roles.frame["critical"].iloc[0] == [2, 3]  # 0 and 1 look spare one at a time
    assert {0, 1} <= set(roles.frame["spare"].iloc[0])


def test_verdict_says_that_no_pairs_were_ablated() -> None:
    roles = localize(synthetic_result(3, 16, protocols=["generation"]))
    assert roles.pairs.empty
    assert "No pairs of layers were ablated" in roles.verdict


@pytest.mark.truth
def test_independent_losses_are_no_backups() -> None:
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(40):
        intact = lost(96, 0, 70)
        names = [f"skip L{layer}" for layer in range(4)]
        singles = {name: intact * (rng.random(96) < 0.7) for name in names}
        pairs = {
            f"skip L{one}+L{two}": singles[names[one]] * singles[names[two]]
            for one in range(4)
            for two in range(one + 1, 4)
        }
        noisy = {name: np.abs(scores - (rng.random(96) < 0.03)) for name, scores in pairs.items()}
        cells = {GENERATION: {"intact": intact, **singles, **noisy}}
        found += (localize(scripted_result(cells, n_layers=4)).pairs["verdict"] == "backup").sum()
    assert found == 0  # of 240


def test_critical_heads_are_found_by_the_rule_of_layers() -> None:
    n = 100
    roles = localize(heads_result(n=n))
    own = roles.heads.set_index(["layer", "head"])
    assert len(own) == 24
    assert own.index[own["verdict"] == "critical"].tolist() == [(2, 1)]
    _, interval = harm_interval(lost(n, 0, 80), lost(n, 40, 80), 0.0)
    assert own.loc[(2, 1), "harm_low"] == pytest.approx(interval.low)
    assert own.loc[(2, 1), "p_adjusted"] == pytest.approx(24 * mcnemar_p(0, 40))
    assert (own["verdict"] == "spare").sum() == 23
    assert set(own["ablation"]) == {"zero"}
    assert roles.ablation == "skip"  # heads do not make a second kind of ablation of layers
    assert "L2.H1 +0.50" in roles.verdict
    assert "1 with an effect at a false discovery rate of 5%" in roles.verdict
    assert roles.claims.empty or FEW not in set(
        roles.claims["claim"]
    )  # single heads decide nothing


def test_a_head_ablated_twice_alike_is_refused() -> None:
    result = synthetic_result(2, 8, protocols=["generation"])
    twin = result.frame[result.frame["condition"] == "skip L1"]
    heads = [
        twin.assign(condition=name, part="head", head=3, site="L1.H3") for name in ("one", "two")
    ]
    frame = pd.concat([result.frame, *heads])
    with pytest.raises(InputError, match=r"head L1.H3 is ablated more than once alike \(one, two"):
        localize(type(result)(frame, result.manifest))


@pytest.mark.parametrize(
    ("harm", "truth"),
    [
        ([0.8] * 3 + [0.0] * 9, 3.0),
        pytest.param([0.6] * 12, 12.0, marks=pytest.mark.truth),
        pytest.param([0.9, 0.9] + [0.1] * 10, 784 / 172, marks=pytest.mark.truth),
    ],
)
def test_the_effective_number_of_layers_covers_the_truth(harm: list[float], truth: float) -> None:
    assert truth == pytest.approx(sum(harm) ** 2 / sum(h**2 for h in harm))
    harms = {"language": {"all": harm}}
    inside, estimates = 0, []
    for seed in range(20):
        result = synthetic_result(12, 64, seed, harms=harms, protocols=["generation"])
        row = localize(result).frame.iloc[0]
        estimates.append(row["effective"])
        inside += row["effective_low"] <= truth <= row["effective_high"]
    assert inside >= 17  # of 20; fewer by chance once in sixty
    assert np.mean(estimates) == pytest.approx(truth, rel=0.1)


@pytest.mark.truth
def test_the_mean_harm_of_all_layers_covers_the_truth() -> None:
    harms = {"language": {"all": [0.8] * 3 + [0.0] * 9}}
    rows = [
        localize(synthetic_result(12, 64, seed, harms=harms, protocols=["generation"])).frame.iloc[
            0
        ]
        for seed in range(20)
    ]
    assert sum(row["mean_harm_low"] <= 0.2 <= row["mean_harm_high"] for row in rows) >= 17
    assert np.mean([row["mean_harm"] for row in rows]) == pytest.approx(0.2, abs=0.02)


def test_noise_alone_has_no_effective_number() -> None:
    harms = {"language": {"all": [0.0] * 12}}
    found = [
        localize(synthetic_result(12, 32, seed, harms=harms, protocols=["generation"], churn=0.1))
        for seed in range(12)
    ]
    assert sum(roles.frame["effective"].notna().sum() for roles in found) <= 2


def test_sinks_are_no_part_of_the_effective_number() -> None:
    harm = {"all": [0.9, 0.9, 0, 0, 0, 0], "after_first": [0.9, 0.0, 0, 0, 0, 0]}
    result = synthetic_result(6, 200, harms={"language": harm}, protocols=["generation"])
    row = localize(result).frame.iloc[0]
    assert row["sink"] == [1]
    assert row["effective"] == pytest.approx(1, abs=0.2)


def statuses(**options: object) -> pd.DataFrame:
    roles = localize(synthetic_result(**options), ablation="skip")
    return roles.claims.set_index(["claim", "family", "protocol"])


def test_claims_are_supported_by_two_kinds_or_contradicted_or_not_shown() -> None:
    early, late = [0.9, 0.9, 0.4, 0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0.9, 0, 0.9, 0.4, 0]
    flat = [0.3] * 9
    harms = {
        "retrieval": {"all": early},
        "knowledge": {"all": late},
        "reasoning": {"all": late},
        "language": {"all": flat},
    }
    options = {"n_layers": 9, "n": 200, "harms": harms, "protocols": ["generation"]}
    two = statuses(**options, ablations=("skip", "mean"))["status"]
    assert two[SHALLOW["retrieval"], "retrieval", "generation"] == "supported"
    assert two[SHALLOW["knowledge"], "knowledge", "generation"] == "contradicted"
    assert two[ORDER, "reasoning", "generation"] == "supported"
    assert two[DEEP, "reasoning", "generation"] == "supported"
    one = statuses(**options)
    own = one.loc[(SHALLOW["retrieval"], "retrieval", "generation")]
    assert own["status"] == "not shown"
    missing = "a second kind of ablation, of another mechanism beside deletion, has to show it"
    assert missing in own["evidence"]
    # One kind can neither support nor contradict.
    assert one.loc[(SHALLOW["knowledge"], "knowledge", "generation"), "status"] == "not shown"
    same = statuses(**options, ablations=("skip", "zero"))["status"]  # on a layer they are one
    assert same[SHALLOW["retrieval"], "retrieval", "generation"] == "not shown"
    (number, beyond) = own["numbers"]
    assert (number["quantity"], beyond["quantity"]) == ("early minus late", "beyond copying")
    assert number["low"] > 0
    assert number["estimate"] == pytest.approx(2.2 / 3, abs=0.1)
    assert beyond["estimate"] == pytest.approx(number["estimate"], abs=0.1)


def test_a_claim_that_the_only_kind_does_not_show_needs_questions_first() -> None:
    slightly = {"retrieval": {"all": [0.2] * 3 + [0.0] * 6}, "language": {"all": [0.0] * 9}}
    one = statuses(n_layers=9, n=20, harms=slightly, protocols=["generation"])
    own = one.loc[(SHALLOW["retrieval"], "retrieval", "generation")]
    assert own["status"] == "not shown"
    assert own["reason"].startswith("questions that would decide it if the numbers stand: skip")
    assert own["reason"].endswith("beside deletion, has to show it, too")


def test_a_claim_without_any_kind_of_a_known_mechanism_needs_two() -> None:
    needed = "two kinds of ablation, of different mechanisms, have to show it"
    assert decide_status([]) == ("not shown", needed)


def test_reasoning_has_to_need_what_copying_does_not() -> None:
    late = [0, 0, 0, 0, 0.9, 0, 0.9, 0.4, 0]
    options = {"n_layers": 9, "n": 400, "protocols": ["generation"], "churn": 0.005}
    both = {"reasoning": {"all": late}, "language": {"all": late}}
    alone = {"reasoning": {"all": late}}
    early = {"reasoning": {"all": [0.9, 0, 0] + [0.0] * 6}, "language": {"all": [0.0] * 9}}
    kinds = ("skip", "mean")
    key = (DEEP, "reasoning", "generation")
    copied = statuses(**options, harms=both, ablations=kinds).loc[key]
    assert copied["status"] == "contradicted"
    assert copied["evidence"].endswith("needs them, but not both thirds more than copying")
    without = statuses(**options, harms=alone, ablations=kinds).loc[key]
    assert without["status"] == "not shown"
    assert "it takes the copying control" in without["evidence"]
    spare = statuses(**options, harms=early, ablations=kinds).loc[key]
    assert spare["status"] == "contradicted"
    assert "needs them" not in spare["evidence"]


def test_more_of_the_depth_under_generation_than_under_likelihood() -> None:
    layers = [f"{kind} L{layer}" for kind in ("skip", "mean") for layer in range(3)]
    intact = lost(120, 0, 100)
    hurt = {"intact": intact, **dict.fromkeys(layers, lost(120, 60, 100))}
    unhurt = {"intact": intact, **dict.fromkeys(layers, intact)}
    for written, scored, status in ((hurt, unhurt, "supported"), (unhurt, hurt, "contradicted")):
        cells = {("knowledge", "generation"): written, ("knowledge", "letter"): scored}
        roles = localize(scripted_result(cells, n_layers=3), ablation="skip")
        own = roles.claims.set_index(["claim", "protocol"]).loc[(MORE, "generation - letter")]
        assert own["status"] == status
        assert abs(own["numbers"][0]["estimate"]) == pytest.approx(0.6)


def test_what_has_no_skill_is_not_measurable() -> None:
    result = synthetic_result(6, 32, intact={("retrieval", "continuation"): 0.27})
    roles = localize(result)
    own = roles.claims.set_index(["claim", "protocol"])["status"]
    assert own[SHALLOW["retrieval"], "continuation"] == "not measurable"
    assert own[SHALLOW["retrieval"], "generation"] == "not shown"
    assert "not measurable under continuation (retrieval under continuation: the intact" in (
        roles.verdict
    )
