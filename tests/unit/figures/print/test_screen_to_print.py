"""Figures at the size of a paper: type, room, panels, colours; and captions."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import layerroles as lr
from layerroles import figures
from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.figures.outcome_profile import _LOOK as LOOK_OF_OUTCOMES
from layerroles.figures.print import files
from layerroles.figures.print.captions import check_result, latex_figure, read_meta
from layerroles.figures.print.screen_to_print import parse_width
from layerroles.figures.print.text import text_width
from layerroles.figures.pruned_harm import _LOOK as METHODS
from layerroles.results import SweepResult
from tests.support.colour_vision import BLINDNESS, lab, linear
from tests.support.figure_frames import pattern
from tests.support.synthetic import synthetic_attention, synthetic_lens, synthetic_result

N_LAYERS, N = 30, 8
POINT = 96 / 72


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(N_LAYERS, N, intact={("reasoning", "continuation"): 0.25})


@pytest.fixture(scope="module")
def drawn(result: SweepResult) -> dict[str, go.Figure]:
    lens, attention = synthetic_lens(N_LAYERS, N), synthetic_attention(N_LAYERS, N)
    return {
        "role_map": figures.role_map(result, lens, attention),
        "harm_map": figures.harm_map(result),
        "depth_profile": figures.depth_profile(result, task="facts"),
        "likelihood_hides": figures.likelihood_hides(result),
        "outcome_profile": figures.outcome_profile(result),
        "lens_trajectories": figures.lens_trajectories(lens),
        "attention_map": figures.attention_map(attention),
    }


def sizes(value: Any) -> Iterator[float]:
    """Every size of type in a figure's layout and traces, without the template's."""
    if isinstance(value, dict):
        for key, each in value.items():
            if key in ("font", "tickfont", "textfont") and "size" in each:
                yield each["size"]
            elif key != "template":
                yield from sizes(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from sizes(each)


@pytest.mark.parametrize("width", ["column", "full", "89mm"])
def test_type_is_of_7_to_9_points_and_lines_are_thin(
    width: str, drawn: dict[str, go.Figure]
) -> None:
    for name, figure in drawn.items():
        made = figures.paper(figure, width)
        assert made.layout.width == pytest.approx(parse_width(width) * 96, abs=0.01)
        template = made.layout.template.to_plotly_json()
        for size in [*sizes(made.to_plotly_json()), *sizes(template)]:
            assert 7 * POINT - 0.01 <= size <= 9 * POINT + 0.01, name
        assert made.layout.title.text is None, name
        for trace in made.data:
            if trace.type == "scatter" and trace.line.width:
                assert trace.line.width <= 1.3, name
        assert not any(trace.type == "heatmap" for trace in made.data), name


def test_the_figure_that_is_given_stays_as_it_is(drawn: dict[str, go.Figure]) -> None:
    figure = drawn["outcome_profile"]
    before = json.loads(figure.to_json())
    figures.paper(figure)
    assert json.loads(figure.to_json()) == before


def test_tokens_do_not_meet_at_column_width() -> None:
    tokens = ["The", " 12", " Constantinople", " of", " <b>", "\n", " Rome", "."]
    read = pd.DataFrame(
        [
            {"probe": "logit_lens", "condition": "intact", "text": 0, "position": position,
             "token": tokens[position], "layer": layer, "part": "block", "kl": 1.0, "rank": 0,
             "agrees": layer > 20, "top_0": " Constantinople", "top_0_logprob": -0.1}
            for position in range(8)
            for layer in range(-1, 30)
        ]
    )  # fmt: skip
    figure = figures.paper(figures.token_table(read))
    (words,) = figure.select_traces({"type": "scatter"})
    cell = figure.layout.width - figure.layout.margin.l - figure.layout.margin.r
    assert {text_width(text, words.textfont.size) <= cell / 8 for text in words.text} == {True}
    assert {text.startswith("<b>\N{OPEN BOX}C") for text in words.text[-8:]} == {True}
    assert len(figure.layout.xaxis.ticktext) == 8  # numbers among them stay
    assert figure.layout.xaxis.tickangle == -90
    assert figures.paper(figures.token_table(read), "full").layout.xaxis.tickangle == 0


def test_marks_stay_in_cells_narrower_than_they_are(result: SweepResult) -> None:
    def marks(width: str | float) -> list[str]:
        drawn = figures.paper(figures.harm_map(result), width).select_traces({"type": "scatter"})
        return [text for trace in drawn if trace.mode == "text" for text in trace.text]

    assert len(set(marks("full"))) == 1
    assert marks(2.0) == marks("full")


def test_rows_of_an_attention_pattern_stand_apart() -> None:
    figure = figures.paper(figures.attention_pattern(pattern(24)))
    plot = figure.layout.height - figure.layout.margin.t - figure.layout.margin.b
    for axis in figure.select_yaxes():
        high = plot * (axis.domain[1] - axis.domain[0])
        assert high / 24 > 9.4  # pixels: the labels are of 7 points


def test_labels_of_30_layers_do_not_meet_at_column_width(drawn: dict[str, go.Figure]) -> None:
    for name, figure in drawn.items():
        made = figures.paper(figure)
        plot = made.layout.width - made.layout.margin.l - made.layout.margin.r
        for axis in made.select_xaxes():
            if axis.tickvals is None:
                continue
            per = plot * np.ptp(axis.domain) / (axis.range[1] - axis.range[0])
            places = sorted(zip(axis.tickvals, axis.ticktext, strict=True))
            assert len(places) >= 4, name
            for (a, left), (b, right) in itertools.pairwise(places):
                room = (text_width(left, 7 * POINT) + text_width(right, 7 * POINT)) / 2
                assert (b - a) * per > room, (name, left, right)


@pytest.mark.parametrize("width", ["column", "full"])
def test_panels_and_headings_stand_clear_of_each_other(
    width: str, drawn: dict[str, go.Figure]
) -> None:
    for name, figure in drawn.items():
        made = figures.paper(figure, width)
        margin = made.layout.margin
        high = made.layout.height - margin.t - margin.b
        wide = made.layout.width - margin.l - margin.r
        assert made.layout.height <= 9.6 * 96, name
        panels = {(tuple(_x(made, y).domain or (0, 1)), tuple(y.domain or (0, 1)))
                  for y in made.select_yaxes()}  # fmt: skip
        for ((_, right), (low, top)), ((left, _), (low2, top2)) in itertools.permutations(
            panels, 2
        ):
            apart = left >= right or (low - top2) * high > 6 or (low2 - top) * high > 6
            assert apart or left < right, name
        for note in made.layout.annotations:
            if note.xref == "paper" and note.showarrow is None and note.text:
                end = margin.l + note.x * wide + text_width(note.text, note.font.size)
                assert end <= made.layout.width + 3, (name, note.text)


def _x(figure: go.Figure, y: Any) -> Any:
    return figure.layout[f"xaxis{(y.anchor or 'x')[1:]}"]


def test_panels_side_by_side_go_below_in_a_column(drawn: dict[str, go.Figure]) -> None:
    def columns(figure: go.Figure) -> int:
        return len({round((axis.domain or (0, 1))[0], 3) for axis in figure.select_xaxes()})

    profile = drawn["depth_profile"]
    assert (columns(figures.paper(profile, "full")), columns(figures.paper(profile))) == (2, 1)
    made = figures.paper(profile)
    tops = [y.domain[1] for y in made.select_yaxes()]
    # Score and effect of one protocol, then those of the next.
    order = np.argsort(tops)[::-1]
    assert [made.layout[f"yaxis{n + 1 if n else ''}"].title.text for n in order] == [
        *("accuracy", "effect"),
        *("accuracy", "effect"),
    ]
    labelled = [axis.showticklabels for axis in made.select_xaxes() if axis.showticklabels]
    assert labelled == [True]


def test_cells_and_hatches_are_shapes_of_the_same_values(drawn: dict[str, go.Figure]) -> None:
    figure = drawn["harm_map"]
    made = figures.paper(figure)
    heat = [trace for trace in figure.data if trace.type == "heatmap"]
    bars = [trace for trace in made.data if trace.name == "harm"]
    for before, after in zip(heat, bars, strict=True):
        values = np.asarray(before.z, float)
        rows, layers = np.nonzero(~np.isnan(values))
        np.testing.assert_array_equal(after.marker.color, values[rows, layers])
        np.testing.assert_array_equal(after.x, layers)
        np.testing.assert_allclose(np.asarray(after.base, float) + np.asarray(after.y) / 2, rows)
    (hatch,) = [trace for trace in made.data if trace.name == "undefined, hatched"]
    inside = [y for y in hatch.y if y is not None]
    assert min(inside) >= 3.5 and max(inside) <= 5.5  # reasoning, two rows
    assert not any(t.marker.pattern.shape for t in made.data if t.type == "bar")


def test_a_legend_shows_the_hatches_of_bars(drawn: dict[str, go.Figure]) -> None:
    made = figures.paper(drawn["outcome_profile"])
    assert made.layout.showlegend is False
    shown = {trace.name for trace in drawn["outcome_profile"].data}
    notes = {note.text for note in made.layout.annotations}
    assert shown <= notes
    swatches = [shape for shape in made.layout.shapes if shape.type == "rect"]
    assert len(swatches) == len(shown)
    hatched = [shape for shape in made.layout.shapes if shape.type == "path"]
    assert len(hatched) == len(shown - {"correct", "wrong"})


def test_titles_are_kept_on_request(drawn: dict[str, go.Figure]) -> None:
    figure = drawn["harm_map"]
    notes = [note.text for note in figures.paper(figure, title=True).layout.annotations]
    text = " ".join(reversed(notes))
    assert "Harm of ablating one layer (skip)" in text
    assert "8 examples per cell" in text


@pytest.mark.parametrize("width", ["colum", "1", 0, "30in", "-3", "5 ft", float("nan")])
def test_a_width_is_a_name_or_a_length(width: str | float, drawn: dict[str, go.Figure]) -> None:
    with pytest.raises(InputError, match=r"unknown width .*column, full, and from 2 to 20 inches"):
        figures.paper(drawn["harm_map"], float(width) if width == 0 else width)


# Every palette in which a colour means something, with what else tells its members apart.
PALETTES = {
    "families": {
        name: (hue, style.FAMILY_SYMBOL[name]) for name, hue in style.FAMILY_COLOUR.items()
    },
    "outcomes": LOOK_OF_OUTCOMES,
    "methods": METHODS,
}  # fmt: skip


@pytest.mark.parametrize("kind", BLINDNESS)
@pytest.mark.parametrize("palette", PALETTES)
def test_palettes_are_distinguishable_with_colour_blindness(palette: str, kind: str) -> None:
    looks = PALETTES[palette]
    for one, two in itertools.combinations(looks, 2):
        seen = [lab(np.array(BLINDNESS[kind]) @ linear(looks[name][0])) for name in (one, two)]
        distance = float(np.linalg.norm(seen[0] - seen[1]))
        # By colour alone, or by colour and a mark or pattern beside it.
        assert distance > 15 or looks[one][1] != looks[two][1], (one, two, distance)


@pytest.mark.parametrize("kind", BLINDNESS)
def test_a_scale_around_0_keeps_its_sides_apart(kind: str) -> None:
    scale = style.TEMPLATES["light"].layout.colorscale.diverging
    blue, half_blue, middle, half_orange, orange = (
        lab(np.array(BLINDNESS[kind]) @ linear(hue)) for _, hue in scale
    )
    for low, high in ((blue, orange), (half_blue, half_orange)):
        assert np.linalg.norm(low - high) > 25
    assert blue[0] < half_blue[0] < middle[0] > half_orange[0] > orange[0]  # lightness


def test_a_caption_tells_what_is_drawn(result: SweepResult, drawn: dict[str, go.Figure]) -> None:
    words = figures.caption(drawn["depth_profile"], result)
    for fact in (
        "Score on facts when one layer is ablated (skip), and the effect.",
        f"n = {N}.",
        "Ablation skip; at all, after_first; task facts; protocols continuation, generation;",
        "Wilson's of shares of right answers, Tango's of paired effects",
        "not corrected for the number of layers",
        "Model synthetic-135m, float32,",
        "seed 0.",
    ):
        assert fact in words
    assert figures.caption(figures.paper(drawn["depth_profile"]), result) == words
    assert "Model" not in figures.caption(drawn["depth_profile"])
    # What does not fit into a heading is in the caption.
    column = figures.caption(figures.paper(drawn["attention_map"]))
    assert "strongest L16.H3" in column or "strongest L18.H7" in column
    with pytest.raises(InputError, match=r"a figure of lr\.figures"):
        figures.caption(go.Figure())


def test_what_is_no_figure_of_these_is_refused(drawn: dict[str, go.Figure], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^paper takes a figure of lr\.figures"):
        figures.paper(go.Figure())
    for given in (go.Figure(), {"fine": drawn["harm_map"], "not": go.Figure()}):
        with pytest.raises(InputError, match=r"^save takes a figure of lr\.figures"):
            figures.save(given, tmp_path / "x.html", formats=["html"])
    assert not list(tmp_path.iterdir())
    for other in (None, "x", {"data": []}):
        with pytest.raises(InputError, match=r"^save takes a figure of lr\.figures"):
            read_meta(other, "save")


def test_invalid_results_and_empty_saves_raise(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^result='runs/x' is no sweep's result: give"):
        check_result("runs/x")
    with pytest.raises(InputError, match="no figures to save"):
        figures.save({}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_figure_for_paper_is_not_shrunk_again(drawn: dict[str, go.Figure]) -> None:
    made = figures.paper(drawn["harm_map"], "89mm")
    assert figures.paper(made, "89mm") == made
    assert figures.paper(made, 89 / 25.4) == made
    titled = figures.paper(drawn["harm_map"], title=True)
    assert figures.paper(titled) == titled
    with pytest.raises(InputError, match=r"already for paper, 3\.504 inches wide without a title"):
        figures.paper(made, "full")
    with pytest.raises(InputError, match="without a title: give the figure as it was drawn"):
        figures.paper(made, "89mm", title=True)


def test_a_caption_names_all_protocols_and_families(
    result: SweepResult, drawn: dict[str, go.Figure]
) -> None:
    assert "protocols continuation, generation;" in figures.caption(drawn["likelihood_hides"])
    lens = figures.caption(drawn["lens_trajectories"])
    assert "the token that tells the answer" in lens and "first token" not in lens
    named = figures.caption(figures.depth_contrasts(lr.localize(result, at="all")))
    assert "families retrieval, knowledge, reasoning" in named


def test_captions_of_hostile_names_are_plain_text(result: SweepResult) -> None:
    label = "<b>a_b</b> & 50%"
    frame = result.frame.replace({"task": {"facts": label}})
    cells = [
        {**cell, "task": label if cell["task"] == "facts" else cell["task"]}
        for cell in result.manifest["cells"]
    ]
    evil = SweepResult(frame, {**result.manifest, "cells": cells})
    figure = figures.paper(figures.depth_profile(evil, task=label))
    assert f"task {label};" in figures.caption(figure)
    assert "<b>a_b" not in "".join(note.text for note in figure.layout.annotations)


def test_what_a_run_allows_is_drawn(result: SweepResult) -> None:
    lens = synthetic_lens(N_LAYERS, N)
    found = figures.every(result, [lens], only=["depth_profile", "lens_trajectories"])
    assert list(found) == [
        *("depth_profile_kv_retrieval", "depth_profile_facts"),
        *("depth_profile_word_problems", "depth_profile_copying", "lens_trajectories"),
    ]
    with pytest.raises(InputError, match=r"unknown figure 'depth_profil': did you mean"):
        figures.every(result, only=["depth_profil"])
    with pytest.raises(InputError, match="no data for attention_map"):
        figures.every(result, [lens], only=["attention_map", "harm_map"])


def test_missing_browser_kaleido_or_format_raises(
    result: SweepResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import kaleido
    from choreographer.errors import ChromeNotFoundError
    from kaleido.errors import BrowserClosedError, KaleidoError

    figure = figures.harm_map(result, protocol="generation")

    def no_browser(*_: object, **__: object) -> None:
        raise ChromeNotFoundError

    with monkeypatch.context() as patched:
        patched.setattr(kaleido, "write_fig_from_object_sync", no_browser)
        with pytest.raises(InputError, match="needs Chrome or Chromium"):
            figures.save(figure, tmp_path / "x.pdf")
    for error in (TimeoutError(), BrowserClosedError("it\nfell"), KaleidoError(-32000, "no page")):

        def fails(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        with monkeypatch.context() as patched:
            patched.setattr(kaleido, "write_fig_from_object_sync", fails)
            with pytest.raises(InputError, match=r"^the browser drew no pdf \(.+\): try again"):
                figures.save(figure, tmp_path / "x.pdf")
    with monkeypatch.context() as patched:
        patched.setattr(files.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(InputError, match=r"kaleido.*pip install 'layerroles\[export\]'"):
            figures.save(figure, tmp_path / "x.svg")
    with pytest.raises(InputError, match="unknown format 'gif'"):
        figures.save(figure, tmp_path / "x.gif")
    assert not list(tmp_path.iterdir())
    # No picture that LaTeX could include, so nothing that includes one.
    written = figures.save(figure, tmp_path / "x.html")
    assert written == [tmp_path / "x.html", tmp_path / "x.txt"]


def test_latex_takes_any_name() -> None:
    words = latex_figure("A caption.", "50% of $x_1.pdf", full=False)
    assert r"{\catcode`\%=12 \catcode`\$=12 \includegraphics{50% of $x_1.pdf}}" in words
    assert r"\label{fig:50-of-x_1}" in words
    plain = latex_figure("A caption.", "harm_map.pdf", full=False)
    assert "\n  \\includegraphics{harm_map.pdf}\n" in plain and r"\label{fig:harm_map}" in plain


def test_frames_without_n_have_a_caption() -> None:
    rows = [(0, 0, q, k, "a", "b", 0.5) for q in range(3) for k in range(q + 1)]
    columns = ["layer", "head", "query", "key", "query_token", "key_token", "weight"]
    frame = pd.DataFrame(rows, columns=columns)
    assert "n =" not in figures.caption(figures.attention_pattern(frame))
