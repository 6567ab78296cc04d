"""Figures of a run that is not finished draw harm and intervals, and mark nothing as decided."""

import plotly.graph_objects as go

from layerroles import figures
from layerroles.roles import localize
from tests.support.scripted_result import heads_result, pairs_result
from tests.support.synthetic import synthetic_result, unfinished


def standings(figure: go.Figure) -> set[str]:
    return {name for trace in figure.data if trace.type == "bar" for name in trace.customdata}


def legend(figure: go.Figure) -> list[str]:
    return [trace.name for trace in figure.data if list(trace.x) == [None]]


def headings(figure: go.Figure) -> str:
    return " ".join(note.text for note in figure.layout.annotations if note.text)


def test_all_bars_of_the_role_map_are_pale() -> None:
    result = synthetic_result(9, 48)
    finished, interim = figures.role_map(result), figures.role_map(unfinished(result))
    assert {"critical", "partial", "undecided"} <= standings(finished)
    assert len(legend(finished)) == len(standings(finished)) + 1
    assert standings(interim) == {"undecided"}
    assert legend(interim) == ["at all: undecided", "at after_first"]
    bars = [trace.y for trace in interim.data if trace.type == "bar"]
    assert all(list(y) for y in bars)


def test_captions_say_how_far_the_run_is() -> None:
    result = synthetic_result(9, 48)
    interim = unfinished(result)
    caption = figures.caption(figures.role_map(interim), interim)
    assert caption.startswith("Interim, 48 of 96 questions. ")
    assert "full where" not in caption and "all pale" in caption
    assert "full where" in figures.caption(figures.role_map(result), result)


def test_no_head_is_named_and_no_pair_is_ringed() -> None:
    heads = figures.head_harms(localize(heads_result()).heads)
    assert "1 critical: L2.H1" in headings(heads)
    assert "critical" not in headings(
        figures.head_harms(localize(unfinished(heads_result())).heads)
    )
    drawn = figures.every(unfinished(heads_result()), only=["head_harms"])["head_harms"]
    assert "critical" not in headings(drawn)
    rings = [
        [len(trace.x) for trace in figure.data if trace.name == "backup"]
        for figure in (
            figures.pair_excess(localize(pairs_result())),
            figures.pair_excess(localize(unfinished(pairs_result()))),
        )
    ]
    assert rings == [[1], [0]]
    waiting = figures.pair_excess(localize(unfinished(pairs_result())))
    assert "backup" not in waiting.layout.title.subtitle.text


def test_no_sinks_are_left_out_of_the_spread() -> None:
    result = synthetic_result(9, 48)
    assert "sinks left out" in headings(figures.depth_contrasts(localize(result)))
    assert "sinks" not in headings(figures.depth_contrasts(localize(unfinished(result))))
