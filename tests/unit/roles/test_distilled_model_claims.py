"""A model and its base model are compared question by question."""

from collections import Counter

import pytest

from benchmarks.simulated import Simulation, claims_of, with_guesses, without_any_answer
from layerroles.roles import localize
from layerroles.roles.distilled_model_claims import ROBUST
from tests.support.tiers import mark_rest

G = "generation"


def robust(base: float, twin: float, n: int = 200, draws: int = 20) -> Counter:
    found = Counter()
    for seed in range(draws):
        one, two = (
            Simulation({("reasoning", G): [harm] * 9}, n=n).draw(2 * seed + which)
            for which, harm in enumerate((base, twin))
        )
        claims = claims_of(two, base=one).set_index("claim")
        found[claims.loc[ROBUST, "status"]] += 1
    return found


@pytest.mark.parametrize("draws", mark_rest("truth", [1, 20], first=[1]))
def test_model_is_compared_with_its_base(draws: int) -> None:
    assert robust(0.5, 0.2, draws=draws)["supported"] >= 0.9 * draws
    assert robust(0.2, 0.5, draws=draws)["contradicted"] >= 0.9 * draws
    assert robust(0.3, 0.25, draws=2 * draws)["supported"] <= 0.1 * draws
    alone = localize(Simulation({("reasoning", G): [0.5] * 9}, n=50).draw(0), ablation="skip")
    assert ROBUST not in set(alone.claims["claim"])


@pytest.mark.parametrize("run", ["base", "model"])
def test_a_run_that_kept_the_first_token_needs_the_other_to_have_kept_it(run: str) -> None:
    """All harm of the base is to a layer that may be a sink."""
    even = {("reasoning", G): [0.05] * 6}
    base = Simulation(
        {("reasoning", G): [0.9] + [0.05] * 5}, n=600, spared=even if run == "base" else None
    )
    model = Simulation(even, n=600, spared=even if run == "model" else None)
    row = claims_of(model.draw(1), base=base.draw(0)).set_index("claim").loc[ROBUST]
    assert row["status"] == "not shown"
    assert "not known with the first token kept" in row["evidence"]
    both = [Simulation(s.truth, n=600, spared=even) for s in (model, base)]
    row = claims_of(both[0].draw(1), base=both[1].draw(0)).set_index("claim").loc[ROBUST]
    assert "not known" not in row["evidence"]
    assert row["status"] != "supported"


def test_a_base_nearer_chance_is_not_less_robust_for_it() -> None:
    """Without a third of the layers, no answer of either model is right."""
    truth = {("reasoning", G): [0.0] * 6}
    for seed in range(5):
        base, model = (
            with_guesses(
                without_any_answer(Simulation(truth, skill=skill).draw(2 * seed + which), {0, 1}),
                {"reasoning": 0.2},
            )
            for which, skill in enumerate((0.4, 0.8))
        )
        row = claims_of(model, base=base).set_index("claim").loc[ROBUST]
        assert row["status"] != "supported", row["evidence"]


def test_a_base_under_one_kind_decides_nothing() -> None:
    one = Simulation({("reasoning", G): [0.6] * 9}, n=200, kinds=("skip",)).draw(0)
    two = Simulation({("reasoning", G): [0.1] * 9}, n=200).draw(1)
    row = localize(two, ablation="skip", base=one).claims.set_index("claim").loc[ROBUST]
    assert row["status"] == "not shown"
    assert "mean: not compared, another mechanism in the base's run" in row["evidence"]


def test_a_base_under_other_settings_is_not_compared() -> None:
    truth = {("reasoning", G): [0.6] * 9}
    one, two = (Simulation(truth, n=200, kinds=("skip", "noise")).draw(seed) for seed in (0, 1))
    for run, scale in ((one, 2.0), (two, 0.5)):
        run.manifest["conditions"] = [
            {"name": name, "ablation": "noise", "mechanism": "noise",
             "parameters": {name: {"scale": scale}}}
            for name in run.frame["condition"].unique()
            if name.startswith("noise")
        ]  # fmt: skip
    row = localize(two, ablation="skip", base=one).claims.set_index("claim").loc[ROBUST]
    assert "noise: not compared, ablation noise is not the same" in row["evidence"]
    assert row["status"] == "not shown"


def test_claims_name_a_skill_that_is_less_than_the_family() -> None:
    result = Simulation({("reasoning", "generation"): [0.4] * 4}, n=60).draw(0)
    for cell in result.manifest["cells"]:
        cell |= {"family": "reasoning", "skill": "adding numbers"}
    claims = localize(result, ablation="skip").claims
    assert claims["evidence"].str.endswith("; what was asked is adding numbers").all()
    result.manifest["cells"][0]["skill"] = ""
    claims = localize(result, ablation="skip").claims
    assert not claims["evidence"].str.contains("adding").any()


@pytest.mark.parametrize("of_base", [[0.6] * 6 + [0.0] * 6, [0.0] * 6 + [0.6] * 6])
def test_a_base_with_another_number_of_layers_is_not_compared(of_base: list[float]) -> None:
    base = Simulation({("reasoning", G): of_base}, n=200).draw(0)
    twin = Simulation({("reasoning", G): [0.3] * 6}, n=200).draw(1)  # the same mean harm
    row = claims_of(twin, base=base).set_index("claim").loc[ROBUST]
    assert row["status"] == "not shown"
    assert "skip: not compared, the base has 12 layers and this model 6" in row["evidence"]
