"""Figures as files: vector, of the size that was asked for, with their fonts and their captions."""

import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

import layerroles as lr
from layerroles import figures
from layerroles.figures.catalogue import KINDS
from layerroles.figures.print.files import _drawing_page, save
from layerroles.results import SweepResult
from tests.support.figure_frames import attribution, pattern, scores, similarity
from tests.support.scripted_result import scripted_result
from tests.support.synthetic import synthetic_attention, synthetic_lens, synthetic_result

pytestmark = pytest.mark.browser

N_LAYERS, N = 12, 16


def probes() -> list[pd.DataFrame]:
    """A frame of each probe that has a figure."""
    lens = synthetic_lens(N_LAYERS, N)
    start = lens.example.map({example: 9 for example in lens.example.unique()})
    decision = lens.assign(
        probe="decision", margin=lens.layer - start + 0.5,
        phase=np.where(lens.layer >= start, "decisive", "silent"),
    )  # fmt: skip
    heads = scores(N_LAYERS)
    return [
        lens,
        lens.assign(probe="tuned_lens"),
        decision,
        synthetic_attention(N_LAYERS, N),
        heads.assign(probe="retrieval_score"),
        heads.assign(probe="head_scores", previous=heads.score, duplicate=np.nan, induction=0.1),
        similarity(12).assign(probe="similarity"),
        attribution("knowledge"),
    ]


def joint() -> SweepResult:
    """Single layers, pairs of them and single heads."""
    right, wrong, half = np.ones(40), np.zeros(40), np.arange(40) % 2
    conditions = {"intact": right}
    conditions |= {f"skip L{layer}": half if layer == 2 else right for layer in range(6)}
    conditions |= {f"skip L{a}+L{b}": wrong if (a, b) == (1, 4) else half
                   for a in range(6) for b in range(a + 1, 6)}  # fmt: skip
    conditions |= {f"zero L{layer}.H{head}": half for layer in range(6) for head in range(2)}
    return scripted_result({("retrieval", "generation"): conditions}, n_layers=6)


def others(result: SweepResult) -> dict[str, go.Figure]:
    """The figures that no single run allows."""
    dropped = pd.DataFrame(
        [
            {"drop": drop, "method": method, "layers": "L1", "task": "facts", "n": 32,
             "family": "knowledge", "protocol": "generation", "harm": 0.2 * drop,
             "harm_low": 0.1 * drop, "harm_high": 0.4 * drop}
            for drop in (1, 2, 3)
            for method in ("role_aware", "likelihood", "block_influence", "angular", "random")
        ]
    )  # fmt: skip
    table = pd.DataFrame(
        [
            {"probe": "logit_lens", "condition": "intact", "text": 0, "position": position,
             "token": f" t{position}", "layer": layer, "part": "block", "kl": 1.0, "rank": 0,
             "agrees": layer == 5, "top_0": " Rome", "top_0_logprob": -0.1 * (6 - layer)}
            for position in range(8)
            for layer in range(-1, 6)
        ]
    )  # fmt: skip
    runs = {"base": result["facts"], "twin": result["kv_retrieval"]}
    return {
        "answers_spent": figures.answers_spent(result),
        "protocols": figures.protocols(result, family="knowledge"),
        "harm_profiles": figures.harm_profiles(runs, protocol="generation", at="all"),
        "pruned_harm": figures.pruned_harm(dropped),
        "attention_pattern": figures.attention_pattern(pattern(12)),
        "token_table": figures.token_table(table, last=5),
    }


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(N_LAYERS, N, intact={("reasoning", "continuation"): 0.25})


@pytest.fixture(scope="module")
def drawn(result: SweepResult) -> dict[str, go.Figure]:
    found = figures.every(result, probes()) | figures.every(joint(), only=["head_harms"])
    return found | figures.every(joint(), only=["pair_excess"]) | others(result)


@pytest.fixture(scope="module")
def folder(
    drawn: dict[str, go.Figure], result: SweepResult, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        pytest.fail("no Chromium: apt-get install chromium (make browser)")
    made = tmp_path_factory.mktemp("figures") / "new"
    files = save(drawn, made, formats=["pdf", "svg"], result=result)
    assert sorted(files) == sorted(made.iterdir())
    assert len(files) == 4 * len(drawn)
    return made


def test_every_kind_of_figure_is_written(drawn: dict[str, go.Figure]) -> None:
    kinds = {figure.layout.meta["figure"] for figure in drawn.values()}
    rest = {"themed", "paper", "save", "caption", "every"}
    assert kinds == set(figures.__all__) - rest
    assert set(KINDS) < kinds


def test_a_pdf_is_vector_of_its_width_with_its_fonts(
    drawn: dict[str, go.Figure], folder: Path
) -> None:
    for name in drawn:
        pdf = (folder / f"{name}.pdf").read_bytes()
        (box,) = re.findall(rb"/MediaBox\s*\[0 0 ([\d.]+) ([\d.]+)\]", pdf)
        assert float(box[0]) == pytest.approx(3.25 * 72, abs=0.5), name
        assert float(box[1]) < 9.6 * 72, name  # of a page
        assert b"/Subtype /Image" not in pdf, name
        fonts = re.findall(rb"/FontName /[A-Z]+\+([\w-]+)", pdf)
        # No other font: which one a machine falls back on, and whether it is embedded, differs.
        assert b"Arimo-Regular" in fonts, name
        assert set(fonts) <= {b"Arimo-Regular", b"Arimo-Bold"}, name
        assert len(re.findall(rb"/FontFile2 ", pdf)) == len(fonts), name
        assert b"/Type3" not in pdf, name


def test_an_svg_holds_its_fonts_and_no_pixels(drawn: dict[str, go.Figure], folder: Path) -> None:
    for name in drawn:
        svg = (folder / f"{name}.svg").read_text("utf-8")
        assert 'width="312"' in svg[:300], name
        assert svg.count("@font-face") == 2, name
        assert "<image" not in svg, name
        assert not re.search(r'class="x\d*title" transform', svg), f"{name}: title not in its place"
        assert not re.search(r"(href|src)=.https?:", svg), name


def test_captions_tell_what_the_frame_holds(
    drawn: dict[str, go.Figure], folder: Path, result: SweepResult
) -> None:
    manifest = result.manifest
    for name, figure in drawn.items():
        words = (folder / f"{name}.txt").read_text("utf-8")
        assert f"Model {manifest['model']['name']}, {manifest['model']['dtype']}" in words
        assert f"seed {manifest['seed']}." in words
        assert f"layerroles {manifest['layerroles']}" in words
        assert words.startswith(figure.layout.meta["title"][0].upper())
        tex = (folder / f"{name}.tex").read_text("utf-8")
        assert rf"\includegraphics{{{name}.pdf}}" in tex
        assert "_" not in tex.replace(r"\_", "").replace(name, "")
    effects = result.effects()
    for name in ("role_map", "harm_map", "depth_profile_facts"):
        words = (folder / f"{name}.txt").read_text("utf-8")
        assert f"n = {effects['n'].iloc[0]}" in words
        assert "blation skip; at all, after_first; " in words
        assert "not corrected for the number of layers" in words
        assert "Tango" in words


def test_pixels_and_pages_are_written_too(result: SweepResult, tmp_path: Path) -> None:
    figure = figures.harm_map(result, protocol="generation")
    assert lr.figures.save(figure, tmp_path / "map.png", width="89mm", dpi=200) == [
        tmp_path / f"map.{ending}" for ending in ("png", "txt", "tex")
    ]
    png = (tmp_path / "map.png").read_bytes()
    wide, _ = struct.unpack(">II", png[16:24])
    assert wide == pytest.approx(89 / 25.4 * 200, abs=1)
    assert png[37:41] == b"pHYs"
    assert struct.unpack(">II", png[41:49]) == (7874, 7874)


def test_the_page_that_draws_asks_nothing_of_the_network() -> None:
    page = _drawing_page().generate_index()
    assert "http:" not in page and "https:" not in page
    assert "plotly.min.js" in page
