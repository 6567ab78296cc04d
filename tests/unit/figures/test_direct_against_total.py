"""The figure of direct against total effects holds the numbers that it was given."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import layerroles as lr
from layerroles.roles import localize
from layerroles.roles.probe_summary import summarize_probes
from tests.support.figure_frames import LAYERS, N, attribution
from tests.support.synthetic import synthetic_result


def test_marks_stand_at_the_mean_direct_effect_and_the_harm() -> None:
    result = synthetic_result(LAYERS, N, intact={("reasoning", "continuation"): 0.27})
    frame = attribution("knowledge", "reasoning")
    figure = lr.figures.direct_against_total(frame, result)
    effects = result.effects()
    effects = effects[(effects["task"] == "facts") & (effects["at"] == "all")]
    marks = [trace for trace in figure.data if trace.name == "knowledge"]
    assert len(marks) == 2
    own = effects[effects["protocol"] == "continuation"].sort_values("layer")
    np.testing.assert_allclose(np.array(marks[0].y, float), own["harm"].to_numpy(float))
    values = frame[(frame["family"] == "knowledge") & (frame["layer"] >= 0)]
    each = values.groupby(["layer", "example"])["logit"].sum().unstack(0)
    np.testing.assert_allclose(np.array(marks[0].x, float), each.mean().to_numpy())
    half = 2.131449546 * each.std() / np.sqrt(N)  # Student's t with 15 degrees of freedom
    np.testing.assert_allclose(np.array(marks[0].error_x.array, float), half, rtol=1e-6)
    assert any("5" in text for text in marks[0].text)
    assert any("not measurable" in note.text for note in figure.layout.annotations)
    assert len([trace for trace in figure.data if trace.name == "reasoning"]) == 1


def test_what_cannot_be_drawn_is_refused() -> None:
    result = synthetic_result(3, 8)
    with pytest.raises(lr.InputError, match="no task in common"):
        lr.figures.direct_against_total(attribution("knowledge").assign(task="other"), result)
    with pytest.raises(lr.InputError, match="logit not found"):
        lr.figures.direct_against_total(attribution("knowledge").drop(columns="logit"), result)


def test_a_frame_without_the_intact_model_is_left_out_of_reports(tmp_path: Path) -> None:
    result = synthetic_result(LAYERS, 8)
    under = attribution("knowledge").assign(condition="skip L3.attn")
    with pytest.raises(lr.InputError, match=r"of the intact model, and its frame holds skip L3\.a"):
        lr.figures.direct_against_total(under, result)
    drawn = lr.figures.every(result, [under])
    assert drawn.keys() == lr.figures.every(result).keys()
    assert lr.report(result, probes=[under], path=tmp_path / "report.html").exists()
    with pytest.raises(lr.InputError, match="no data for direct_against_total"):
        lr.figures.every(result, [under], only=["direct_against_total"])


def test_every_probe_is_summed_up_or_passed_over() -> None:
    direct = attribution("knowledge")
    heads = direct[direct["layer"] >= 0].assign(head=lambda frame: (frame["part"] == "mlp") * 1)
    retrieval = heads.assign(probe="retrieval_score", score=heads["logit"])
    blocks = direct[direct["part"] == "attn"].assign(probe="similarity", n=1)
    blocks = blocks.assign(influence=blocks["logit"])
    margin = blocks.assign(probe="decision", part="block", margin=blocks["layer"] - 2.5)
    under = margin.assign(condition="skip L0", margin=9.0)
    lens = blocks.assign(probe="tuned_lens", part="block", rank=5 - blocks["layer"])
    between = lens.assign(part="attn", rank=9)
    frames = [direct, retrieval, blocks, margin, under, pd.concat([lens, between])]
    table = summarize_probes(frames).set_index("probe")
    assert table.loc["attribution", "site"].tolist() == ["L5", "L4", "L3"]
    assert table.loc["retrieval_score", "site"].tolist() == ["L5.H1", "L4.H1", "L3.H1"]
    assert table.loc["similarity", "site"].tolist() == ["L0", "L1", "L2"]
    assert table.loc["decision", "emergence"] == 3
    assert table.loc["decision", "n"] == N
    assert table.loc["tuned_lens", "emergence"] == 5
    verdict = localize(synthetic_result(LAYERS, 8), frames).verdict
    assert "Decision, the layer from which the right option stays ahead" in verdict
    assert "Tuned lens, the layer from which the answer stays on top" in verdict
    assert "Retrieval score, the heads that copy" in verdict


def test_a_registered_probe_that_cannot_be_summed_up_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(lr.probes.PROBES._classes, "mine", lr.probes.LogitLens)
    assert summarize_probes([attribution("knowledge").assign(probe="mine")]).empty


def test_the_axis_covers_every_harm() -> None:
    """An accuracy of 0 where chance is 0.25 is a harm far above 1 if intact accuracy is 0.45."""
    harms = {"knowledge": {"all": [0.0, 2.2, 0.1, 0.0, 0.0, -1.4]}}
    intact = {("knowledge", "continuation"): 0.45}
    result = synthetic_result(
        LAYERS, 200, harms=harms, protocols=["continuation"], intact=intact, churn=0.0
    )
    figure = lr.figures.direct_against_total(attribution("knowledge"), result)
    (marks,) = (trace for trace in figure.data if trace.name == "knowledge")
    low, high = figure.layout.yaxis.range
    assert min(marks.y) < -0.6 and max(marks.y) > 1.6
    assert low < min(marks.y) and max(marks.y) < high
    usual = lr.figures.direct_against_total(attribution("knowledge"), synthetic_result(LAYERS, N))
    assert usual.layout.yaxis.range == (-0.6, 1.6)
