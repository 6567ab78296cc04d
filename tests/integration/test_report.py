"""The report in a real browser: it draws, stays silent and asks nothing of the network."""

import itertools
from pathlib import Path

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from layerroles.errors import InputError
from layerroles.page import report
from layerroles.results import SweepResult
from tests.support.browser_pages import drawn, opened, overflow
from tests.support.synthetic import SCRIPT, synthetic_attention, synthetic_lens, synthetic_result
from tests.support.tiers import mark_rest

N_LAYERS, N = 12, 16
# Role map, harm map, depth in numbers, a depth profile per task, what likelihood hides, outcomes,
# lens, attention.
N_FIGURES = 1 + 1 + 1 + 4 + 1 + 1 + 1 + 1


@pytest.fixture(scope="module")
def result() -> SweepResult:
    """A sweep in which every word problem carries a script tag, and one answer ends a script."""
    made = synthetic_result(N_LAYERS, N)
    examples = made.examples.copy()
    asked = examples["task"] == "word_problems"
    examples.loc[asked, "prompt"] += f" {SCRIPT}"
    frame = made.frame.copy()
    frame.loc[frame["response"] != "", "response"] += " </script><b>bold</b>"
    command = "layerroles sweep --model '</script><script>window.ran=1</script>'"
    return SweepResult(frame, {**made.manifest, "command": command}, examples)


@pytest.fixture(scope="module")
def page(result: SweepResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    probes = [synthetic_lens(N_LAYERS, N), synthetic_attention(N_LAYERS, N)]
    path = tmp_path_factory.mktemp("report") / "new folder" / "report.html"
    assert report(result, probes, path) == path
    return path


@pytest.mark.parametrize("scheme", mark_rest("browser", ["light", "dark"], first=["light"]))
def test_it_draws_every_figure_in_silence(
    browser: webdriver.Chrome, page: Path, scheme: str
) -> None:
    asked = opened(browser, page, scheme)
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert browser.get_log("browser") == []
    assert drawn(browser) == str(N_FIGURES)
    assert len(browser.find_elements(By.CSS_SELECTOR, "figure .main-svg")) >= N_FIGURES
    paper = browser.execute_script(
        "return document.querySelector('.plot')._fullLayout.paper_bgcolor"
    )
    assert (paper == "#ffffff") == (scheme == "light")


def test_text_from_models_and_data_stays_text(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page)
    assert browser.execute_script("return window.ran") is None
    answers = browser.find_element(By.ID, "answers").get_attribute("textContent") or ""
    assert SCRIPT in answers
    assert "</script><b>bold</b>" in answers
    assert browser.find_elements(By.CSS_SELECTOR, "main b") == []
    command = browser.find_element(By.CSS_SELECTOR, "#reproduce pre").text
    assert "</script><script>window.ran=1</script>" in command
    # plotly.js, the page's own, a block per figure, the explorer's, the templates: no script more.
    assert len(browser.find_elements(By.TAG_NAME, "script")) == N_FIGURES + 4


@pytest.mark.browser
def test_no_figure_offers_to_send_its_data_away(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page)
    buttons = browser.find_elements(By.CSS_SELECTOR, ".modebar-btn")
    titles = {button.get_attribute("data-title") or "" for button in buttons}
    assert any("Download" in title for title in titles)
    assert not any("Share" in title or "loud" in title for title in titles)


@pytest.mark.browser
def test_the_verdict_comes_first_and_headings_are_in_order(
    browser: webdriver.Chrome, page: Path
) -> None:
    opened(browser, page)
    heads = browser.find_elements(By.CSS_SELECTOR, "h1, h2, h3")
    levels = [int(head.tag_name[1]) for head in heads]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert [h.text for h in heads if h.tag_name == "h2"][:3] == ["Verdict", "Explore", "Set-up"]
    plots = browser.find_elements(By.CSS_SELECTOR, "[role=img]")
    assert all(plot.get_attribute("aria-label") for plot in plots)


@pytest.mark.browser
def test_the_first_screen_has_the_answer(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page)
    browser.set_window_size(1280, 1000)  # 900 of the page, and what belongs to the browser
    bottom = "return document.querySelector(arguments[0]).getBoundingClientRect().bottom"
    assert len(browser.find_elements(By.CSS_SELECTOR, ".short li")) == 3
    assert browser.execute_script(bottom, ".short") < 900
    assert browser.execute_script(bottom, ".glance") < 900
    rest = browser.find_element(By.CSS_SELECTOR, "#verdict details.rest")
    assert rest.get_attribute("open") is None
    assert len(rest.find_elements(By.CSS_SELECTOR, ".claims li")) > 10
    browser.set_window_size(1280, 1200)


@pytest.mark.browser
def test_the_table_of_effects_is_whole_filters_and_sorts(
    browser: webdriver.Chrome, page: Path, result: SweepResult
) -> None:
    opened(browser, page)
    browser.execute_script("document.querySelector('#effects details').open = true")
    rows = "return [...document.querySelectorAll('#effects-table tbody tr:not([hidden])')]"
    assert len(browser.execute_script(rows)) == len(result.effects())
    browser.execute_script(
        "const s = document.querySelector('[data-filter=task]'); s.value = 'facts';"
        "s.dispatchEvent(new Event('change'))"
    )
    assert len(browser.execute_script(rows)) == (result.effects()["task"] == "facts").sum()
    head = browser.find_element(By.XPATH, "//th/button[text()='effect']")
    head.send_keys(Keys.ENTER)  # the table is used without a mouse too
    values = browser.execute_script(f"{rows}.map(r => Number(r.cells[6].dataset.value))")
    assert values == sorted(values)


@pytest.mark.browser
def test_it_fits_a_laptop_and_a_phone(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page)
    for width in (1280, 500):
        browser.set_window_size(width, 900)
        WebDriverWait(browser, 10).until(lambda d: overflow(d) <= 0)
    browser.set_window_size(1280, 1200)


def test_it_is_one_small_file(page: Path) -> None:
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]
    assert page.stat().st_size < 8e6


def test_a_result_without_single_layers_has_a_report(result: SweepResult, tmp_path: Path) -> None:
    frame = result.frame.assign(part=result.frame["part"].replace("block", "mlp"))
    text = report(SweepResult(frame, result.manifest), path=tmp_path / "r.html").read_text("utf-8")
    assert "nothing is claimed about layers" in text
    assert '<section id="effects"' in text


def test_a_result_without_any_ablation_has_a_report(result: SweepResult, tmp_path: Path) -> None:
    frame = result.frame[result.frame["condition"] == "intact"]
    text = report(SweepResult(frame, result.manifest), path=tmp_path / "r.html").read_text("utf-8")
    assert "Nothing was ablated, so nothing is claimed about" in text
    assert "#effects" not in text
    assert '<section id="effects"' not in text


def test_an_unwritable_path_is_named(result: SweepResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file" / "report.html"):
        with pytest.raises(InputError, match=r"cannot write the report to .*choose another path"):
            report(result, path=path)


def test_a_frame_that_is_no_probe_is_refused(result: SweepResult, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a column 'probe'"):
        report(result, [pd.DataFrame({"x": [1]})], tmp_path / "r.html")
