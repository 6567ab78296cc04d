"""Strips of harm over depth: what they show of a run that goes on, in colour and in characters."""

import dataclasses
import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from rich.text import Text

import layerroles as lr
from layerroles.sweep import layer_strips, strip_lines
from tests.support.synthetic import synthetic_result

N_LAYERS = 12
# The first layer hurts, the last one helps, and those between do nothing.
PLANTED = np.array([1.0, *[0.0] * (N_LAYERS - 1)])
HARMS = {"knowledge": {"all": PLANTED}, "reasoning": {"all": PLANTED}}
INTACT = {("knowledge", "continuation"): 0.6, ("reasoning", "continuation"): 0.25}


def planted(n: int = 64, **changed: Any) -> lr.SweepResult:
    options: dict[str, Any] = {"harms": HARMS, "protocols": ["continuation"], "intact": INTACT}
    result = synthetic_result(N_LAYERS, n, **(options | changed))
    accurate = result.frame["protocol"].ne("answer_logprob")
    helped = result.frame["layer"].eq(N_LAYERS - 1).fillna(False).astype(bool) & accurate
    frame = result.frame.assign(score=result.frame["score"].mask(helped, 1.0))
    return dataclasses.replace(result, frame=frame)


def until(result: lr.SweepResult, n: int) -> lr.SweepResult:
    """The result as it was when n questions of each task were answered."""
    frame = result.frame
    answered = frame["example"].str.rpartition("-")[2].astype(int) < n
    manifest = result.manifest | {"unfinished": [{"cells": [], "conditions": []}]}
    return dataclasses.replace(
        result, frame=frame[answered].reset_index(drop=True), manifest=manifest
    )


def column(result: lr.SweepResult, name: str) -> list[Text]:
    """The cells of a column of the table; the strips are in the last, "-1"."""
    columns = layer_strips(result).columns
    headers = [str(one.header) for one in columns]
    cells = columns[-1 if name == "-1" else headers.index(name)].cells
    return [cell for cell in cells if isinstance(cell, Text)]


def colours(strip: Text) -> list[tuple[int, int, int]]:
    """Red, green and blue of each cell of a strip."""
    styles = [str(span.style) for span in strip.spans]
    assert len(styles) == len(strip.plain)
    return [
        (int(style[1:3], 16), int(style[3:5], 16), int(style[5:7], 16))
        for style in styles
        if style.startswith("#")
    ]


def printed(result: lr.SweepResult, width: int = 100) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(layer_strips(result))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_orange_hurts_and_blue_helps() -> None:
    first, *between, last = colours(column(planted(), "-1")[0])
    assert first[0] > 150 and first[0] > 1.5 * first[2]
    assert last[2] > 100 and last[2] > 1.5 * last[0]
    assert all(max(cell) < 80 for cell in between)


def test_colours_settle_as_questions_come_in() -> None:
    reds = [colours(column(until(planted(256), n), "-1")[0])[0][0] for n in (32, 96, 256)]
    assert reds == sorted(set(reds))


def test_a_row_says_how_many_questions_and_how_good_the_intact_model_is() -> None:
    result = until(planted(), 24)
    assert [cell.plain for cell in column(result, "n")] == ["24", "24"]
    intact = result.intact()
    for name, scores in (("intact", intact["score"]), ("chance", intact["chance"])):
        assert [cell.plain for cell in column(result, name)] == [f"{one:.2f}" for one in scores]
    title, header, *rows, _ = strip_lines(result)
    assert title == "Harm of each layer: skip at all; estimates after 24 of 64 questions"
    assert title == str(layer_strips(result).title)
    assert header.split() == ["family", "protocol", "n", "intact", "chance", "0", "10"]
    assert rows[0].split()[:3] == ["knowledge", "continuation", "24"]
    shown = "\n".join([*printed(result), *strip_lines(result)])
    assert not any(word in shown for word in ("critical", "spare", "sink", "undecided"))


def test_unmeasurable_harm_shows_the_reason() -> None:
    result = planted(protocols=["continuation", "answer_logprob"])
    reasons = {"knowledge answer_logprob": "no chance level"}
    reasons["reasoning continuation"] = "skill not shown"
    for lines in (printed(result), strip_lines(result)):
        rows = {" ".join(line.strip("\N{BLACK SQUARE} ").split()[:2]): line for line in lines}
        assert all(rows[key].endswith(reason) for key, reason in reasons.items())
        assert not rows["knowledge continuation"].endswith("chance")
    failed = result.frame.assign(score=math.nan, status="not finite")
    assert strip_lines(dataclasses.replace(result, frame=failed))[2].endswith("no scored answer")


@pytest.mark.parametrize("shared_family", [False, True])
def test_harm_is_that_of_the_roles(shared_family: bool) -> None:
    result = synthetic_result(N_LAYERS, 24)
    if shared_family:  # the mean over two tasks
        rename = {"knowledge": "retrieval"}
        cells = [
            cell | {"family": rename.get(cell["family"], cell["family"])}
            for cell in result.manifest["cells"]
        ]
        frame = result.frame.assign(family=result.frame["family"].replace(rename))
        result = dataclasses.replace(
            result, frame=frame, manifest=result.manifest | {"cells": cells}
        )
    layers = lr.localize(result).layers
    found = {tuple(line.split()[:2]): line.split()[-1] for line in strip_lines(result)[2:-1]}
    assert len(found) == (6 if shared_family else 8)
    for key, rows in layers.groupby(["family", "protocol"]):
        harms = rows.sort_values("layer")["harm"]
        for character, harm in zip(found[key], harms, strict=True):
            if character == "-":
                assert harm <= -0.1 + 1e-8
            else:
                tenths = 10 if character == "+" else int(character)
                assert tenths / 10 - (0.1 if tenths == 0 else 1e-8) <= harm
                assert character == "+" or harm < (tenths + 1) / 10


def test_characters_for_a_log() -> None:
    strip = strip_lines(planted())[2].split()[-1]
    assert len(strip) == N_LAYERS
    assert strip[0] in "89+" and strip[-1] == "-"
    assert set(strip[1:-1]) <= set("012-")


def test_a_layer_that_was_not_asked_is_a_dot() -> None:
    result = planted()
    frame = result.frame[~result.frame["layer"].isin([3]).fillna(False)]
    result = dataclasses.replace(result, frame=frame)
    assert strip_lines(result)[2].split()[-1].index(".") == 3
    strip = column(result, "-1")[0]
    assert strip.plain[3] == "\N{MIDDLE DOT}" and len(strip.plain) == N_LAYERS
    assert len(colours(strip)) == N_LAYERS - 1


def test_one_ablation_and_one_at_are_shown() -> None:
    both = {family: {"after_first": 0 * PLANTED, "all": PLANTED} for family in HARMS}
    result = planted(harms=both, ablations=["zero", "skip"])
    title, _, row, *_ = strip_lines(result)
    assert title == "Harm of each layer: zero at all, the first of 2 ablations"
    assert row.split()[-1][0] in "89+"
    less = result.frame[result.frame["at"].ne("all") | result.frame["ablation"].eq("intact")]
    title, _, row, *_ = strip_lines(dataclasses.replace(result, frame=less))
    assert title.startswith("Harm of each layer: zero at after_first")
    assert row.split()[-1][0] in "012-"


def test_of_several_settings_the_first_is_shown() -> None:
    result = planted(ablations=["zero", "skip"])
    frame = result.frame.assign(ablation=result.frame["ablation"].replace("skip", "zero"))
    title, _, row, *_ = strip_lines(dataclasses.replace(result, frame=frame))
    assert title == "Harm of each layer: zero at all, its first setting"
    assert row == strip_lines(result)[2]


def test_results_without_single_layers_show_a_message() -> None:
    result = planted()
    intact = dataclasses.replace(result, frame=result.frame[result.frame["condition"] == "intact"])
    line = "no answer under a condition that ablates one whole layer"
    assert strip_lines(intact) == ["Harm of each layer", line]
    assert printed(intact) == ["Harm of each layer", line]
    assert strip_lines(until(intact, 4))[1] == f"{line} yet"
    assert strip_lines(until(result, 0))[1] == f"{line} yet"


def test_a_narrow_terminal_folds_numbers_and_cells_at_the_same_layers() -> None:
    lines = printed(planted(), width=55)
    numbers = [line.split()[-1] for line in lines if "\N{BOX DRAWINGS LIGHT HORIZONTAL}" in line]
    cells = [line.split()[-1] for line in lines if line.endswith("\N{FULL BLOCK}")]
    assert len(numbers) > 1
    assert [len(part) for part in numbers] == [len(part) for part in cells]


def test_names_do_not_steer_the_terminal() -> None:
    result = planted()
    frame = result.frame.assign(family="\x1b[2J[red]")
    shown = "\n".join([*strip_lines(dataclasses.replace(result, frame=frame))])
    shown += "\n".join(printed(dataclasses.replace(result, frame=frame)))
    assert "\x1b" not in shown
    assert shown.count("\\x1b[2J[red]") >= 2
