"""`make demo`'s own script to its end, with few examples of a task, and its report in a browser."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

import layerroles as lr
from tests.support.browser_pages import drawn, opened

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.experiments


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The run folder of the script, and what it printed."""
    out = tmp_path_factory.mktemp("demo") / "run"
    command = [sys.executable, "experiments/demo.py", "--limit", "2", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out, done.stdout


def test_the_demo_asks_every_layer_and_prints_what_it_found(demo: tuple[Path, str]) -> None:
    out, printed = demo
    result = lr.read(out)
    assert not result.manifest["unfinished"]
    at_all = result.frame[result.frame["at"] == "all"]
    assert set(at_all["layer"].dropna()) == set(range(30))
    assert set(result.frame["protocol"]) == {"continuation", "generation"}
    n_asked = at_all.groupby(["condition", "task", "protocol"])["example"].nunique()
    assert set(n_asked) == {2}
    assert len(n_asked) == (1 + 30) * 4 * 2
    assert str(lr.localize(result)) in printed
    assert printed.endswith(f"Report: {out / 'report.html'}\n")


def test_its_report_draws_every_figure_in_silence(
    browser: webdriver.Chrome, demo: tuple[Path, str]
) -> None:
    page = demo[0] / "report.html"
    requests = opened(browser, page)
    assert [url for url in requests if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.get_log("browser") == []
    plots = browser.find_elements(By.CSS_SELECTOR, ".plot")
    assert drawn(browser) == str(len(plots))
    assert len(plots) >= 8
    assert all(plot.find_elements(By.CSS_SELECTOR, ".main-svg") for plot in plots)
    shown = browser.find_element(By.TAG_NAME, "main").text
    assert json.loads((demo[0] / "manifest.json").read_text("utf-8"))["model"]["name"] in shown
