"""That a few heads carry a family takes heads ablated together, and others beside them."""

from collections import Counter

import numpy as np
import pytest

from layerroles.results import SweepResult
from layerroles.roles import carried_by_few
from tests.support.scripted_result import scripted_result
from tests.support.tiers import mark_rest

G = "generation"
LAYERS, HEADS, DRAWS = 10, 20, 6  # a set of ten is 5% of the heads


def sweep(seed: int, chosen: float, others: float, *, spread: float = 0.0) -> SweepResult:
    """Sets of one head a layer: the chosen one costs so much, each other set about so much."""
    rng = np.random.default_rng(seed)
    intact = (rng.random(200) < 0.8).astype(float)
    scores = {"intact": intact, "skip L0": intact}
    for kind in ("zero", "mean"):
        sets = {f"{kind} {site(0)}": chosen}
        for draw in range(1, DRAWS + 1):
            sets[f"{kind} {site(draw)}"] = others + spread * rng.standard_normal()
        for name, harm in sets.items():
            scores[name] = intact * (rng.random(200) >= np.clip(harm, 0, 1))
    return scripted_result({("retrieval", G): scores}, n_layers=LAYERS, n_heads=HEADS)


def site(draw: int) -> str:
    return "+".join(f"L{layer}.H{draw}" for layer in range(LAYERS))


draws = pytest.mark.parametrize("draws", mark_rest("truth", [1, 40], first=[1]))


def statuses(draws: int, **truth: float) -> Counter:
    found = Counter()
    for seed in range(draws):
        (claim,) = carried_by_few(sweep(seed, **truth))
        found[claim.status] += 1
    return found


@draws
def test_a_few_heads_carry_it_where_they_do_and_others_do_not(draws: int) -> None:
    assert statuses(draws, chosen=0.7, others=0.1, spread=0.03)["supported"] >= 0.9 * draws


@draws
def test_heads_that_cost_no_more_than_others_carry_nothing(draws: int) -> None:
    found = statuses(draws, chosen=0.5, others=0.5, spread=0.1)
    assert found["supported"] <= 0.05 * draws, found
    same = statuses(draws, chosen=0.55, others=0.5)
    assert same["supported"] <= 0.05 * draws, same


@draws
def test_heads_below_what_is_critical_carry_nothing(draws: int) -> None:
    assert statuses(draws, chosen=0.2, others=0.0)["supported"] <= 0.05 * draws


@draws
def test_that_any_heads_matter_as_much_contradicts_it(draws: int) -> None:
    assert statuses(draws, chosen=0.6, others=0.8)["contradicted"] >= 0.9 * draws


@draws
def test_a_bad_choice_of_heads_contradicts_nothing(draws: int) -> None:
    # Other heads than these carry it, and hardly any of them were drawn.
    assert statuses(draws, chosen=0.0, others=0.05, spread=0.05)["contradicted"] == 0


def test_single_heads_and_a_set_alone_decide_nothing() -> None:
    intact = np.ones(100)
    singles = {f"zero L{layer}.H{head}": intact for layer in range(3) for head in range(4)}
    cells = {("retrieval", G): {"intact": intact, "skip L0": intact, **singles}}
    assert list(carried_by_few(scripted_result(cells, n_layers=3, n_heads=4))) == []
    alone = {"intact": intact, "zero L0.H0+L1.H0": 0 * intact}
    cells = {("retrieval", G): alone}
    assert list(carried_by_few(scripted_result(cells, n_layers=10, n_heads=8))) == []


def test_a_set_that_shares_heads_with_the_others_is_not_the_chosen_one() -> None:
    intact = np.ones(60)
    sets = ["L0.H1+L1.H1", "L0.H1+L1.H2", "L0.H2+L1.H1"]
    scores = {"intact": intact} | {f"zero {one}": intact for one in sets}
    cells = {("retrieval", G): scores}
    assert list(carried_by_few(scripted_result(cells, n_layers=10, n_heads=8))) == []
