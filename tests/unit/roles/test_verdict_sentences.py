"""Every sentence of a verdict has a truth in which it is false, and is rarely reported there.

Each truth here lies exactly at the border at which a sentence becomes false. At most 5% of the
sweeps drawn from it may contain the sentence. Statuses of claims at their borders are in
`test_literature.py` and `test_added_context_claims.py`, backups in `test_redundancy.py`.
"""

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from benchmarks.simulated import Simulation, Truth, claims_of
from layerroles.roles import Roles, localize
from layerroles.roles.claim_findings import SMALLEST
from layerroles.roles.critical_heads import heads_of
from layerroles.roles.harms import Harms
from layerroles.roles.redundancy import measure_pairs
from tests.support.scripted_result import scripted_result
from tests.support.tiers import mark_rest

G = "generation"
SKIP = {"kinds": ("skip",), "n": 150}


@pytest.fixture(scope="module", params=mark_rest("truth", [1, 60], first=[1]))
def draws(request: pytest.FixtureRequest) -> int:
    """How many sweeps are drawn: one in which all is clear, and enough for a rate."""
    return int(request.param)


def count_draws(draws: int, simulation: Simulation, *false: Callable[[Roles], bool]) -> list[int]:
    """Count, for each of some statements, the sweeps drawn from a truth whose roles make it."""
    return count_roles(draw_roles(draws, simulation), *false)


def count_roles(drawn: Sequence[Roles], *false: Callable[[Roles], bool]) -> list[int]:
    """Count, for each of some statements, the roles that make it."""
    return [sum(each(roles) for roles in drawn) for each in false]


def draw_roles(draws: int, simulation: Simulation) -> list[Roles]:
    return [localize(simulation.draw(seed), ablation="skip") for seed in range(draws)]


def text(pattern: str) -> Callable[[Roles], bool]:
    """Whether a sentence of the verdict matches."""
    return lambda roles: any(re.search(pattern, one.text) for one in roles.sentences)


def listed(family: str, name: str, layer: int) -> Callable[[Roles], bool]:
    """Whether a layer is in one of a family's lists."""

    def false(roles: Roles) -> bool:
        row = roles.frame[roles.frame["family"] == family].iloc[0]
        return layer in row[name]

    return false


def some(layers: int = 6, **harm: float) -> list[float]:
    """Harms of which the layers named have these: `some(L2=0.4)`."""
    return [harm.get(f"L{layer}", 0.0) for layer in range(layers)]


# Three families that lean on no end of the depth, all alike.
EVEN: Truth = {(family, G): [0.25] * 6 for family in ("retrieval", "knowledge", "language")}


@pytest.fixture(scope="module")
def even_roles(draws: int) -> list[Roles]:
    return draw_roles(draws, Simulation(EVEN, **SKIP))


def test_no_depth_lean_is_reported_where_there_is_none(even_roles: list[Roles]) -> None:
    patterns = (
        r"early layers matter more for",
        r"late layers matter more for",
        r"families differ in this",
    )
    found = count_roles(even_roles, *map(text, patterns))
    assert max(found) <= 0.05 * len(even_roles), found


def test_a_familys_row_says_that_it_leans_where_the_verdict_does(even_roles: list[Roles]) -> None:
    """By intervals for all families; that of a single family excludes 0 more often."""
    in_verdict = text(r"(early|late) layers matter more for")
    n_excluding = n_said = 0
    for roles in even_roles:
        assert is_a_family_said_to_lean(roles) == in_verdict(roles)
        n_said += is_a_family_said_to_lean(roles)
        ends = roles.frame[["ci_low", "ci_high"]]
        n_excluding += bool(((ends["ci_low"] > 0) | (ends["ci_high"] < 0)).any())
    assert n_said < n_excluding or len(even_roles) == 1


def is_a_family_said_to_lean(roles: Roles) -> bool:
    return bool(roles.frame["claim"].str.contains("matter more than").any())


def test_existing_difference_is_not_reported_as_missing(draws: int) -> None:
    truth = {
        ("retrieval", G): [0.6] * 2 + [0.0] * 4,
        ("knowledge", G): [0.0] * 4 + [0.6] * 2,
    }
    missing, early, late = count_draws(
        draws,
        Simulation(truth, **SKIP),
        text(r"no difference is shown for|no two families are shown"),
        text(r"early layers matter more for retrieval"),
        text(r"late layers matter more for knowledge"),
    )
    assert (missing, early, late) == (0, draws, draws)


def test_no_change_after_first_is_reported_where_there_is_none(draws: int) -> None:
    early = {("retrieval", G): [0.3] * 2 + [0.22] * 4, ("language", G): [0.22] * 6}
    (found,) = count_draws(
        draws,
        Simulation(early, spared=early, **SKIP),
        text(r"this changes with the first token kept"),
    )
    assert found <= 0.05 * draws


def test_a_layer_at_the_border_is_hardly_ever_listed(draws: int) -> None:
    truth = Simulation({("retrieval", G): some(L1=0.2, L3=0.1, L5=-0.1)}, n=300, kinds=("skip",))
    found = count_draws(
        draws,
        truth,
        listed("retrieval", "critical", 1),
        listed("retrieval", "spare", 3),
        listed("retrieval", "spare", 5),
    )
    assert max(found) <= 0.05 * draws, found


def test_specific_and_general_layers_are_so_for_the_other_families_too(draws: int) -> None:
    truth = {
        ("retrieval", G): some(L0=0.8, L1=0.6, L3=0.8, L4=0.6),
        ("knowledge", G): some(L0=0.8, L1=0.2, L3=0.8, L4=0.02),
        ("language", G): some(L0=0.8, L1=0.02, L3=0.2, L4=0.02),
    }
    *false, specific, general = count_draws(
        draws,
        Simulation(truth, **SKIP),
        listed("retrieval", "specific", 1),  # knowledge may need it
        listed("retrieval", "general", 3),  # copying may not
        listed("retrieval", "specific", 4),
        listed("retrieval", "general", 0),
    )
    assert max(false) <= 0.05 * draws, false
    assert min(specific, general) >= 0.9 * draws


def test_a_sink_is_a_layer_whose_harm_goes_away(draws: int) -> None:
    truth = {("retrieval", G): some(L0=0.8, L1=0.35, L3=0.9, L5=0.8)}
    # What is left is no less than critical; half of the harm is left, twice; and one true sink.
    spared = {("retrieval", G): some(L0=0.2, L1=0.175, L3=0.45, L5=0.0)}
    *false, sink = count_draws(
        draws,
        Simulation(truth, spared=spared, **SKIP),
        listed("retrieval", "sink", 0),
        listed("retrieval", "sink", 1),
        text(r"partly sinks.*layer 3 for"),
        listed("retrieval", "sink", 5),
    )
    assert max(false) <= 0.05 * draws, false
    assert sink >= 0.9 * draws


def test_partial_sink_is_reported_with_both_numbers() -> None:
    truth = {("retrieval", G): some(L2=0.91)}
    simulation = Simulation(truth, spared={("retrieval", G): some(L2=0.27)}, **SKIP)
    shown = localize(simulation.draw(0)).verdict
    number = r"\+0\.\d\d \[\+0\.\d\d, \+0\.\d\d\]"
    said_so = (
        rf"partly sinks, .*: layer 2 for retrieval \+0\.\d\d to {number} \(falls by {number}\)"
    )
    assert re.search(said_so, shown)


def test_harm_is_spread_over_no_layers_where_there_is_none(draws: int) -> None:
    none = Simulation({("retrieval", G): [0.0] * 6}, churn=0.1, **SKIP)
    (found,) = count_draws(draws, none, text(r"harm is spread over this many layers"))
    assert found <= 0.05 * draws


def test_a_second_kind_agrees_only_where_it_leans_alike(draws: int) -> None:
    early = {("retrieval", G): [0.5] * 2 + [0.1] * 4}
    other = {"mean": {("retrieval", G): [0.2] * 6}}

    def agrees(roles: Roles) -> bool:
        return "agrees" in roles.frame["claim"].iloc[0]

    (found,) = count_draws(draws, Simulation(early, n=150, other=other), agrees)
    assert found <= 0.05 * draws
    opposite = {"mean": {("retrieval", G): [0.1] * 4 + [0.5] * 2}}
    against = localize(Simulation(early, n=150, other=opposite).draw(0), ablation="skip")
    assert "mean says the opposite" in against.frame["claim"].iloc[0]


def test_a_single_family_leans_where_its_interval_says_so(draws: int) -> None:
    even = Simulation({("retrieval", G): [0.25] * 6}, **SKIP)
    (found,) = count_draws(draws, even, is_a_family_said_to_lean)
    assert found <= 0.05 * draws


def test_it_leans_as_any_text_does_only_where_it_does(draws: int) -> None:
    truth = {
        ("retrieval", G): [0.3 + SMALLEST] * 2 + [0.0] * 4,
        ("language", G): [0.3] * 2 + [0.0] * 4,
    }
    simulation = Simulation(truth, n=300)
    evidence = [claims_of(simulation.draw(seed))["evidence"].iloc[0] for seed in range(draws)]
    assert sum("as any text does" in text for text in evidence) <= 0.05 * draws


def test_no_head_is_critical_or_has_an_effect_where_none_has(draws: int) -> None:
    critical = effect = 0
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        intact = (rng.random(150) < 0.7).astype(float)
        scores = {"intact": intact, "skip L0": intact}
        scores |= {f"mean L0.H{h}": np.abs(intact - (rng.random(150) < 0.03)) for h in range(8)}
        scores["zero L0.H0"] = intact * (rng.random(150) >= 0.2)  # exactly at the border
        result = scripted_result({("retrieval", G): scores}, n_layers=1, n_heads=8)
        heads = heads_of(result, "all")
        critical += (heads["verdict"] == "critical").any()
        own = heads[heads["ablation"] == "mean"]
        effect += (own["p_adjusted"] < 0.05).any()
    assert critical <= 0.05 * draws
    assert effect <= 0.05 * draws


@pytest.mark.truth
def test_a_pair_at_the_border_is_no_backup() -> None:
    found, draws = 0, 400
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        intact = (rng.random(150) < 0.7).astype(float)
        # Neither layer costs anything alone, and both together exactly what is critical.
        both = intact * (rng.random(150) >= 0.2)
        scores = {"intact": intact, "skip L0": intact, "skip L1": intact, "skip L0+L1": both}
        result = scripted_result({("retrieval", G): scores}, n_layers=2)
        found += (measure_pairs(Harms(result, "skip"))["verdict"] == "backup").any()
    assert found <= 0.05 * draws


def test_missing_conditions_are_reported() -> None:
    whole = localize(Simulation(EVEN, spared=EVEN, n=60).draw(0), ablation="skip")
    part = localize(Simulation(EVEN, **SKIP).draw(0))
    for pattern in (r"sinks cannot be identified", r"was seen under skip only"):
        assert text(pattern)(part)
        assert not text(pattern)(whole)
    assert text(r"held against mean too")(whole)
