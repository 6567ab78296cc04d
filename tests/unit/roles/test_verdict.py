"""Every sentence of a verdict can be followed to a figure, and every number in it to rows."""

import dataclasses
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest

from layerroles import figures
from layerroles.errors import InputError
from layerroles.page import render
from layerroles.page.sections import make_sections, section_of
from layerroles.results import SweepResult
from layerroles.roles import Roles, localize
from layerroles.roles.sentence_parts import format_layers
from layerroles.stats import tango
from tests.support.scripted_result import heads_result, pairs_result
from tests.support.synthetic import INTACT, synthetic_attention, synthetic_lens, synthetic_result

N_LAYERS, N = 9, 48


@pytest.fixture(scope="module")
def result() -> SweepResult:
    return synthetic_result(N_LAYERS, N)


@pytest.fixture(scope="module")
def roles(result: SweepResult) -> Roles:
    return localize(result, [synthetic_lens(N_LAYERS, N), synthetic_attention(N_LAYERS, N)])


def from_rows(result: SweepResult, at: str = "all") -> pd.DataFrame:
    """Harm and its interval by family, protocol and layer, straight from the rows."""
    frame = result.frame
    chance = result.intact().set_index(["task", "protocol"])["chance"]
    found = []
    for (family, task, protocol), rows in frame.groupby(["family", "task", "protocol"]):
        scores = rows.set_index(["condition", "example"])["score"]
        intact = scores["intact"]
        skill = intact.mean() - chance[task, protocol]
        single = rows[rows["layer"].notna() & (rows["at"] == at)]
        for (condition, layer), _ in single.groupby(["condition", "layer"]):
            change = scores[condition] - intact[scores[condition].index]
            interval = tango(int((change > 0).sum()), int((change < 0).sum()), len(change))
            found.append((family, protocol, int(layer), -change.mean() / skill,
                          -interval.high / skill))  # fmt: skip
    return pd.DataFrame(found, columns=["family", "protocol", "layer", "harm", "low"])


def sentences_about(roles: Roles, about: str, protocol: str = "") -> list[str]:
    return [s.text for s in roles.sentences if s.about == about and s.protocol == protocol]


def test_numbers_of_sentences_are_those_of_the_rows(result: SweepResult, roles: Roles) -> None:
    harms = from_rows(result)
    sinks = roles.frame.set_index(["family", "protocol"])["sink"]
    means = harms.groupby(["family", "protocol"])["harm"].mean()
    for (family, protocol), rows in harms.groupby(["family", "protocol"]):
        harm = rows.set_index("layer")["harm"]
        early = harm[:3].mean() - harm[6:].mean()
        assert f"{family} {early:+.2f} [" in sentences_about(roles, "depth", protocol)[0]
        critical = sorted(set(rows.loc[rows["low"] > 0.2, "layer"]) - {*sinks[family, protocol]})
        assert critical
        assert (
            f"{family} {format_layers(critical)}" in sentences_about(roles, "layers", protocol)[0]
        )
        spread = roles.frame.set_index(["family", "protocol"]).loc[(family, protocol), "effective"]
        assert f"{family} {spread:.1f} [" in sentences_about(roles, "spread", protocol)[0]
    (between,) = [line for line in sentences_about(roles, "protocols") if "Mean harm" in line]
    for family in harms["family"].unique():
        more = means[family, "generation"] - means[family, "continuation"]
        assert f"{family} {-more:+.2f} [" in between or f"{family} {more:+.2f} [" in between


def test_depth_contrasts_draw_every_number_that_is_said(roles: Roles) -> None:
    figure = figures.depth_contrasts(roles)
    drawn = {
        (round(float(trace.x[0]), 6), trace.hovertext.partition("</b>")[0]): trace
        for trace in figure.data
    }
    for _, row in roles.frame.iterrows():
        key = f"<b>{row['family']}, {row['protocol']}, n {row['n']}"
        for value, high in (("early_minus_late", "ci_high"), ("effective", "effective_high")):
            trace = drawn[round(row[value], 6), key]
            assert trace.x[0] + trace.error_x.array[0] == pytest.approx(row[high])
    contrasts = roles.contrasts[roles.contrasts["difference"].notna()]
    assert len(figure.data) == 2 * len(roles.frame) + len(contrasts)
    for _, row in contrasts.iterrows():
        assert any(abs(value - row["difference"]) < 1e-5 for value, _ in drawn)
    assert "hollow" in figure.layout.title.subtitle.text
    unskilled = synthetic_result(N_LAYERS, 16, intact=dict.fromkeys(INTACT, 0.0))
    with pytest.raises(InputError, match="no contrast of depth"):
        figures.depth_contrasts(localize(unskilled))


def test_pairs_are_drawn_with_their_backups() -> None:
    roles = localize(pairs_result())
    figure = figures.pair_excess(roles)
    cells, rings = figure.data
    assert cells.z[1][0] == pytest.approx(0.95)
    assert cells.z[3][2] == cells.z[4][2] == 0
    assert np.isnan(cells.z[0][1])
    assert (list(rings.x), list(rings.y)) == ([0], [1])
    with pytest.raises(InputError, match=r"no pairs of layers: sweep pairs\(model"):
        figures.pair_excess(localize(synthetic_result(N_LAYERS, 8)))


def test_sentences_lead_to_the_section_that_shows_them(result: SweepResult, roles: Roles) -> None:
    frames = [synthetic_lens(N_LAYERS, N), synthetic_attention(N_LAYERS, N)]
    page = render(result, frames)
    there = set(re.findall(r'<section id="([\w-]+)"', page))
    leads = re.findall(r'<li>([^<]*) <a class="see" href="#([\w-]+)"', page)
    assert {see for _, see in leads} == {*("roles", "contrasts", "harm", "logit-lens", "attention")}
    assert {see for _, see in leads} <= there
    unled = [s for s in roles.sentences if s.about in ("setting", "pairs", "heads")]
    assert len(leads) == len(roles.sentences) - len(unled)
    by_lead = {text: see for text, see in leads}
    assert [see for text, see in by_lead.items() if text.startswith("Logit lens")] == ["logit-lens"]
    assert [see for text, see in by_lead.items() if text.startswith("Mean harm")] == ["contrasts"]


def test_pairs_and_heads_are_drawn_where_they_were_ablated() -> None:
    paired = localize(pairs_result())
    drawn = {name: len(figure["figures"]) for name, figure in by_section(pairs_result(), paired)}
    assert (drawn["pairs"], drawn["heads"]) == (1, 0)
    headed = localize(heads_result())
    drawn = {name: len(figure["figures"]) for name, figure in by_section(heads_result(), headed)}
    assert (drawn["pairs"], drawn["heads"]) == (0, 1)
    assert {section_of("pairs"), section_of("heads")} <= set(drawn)


def by_section(result: SweepResult, roles: Roles) -> list[tuple[str, dict[str, Any]]]:
    outcome = np.where(result.frame["score"] > 0, "correct", "wrong")
    rows = result.frame.assign(outcome=outcome, response="")
    shown = make_sections(
        SweepResult(rows, result.manifest), {}, [roles.ablation], [roles], roles.heads
    )
    return [(section["id"], section) for section in shown]


def test_heads_are_shown_where_no_layer_was_ablated() -> None:
    whole = heads_result()
    rows = whole.frame[whole.frame["part"].isin(["", "head"])].assign(outcome="", response="")
    page = render(SweepResult(rows.reset_index(drop=True), whole.manifest))
    assert '<section id="heads"' in page
    assert "1 critical: L2.H1 0.50 [" in page


def test_mean_harm_over_all_layers_takes_all_layers(result: SweepResult) -> None:
    some = result.frame["layer"].isna() | result.frame["layer"].isin([0, 2])
    partly = SweepResult(result.frame[some].reset_index(drop=True), result.manifest)
    assert "Mean harm over all layers" not in localize(partly).verdict


def test_head_harms_name_the_critical_heads() -> None:
    roles = localize(heads_result())
    figure = figures.head_harms(roles.heads)
    (cells,) = figure.data
    assert cells.z[1][2] == pytest.approx(0.5)
    assert np.nanmax(np.delete(np.array(cells.z, dtype=float).ravel(), 1 * 6 + 2)) == 0
    (heading,) = [note.text for note in figure.layout.annotations if "critical" in note.text]
    assert "1 critical: L2.H1 0.50 [" in heading
    assert "task" not in figures.caption(figure)  # its panels are of protocols
    assert "protocol generation" in figures.caption(figure)
    with pytest.raises(InputError, match="heads were ablated by zero, name one"):
        figures.head_harms(roles.heads, ablation="mean")
    with pytest.raises(InputError, match=r"no harm of single heads: sweep each_head\(model"):
        figures.head_harms(localize(pairs_result()).heads)


@pytest.mark.parametrize(
    ("n_changed", "named"), [pytest.param(3, False, marks=pytest.mark.matrix), (12, True)]
)
def test_much_rounding_is_named(result: SweepResult, n_changed: int, named: bool) -> None:
    line = result.intact().iloc[0]
    floor = {"task": line["task"], "protocol": line["protocol"], "n": N, "n_changed": n_changed}
    known = result.manifest | {"noise_floor": [floor | {"score": 0.5, "intact": 0.5}]}
    noisy = dataclasses.replace(result, manifest=known)
    lines = sentences_about(localize(noisy), "noise")
    share = f"{n_changed} of {N} to {line['task']} ({line['protocol']})"
    assert any(share in text for text in lines) == named
    cells = [{**cell, "unit": "nats per token"} for cell in known["cells"]]
    assert not sentences_about(
        localize(dataclasses.replace(noisy, manifest=known | {"cells": cells})), "noise"
    )
    assert noisy.intact()["noise"].iloc[0] == n_changed / N
    assert f'<td class="n">{n_changed / N:.2f}</td>' in render(noisy)
