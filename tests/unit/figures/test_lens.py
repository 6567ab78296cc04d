"""What the figures of lenses and decisions draw: the numbers in their traces, never pixels."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from layerroles import figures
from layerroles.errors import InputError
from layerroles.figures import style
from layerroles.figures.lens import lens_summary
from tests.support.synthetic import synthetic_lens

N_LAYERS, N = 10, 16
DOT = "\N{MIDDLE DOT}"


@pytest.fixture(scope="module")
def lens() -> pd.DataFrame:
    frame = synthetic_lens(N_LAYERS, N)
    kl = 0.5 * (N_LAYERS - 1 - frame.layer) + 100 * (frame.layer == -1) + 0.01 * (frame.index % 7)
    return frame.assign(kl=kl, part="block", condition="intact")


@pytest.fixture(scope="module")
def decision(lens: pd.DataFrame) -> pd.DataFrame:
    """Margins that rise over depth; the choice is made somewhere behind the middle."""
    rng = np.random.default_rng(0)
    starts = {example: int(rng.integers(5, 9)) for example in lens.example.unique()}
    start = lens.example.map(starts)
    phase = np.where(lens.layer >= start, "decisive", "silent")
    return lens.assign(margin=lens.layer - start + 0.5, phase=phase)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Three depths of two texts; the tokens of the first are hostile."""
    tokens = ["<b>", " a", "\n", "\N{DOWNWARDS ARROW}x"]
    rows = [
        {
            "probe": "logit_lens", "condition": "intact", "text": text, "position": position,
            "token": token, "layer": layer, "part": "block", "kl": 2.0 - layer, "rank": position,
            "agrees": layer == 1, "top_0": f"<i>{position}{layer}", "top_0_logprob": np.log(0.25),
        }
        for text in (0, 1)
        for position, token in enumerate(tokens)
        for layer in (-1, 0, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def lines(figure: go.Figure) -> dict[str, go.Scatter]:
    return {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}


def test_divergence_of_two_lenses_is_drawn_side_by_side(lens: pd.DataFrame) -> None:
    tuned = lens.assign(probe="tuned_lens", kl=lens.kl / 2)
    figure = figures.lens_trajectories([lens, tuned], measure="kl")
    drawn = lines(figure)
    assert len(drawn) == 8
    one, two = (drawn[f"retrieval {DOT} {name} lens"] for name in ("logit", "tuned"))
    expected = lens[lens.family == "retrieval"].groupby("layer").kl.mean()
    np.testing.assert_allclose(one.y, expected)
    np.testing.assert_allclose(two.y, expected / 2)
    assert one.line.color == two.line.color == style.FAMILY_COLOUR["retrieval"]
    assert (one.line.dash, two.line.dash) == ("solid", "dash")
    assert figure.layout.yaxis.range[1] < 10  # the embedding would flatten the rest
    assert "embedding up to 105 nats, beyond the axis" in figure.layout.title.subtitle.text


@pytest.mark.parametrize(("n_tokens", "named"), [(6400, True), (332351, True), (332352, False)])
def test_a_lens_trained_on_little_is_named(lens: pd.DataFrame, n_tokens: int, named: bool) -> None:
    training = {"trained_tokens": n_tokens, "map_parameters": 332352}
    tuned = lens.assign(probe="tuned_lens", **training)
    figure = figures.lens_trajectories([lens, tuned], measure="kl")
    words = f"tuned lens trained on {n_tokens:,} tokens for 332,352 parameters a layer"
    assert (words in figure.layout.title.subtitle.text) == named
    assert (words in figures.caption(figure)) == named
    assert "tuned lens trained" not in figures.caption(figures.lens_trajectories(lens))


def test_trajectories_of_conditions_are_lines_of_their_own(lens: pd.DataFrame) -> None:
    under = lens.assign(condition="skip L3", rank=lens["rank"] + 5)
    figure = figures.lens_trajectories([lens, under])
    drawn = lines(figure)
    assert set(drawn) == {
        f"{family} {DOT} {condition}"
        for family in lens.family.unique()
        for condition in ("intact", "skip L3")
    }
    median = lens[lens.family == "knowledge"].groupby("layer")["rank"].median() + 1
    np.testing.assert_array_equal(drawn[f"knowledge {DOT} skip L3"].y, median + 5)
    assert "intact model" not in figure.layout.title.subtitle.text


def test_the_stream_between_sublayers_is_left_out(lens: pd.DataFrame) -> None:
    both = pd.concat([lens, lens.assign(part="attn", rank=99)])
    mine, alone = lines(figures.lens_trajectories(both)), lines(figures.lens_trajectories(lens))
    for name, line in alone.items():
        np.testing.assert_array_equal(mine[name].y, line.y)


def test_margins_and_starts_are_drawn(decision: pd.DataFrame) -> None:
    figure = figures.decision_margin(decision)
    own = decision[decision.family == "knowledge"]
    line = lines(figure)["knowledge"]
    np.testing.assert_allclose(line.y, own.groupby("layer").margin.mean())
    start = next(trace for trace in figure.data if trace.name == "knowledge start")
    starts = own[own.phase == "decisive"].groupby("example").layer.min()
    assert start.x[0] == starts.median()
    low, high = np.sort(starts)[[3, -4]]  # of 16: the 4th and the 13th
    assert start.x[0] - start.error_x.arrayminus[0] == low
    assert start.x[0] + start.error_x.array[0] == high
    assert f"n {N}" in start.hovertext[0]
    assert "0-based" in figure.layout.title.subtitle.text


def test_layers_before_the_decisive_phase_are_drawn_alone(decision: pd.DataFrame) -> None:
    early = decision[decision.layer < 3]
    assert set(early.phase) == {"silent"}
    drawn = lines(figures.decision_margin(early))
    margin = early[early.family == "knowledge"].groupby("layer").margin.mean()
    np.testing.assert_allclose(drawn["knowledge"].y, margin)


def test_the_token_table_holds_tokens_as_text(table: pd.DataFrame) -> None:
    figure = figures.token_table(table, last=3)
    (cells,) = figure.data
    assert cells.z.shape == (3, 3)
    np.testing.assert_allclose(cells.z, 0.25)
    # Rows from the embedding up, columns from the second token on; markup is text.
    assert cells.text[0].tolist() == ["&lt;i&gt;1-1", "&lt;i&gt;2-1", "&lt;i&gt;3-1"]
    assert cells.text[2, 0] == "<b>&lt;i&gt;11</b>"  # what the model says in the end
    assert list(figure.layout.xaxis.ticktext) == [
        "\N{OPEN BOX}a", "\N{DOWNWARDS ARROW WITH CORNER LEFTWARDS}", "\N{DOWNWARDS ARROW}x",
    ]  # fmt: skip
    assert list(figure.layout.yaxis.ticktext) == ["emb", "0", "1"]
    assert "position 1" in cells.hovertext[0, 0]
    assert "&lt;i&gt;1-1" in cells.hovertext[0, 0]


def test_invalid_arguments_of_lens_figures_raise(
    lens: pd.DataFrame, table: pd.DataFrame, decision: pd.DataFrame
) -> None:
    with pytest.raises(InputError, match="last must be 1 or more, got 0"):
        figures.token_table(table, last=0)
    with pytest.raises(InputError, match="unknown text 7"):
        figures.token_table(table, text=7)
    with pytest.raises(InputError, match="draws one condition, and the frame holds intact, skip"):
        figures.token_table(pd.concat([table, table.assign(condition="skip L1")]))
    with pytest.raises(InputError, match="top_0, top_0_logprob not found"):
        figures.token_table(table.drop(columns=["top_0", "top_0_logprob"]))
    with pytest.raises(InputError, match="margin, phase not found"):
        figures.decision_margin(lens)
    with pytest.raises(InputError, match="kl not found"):
        figures.lens_trajectories(lens.drop(columns="kl"), measure="kl")
    with pytest.raises(InputError, match="not found"):
        figures.lens_trajectories([])


@pytest.mark.parametrize("n_layers", [1, 30, 80])
def test_figures_draw_any_depth(n_layers: int) -> None:
    frame = synthetic_lens(n_layers, 8)
    made = frame.assign(margin=frame.layer, phase="decisive")
    figure = figures.decision_margin(made)
    assert len(figure.layout.xaxis2.tickvals) <= 22
    assert figures.lens_trajectories(frame.assign(kl=0.0), measure="kl").data


@pytest.mark.parametrize(("n", "has_interval"), [(1, False), (5, False), (6, True)])
def test_a_median_of_fewer_than_6_examples_has_no_interval(n: int, has_interval: bool) -> None:
    """From the least to the largest of 5 values is an interval with a level of 93.75%."""
    frame = synthetic_lens(3, n)
    summary = lens_summary(frame, measure="rank")
    assert summary["value"].notna().all()
    for end in ("low", "high"):
        assert (summary[end].notna() == has_interval).all()
    decision = frame.assign(margin=frame.layer, phase="decisive", part="block")
    (start, *_) = (t for t in figures.decision_margin(decision).data if t.name.endswith(" start"))
    assert np.isfinite(start.x[0])
    assert np.isfinite(start.error_x.array[0]) == has_interval
