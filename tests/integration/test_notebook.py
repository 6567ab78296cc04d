"""The notebook of the tutorials, cell by cell in a real kernel, and completion and interrupts."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.jupyter_kernel import ROOT, Kernel, kernel

FILE = ROOT / "docs/tutorials/jupyter.ipynb"
PAGE = ROOT / "docs/tutorials/jupyter.md"
CELLS = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]
FIGURE = "application/vnd.plotly.v1+json"

# Stops at its thirtieth call and waits there for somebody to interrupt it.
SLOW = """
import time
from dataclasses import dataclass
from typing import ClassVar

@lr.ablation("slow")
@dataclass(frozen=True)
class Slow(lr.Ablation):
    calls: ClassVar[list] = []

    def edit(self, write, ctx):
        self.calls.append(1)
        if len(self.calls) == 30:
            print("waiting", flush=True)
            time.sleep(200)
        return 0 * write

slow = lr.each_layer(made.model, Slow(), layers=[1, 2, 3])
asked = lr.Sweep(made.model, made.tasks, slow, limit=8)
before = made.model("diamond water silver")
"""
HOOKS = "sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in made.model.modules())"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Kernel, list[list[Any]]]]:
    """A kernel, and what every cell of the notebook gave in it."""
    with kernel(tmp_path_factory.mktemp("notebook")) as started:
        yield started, [started.run(code) for code in CODE]


def outputs(running: tuple[Kernel, list[list[Any]]], code: str) -> list[Any]:
    """Those of the one cell that ends in this code."""
    (place,) = (n for n, cell in enumerate(CODE) if cell.endswith(code))
    return running[1][place]


def text(shown: list[Any]) -> str:
    """What a cell printed, or the text of its last value."""
    return "".join(one.get("text") or one.get("data", {}).get("text/plain", "") for one in shown)


def test_the_notebook_is_kept_without_outputs() -> None:
    for cell in CELLS:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


def test_the_page_shows_the_notebook_cell_by_cell() -> None:
    blocks = re.findall(r"^```python\n(.*?)\n```$", PAGE.read_text("utf-8"), re.M | re.S)
    assert blocks[: len(CODE)] == CODE


@pytest.mark.package
def test_every_cell_runs_and_nothing_is_noisy(running) -> None:
    for code, shown in zip(CODE, running[1], strict=True):
        assert not [one for one in shown if one["kind"] == "error"], code
        assert not [one for one in shown if one.get("name") == "stderr"], code


@pytest.mark.package
def test_values_show_as_tables(running) -> None:
    for code in ("made", "examples(1, seed=0)[0]", "\nresult", "\nroles", 'result["skip L5"]'):
        page = outputs(running, code)[-1]["data"]["text/html"]
        assert "<script" not in page
        assert "http" not in page
    assert "<mark>" in outputs(running, "examples(1, seed=0)[0]")[-1]["data"]["text/html"]
    assert text(outputs(running, "\nconditions")).startswith("<8 conditions: skip L0, ")
    assert text(outputs(running, '["skip L2"]')) == "Condition('skip L2')"
    assert "lr.localize(result)" in text(outputs(running, "\nresult"))


@pytest.mark.package
def test_the_planted_layers_are_found(running) -> None:
    lines = text(outputs(running, "found {tuple(written['critical'][family])}\")")).splitlines()
    assert len(lines) == 4
    for line in lines:
        planted, found = re.findall(r"\([\d, ]*\)", line)
        assert planted == found, line


@pytest.mark.package
def test_figures_show_without_a_call(running) -> None:
    for code in ('depth_profile(result["reasoning"])', "role_map(result, lens)"):
        (shown,) = outputs(running, code)
        assert len(shown["data"][FIGURE]["data"]) > 2
        assert "text/html" not in shown["data"], "which would bring a script from elsewhere"


@pytest.mark.package
def test_progress_is_one_line_in_the_end(running) -> None:
    sweep, floor, _ = outputs(running, "\nresult")
    assert re.fullmatch(r"sweep: 3,456 of 3,456 rows, \d.*", sweep["data"]["text/plain"])
    assert floor["data"]["text/plain"].startswith("noise floor: 384 of 384 rows")
    assert 0 < sweep["updates"] < 600


@pytest.mark.package
def test_tab_completes_names_and_keys(running) -> None:
    notebook, _ = running
    assert {"each_head", "each_layer"} <= {
        name.rpartition(".")[-1] for name in notebook.complete("lr.each_")
    }
    assert any(name.endswith("effects") for name in notebook.complete("result.eff"))
    found = " ".join(notebook.complete('result["'))
    for name in ("planted_fact", "reasoning", "generation", "skip L3"):
        assert name in found
    assert "skip L7" in " ".join(notebook.complete('conditions["skip'))


@pytest.mark.package
def test_interrupt_removes_hooks_and_the_run_can_resume(running) -> None:
    notebook, _ = running
    assert not notebook.run(SLOW)
    hooks = text(notebook.run(HOOKS))
    waiting = lambda printed: notebook.interrupt() if "waiting" in printed else None  # noqa: E731
    stopped = notebook.run('asked.run("runs/slow")', waiting)
    assert stopped[-1]["ename"] == "KeyboardInterrupt"
    assert re.match(r"sweep: stopped at \d+ of 256 rows", stopped[0]["data"]["text/plain"])
    assert text(notebook.run(HOOKS)) == hooks
    assert (
        text(notebook.run('bool((made.model("diamond water silver") == before).all())')) == "True"
    )
    again = notebook.run('went_on = asked.run("runs/slow").frame')
    assert again[0]["data"]["text/plain"].startswith("sweep: ")
    notebook.run('whole = asked.run("runs/whole").frame')
    assert text(notebook.run("bool(went_on.equals(whole)), len(whole)")) == "(True, 256)"
