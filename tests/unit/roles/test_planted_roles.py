"""Planted roles are found again, and nothing is claimed where nothing was planted."""

import dataclasses
import itertools
import re

import numpy as np
import pandas as pd
import pytest

from layerroles.errors import InputError
from layerroles.page import render
from layerroles.results import SweepResult
from layerroles.roles import Roles, localize
from layerroles.roles.probe_summary import emergence_layers
from layerroles.roles.result import Sentence
from layerroles.roles.sentence_parts import format_layers, round_up
from layerroles.roles.sentences_per_protocol import fewest_examples
from layerroles.stats import Contrast, Interval, difference_of, harm_interval, minimum_detectable
from tests.support.synthetic import synthetic_attention, synthetic_lens, synthetic_result

COLUMNS = (
    "family protocol n intact chance early_minus_late ci_low ci_high critical spare partial helps "
    "undecided general specific sink effective effective_low effective_high "
    "mean_harm mean_harm_low mean_harm_high claim"
).split()
VERDICTS = ("critical", "spare", "partial", "helps", "undecided", "sink")
FLAT = dict.fromkeys(("all", "after_first"), [0.0] * 6)


def line(roles: Roles, family: str, protocol: str = "generation") -> pd.Series:
    frame = roles.frame
    own = frame[(frame["family"] == family) & (frame["protocol"] == protocol)]
    assert len(own) == 1
    return own.iloc[0]


def planted(n: int = 200, seed: int = 0, **harm: list[float]) -> SweepResult:
    """A sweep with these harms per family, the same under both `at`."""
    harms = {family: {"all": h, "after_first": h} for family, h in harm.items()}
    layers = len(next(iter(harm.values())))
    return synthetic_result(layers, n, seed, harms=harms, protocols=["generation"], churn=0.01)


@pytest.fixture(scope="module")
def demo() -> Roles:
    return localize(synthetic_result(n=32), [synthetic_lens(), synthetic_attention()])


def test_the_planted_roles_of_a_demo_are_found(demo):
    assert list(demo.frame.columns) == COLUMNS
    assert len(demo.frame) == 8
    knowledge = line(demo, "knowledge")
    assert knowledge["critical"] == [0, 1, 23, 24, 29]
    assert knowledge["sink"] == [11]
    assert knowledge["general"] == [0, 1]
    assert line(demo, "retrieval")["critical"] == [0, 1, 2, 16, 18]
    assert line(demo, "language")["critical"] == [0, 1]
    assert line(demo, "language")["sink"] == [11]
    for _, row in demo.frame.iterrows():
        lists = [row[name] for name in VERDICTS]
        assert sorted(itertools.chain(*lists)) == list(range(30))


def test_thirty_two_examples_call_nothing_spare_and_say_so(demo):
    assert demo.frame["spare"].map(len).sum() == 0
    assert "at n=32 the interval of a layer's harm is about ±0." in demo.verdict
    least = minimum_detectable(32, tests=demo.layers["layer"].nunique())
    assert f"a drop of {least:.2f} or more is found with 80% power" in demo.verdict
    assert "no layer could be spare" in demo.verdict


def test_enough_examples_decide(demo):
    roles = localize(
        planted(
            n=600,
            retrieval=[1, 0.9, 0, 0, 0, 0],
            knowledge=[1, 0, 0, 0, 0.8, 0],
            language=[1, 0, 0, 0, 0, 0],
        )
    )
    retrieval, knowledge = line(roles, "retrieval"), line(roles, "knowledge")
    assert (retrieval["critical"], retrieval["spare"]) == ([0, 1], [2, 3, 4, 5])
    assert (retrieval["general"], retrieval["specific"], retrieval["sink"]) == ([0], [1], [])
    assert (knowledge["specific"], line(roles, "language")["specific"]) == ([4], [])
    assert retrieval["ci_low"] > 0
    assert knowledge["ci_low"] < knowledge["early_minus_late"] < knowledge["ci_high"]
    assert "no layer could be spare" not in roles.verdict


def test_some_harm_is_partial_and_harm_below_zero_helps() -> None:
    roles = localize(planted(n=600, reasoning=[0.8, 0.15, -0.3, 0.0], language=[0.8, 0, 0, 0.3]))
    reasoning, language = line(roles, "reasoning"), line(roles, "language")
    found = {name: reasoning[name] for name in VERDICTS if reasoning[name]}
    assert found == {"critical": [0], "partial": [1], "helps": [2], "spare": [3]}
    assert language["helps"] == []
    assert "Helps when ablated: reasoning 2." in roles.verdict
    assert "partial: 1; helps when ablated: 2; undecided: 0" in reasoning["claim"]
    assert "helps" not in language["claim"]
    table = repr(roles).splitlines()
    assert "helps  spare (count)  partial (count)  undecided (count)" in table[1]
    assert table[2].split()[-4:] == ["2", "1", "1", "0"]


def test_the_verdict_says_how_many_questions_would_decide_most() -> None:
    roles = localize(planted(n=32, retrieval=[0.9, 0.15, 0.1, 0.0, 0.0]))
    needed = roles.layers["needed"].dropna().sort_values()
    open_layers = roles.layers["verdict"] == "undecided"
    assert list(roles.layers["needed"].notna()) == list(open_layers)
    assert (needed > 32).all() and len(needed) >= 3
    said = re.search(r"layer verdicts are undecided \(about (\d+) questions", roles.verdict)
    assert said and (needed <= int(said[1])).mean() > 0.5
    decided = localize(planted(n=600, retrieval=[0.9, 0, 0, 0, 0]))
    assert re.search(r"0 of 5 layer verdicts are undecided[.;]", decided.verdict)


@pytest.mark.parametrize(
    ("count", "rounded"), [(3.2, 4), (97.1, 98), (100.0, 100), (1208.3, 1300), (0.5, 1)]
)
def test_counts_are_rounded_up_to_two_digits(count: float, rounded: int) -> None:
    assert round_up(count) == rounded


@pytest.mark.parametrize(
    ("intact", "chance", "n_clusters"),
    [(0.3, 0.0, 0), (0.5, 0.0, 0), (1.0, 0.0, 0), (0.7, 0.25, 0), (0.7, 0.0, 33), (0.9, 0.0, 33)],
)
def test_least_is_where_the_interval_becomes_narrow_enough(intact, chance, n_clusters):
    def reach(n: int) -> float:
        scores = (np.arange(n) < round(intact * n)).astype(float)
        clusters = np.arange(n) % n_clusters if n_clusters else None
        _, interval = harm_interval(scores, scores, chance, clusters=clusters)
        return max(-interval.low, interval.high)

    task = pd.DataFrame([{"n": 32, "intact": intact, "chance": chance, "clusters": n_clusters}])
    n = fewest_examples(task)
    assert reach(n) <= 0.1 < reach(n - 1)
    assert n_clusters or n < fewest_examples(task.assign(clusters=33))


@pytest.mark.truth
def test_a_family_without_harm_is_never_critical():
    found = [
        layer
        for seed in range(12)
        for layers in localize(
            synthetic_result(6, 32, seed, harms={"knowledge": FLAT, "language": FLAT}, churn=0.05)
        ).frame["critical"]
        for layer in layers
    ]
    assert len(found) == 0  # of 12 x 4 x 6 layers


@pytest.mark.truth
def test_early_harm_gives_early_minus_late_above_zero_with_an_interval_that_covers():
    harm = [0.9, 0.8, 0.5, 0.3, 0.0, 0.0, 0.1, 0.1, 0.0]
    truth, inside, above = np.mean(harm[:3]) - np.mean(harm[6:]), 0, 0
    for seed in range(25):
        row = line(localize(planted(n=32, seed=seed, retrieval=harm)), "retrieval")
        inside += row["ci_low"] <= truth <= row["ci_high"]
        above += row["ci_low"] > 0
    assert above == 25
    assert inside >= 21  # of 25; fewer by chance once in more than a hundred


def test_an_interval_of_early_minus_late_never_collapses():
    result = synthetic_result(6, 16, harms={"language": FLAT}, protocols=["generation"], churn=0)
    row = line(localize(result), "language")
    assert row["early_minus_late"] == 0
    assert row["ci_low"] < 0 < row["ci_high"]


def test_a_sink_is_told_by_the_paired_difference():
    harms = {
        "language": {"all": [0, 1.0, 0.6, 0, 0, 0], "after_first": [0, 0.05, 0.6, 0, 0, 0]},
    }
    roles = localize(synthetic_result(6, 64, harms=harms, protocols=["generation"]))
    row = line(roles, "language")
    assert (row["sink"], row["critical"]) == ([1], [2])
    own = roles.layers.set_index("layer").loc[1]
    assert own["gone_low"] > 0
    assert own["after_first_harm"] < 0.2
    assert "layer 1 for language" in roles.verdict


def test_without_after_first_the_verdict_says_sinks_are_not_identified():
    result = synthetic_result(6, 32, protocols=["generation"])
    frame = result.frame[result.frame["at"] == "all"]
    roles = localize(dataclasses.replace(result, frame=frame))
    assert roles.frame["sink"].map(len).sum() == 0
    assert roles.layers["after_first_harm"].isna().all()
    assert "sinks cannot be identified" in roles.verdict


def test_what_is_read_and_what_is_written_are_judged_apart():
    harm = {"prompt": [0.9, 0, 0, 0], "generated": [0, 0, 0, 0.9]}
    result = synthetic_result(
        4, 200, harms={"knowledge": harm}, protocols=["generation"], churn=0.01
    )
    reading, writing = (localize(result, at=at) for at in ("prompt", "generated"))
    assert line(reading, "knowledge")["critical"] == [0]
    assert line(writing, "knowledge")["critical"] == [3]
    assert "at the positions of the prompt" in reading.verdict
    assert "at the positions of the answer" in writing.verdict
    with pytest.raises(InputError, match="unknown at 'all': known are generated, prompt"):
        localize(result, at="all")


def test_where_nothing_was_changed_nothing_is_claimed():
    result = synthetic_result(6, 400, harms={"knowledge": {"generated": [0.0] * 6}}, churn=0.0)
    assert localize(result).frame["spare"].map(len).tolist() == [6, 6]
    letters = result.frame["protocol"] == "continuation"
    frame = result.frame.assign(changed=result.frame["changed"] & ~letters)
    unchanged = dataclasses.replace(result, frame=frame)
    effects = unchanged.effects().set_index("protocol")
    assert effects.loc["continuation", "harm"].isna().all()
    assert (effects.loc["continuation", "n_changed"] == 0).all()
    roles = localize(unchanged)
    assert line(roles, "knowledge", "continuation")["spare"] == []
    assert np.isnan(line(roles, "knowledge", "continuation")["early_minus_late"])
    assert line(roles, "knowledge", "generation")["spare"] == list(range(6))


def test_a_layer_that_writes_nothing_is_spare():
    result = synthetic_result(6, 400, harms={"knowledge": {"all": [0.5, 0, 0, 0, 0, 0]}}, churn=0.0)
    nothing = result.frame["layer"] == 4
    frame = result.frame.assign(changed=result.frame["changed"] & ~nothing)
    roles = localize(dataclasses.replace(result, frame=frame))
    for protocol in ("continuation", "generation"):
        found = line(roles, "knowledge", protocol)
        assert (found["critical"], found["spare"]) == ([0], [1, 2, 3, 4, 5])
        assert found["early_minus_late"] == pytest.approx(0.25, abs=0.05)


def test_a_second_kind_is_judged_at_the_same_positions():
    harm = {"all": [0.9, 0, 0], "prompt": [0.9, 0, 0]}
    both = synthetic_result(
        3, 100, harms={"knowledge": harm}, protocols=["generation"], ablations=("skip", "mean")
    )

    def without(result: SweepResult, at: str) -> SweepResult:
        own = (result.frame["ablation"] == "mean") & (result.frame["at"] == at)
        return dataclasses.replace(result, frame=result.frame[~own])

    def claim(result: SweepResult, at: str) -> str:
        return line(localize(result, ablation="skip", at=at), "knowledge")["claim"]

    neither = without(without(both, "prompt"), "all")
    assert claim(both, "prompt") != claim(neither, "prompt")
    assert claim(without(both, "prompt"), "all") != claim(neither, "all")
    assert claim(without(both, "prompt"), "prompt") == claim(neither, "prompt")


def test_the_report_judges_every_position():
    harm = {at: [0.9, 0, 0] for at in ("all", "after_first", "prompt", "generated")}
    result = synthetic_result(3, 40, harms={"knowledge": harm}, protocols=["generation"])
    page = render(result)
    assert [f"Ablation: {name}<" in page for name in ("skip", "skip, at prompt")] == [True, True]
    assert "Ablation: skip, at after_first<" not in page
    assert "at the positions of the answer" in page
    assert "not drawn: at prompt, generated" in page


def test_a_family_at_chance_is_not_measurable():
    result = synthetic_result(6, 32, intact={("reasoning", "continuation"): 0.28})
    roles = localize(result)
    row = line(roles, "reasoning", "continuation")
    not_measurable = "Not measurable: the intact score is not shown to be above chance"
    assert row["claim"].startswith(not_measurable)
    assert all(row[name] == [] for name in (*VERDICTS, "general", "specific"))
    assert np.isnan(row["early_minus_late"])
    assert "reasoning under continuation: not measurable" in roles.verdict
    assert "all 3 measured families" in roles.verdict
    assert "all 4 measured families" in roles.verdict


def test_scores_in_nats_have_no_measurable_harm():
    roles = localize(synthetic_result(3, 8, protocols=["answer_logprob"]))
    assert set(roles.layers["verdict"]) == {"not measurable"}
    assert roles.frame["claim"].str.contains("have no chance level").all()


def test_general_needs_the_copying_control():
    roles = localize(planted(n=64, retrieval=[1, 0, 0], knowledge=[1, 0, 0]))
    assert roles.frame["general"].map(len).sum() == 0
    assert "no layer can be called general" in roles.verdict
    roles = localize(planted(n=64, retrieval=[1, 0, 0], language=[1, 0, 0]))
    assert list(roles.frame["general"]) == [[0], [0]]


def test_several_tasks_of_a_family_count_equally():
    result = planted(n=100, retrieval=[1, 0, 0], language=[0, 0, 0])
    frame, manifest = result.frame, dict(result.manifest)
    frame = frame.assign(family="language")
    manifest["cells"] = [{**cell, "family": "language"} for cell in manifest["cells"]]
    roles = localize(SweepResult(frame, manifest))
    row, layer = line(roles, "language"), roles.layers.iloc[0]
    assert row["n"] == layer["n"] == 200
    effects = SweepResult(frame, manifest).effects()
    own = effects[effects["condition"] == "skip L0"]
    assert layer["harm"] == pytest.approx(own["harm"].mean())
    assert layer["harm_high"] - layer["harm_low"] < (own["harm_high"] - own["harm_low"]).max()
    assert row["early_minus_late"] == pytest.approx(0.5, abs=0.1)


def test_pairs_that_failed_are_counted():
    roles = localize(synthetic_result(3, 16, not_finite=3, protocols=["generation"]))
    assert (roles.layers["n_failed"] == 3).all()
    assert (roles.layers["n"] == 13).all()
    assert "36 pairs were left out because a score was not finite, in 12 of 12" in roles.verdict


def test_one_ablation_at_a_time_and_a_second_kind_supports():
    result = synthetic_result(6, 64, ablations=("skip", "mean"), protocols=["generation"])
    with pytest.raises(InputError, match=r"several ablations \(skip, mean\): name one"):
        localize(result)
    with pytest.raises(InputError, match="unknown ablation 'men': did you mean 'mean'"):
        localize(result, ablation="men")
    roles = localize(result, ablation="skip")
    assert roles.ablation == "skip"
    assert "mean agrees" in line(roles, "language")["claim"]
    alone = localize(synthetic_result(6, 64, protocols=["generation"]))
    assert "seen under skip only" in line(alone, "language")["claim"]
    assert "agrees" not in alone.verdict
    same = synthetic_result(6, 64, ablations=("skip", "zero"), protocols=["generation"])
    assert "seen under skip only" in line(localize(same, ablation="skip"), "language")["claim"]


def test_what_has_no_single_layer_conditions_is_refused():
    result = synthetic_result(3, 8)
    heads = result.frame.assign(part=result.frame["part"].replace("block", "attn"))
    with pytest.raises(InputError, match="ablate one whole layer"):
        localize(dataclasses.replace(result, frame=heads))
    twin = result.frame[result.frame["condition"] == "skip L1"].assign(condition="skip again")
    doubled = dataclasses.replace(result, frame=pd.concat([result.frame, twin]))
    with pytest.raises(
        InputError, match=r"layer 1 is ablated more than once alike \(skip L1, skip a"
    ):
        localize(doubled)


def test_a_part_of_the_layers_gives_verdicts_but_no_depth():
    result = synthetic_result(9, 32, protocols=["generation"])
    kept = result.frame["layer"].isna() | (result.frame["layer"] < 4)
    roles = localize(dataclasses.replace(result, frame=result.frame[kept]))
    assert roles.frame["early_minus_late"].isna().all()
    assert len(roles.layers) == 4 * 4
    assert "4 of 9 layers" in roles.verdict
    assert roles.frame["claim"].str.contains("Early against late is not known").all()


def test_families_are_compared_only_within_a_protocol(demo):
    depth = demo.contrasts[demo.contrasts["quantity"] == "early_minus_late"]
    assert set(depth["protocol"]) == {"continuation", "generation"}
    pair = depth[(depth["family"] == "retrieval") & (depth["against"] == "knowledge")]
    assert (pair["ci_low"] > 0).all()
    total = demo.contrasts[demo.contrasts["quantity"] == "mean_harm"]
    assert set(total["protocol"]) == {"continuation - generation"}
    assert (total["ci_low"] < 0).all()


def test_probes_are_summed_up(demo):
    lens = demo.probes[demo.probes["probe"] == "logit_lens"].set_index("family")
    assert lens.loc["retrieval", "emerged"] == 28 / 32
    assert abs(lens.loc["retrieval", "emergence"] - 19) <= 1
    assert lens.loc["knowledge", "emergence_low"] <= 25 <= lens.loc["knowledge", "emergence_high"]
    attention = demo.probes[demo.probes["probe"] == "attention"]
    top = attention[attention["family"] == "retrieval"]["site"].head(2)
    assert set(top) == {"L16.H3", "L18.H7"}
    assert "Logit lens" in demo.verdict
    assert "L18.H7" in demo.verdict
    assert localize(synthetic_result(3, 8)).probes.empty
    with pytest.raises(InputError, match="column 'probe'"):
        localize(synthetic_result(3, 8), [pd.DataFrame({"rank": [0]})])
    with pytest.raises(InputError, match="unknown probe 'lens'"):
        localize(synthetic_result(3, 8), synthetic_lens().assign(probe="lens"))


def test_emergence_is_the_layer_from_which_the_answer_stays():
    ranks = {"a": [5, 0, 3, 0, 0], "b": [0, 0, 0, 0, 0], "c": [0, 0, 0, 0, 1]}
    lens = pd.DataFrame(
        [
            {"task": "t", "example": name, "layer": layer - 1, "rank": rank}
            for name, own in ranks.items()
            for layer, rank in enumerate(own)
        ]
    )
    first = emergence_layers(lens.sample(frac=1, random_state=0))
    assert first.loc[("t", "a")] == 2
    assert first.loc[("t", "b")] == -1
    assert np.isnan(first.loc[("t", "c")])


def test_the_same_result_gives_the_same_roles():
    one, two = (localize(synthetic_result(6, 16)) for _ in range(2))
    assert one.verdict == two.verdict
    pd.testing.assert_frame_equal(one.frame, two.frame)


def test_it_prints_everywhere(demo):
    assert "0-based" in demo.verdict
    assert "+0." in str(demo)
    assert demo.to_markdown().count("\n| ") == 10
    markup = dataclasses.replace(
        demo, sentences=(Sentence("<b>5 & 6</b>", "setting"),)
    )._repr_html_()
    assert "<b>5" not in markup
    assert "<table" in markup
    assert format_layers([0, 1, 2, 5, 7, 8, 9, 10]) == "0, 1, 2, 5, 7 to 10"
    assert format_layers([]) == "none"


def test_a_difference_of_contrasts_that_no_question_moves_is_no_point():
    one = Contrast(1.0, Interval(0.6, 1.1), pd.Series(np.zeros(8)))
    two = Contrast(0.5, Interval(0.2, 0.8), pd.Series(np.zeros(8)))
    estimate, low, high = difference_of(one, two).numbers
    assert estimate == 0.5
    assert (low, high) == pytest.approx((0.5 - np.hypot(0.4, 0.3), 0.5 + np.hypot(0.1, 0.3)))
