"""What the figures draw: the numbers in their traces, never pixels."""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from layerroles import figures
from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.figures.attention_to_evidence import attention_means, strongest_heads
from layerroles.figures.lens import lens_summary
from layerroles.results import SweepResult, judge_interval
from layerroles.stats import Interval
from tests.support.colour_vision import BLINDNESS, TO_XYZ, lab, linear
from tests.support.synthetic import (
    EACH_VERDICT,
    each_verdict_result,
    synthetic_attention,
    synthetic_lens,
    synthetic_result,
)

N_LAYERS, N = 10, 16


@pytest.fixture(scope="module")
def result() -> SweepResult:
    """Ten layers; word problems are not above chance under continuation."""
    return synthetic_result(N_LAYERS, N, intact={("reasoning", "continuation"): 0.25})


@pytest.fixture(scope="module")
def lens() -> pd.DataFrame:
    return synthetic_lens(N_LAYERS, N)


@pytest.fixture(scope="module")
def attention() -> pd.DataFrame:
    return synthetic_attention(N_LAYERS, N)


def text_of(figure: go.Figure) -> str:
    return json.dumps(figure.to_plotly_json(), default=str)


def named(figure: go.Figure, name: str, kind: str | None = None) -> list[go.Scatter]:
    return [t for t in figure.data if t.name == name and (kind is None or t.type == kind)]


def relabelled(result: SweepResult, label: str) -> SweepResult:
    """The same rows, with another label of the task `facts`."""
    frame = result.frame.replace({"task": {"facts": label}})
    cells = [
        {**cell, "task": label if cell["task"] == "facts" else cell["task"]}
        for cell in result.manifest["cells"]
    ]
    return SweepResult(frame, {**result.manifest, "cells": cells})


def test_depth_profile_draws_scores_and_effects_of_both_at(result: SweepResult) -> None:
    figure = figures.depth_profile(result, task="facts", protocol="generation")
    effects = result.effects()
    cell = effects[(effects["task"] == "facts") & (effects["protocol"] == "generation")]
    for at, mark in (("all", "circle"), ("after_first", "circle-open")):
        part = cell[cell["at"] == at].sort_values("layer")
        scores, changes = named(figure, f"at {at}")
        assert scores.marker.symbol == changes.marker.symbol == mark
        np.testing.assert_array_equal(scores.y, part["score"])
        np.testing.assert_array_equal(changes.y, part["effect"])
        np.testing.assert_allclose(
            np.asarray(changes.y) + changes.error_y.array, part["ci_high"].to_numpy(float)
        )
        np.testing.assert_allclose(
            np.asarray(changes.y) - changes.error_y.arrayminus, part["ci_low"].to_numpy(float)
        )
        assert np.round(np.asarray(scores.x, float)).tolist() == list(range(N_LAYERS))


ELSEWHERE = ("early", "generated", "prompt", "evidence")


@pytest.fixture(scope="module")
def elsewhere() -> SweepResult:
    """Conditions that act at other positions than most."""
    harm = {at: [0.1 * place] * 6 for place, at in enumerate(ELSEWHERE)}
    return synthetic_result(6, 16, harms={"knowledge": harm, "retrieval": harm})


def test_every_position_is_drawn_in_order_and_apart(elsewhere: SweepResult) -> None:
    figure = figures.depth_profile(elsewhere, task="facts", protocol="generation")
    drawn = [t for t in figure.data if t.name.startswith("at ") and t.meta["value"] == "score"]
    order = ("prompt", "generated", "evidence", "early")  # what is known first
    assert [t.name for t in drawn] == [f"at {at}" for at in order]
    assert len({t.marker.symbol for t in drawn}) == len(drawn)
    places = [t.x[0] for t in drawn]
    assert places == sorted(set(places))
    assert max(map(abs, places)) <= 0.35  # nearer to their own layer than to the next
    harms = text_of(figures.harm_map(elsewhere))
    assert all(at in harms for at in order)
    roles = figures.role_map(elsewhere)
    assert named(roles, "harm, at prompt", "bar")
    assert named(roles, "harm, at generated", "scatter")
    titles = text_of(figures.outcome_profile(elsewhere))
    assert all(f"at {at}" in titles for at in order)


def test_depth_profile_draws_the_intact_and_the_chance_line(result: SweepResult) -> None:
    figure = figures.depth_profile(result, task="facts", protocol="continuation")
    (intact,), (chance,) = named(figure, "intact"), named(figure, "chance")
    row = result.intact().query("task == 'facts' and protocol == 'continuation'").iloc[0]
    assert list(intact.y) == [row["score"]] * 2
    assert list(chance.y) == [0.25, 0.25]
    (band,) = named(figure, "intact interval")
    assert {*band.y} == {row["score_low"], row["score_high"]}


def test_depth_profile_of_nats_has_no_chance_line() -> None:
    result = synthetic_result(4, 8, protocols=("answer_logprob",))
    figure = figures.depth_profile(result, task="facts")
    assert not named(figure, "chance")
    assert figure.layout.yaxis.title.text == "nats per token"
    assert figure.layout.yaxis.range is None


def test_harm_profiles_compare_each_run_with_the_first(result: SweepResult) -> None:
    runs = {"base": result["facts"], "<i>twin</i>": result["word_problems"]}
    figure = figures.harm_profiles(runs, protocol="generation", at="all")
    for name, run in (("base", runs["base"]), ("&lt;i&gt;twin&lt;/i&gt;", runs["<i>twin</i>"])):
        cell = run.effects().query("protocol == 'generation' and at == 'all'")
        cell = cell.sort_values("layer")
        (line,) = named(figure, name)
        np.testing.assert_array_equal(line.y, cell["harm"])
        np.testing.assert_allclose(line.y + line.error_y.array, cell["harm_high"].to_numpy(float))
        assert line.marker.color == style.family_colour(cell["family"].iloc[0])
    (reference,) = named(figure, "base, for comparison")
    np.testing.assert_array_equal(reference.y, named(figure, "base")[0].y)
    assert reference.xaxis == named(figure, "&lt;i&gt;twin&lt;/i&gt;")[0].xaxis != "x"
    assert "<i>" not in text_of(figure)


def test_harm_profiles_draw_one_thing_of_each_run(result: SweepResult) -> None:
    with pytest.raises(InputError, match="no results"):
        figures.harm_profiles({})
    with pytest.raises(InputError, match=r"more than one task .*choose with task="):
        figures.harm_profiles({"a": result}, protocol="generation", at="all")
    with pytest.raises(InputError, match=r"more than one at \(all, after_first\)"):
        figures.harm_profiles({"a": result["facts"]}, protocol="generation")
    with pytest.raises(InputError, match="no run has any"):
        figures.harm_profiles({"a": result["word_problems"]}, protocol="continuation", at="all")
    one, two = (
        synthetic_result(3, 8, harms={"knowledge": {"all": [0.5] * 3}}, protocols=(protocol,))
        for protocol in ("continuation", "generation")
    )
    with pytest.raises(InputError, match=r"differ in protocol \(continuation, generation\)"):
        figures.harm_profiles({"a": one, "b": two})


def test_harm_profiles_show_every_point() -> None:
    weak = synthetic_result(
        3,
        2000,
        harms={"knowledge": {"all": [2.5, 0.5, 0.0]}},
        protocols=("continuation",),
        intact={("knowledge", "continuation"): 0.35},
    )
    figure = figures.harm_profiles({"weak": weak})
    low, high = figure.layout.yaxis.range
    assert low < min(figure.data[0].y)
    assert 2 < max(figure.data[0].y) < high


def test_harm_map_holds_every_harm_and_marks_intervals_off_zero(result: SweepResult) -> None:
    figure = figures.harm_map(result, protocol="generation")
    (heat,) = [t for t in figure.data if t.type == "heatmap"]
    rows = figure.layout.yaxis.ticktext
    assert len(rows) == 8
    for line in result.effects().query("protocol == 'generation'").to_dict("records"):
        row = next(
            i for i, name in enumerate(rows) if name.endswith(f"{line['family']} · {line['at']}")
        )
        assert heat.z[row][line["layer"]] == line["harm"]
        off = line["harm_low"] > 0 or line["harm_high"] < 0
        assert (heat.text[row][line["layer"]] != "") == off


def test_harm_map_scale_diverges_around_zero_and_prints_what_is_beyond() -> None:
    poor = synthetic_result(4, 40, intact={("retrieval", "generation"): 0.25})["retrieval"]
    frame = poor.frame.copy()
    frame.loc[frame["condition"] == "skip L3", "score"] = 1.0
    figure = figures.harm_map(SweepResult(frame, poor.manifest), protocol="generation")
    axis = figure.layout.coloraxis
    assert axis.cmin == -axis.cmax == -1.5
    (heat,) = [t for t in figure.data if t.type == "heatmap"]
    assert heat.z[0][3] == pytest.approx(-3)
    assert heat.text[0][3] == "\N{MINUS SIGN}3.0"


def test_harm_map_hatches_undefined_harm_and_says_why(result: SweepResult) -> None:
    figure = figures.harm_map(result, protocol="continuation")
    (hatch,) = named(figure, "undefined")
    assert len(hatch.x) == 2 * N_LAYERS
    assert hatch.marker.pattern.shape == "/"
    assert all("intact 0.25 is not above chance 0.25" in text for text in hatch.hovertext)


def test_harm_map_hatches_layers_that_were_not_run(result: SweepResult) -> None:
    frame = result.frame[result.frame["layer"].fillna(0) != 3]
    figure = figures.harm_map(SweepResult(frame, result.manifest), protocol="generation")
    (hatch,) = named(figure, "undefined")
    assert set(hatch.x) == {3}
    assert set(hatch.hovertext) == {"layer 3: not run"}


def test_lens_trajectories_draw_median_ranks_from_one(lens: pd.DataFrame) -> None:
    figure = figures.lens_trajectories(lens)
    line = next(t for t in figure.data if t.name == "knowledge")
    own = lens[lens["family"] == "knowledge"]
    expected = own.groupby("layer")["rank"].median() + 1
    assert list(line.x) == list(range(-1, N_LAYERS))
    np.testing.assert_array_equal(line.y, expected)
    assert figure.layout.yaxis.type == "log"
    assert line.line.color == style.FAMILY_COLOUR["knowledge"]


def test_lens_trajectories_draw_mean_logprobs(lens: pd.DataFrame) -> None:
    figure = figures.lens_trajectories(lens, measure="logprob")
    line = next(t for t in figure.data if t.name == "retrieval")
    expected = lens[lens["family"] == "retrieval"].groupby("layer")["logprob"].mean()
    np.testing.assert_allclose(line.y, expected)
    assert figure.layout.yaxis.title.text == "log-probability (nats)"


def test_lens_intervals_hold_their_value_and_cover_the_median() -> None:
    rng = np.random.default_rng(0)
    missed = 0
    for _ in range(200):
        rank = rng.geometric(0.05, size=32) - 1
        frame = pd.DataFrame({"task": "t", "family": "f", "example": range(32), "layer": 0,
                              "rank": rank, "logprob": -1.0})  # fmt: skip
        row = lens_summary(frame, measure="rank").iloc[0]
        assert row["low"] <= row["value"] <= row["high"]
        missed += not row["low"] <= 14 <= row["high"]  # the median of this distribution, from 1
    assert missed <= 20


def test_attention_map_draws_means_and_names_the_planted_heads(attention: pd.DataFrame) -> None:
    figure = figures.attention_map(attention)
    heat = next(t for t in figure.data if t.type == "heatmap")
    own = attention[attention["family"] == "retrieval"]
    expected = own.groupby(["head", "layer"])["evidence"].mean().unstack()
    np.testing.assert_allclose(np.asarray(heat.z, float), expected)
    notes = {note.text for note in figure.layout.annotations}
    assert {"<b>L5.H3</b>", "<b>L6.H7</b>"} <= notes


def test_intervals_of_attention_are_students() -> None:
    values = np.array([0.2, 0.3, 0.5, 0.4])
    frame = pd.DataFrame({"task": "t", "family": "retrieval", "example": range(4), "layer": 0,
                          "head": 0, "evidence": values, "uniform": 0.1})  # fmt: skip
    (row,) = attention_means(frame).itertuples()
    half = 3.182446 * values.std(ddof=1) / 2
    assert (row.evidence, row.uniform, row.n) == (pytest.approx(0.35), pytest.approx(0.1), 4)
    assert (row.low, row.high) == (pytest.approx(0.35 - half), pytest.approx(0.35 + half))


def test_attention_map_names_no_head_at_the_even_share() -> None:
    rows = itertools.product(range(3), range(2), range(4))
    frame = pd.DataFrame(
        [("t", "retrieval", e, la, h, 0.1, 0.1) for e, la, h in rows],
        columns=["task", "family", "example", "layer", "head", "evidence", "uniform"],
    )
    assert strongest_heads(attention_means(frame), 3).empty
    assert "no head at twice even attention" in text_of(figures.attention_map(frame))


def test_attention_map_says_which_tasks_have_no_evidence(attention: pd.DataFrame) -> None:
    blank = attention.query("family == 'language'").assign(task="facts", evidence=np.nan)
    figure = figures.attention_map(pd.concat([attention, blank]))
    assert "without evidence: facts" in figure.layout.title.subtitle.text
    with pytest.raises(InputError, match="no example of the attention frame has evidence"):
        figures.attention_map(blank)


def test_outcome_profile_shares_sum_to_one(result: SweepResult) -> None:
    figure = figures.outcome_profile(result)
    total: dict[tuple[str, float], float] = {}
    for trace in figure.data:
        for x, y in zip(trace.x, trace.y, strict=True):
            total[trace.xaxis, x] = total.get((trace.xaxis, x), 0.0) + y
    assert len(total) == 8 * (N_LAYERS + 1)
    assert np.allclose(list(total.values()), 1)


def test_outcome_profile_keeps_scores_that_were_not_finite_apart() -> None:
    figure = figures.outcome_profile(synthetic_result(3, 8, not_finite=2))
    assert {y for t in named(figure, "not finite") for y in t.y} == {0.0, 0.25}


def test_role_map_lays_everything_over_one_depth_axis(
    result: SweepResult, lens: pd.DataFrame, attention: pd.DataFrame
) -> None:
    figure = figures.role_map(result, probes=[lens, attention])
    assert {t.xaxis or "x" for t in figure.data} == {"x"}
    bars = named(figure, "harm, at all")
    circles = named(figure, "harm, at after_first")
    assert len(bars) == len(circles) == 7  # word problems by continuation cannot be measured
    effects = result.effects().query("task == 'kv_retrieval' and protocol == 'continuation'")
    everywhere = effects[effects["at"] == "all"].sort_values("layer")
    np.testing.assert_array_equal(bars[0].y, everywhere["harm"])
    expected = [
        judge_interval(Interval(*pair))
        for pair in everywhere[["harm_low", "harm_high"]].to_numpy().tolist()
    ]
    assert list(bars[0].customdata) == expected
    assert "not measurable: intact 0.25 is not above chance" in text_of(figure)
    peaks = next(t for t in figure.data if t.name == "attention, kv_retrieval")
    best = (
        attention_means(attention)
        .query("task == 'kv_retrieval'")
        .groupby("layer")["evidence"]
        .max()
    )
    np.testing.assert_allclose(peaks.y, best)


def test_role_map_shows_nothing_of_a_third_position() -> None:
    small = [0.1, 0.0, 0.2]
    harm = {"all": small, "after_first": small, "prompt": [2.2, 0.0, 0.0]}
    intact = {("knowledge", "continuation"): 0.45}
    protocols = ["continuation"]
    three, two = (
        synthetic_result(3, 200, harms={"knowledge": kept}, protocols=protocols, intact=intact)
        for kept in (harm, {at: harm[at] for at in ("all", "after_first")})
    )
    figure = figures.role_map(three)
    assert not any("\N{UPWARDS ARROW}" in note.text for note in figure.layout.annotations)
    assert figure.layout.yaxis.range == figures.role_map(two).layout.yaxis.range
    assert "not drawn: at prompt" in figure.layout.title.subtitle.text


def test_role_map_takes_frames_by_position_too(result: SweepResult, lens: pd.DataFrame) -> None:
    alone = figures.role_map(result)
    assert len(figures.role_map(result, lens).data) == len(alone.data) + 8


def test_each_verdict_has_its_mark_in_the_role_map() -> None:
    """Marks differ in fill or outline without their hue too, except that "helps" lies below 0."""
    result, verdicts = each_verdict_result(), list(EACH_VERDICT)
    figure = figures.role_map(result)
    (bars,) = named(figure, "harm, at all")
    assert list(bars.customdata) == verdicts
    fills, widths = bars.marker.color, bars.marker.line.width
    opacity = [float(fill.rstrip(")").split(",")[-1]) for fill in fills]
    looks = dict(zip(verdicts, zip(opacity, widths, strict=True), strict=True))
    assert looks["helps"] == looks["critical"] and bars.y[2] < 0 < bars.y[0]
    assert len({looks[name] for name in verdicts}) == 4
    hues = {fill.rpartition(",")[0] for fill in fills}
    assert hues == {
        style.fade(hue, 1.0).rpartition(",")[0]
        for hue in (style.HELPS, style.FAMILY_COLOUR["reasoning"])
    }
    shown = ["at all: above 0.2", "partial, 0 to 0.4", "spare, \N{PLUS-MINUS SIGN}0.1"]
    shown += ["helps, below 0", "undecided"]
    assert [trace.name for trace in figure.data if list(trace.x) == [None]] == shown
    assert "]: critical or sink<br>" in bars.hovertext[0]
    assert "]: partial<br>" in bars.hovertext[1] and "]: helps<br>" in bars.hovertext[2]
    caption = figures.caption(figure, result)
    assert "half full between 0 and 0.4 (partial), blue below 0 (helps)" in caption


@pytest.mark.parametrize("n_layers", [1, 2, 30, 80])
def test_every_figure_draws_any_depth(n_layers: int) -> None:
    result = synthetic_result(n_layers, 4, harms={"retrieval": {"all": [0.5] * n_layers}})
    lens, attention = synthetic_lens(n_layers, 4), synthetic_attention(n_layers, 4)
    drawn = [
        figures.role_map(result, lens, attention),
        figures.depth_profile(result),
        figures.harm_map(result),
        figures.outcome_profile(result),
        figures.lens_trajectories(lens),
        figures.attention_map(attention),
    ]
    for figure in drawn:
        assert len(figure.layout.xaxis.tickvals) <= 22
        assert "0-based" in text_of(figure)
        assert "examples" in figure.layout.title.subtitle.text


def test_a_result_without_any_finite_score_is_drawn_as_undefined(result: SweepResult) -> None:
    broken = synthetic_result(3, 6, not_finite=6)
    (hatch, *_) = named(figures.harm_map(broken), "undefined")
    assert "no example could be scored" in hatch.hovertext[0]
    assert figures.depth_profile(broken, task="facts").data
    assert figures.role_map(broken).data


def test_several_ablations_ask_for_a_choice() -> None:
    result = synthetic_result(3, 6, ablations=("skip", "mean"))
    with pytest.raises(InputError, match="skip, mean: choose one with ablation="):
        figures.harm_map(result)
    assert "(mean)" in figures.harm_map(result, ablation="mean").layout.title.text


@pytest.mark.parametrize("draw", [figures.depth_profile, figures.harm_map, figures.role_map])
def test_one_ablation_with_two_settings_is_refused_not_drawn_over(draw: Callable) -> None:
    result = synthetic_result(3, 6)
    other = result.frame[result.frame["ablation"] == "skip"]
    other = other.assign(condition=other["condition"].str.replace("skip", "skip[twice]"))
    both = dataclasses.replace(result, frame=pd.concat([result.frame, other]))
    with pytest.raises(InputError, match=r"more than once alike \(skip L0, skip\[twice\] L0\)"):
        draw(both)


@pytest.mark.parametrize("draw", [figures.depth_profile, figures.harm_map, figures.role_map])
def test_nothing_to_draw_is_an_input_error(draw: object, result: SweepResult) -> None:
    intact = SweepResult(result.frame.query("condition == 'intact'"), result.manifest)
    with pytest.raises(InputError, match="nothing to draw"):
        draw(intact)  # type: ignore[operator]
    heads = SweepResult(
        result.frame.assign(part=result.frame["part"].replace("block", "head")), result.manifest
    )
    with pytest.raises(InputError, match="single layer"):
        draw(heads)  # type: ignore[operator]


def test_mistakes_name_the_value(result: SweepResult, lens: pd.DataFrame) -> None:
    with pytest.raises(InputError, match=r"unknown task 'fact'.*facts"):
        figures.depth_profile(result, task="fact")
    with pytest.raises(InputError, match="unknown protocol 'letter'"):
        figures.harm_map(result, protocol="letter")
    with pytest.raises(InputError, match="unknown measure 'entropy'"):
        figures.lens_trajectories(lens, measure="entropy")
    with pytest.raises(InputError, match="empty frame"):
        figures.lens_trajectories(lens.iloc[:0])
    with pytest.raises(InputError, match="rank, logprob not found"):
        figures.lens_trajectories(lens.drop(columns=["rank", "logprob"]))
    with pytest.raises(InputError, match="evidence, uniform not found"):
        figures.attention_map(lens.assign(head=0))
    with pytest.raises(InputError, match="a column 'probe'"):
        figures.role_map(result, probes=[lens.drop(columns="probe")])
    with pytest.raises(InputError, match="top must be 0 or more, got -1"):
        figures.attention_map(lens, top=-1)


def test_markup_in_a_task_label_stays_text(result: SweepResult) -> None:
    evil = relabelled(result, '<a href="https://example.org">x</a>')
    for figure in (
        figures.harm_map(evil),
        figures.depth_profile(evil),
        figures.role_map(evil),
        figures.outcome_profile(evil),
    ):
        assert "<a href" not in text_of(figure)


@pytest.mark.parametrize(
    ("task", "title"),
    [
        ("local:/a b/easy/q.jsonl", "local:easy/q.jsonl"),
        ("local:/a b/hard/q.jsonl", "local:hard/q.jsonl"),
        ("local[path=/a/b/q.jsonl,num_fewshot=2]", "local[path=b/q.jsonl,num_fewshot=2]"),
        ("local:/a,b/c/q.jsonl", "local:c/q.jsonl"),
        ("local:b/q.jsonl", "local:b/q.jsonl"),
        ("local:q.jsonl", "local:q.jsonl"),
        ("local:/q.jsonl", "local:/q.jsonl"),
        ("facts@2", "facts@2"),
    ],
)
def test_a_file_of_questions_is_named_with_its_last_folder(task: str, title: str) -> None:
    assert style.panel_title("knowledge", task).split(" \N{MIDDLE DOT} ")[1] == title


def test_a_depth_profile_names_a_file_of_questions_without_its_path(result: SweepResult) -> None:
    local = relabelled(result, "local:/home/me/asked/q.jsonl")
    figure = figures.depth_profile(local, task="local:/home/me/asked/q.jsonl")
    assert figure.layout.title.text.startswith("Score on local:asked/q.jsonl when")
    headings = [note.text for note in figure.layout.annotations]
    assert headings == [
        style.panel_title("knowledge", "local:asked/q.jsonl", protocol)
        for protocol in ("continuation", "generation")
    ]


def test_a_family_has_one_colour_in_every_figure(
    result: SweepResult, lens: pd.DataFrame, attention: pd.DataFrame
) -> None:
    hue = style.FAMILY_COLOUR["retrieval"]
    assert (
        named(figures.depth_profile(result, task="kv_retrieval"), "at all")[0].marker.color == hue
    )
    assert named(figures.lens_trajectories(lens), "retrieval")[0].line.color == hue
    mapped = figures.role_map(result, lens, attention)
    assert named(mapped, "harm, at after_first")[0].marker.color == hue
    assert named(mapped, "attention, kv_retrieval")[0].line.color == hue


def test_themed_changes_only_the_template(result: SweepResult) -> None:
    light = figures.harm_map(result)
    dark = figures.themed(figures.harm_map(result), "dark")
    assert light.layout.template.layout.paper_bgcolor == "#ffffff"
    assert dark.layout.template.layout.paper_bgcolor != "#ffffff"
    plain = [figure.update_layout(template=None) for figure in (light, dark)]
    assert text_of(plain[0]) == text_of(plain[1])
    with pytest.raises(InputError, match="unknown theme"):
        figures.themed(light, "sepia")


@pytest.mark.parametrize("kind", BLINDNESS)
def test_family_colours_stay_apart_for_colour_blind_readers(kind: str) -> None:
    seen = [lab(np.array(BLINDNESS[kind]) @ linear(c)) for c in style.FAMILY_COLOUR.values()]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 15


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_family_colours_and_text_have_contrast(theme: str) -> None:
    layout = style.TEMPLATES[theme].layout

    def contrast(colour: str) -> float:
        pair = [TO_XYZ[1] @ linear(c) for c in (colour, layout.paper_bgcolor)]
        return (max(pair) + 0.05) / (min(pair) + 0.05)

    assert min(map(contrast, style.FAMILY_COLOUR.values())) >= 3
    assert min(map(contrast, (style.NEUTRAL, style.HELPS))) >= 3
    assert contrast(layout.font.color) >= 7
    assert contrast(layout.xaxis.tickfont.color) >= 4.5


def test_what_is_averaged_is_of_one_condition(
    result: SweepResult, lens: pd.DataFrame, attention: pd.DataFrame
) -> None:
    worse = attention.assign(condition="skip L3", evidence=attention["evidence"] / 2)
    both = pd.concat([attention.assign(condition="intact"), worse], ignore_index=True)
    for draw in (figures.attention_map, functools.partial(figures.head_map, value="evidence")):
        assert text_of(draw(both)) == text_of(draw(attention))
        assert "under skip L3" in text_of(draw(worse))
        with pytest.raises(InputError, match="holds skip L4, skip L3: pass the rows of one"):
            draw(both.replace({"condition": {"intact": "skip L4"}}))
    frames = [lens.assign(condition=name) for name in ("intact", "skip L3")] + [both]
    names = ["role_map", "attention_map", "lens_trajectories"]
    drawn = figures.every(result, frames, only=names)
    intact = figures.every(result, [lens, attention], only=names)
    for name in names[:2]:
        assert text_of(drawn[name]) == text_of(intact[name])
    lines = [trace.name for trace in drawn["lens_trajectories"].data]
    assert any("skip L3" in name for name in lines) and any("intact" in name for name in lines)
    assert text_of(figures.role_map(result, probes=frames)) == text_of(drawn["role_map"])


def test_one_name_in_place_of_several_is_refused(result: SweepResult) -> None:
    with pytest.raises(InputError, match=r"^only='role_map' is one, not several"):
        figures.every(result, only="role_map")


def test_protocols_stand_side_by_side_with_their_changes(result: SweepResult) -> None:
    figure = figures.protocols(result, family="knowledge")
    effects = result.effects()
    for column, protocol in enumerate(("continuation", "generation")):
        cell = effects[(effects["task"] == "facts") & (effects["protocol"] == protocol)]
        cell = cell[cell["at"] == "all"].sort_values("layer")
        x = "x" if column == 0 else f"x{column + 1}"
        score = [t for t in named(figure, "at all") if t.meta["value"] == "score" and t.xaxis == x]
        assert len(score) == 1
        assert list(score[0].y) == pytest.approx(list(cell["score"]))
    changes = [t for t in named(figure, "at all") if t.meta["value"] == "effect"]
    assert len(changes) == 2 and all(t.error_y.array is not None for t in changes)
    with pytest.raises(InputError, match=r"families retrieval, .*choose one with family="):
        figures.protocols(result)


def test_what_likelihood_hides_is_the_difference_of_harms(result: SweepResult) -> None:
    figure = figures.likelihood_hides(result)
    both = result.differences()
    both = both[both["at"] == "all"]
    drawn = [t for name in ("excludes", "holds") for t in named(figure, f"interval {name} 0")]
    known = both["difference"].dropna()
    assert sorted(y for t in drawn for y in t.y) == pytest.approx(sorted(known))
    for trace in named(figure, "interval excludes 0"):
        low = np.array(trace.y) - np.array(trace.error_y.arrayminus)
        high = np.array(trace.y) + np.array(trace.error_y.array)
        assert ((low > 0) | (high < 0)).all()
    # Word problems are not above chance by likelihood: no difference, and its panel says so.
    assert text_of(figure).count("undefined: intact is not shown to be above chance") == 1
    with pytest.raises(InputError, match="unknown protocol_a 'letter'"):
        figures.likelihood_hides(result, likelihood="letter")


def test_tasks_of_lm_eval_are_named_without_what_they_share(result: SweepResult) -> None:
    def named(*labels: str) -> list[str]:
        parts = []
        for label in labels:
            frame = result.frame[result.frame["task"] == result.frame["task"].iloc[0]]
            parts.append(frame.assign(task=label, family="knowledge"))
        manifest = {**result.manifest, "cells": []}
        figure = figures.protocols(SweepResult(pd.concat(parts), manifest))
        return [note.text.split("</span> ")[1] for note in figure.layout.annotations]

    for version in ("", "@2"):  # version 1 is not named
        one = f"lm_eval{version}[task=mmlu,num_fewshot=5]"
        two = f"lm_eval{version}:mmlu_generative"
        assert {text.split(" \N{MIDDLE DOT} ")[1] for text in named(one, two)} == {
            "mmlu",
            "mmlu_generative",
        }
    twice = named(one, "lm_eval@2[task=mmlu,num_fewshot=0]")
    assert any("num_fewshot=5" in text for text in twice)


def test_without_both_protocols_likelihood_hides_nothing(result: SweepResult) -> None:
    frame = result.frame[result.frame["protocol"] == "generation"]
    alone = SweepResult(frame.reset_index(drop=True), result.manifest)
    with pytest.raises(InputError, match="no task was asked by likelihood"):
        figures.likelihood_hides(alone)


def test_positions_at_which_only_generation_was_asked_are_refused(result: SweepResult) -> None:
    """As after a sweep of what is needed: no layer was critical by likelihood."""
    frame = result.frame
    by_likelihood = frame["protocol"] == "continuation"
    kept = frame[~(by_likelihood & (frame["at"] == "after_first"))].reset_index(drop=True)
    needed = SweepResult(kept, result.manifest)
    assert figures.likelihood_hides(needed).data
    reason = r"at='after_first': no layer was ablated there \(skip\) under both 'continuation'"
    with pytest.raises(InputError, match=f"{reason} and 'generation': choose another at=, or "):
        figures.likelihood_hides(needed, at="after_first")
