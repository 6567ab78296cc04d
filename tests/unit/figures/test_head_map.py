"""Figures of heads, attention patterns and similarity: what is in their traces."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from layerroles import figures
from layerroles.errors import InputError
from layerroles.figures.head_map import head_means
from tests.support.figure_frames import pattern, scores, similarity

SCRIPT = "<script>alert('not run')</script>"


def heat(figure: go.Figure) -> list[go.Heatmap]:
    return [trace for trace in figure.data if trace.type == "heatmap"]


def notes(figure: go.Figure) -> str:
    return " ".join(note.text for note in figure.layout.annotations)


def test_head_map_draws_means_per_task_and_names_the_top() -> None:
    figure = figures.head_map(scores(), value="score", top=3)
    first, second = heat(figure)
    assert np.shape(first.z) == (9, 30)
    assert first.z[6][18] == pytest.approx(0.93)
    assert second.z[1][2] == pytest.approx(0.53)
    assert "strongest L18.H6 0.93, L24.H6 0.83, L25.H6 0.73" in notes(figure)
    assert "[" in first.hovertext[6][18] and "n 4" in first.hovertext[6][18]
    assert figure.layout.title.text == "Retrieval score"
    # The names that stand in the map, beside their heads: the middle one has no room to the right.
    inside = {note.text: note.xanchor for note in figure.layout.annotations if note.y == 6}
    assert inside == {"<b>L18.H6</b>": "left", "<b>L24.H6</b>": "right", "<b>L25.H6</b>": "left"}


def test_head_map_of_values_of_both_signs_diverges_around_0() -> None:
    frame = pd.DataFrame(
        {"layer": [0, 0, 1, 1], "head": [0, 1, 0, 1], "effect": [0.1, -0.4, 0.0, 0.2]}
    )
    figure = figures.head_map(frame, value="effect", top=1)
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-0.4, 0.4)
    assert "L0.H1" in notes(figure)


def test_head_means_have_student_intervals() -> None:
    means = head_means(scores(n=4), "score").set_index(["task", "layer", "head"])
    row = means.loc["kv", 18, 6]
    values = 0.9 + 0.02 * np.arange(4)
    half = 3.182446 * values.std(ddof=1) / 2
    assert (row.low, row.high) == pytest.approx((values.mean() - half, values.mean() + half))
    alone = head_means(scores(n=1), "score")
    assert alone[["low", "high"]].isna().all(axis=None)


def test_head_map_says_what_is_not_known() -> None:
    frame = scores()
    frame.loc[frame.task == "facts", "score"] = np.nan
    figure = figures.head_map(frame, value="score")
    assert "not known for facts" in figure.layout.title.subtitle.text
    with pytest.raises(InputError, match="'score' is not known for any head"):
        figures.head_map(frame[frame.task == "facts"], value="score")
    with pytest.raises(InputError, match="induction not found"):
        figures.head_map(frame, value="induction")
    with pytest.raises(InputError, match="top must be 0 or more, got -1"):
        figures.head_map(frame, value="score", top=-1)


@pytest.mark.parametrize(("n_layers", "n_heads"), [(1, 1), (30, 9), (32, 32), (64, 40)])
def test_head_maps_of_any_size(n_layers: int, n_heads: int) -> None:
    figure = figures.head_map(scores(n_layers, n_heads, 2), value="score")
    assert len(figure.layout.xaxis.tickvals) <= 22
    assert figure.layout.height < 1400
    assert "0-based" in figure.layout.title.subtitle.text


def test_attention_patterns_have_their_tokens_and_an_empty_half() -> None:
    figure = figures.attention_pattern(pattern())
    diagonal, even = heat(figure)
    assert even.z[3][:4] == pytest.approx([0.25] * 4)
    assert np.isnan(even.z[3][4])
    assert np.diag(np.asarray(diagonal.z)) == pytest.approx([1] * 6)
    assert list(figure.layout.xaxis.ticktext) == ["↵", "ab1", "ab2", "ab3", "ab4", "ab5"]
    assert "ab5 (5) looks at ab2 (2)<br>share 0.167" in even.hovertext[5][2]
    assert "L0.H1" in notes(figure) and "L3.H1" in notes(figure)
    late = figures.attention_pattern(pattern()[lambda frame: frame["query"] > 3])
    assert list(heat(late)[0].y) == [4, 5]
    assert list(heat(late)[0].x) == list(range(6))
    with pytest.raises(InputError, match="weight not found"):
        figures.attention_pattern(pattern().drop(columns="weight"))


def test_the_triangle_marks_the_least_of_each_length() -> None:
    figure = figures.similarity_triangle(similarity())
    (grid,) = heat(figure)
    assert grid.z[1][3] == pytest.approx(0.22)  # blocks 3 and 4
    assert np.isnan(grid.z[1][4])
    assert "blocks 3 to 4" in grid.hovertext[1][3]
    (least,) = (trace for trace in figure.data if trace.type == "scatter")
    assert dict(zip(least.y, least.x, strict=True)) == {1: 2, 2: 2, 3: 2, 4: 1, 5: 0}


def test_the_influence_profile_draws_single_blocks() -> None:
    figure = figures.influence_profile(similarity())
    (line,) = figure.data
    assert list(line.x) == [0, 1, 2, 3, 4]
    assert list(line.y) == pytest.approx([0.11] * 5)
    assert line.error_y.array[0] == pytest.approx(4.302653 * 0.01 / np.sqrt(3))
    with pytest.raises(InputError, match="influence, angular not found"):
        figures.influence_profile(similarity().drop(columns=["influence", "angular"]))


def test_markup_stays_text() -> None:
    drawn = [
        figures.head_map(scores().assign(task=SCRIPT), value="score"),
        figures.attention_pattern(pattern(text=SCRIPT)),
        figures.similarity_triangle(similarity().assign(task=SCRIPT)),
        figures.influence_profile(similarity().assign(task=SCRIPT)),
    ]
    for figure in drawn:
        texts = [str(trace.hovertext) for trace in figure.data] + [notes(figure)]
        texts.append(str(figure.layout.xaxis.ticktext))
        assert any("&lt;script&gt;" in text for text in texts)
        assert not any("<script>" in text for text in texts)
