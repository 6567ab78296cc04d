"""The summary at the top of the report restates the verdict and adds nothing."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from layerroles.page import render
from layerroles.page.first_screen import make_first_screen
from layerroles.results import SweepResult
from layerroles.roles import Roles, localize
from tests.support.synthetic import synthetic_result

N_LAYERS, N = 9, 48


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(N_LAYERS, N)


@pytest.fixture(scope="module")
def page(result: SweepResult) -> str:
    return render(result)


@pytest.fixture(scope="module")
def roles(result: SweepResult) -> Roles:
    return localize(result)


def test_critical_layers_are_counted_as_the_table_lists_them(roles: Roles) -> None:
    first, _, _ = make_first_screen(roles)["sentences"]
    for protocol, rows in roles.frame.groupby("protocol"):
        part = next(each for each in first.split("; ") if f"under {protocol}" in each)
        for family, critical in zip(rows["family"], rows["critical"], strict=True):
            assert f"{family} {len(critical)}" in part


def test_the_picture_has_a_verdict_for_each_layer(roles: Roles) -> None:
    shown = make_first_screen(roles)
    assert shown["layers"] == list(range(N_LAYERS))
    assert len(shown["rows"]) == len(roles.frame)
    by_place = roles.layers.set_index(["family", "protocol", "layer"])["verdict"]
    for row in shown["rows"]:
        for cell in row["cells"]:
            assert cell["verdict"] == by_place[row["family"], row["protocol"], cell["layer"]]
        assert [cell["layer"] for cell in row["cells"]] in ([], shown["layers"])


def test_a_family_that_cannot_be_measured_has_no_count_and_no_cells(result: SweepResult) -> None:
    guessed = result.frame["family"] == "reasoning"
    frame = result.frame.assign(score=result.frame["score"].where(~guessed, 0.0))
    shown = make_first_screen(localize(replace(result, frame=frame)))
    assert "reasoning cannot be measured" in shown["sentences"][0]
    assert all(not row["cells"] for row in shown["rows"] if row["family"] == "reasoning")
    assert any(row["cells"] for row in shown["rows"])


def test_layers_for_all_families_and_sinks_are_named_only_where_the_table_has_them(
    roles: Roles,
) -> None:
    frame = roles.frame
    one = frame.assign(general=[[3, 4] for _ in range(len(frame))])
    shared = make_first_screen(replace(roles, frame=one))["sentences"][1]
    assert "layers 3, 4 under" in shared
    none = frame.assign(general=[[] for _ in range(len(frame))], sink=[[]] * len(frame))
    shared = make_first_screen(replace(roles, frame=none))["sentences"][1]
    assert shared == "No layer is shown to be critical for every measured family."


def test_no_layer_is_denied_to_be_general_where_one_family_was_measured(
    result: SweepResult,
) -> None:
    for family in ("reasoning", "language"):
        shared = make_first_screen(localize(result[family]))["sentences"][1]
        assert shared.startswith("Which layers every skill needs was not measured: that takes the ")
        assert "No layer" not in shared


FAMILIES = ("retrieval", "knowledge", "reasoning", "language")


@pytest.mark.parametrize(
    ("families_of", "expected"),
    [
        (
            {"continuation": FAMILIES, "generation": FAMILIES},
            "layer 8 for every measured family.",
        ),
        ({"generation": FAMILIES}, "layer 8 for every measured family under generation."),
        (
            {"continuation": ("retrieval", "knowledge"), "generation": FAMILIES},
            "layer 8 for retrieval, knowledge under continuation and every measured family under "
            "generation.",
        ),
        ({"continuation": ("language",)}, "layer 8 for language under continuation."),
    ],
)
def test_sinks_are_named_only_for_families_that_have_them(
    roles: Roles, families_of: dict[str, tuple[str, ...]], expected: str
) -> None:
    frame = roles.frame
    places = zip(frame["family"], frame["protocol"], strict=True)
    sinks = [[8] if family in families_of.get(protocol, ()) else [] for family, protocol in places]
    shared = make_first_screen(replace(roles, frame=frame.assign(sink=sinks)))["sentences"][1]
    assert shared.endswith(f"Attention sinks: {expected}")


def test_what_is_decided_comes_first(roles: Roles) -> None:
    decided = "7 of 9 verdicts decided, with 300 answers"
    sentences = make_first_screen(roles, decided)["sentences"]
    assert sentences[0].startswith(f"{decided}.")
    assert sentences[1:] == make_first_screen(roles)["sentences"][:2]


def test_a_claim_is_named_only_where_it_is_decided(roles: Roles) -> None:
    undecided = roles.claims.assign(status="not shown")
    last = make_first_screen(replace(roles, claims=undecided))["sentences"][2]
    assert "No claim of the literature is supported or contradicted" in last
    decided = undecided.copy()
    decided.loc[decided.index[0], "status"] = "contradicted"
    last = make_first_screen(replace(roles, claims=decided))["sentences"][2]
    assert last.count("contradicted") == 1 and "supported" not in last
    claim = str(decided.iloc[0]["claim"])
    assert claim[1:] in last


def test_page_names_the_ablation_shown_in_the_picture(result: SweepResult, page: str) -> None:
    shown = "Shown for skip; other ablations are below."
    assert shown not in page
    ablated = result.frame[result.frame["condition"] != "intact"]
    second = ablated.assign(
        ablation="mean", condition=ablated["condition"].str.replace("skip", "mean")
    )
    both = replace(result, frame=pd.concat([result.frame, second], ignore_index=True))
    assert shown in render(both)


def test_undecided_verdicts_are_counted(roles: Roles) -> None:
    n_undecided = int((roles.layers["verdict"] == "undecided").sum())
    measured = int((roles.layers["verdict"] != "not measurable").sum())
    last = make_first_screen(roles)["sentences"][2]
    assert f"{n_undecided} of {measured} verdicts" in last
    assert re.search(r"\(at 48 questions; about \d+ questions would decide most of them", last)


def test_each_undecided_cell_says_how_many_questions_would_decide(page: str, roles: Roles) -> None:
    cells = [cell for row in make_first_screen(roles)["rows"] for cell in row["cells"]]
    for cell in cells:
        assert bool(cell["needed"]) == (cell["verdict"] == "undecided")
    n_undecided = int((roles.layers["verdict"] == "undecided").sum())
    assert n_undecided == page.count(' questions would decide">')
