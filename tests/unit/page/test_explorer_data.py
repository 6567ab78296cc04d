"""The explorer's data equal the rows, for one run and two, also under tight size limits."""

import json
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layerroles.errors import InputError
from layerroles.invisible_characters import visible
from layerroles.page import render
from layerroles.page.explorer_data import Run, lay_out_runs
from layerroles.page.shortened_texts import TextLimits, Texts, choose_limits, start_of
from layerroles.results import SweepResult, compare
from layerroles.roles import localize
from tests.support.scripted_result import heads_result, pairs_result
from tests.support.synthetic import (
    EACH_VERDICT,
    each_verdict_result,
    synthetic_lens,
    synthetic_result,
)

N_LAYERS, N = 5, 8


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(N_LAYERS, N, not_finite=2)


def laid_out(*results: SweepResult) -> dict[str, Any]:
    comparison = compare(*results) if len(results) > 1 else None
    runs = [Run(name, each, []) for name, each in zip("ab", results, strict=False)]
    data = lay_out_runs(runs, {}, comparison)
    assert data is not None
    return data


def unpacked(data: dict[str, Any], which: int = 0) -> pd.DataFrame:
    """The rows of a run as the page's script reads them."""
    run, rows = data["runs"][which], []
    cells = {tuple(cell["key"]): cell for cell in run["cells"]}
    for slice_ in run["slices"]:
        cell = cells[tuple(slice_["key"][:2])]
        for site in slice_["sites"]:
            for place, question in enumerate(cell["asked"]):
                if site["got"][place] < 0:
                    continue
                number = site["said"][place] or cell["said"][place]
                outcome, score = cell["grades"][site["got"][place]]
                example, prompt, answer = data["questions"][question]
                rows.append(
                    {
                        "condition": site["name"],
                        **dict(zip(("task", "protocol"), slice_["key"][:2], strict=True)),
                        **{"example": example, "prompt": prompt, "answer": answer},
                        **{"outcome": outcome, "score": score},
                        "response": data["texts"][number - 1] if number > 0 else None,
                    }
                )
    return pd.DataFrame(rows)


def test_every_answer_is_that_of_the_frame(result: SweepResult) -> None:
    key = ["condition", "task", "protocol", "example"]
    found = unpacked(laid_out(result)).set_index(key).sort_index()
    frame = result.frame[result.frame["condition"] != "intact"]
    frame = frame.assign(outcome=frame["outcome"].where(frame["status"] == "ok", frame["status"]))
    frame = frame.merge(result.examples[["task", "example", "prompt", "answer"]])
    frame = frame.set_index(key).sort_index()
    assert list(found.index) == list(frame.index)
    for column in ("outcome", "response", "prompt", "answer"):
        assert found[column].tolist() == frame[column].map(visible).tolist()
    np.testing.assert_allclose(found["score"].astype(float), frame["score"], atol=1e-4)


def test_every_effect_is_that_of_the_table(result: SweepResult) -> None:
    data = laid_out(result)
    effects = result.effects().set_index(["task", "protocol", "condition"])
    seen = 0
    for slice_ in data["runs"][0]["slices"]:
        for site in slice_["sites"]:
            row = effects.loc[(*slice_["key"][:2], site["name"])]
            assert slice_["key"][2:4] == [row["ablation"], row["at"]]
            assert site["effect"] == pytest.approx(
                row[["effect", "ci_low", "ci_high"]].tolist(), abs=1e-4
            )
            assert (site["harm"] is None) == pd.isna(row["harm"])
            assert (site["n"], site["failed"]) == (row["n"], row["n_failed"])
            seen += 1
    assert seen == len(effects)


def test_verdicts_are_those_of_the_roles(result: SweepResult) -> None:
    roles = localize(result, ablation="skip", at="all")
    data = lay_out_runs([Run("a", result, [roles])], {})
    assert data is not None
    verdicts = {(r.family, r.protocol, r.layer): r.verdict for r in roles.layers.itertuples()}
    families = {cell["key"][0]: cell["family"] for cell in data["runs"][0]["cells"]}
    for slice_ in data["runs"][0]["slices"]:
        task, protocol, _, at, _ = slice_["key"]
        for site in slice_["sites"]:
            assert site["judged"] == (at == "all")
            if at == "all":
                verdict = verdicts[families[task], protocol, site["layer"]]
                assert site["verdict"].split(",")[0] == verdict


def test_sites_without_roles_are_judged_by_their_own_interval() -> None:
    result = each_verdict_result()
    ((slice_,),) = (run["slices"] for run in laid_out(result)["runs"])
    verdicts = [site["verdict"] for site in slice_["sites"]]
    assert verdicts == list(EACH_VERDICT)
    assert [site["name"] for site in slice_["sites"] if "needed" in site] == ["skip L4"]
    (layer,) = localize(result).layers.query("verdict == 'undecided'")["needed"]
    assert layer <= slice_["sites"][4]["needed"] <= 1.1 * layer


def test_heads_and_pairs_can_be_reached() -> None:
    for made, kind in ((heads_result(), "head"), (pairs_result(), "several sites")):
        rows = made.frame.assign(outcome="", response="")
        slices = laid_out(SweepResult(rows, made.manifest))["runs"][0]["slices"]
        reached = [site["name"] for each in slices for site in each["sites"]]
        assert set(reached) == set(rows["condition"]) - {"intact"}
        assert kind in {each["key"][4] for each in slices}


def test_lens_ranks_start_at_1(result: SweepResult) -> None:
    lens = synthetic_lens(N_LAYERS, N)
    data = lay_out_runs([Run("a", result, [])], {"logit_lens": lens})
    assert data is not None
    (entry,) = data["lenses"]
    assert entry["depths"] == list(range(-1, N_LAYERS))
    example, *_ = data["questions"][3]
    rows = lens[lens["example"] == example].sort_values("layer")
    assert entry["read"][3][0] == (rows["rank"] + 1).tolist()


def test_a_rank_that_is_not_known_is_none(result: SweepResult) -> None:
    lens = synthetic_lens(N_LAYERS, N).astype({"rank": float})
    lens.loc[(lens["example"] == "facts-0003") & (lens["layer"] == 1), ["rank", "logprob"]] = np.nan
    data = lay_out_runs([Run("a", result, [])], {"logit_lens": lens})
    assert data is not None
    (place,) = (place for place, each in enumerate(data["questions"]) if each[0] == "facts-0003")
    ranks, logprobs = data["lenses"][0]["read"][place]
    assert [place for place, rank in enumerate(ranks) if rank is None] == [2]
    assert logprobs[2] is None


def test_names_with_unseen_signs_are_found_under_all_keys(result: SweepResult) -> None:
    frame = result.frame.copy()
    for column in ("ablation", "condition", "task"):
        known = frame[column] != "intact"
        frame.loc[known, column] = "\u202e" + frame.loc[known, column]
    cells = [{**cell, "task": "\u202e" + cell["task"]} for cell in result.manifest["cells"]]
    hostile = SweepResult(frame, {**result.manifest, "cells": cells})
    data = laid_out(hostile, hostile)
    slices = data["runs"][0]["slices"]
    assert {"\n".join((each["key"][2], each["key"][4])) for each in slices} == set(data["most"])
    assert all("against" in site for each in slices for site in each["sites"])


def test_long_texts_are_cut_and_then_examples_left_out() -> None:
    texts = [f"{number} {'x' * 2000}" for number in range(40)]
    frame = pd.DataFrame(
        {"task": "t", "protocol": "p", "condition": "intact", "response": texts}
        | {"example": [f"e{number}" for number in range(40)]}
    )
    assert choose_limits([frame], budget=100_000) == TextLimits(1200, 700, None)
    assert choose_limits([frame], budget=40_000) == TextLimits(600, 600, None)
    assert choose_limits([frame], budget=2_000) == TextLimits(150, 150, 8)
    assert choose_limits([frame], budget=1) == TextLimits(150, 150, 4)
    cut = TextLimits(150, 150, 4).response(texts[0])
    assert cut == start_of(texts[0], 150)
    assert cut.endswith("(1852 characters more)")
    kept = Texts()
    assert [kept.number(text) for text in ("a", "b", "a")] == [0, 1, 0]


def test_answers_that_differ_beyond_the_cut_are_not_the_same(
    result: SweepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "layerroles.page.explorer_data.choose_limits", lambda frames: TextLimits(150, 150, None)
    )
    lost = result.frame["condition"] == "skip L1"
    frame = result.frame.assign(response="x" * 150 + "y")
    frame.loc[lost, "response"] = "x" * 150 + "no"
    data = laid_out(SweepResult(frame, result.manifest, result.examples))
    (intact,) = {number for cell in data["runs"][0]["cells"] for number in cell["said"]}
    sites = [site for each in data["runs"][0]["slices"] for site in each["sites"]]
    numbers = {site["name"] == "skip L1": set(site["said"]) for site in sites}
    assert numbers[False] == {0}
    (ablated,) = numbers[True]
    assert ablated not in (0, intact)
    # The text that words are compared of is what is shown, without how much is left out.
    assert data["texts"][intact - 1] == data["texts"][ablated - 1] == "x" * 150
    assert [data["more"][number - 1] for number in (intact, ablated)] == [1, 2]


def test_omitted_responses_are_missing_and_outcomes_are_kept(
    result: SweepResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "layerroles.page.explorer_data.choose_limits", lambda frames: choose_limits(frames, 1)
    )
    data = laid_out(result)
    assert data["examples"] == 4
    rows = unpacked(data)
    assert rows["response"].isna().sum() == len(rows) // 2
    assert rows["outcome"].notna().all()  # the outcomes are all there


def test_two_runs_share_questions_and_say_how_effects_differ(result: SweepResult) -> None:
    other = synthetic_result(3, N, seed=7, protocols=["generation"])
    asked = other.examples.copy()
    asked.loc[asked["example"] == "facts-0002", "prompt"] = "The capital of Atlantis is"
    other = SweepResult(other.frame, other.manifest, asked)
    data = laid_out(result, other)
    names = [question[0] for question in data["questions"]]
    assert {name for name in names if names.count(name) > 1} == {"facts-0002"}
    pd.testing.assert_series_equal(
        unpacked(data, 1).groupby("condition").size(),
        other.frame[other.frame["condition"] != "intact"].groupby("condition").size(),
    )
    rows = compare(result, other).frame.set_index(["task", "protocol", "condition"])
    differences = {
        (*each["key"][:2], site["name"]): site["against"]
        for each in data["runs"][0]["slices"]
        for site in each["sites"]
        if "against" in site
    }
    assert set(differences) == set(rows.index)
    for key, against in differences.items():
        row = rows.loc[key]
        assert against["n"] == row["n"]
        assert against["effect"] == pytest.approx(row[["difference", "low", "high"]], abs=1e-4)


def test_the_page_holds_plain_json_that_ends_no_script(result: SweepResult) -> None:
    frame = result.frame.assign(response="</script>\u2028<!--\x1b")
    page = render(SweepResult(frame, result.manifest, result.examples))
    found = re.search(r'<script type="application/json" id="explored">(.*?)</script>', page, re.S)
    assert found is not None

    def refuse(name: str) -> None:
        raise AssertionError(name)  # NaN is no JSON

    data = json.loads(found[1], parse_constant=refuse)
    assert data["texts"] == ["</script>\\u2028<!--\\x1b"]
    assert not set("<>\u2028\x1b") & set(found[1])


def test_runs_with_nothing_in_common_are_refused_in_a_line(result: SweepResult) -> None:
    one, two = result["facts"], result["copying"]
    with pytest.raises(InputError, match="nothing to compare: only a has the task and protocol"):
        render(one, against=two)


def test_a_result_of_the_intact_model_alone_has_nothing_to_explore(result: SweepResult) -> None:
    alone = SweepResult(result.frame[result.frame["condition"] == "intact"], result.manifest)
    assert lay_out_runs([Run("a", alone, [])], {}) is None
