"""How public values are displayed at a prompt and in a notebook."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import layerroles as lr
from layerroles import notebook_display
from layerroles.ablations import EditContext
from layerroles.invisible_characters import visible
from layerroles.plants import Plant
from layerroles.results import SweepResult
from tests.support.random_models import random_model
from tests.support.synthetic import SCRIPT, synthetic_result


@cache
def made() -> Plant:
    return lr.planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), knowledge=(2,), inert=())


@cache
def swept() -> SweepResult:
    return synthetic_result(n_layers=6, n=32)


@cache
def compared() -> lr.Comparison:
    return lr.compare(swept(), swept())


@cache
def roles() -> lr.Roles:
    return lr.localize(swept())


def example() -> lr.Example:
    shot = lr.Example("shot", "2 + 2 =", "4")
    return lr.Example(
        "one", f"{SCRIPT} $5 or " * 40, "$5", ("$5", "$6"), ((0, 7),), "", (shot,) * 5
    )


def sweep() -> lr.Sweep:
    model = random_model("llama")
    return lr.Sweep(model, [lr.task("facts")], lr.each_layer(model, lr.Skip()), limit=4)


def likelihoods() -> Any:
    requests = [("diamond water", " silver")] * 50
    return lr.Engine(made().model).loglikelihood(requests, lr.each_layer(made().model, lr.Skip()))


def context() -> EditContext:
    seen = []

    def where(ctx: EditContext) -> Any:
        seen.append(ctx)
        return ctx.real

    with lr.ablated(made().model, lr.Condition({lr.Site(1): lr.Zero()}, at=where)):
        made().model(torch.ones(2, 3, dtype=torch.long))
    return seen[0]


def search() -> lr.HeadSearch:
    places = pd.MultiIndex.from_product([range(12), range(12)], names=["layer", "head"])
    return lr.HeadSearch(pd.Series(np.arange(144.0), places), confirm=30, audit=20)


def pruning() -> lr.PruningPlan:
    return lr.plan_pruning(made().model, tasks=made().tasks[:1], drop=1, limit=4)


VALUES: dict[str, Callable[[], object]] = {
    "plant": made,
    "conditions": lambda: lr.each_head(random_model("llama"), lr.Zero()),
    "condition": lambda: lr.Condition({lr.Site(2, "mlp"): lr.Mean(lr.Reference(["a b"] * 64))}),
    "ablation": lambda: lr.Mean(lr.Reference(["a long text " * 99] * 64)),
    "reference": lambda: lr.Reference(["a long text " * 99] * 64),
    "reference of a task": lambda: lr.Reference(lr.task("facts"), limit=3),
    "prompt": lambda: lr.Prompt(tuple(range(500)), evidence=(3,)),
    "context": context,
    "example": example,
    "task": lambda: lr.task("kv_retrieval", pairs=5),
    "engine": lambda: lr.Engine(random_model("llama")),
    "plan": lambda: lr.Engine(random_model("llama")).plan([("a b", " c")] * 99),
    "likelihoods": likelihoods,
    "sweep": sweep,
    "estimate": lambda: lr.estimate(sweep(), device="h100"),
    "result": swept,
    "comparison": compared,
    "roles": roles,
    "search": search,
    "pruning plan": pruning,
}


@pytest.mark.parametrize("name", VALUES)
def test_a_value_prints_in_a_few_lines(name: str) -> None:
    text = repr(VALUES[name]())
    assert "object at 0x" not in text
    assert len(text.splitlines()) <= 20
    assert max(map(len, text.splitlines())) <= 260
    assert len(text) < 2600


@pytest.mark.parametrize(
    "name", ["plant", "example", "plan", "estimate", "result", "comparison", "roles"]
)
def test_a_table_is_shown_in_a_notebook_without_script_or_colour(name: str) -> None:
    page = VALUES[name]()._repr_html_()  # type: ignore[attr-defined]
    assert page.startswith('<div class="tex2jax_ignore mathjax_ignore">')
    assert not re.search(r"<script|color|background|src=|href=", page)
    assert page.count("<div") == page.count("</div>")


def test_an_example_marks_its_evidence_and_escapes_its_text() -> None:
    page = example()._repr_html_()
    assert "<mark>&lt;script</mark>&gt;" in page
    assert "Before it stand 5 worked examples" in page
    assert notebook_display.html_marked("ab<c", [(1, 2), (1, 4)]).endswith(
        "a<mark>b&lt;c</mark></pre>"
    )


def test_a_long_table_is_cut_and_says_so() -> None:
    rows = pd.concat([swept().frame.assign(task=f"{n}") for n in range(21)])
    cells = [{**cell, "task": f"{n}"} for n in range(21) for cell in swept().manifest["cells"][:2]]
    many = SweepResult(rows[rows["example"] == rows["example"].iloc[0]], {"cells": cells})
    assert len(repr(many).splitlines()) < 50
    assert "(42 rows, 40 shown)" in repr(many)
    assert "(42 rows, 40 shown)" in many._repr_html_()


def test_values_say_what_to_do_next() -> None:
    assert 'sweep.run("runs/NAME")' in repr(sweep())
    assert "lr.localize(result)" in repr(swept()).splitlines()[-1]
    assert "roles.layers" in repr(roles()).splitlines()[-1]
    assert "search.judge(result)" in repr(search()).splitlines()[-1]
    for name, called in (("result", "effects"), ("comparison", "largest")):
        assert callable(getattr(VALUES[name](), called))


def test_printing_roles_says_the_verdict() -> None:
    assert str(roles()).endswith(roles().verdict)


def test_conditions_are_found_by_name_and_sliced() -> None:
    conditions = lr.each_layer(made().model, lr.Skip())
    assert conditions["skip L2"] is conditions[2]
    assert repr(conditions) == "<4 conditions: skip L0, skip L1, skip L2, skip L3>"
    assert repr(conditions[:1]) == "<1 condition: skip L0>"
    assert conditions[1:] == list(conditions)[1:]
    assert conditions._ipython_key_completions_()[-1] == "skip L3"
    with pytest.raises(lr.InputError, match="called 'skip L22': did you mean 'skip L2'"):
        conditions["skip L22"]


class Page:
    """What a notebook's front end would show, and every message that it got."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def display(self, data: dict[str, str], *, raw: bool, display_id: bool) -> "Page":
        assert raw
        assert display_id
        self.shown.append(data)
        return self

    def update(self, data: dict[str, str], *, raw: bool) -> None:
        assert raw
        self.shown.append(data)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Page:
    page = Page()
    monkeypatch.setattr("layerroles.progress.in_notebook", lambda: True)
    monkeypatch.setattr("IPython.display.display", page.display)
    return page


def test_a_notebook_shows_progress_in_one_place(page: Page, tmp_path: Path) -> None:
    one = lr.each_layer(made().model, lr.Skip(), layers=[0])
    ask = lr.Sweep(made().model, made().tasks[:1], one, limit=4, noise_floor=False)
    ask.run(tmp_path / "run")
    assert "<progress" in page.shown[0]["text/html"]
    assert page.shown[-1]["text/plain"].startswith("sweep: 16 of 16 rows, ")
    assert "<progress" not in page.shown[-1]["text/html"]
    n = len(page.shown)
    ask.run(tmp_path / "run")
    assert len(page.shown) == n, "nothing is left to do, and nothing is shown"


def test_a_notebook_shows_the_harm_of_layers_so_far(
    page: Page, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("layerroles.progress.SECONDS_BETWEEN_UPDATES", 0)
    layers = lr.each_layer(made().model, lr.Skip())
    lr.Sweep(made().model, made().tasks[:1], layers, limit=12, noise_floor=False).run(tmp_path)
    titles = [
        line
        for each in page.shown
        for line in each["text/plain"].splitlines()
        if line.startswith("Harm of each layer: skip at all; estimates after ")
    ]
    assert list(dict.fromkeys(title.split(" after ")[1] for title in titles)) == [
        "4 of 12 questions",
        "8 of 12 questions",
    ]
    assert any("<pre>Harm of each layer: " in each["text/html"] for each in page.shown)
    assert "Harm" not in page.shown[-1]["text/plain"], "the finished run is shown by its result"


def test_progress_is_left_whole_when_it_is_interrupted(page: Page) -> None:
    from layerroles.progress import show_progress

    with pytest.raises(KeyboardInterrupt), show_progress(10, "sweep") as advance:
        advance(4, f"{SCRIPT} L0")
        raise KeyboardInterrupt
    assert page.shown[-1]["text/plain"].startswith("sweep: stopped at 4 of 10 rows, ")
    assert not any("<script" in each["text/html"] for each in page.shown)


def test_unseen_signs_are_written_out_in_a_notebook(
    page: Page, monkeypatch: pytest.MonkeyPatch
) -> None:
    from layerroles.progress import show_progress

    hostile, seen = "a\u202eb\x1b[2J", r"a\u202eb\x1b[2J"
    frame = swept().frame.replace("facts", hostile)
    cells = [
        {**cell, "task": hostile if cell["task"] == "facts" else cell["task"]}
        for cell in swept().manifest["cells"]
    ]
    result = SweepResult(frame, {**swept().manifest, "cells": cells})
    parts = (
        notebook_display.html_table([hostile], [[hostile]]),
        notebook_display.html_marked(hostile, [(1, 2)]),
    )
    monkeypatch.setattr("layerroles.progress.SECONDS_BETWEEN_UPDATES", 0)
    with show_progress(10, "sweep") as advance:
        advance(4, hostile)
    for text in (
        *(repr(result), result._repr_html_(), notebook_display.html_block(*parts)),
        *page.shown[1].values(),
    ):
        assert not set("\u202e\x1b") & set(text)
        assert r"\u202e" in text
    assert seen in repr(result)
    assert visible("1\u00a0000\u3000\t\n") == "1\u00a0000\u3000\t\n"  # spaces are seen as such


def test_updates_are_not_a_flood(page: Page) -> None:
    from layerroles.progress import show_progress

    with show_progress(10_000, "sweep") as advance:
        for _ in range(10_000):
            advance(1, "L0")
    assert len(page.shown) < 50


def test_a_terminal_is_no_notebook() -> None:
    assert not notebook_display.in_notebook()
