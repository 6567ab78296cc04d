"""The report's explorer in a real browser shows the selected rows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from layerroles.figures import style
from layerroles.invisible_characters import visible
from layerroles.page import report
from layerroles.results import SweepResult, compare
from tests.support.browser_pages import opened, overflow
from tests.support.synthetic import synthetic_lens, synthetic_result

pytestmark = pytest.mark.browser

N_LAYERS, N = 12, 16
# What a model or a data set might write to break a page.
HOSTILE = (
    "</script><script>window.ran=1</script><img src=x onerror='window.ran=1'> \u2028\u2029"
    " \u202eright to left\u202c \x1b[31mred\x07\x00 &lt; ]]> <!-- ` ${window.ran=1}"
)
CARDS = """
return [...document.querySelectorAll('#cards article')].map(card => ({
  id: card.getAttribute('aria-label'),
  prompt: card.querySelectorAll('.said')[0].textContent,
  answer: card.querySelectorAll('.said')[1].textContent,
  pairs: [...card.querySelectorAll('.pair')].map(pair => [...pair.children].map(side => ({
    outcome: side.querySelector('.label span:last-child').textContent,
    text: side.querySelector('.said').textContent,
    marked: [...side.querySelectorAll('ins, del')].map(mark => mark.textContent)}))),
  lens: card.querySelector('svg')?.getAttribute('aria-label') ?? ''}))
"""


@pytest.fixture(scope="module")
def result() -> SweepResult:
    """A sweep in which one question, and one answer of every condition, is hostile."""
    made = synthetic_result(N_LAYERS, N)
    examples, frame = made.examples.copy(), made.frame.copy()
    examples.loc[examples["example"] == "facts-0003", "prompt"] += HOSTILE
    asked = (frame["example"] == "facts-0003") & (frame["protocol"] == "generation")
    frame.loc[asked & (frame["response"] != ""), "response"] += HOSTILE
    return SweepResult(frame, made.manifest, examples)


@pytest.fixture(scope="module")
def lens() -> pd.DataFrame:
    return synthetic_lens(N_LAYERS, N)


@pytest.fixture(scope="module")
def page(result: SweepResult, lens: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(result, [lens], tmp_path_factory.mktemp("explore") / "report.html")


@pytest.fixture
def explorer(browser: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    """The opened page; after the test, no request and no browser error may have occurred."""
    asked = opened(browser, page)
    yield browser
    assert browser.get_log("browser") == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []


def choose(browser: webdriver.Chrome, **chosen: str) -> None:
    """Follow a link to a state of the explorer, and show all its answers."""
    browser.execute_script("location.hash = arguments[0]", f"#explore?{urlencode(chosen)}")
    wait_for(browser, f"· {chosen['condition']} ·")
    for _ in range(5):
        browser.execute_script("const m = document.getElementById('more'); m.hidden || m.click()")


def wait_for(browser: webdriver.Chrome, words: str) -> None:
    WebDriverWait(browser, 10).until(lambda d: words in d.find_element(By.ID, "chosen").text)


def cards(browser: webdriver.Chrome) -> list[dict[str, Any]]:
    return list(browser.execute_script(CARDS))


def state(browser: webdriver.Chrome) -> tuple[list[str], list[str], str]:
    """The labels of the chosen cells, of those that the tab key reaches, and of the focus."""
    cells = "[...document.querySelectorAll('#strips [role=option]')]"
    label = "(cell) => cell.getAttribute('aria-label').split(',')[0]"
    chosen, reached, focus = browser.execute_script(
        f"return [{cells}.filter(c => c.ariaSelected === 'true').map({label}),"
        f"{cells}.filter(c => c.tabIndex === 0).map({label}),"
        "document.activeElement.getAttribute('aria-label') ?? '']"
    )
    return chosen, reached, str(focus).split(",")[0]


def test_clicks_and_keys_choose_a_layer(explorer: webdriver.Chrome) -> None:
    assert explorer.execute_script("return location.hash") == ""
    explorer.execute_script("document.querySelectorAll('#strips [role=option]')[4].click()")
    assert state(explorer)[:2] == (["layer 4"], ["layer 4"])
    explorer.execute_script("document.querySelectorAll('#strips [role=option]')[4].focus()")
    moves = [(Keys.ARROW_RIGHT, 5), (Keys.END, 11), (Keys.ARROW_RIGHT, 11), (Keys.ARROW_LEFT, 10),
             (Keys.HOME, 0), (Keys.ARROW_LEFT, 0)]  # fmt: skip
    for key, layer in moves:
        explorer.switch_to.active_element.send_keys(key)
        name = f"layer {layer}"
        assert state(explorer) == ([name], [name], name)
        assert explorer.find_element(By.ID, "chosen").text.startswith(f"Layer {layer} ·")
        assert f"condition=skip+L{layer}&" in explorer.execute_script("return location.hash")
    assert explorer.find_element(By.ID, "said").get_attribute("textContent").startswith("layer 0:")


@pytest.mark.parametrize("task", ["facts", "word_problems"])
def test_the_answers_are_those_of_changed_answers(
    explorer: webdriver.Chrome, result: SweepResult, task: str
) -> None:
    for condition in ("skip L0", "skip L11 after_first"):
        choose(explorer, task=task, protocol="generation", condition=condition, show="changed")
        expected = result.changed_answers(condition, task, "generation")
        shown = cards(explorer)
        assert [card["id"] for card in shown] == expected["example"].tolist()
        for card, row in zip(shown, expected.to_dict("records"), strict=True):
            (intact, ablated) = card["pairs"][0]
            assert card["prompt"] == visible(row["prompt"])
            assert card["answer"] == row["answer"]
            assert intact["text"] == (visible(row["intact_response"]) or "(empty)")
            assert ablated["text"] == (visible(row["response"]) or "(empty)")
            assert intact["outcome"][2:] == row["intact_outcome"]
            assert ablated["outcome"][2:] == row["outcome"]
            assert ablated["outcome"].startswith("✓") == (row["outcome"] == "correct")
            assert intact["marked"] or ablated["marked"]  # an outcome changes with the words
            assert all(words in row["response"] for words in ablated["marked"] if "<" not in words)


def test_filters_show_the_matching_answers(explorer: webdriver.Chrome, result: SweepResult) -> None:
    frame = result.frame[
        (result.frame["task"] == "word_problems") & (result.frame["protocol"] == "generation")
    ]
    scores = frame.pivot(index="example", columns="condition", values="score")
    change = scores["skip L1"] - scores["intact"]
    kept = {
        "all": change.index,
        "worse": change.index[change < 0],
        "better": change.index[change > 0],
    }
    where = {"task": "word_problems", "protocol": "generation", "condition": "skip L1"}
    choose(explorer, **where, show="changed")
    for show, examples in kept.items():
        radio = explorer.find_element(By.CSS_SELECTOR, f"#show input[value={show}]")
        radio.send_keys(Keys.SPACE)  # as the keyboard does it
        choose(explorer, **where, show=show)
        assert sorted(card["id"] for card in cards(explorer)) == sorted(examples)
        label = explorer.find_element(By.CSS_SELECTOR, "#show input:checked + span").text
        assert label.endswith(f"({len(examples)})")


def test_the_effect_is_that_of_the_table(explorer: webdriver.Chrome, result: SweepResult) -> None:
    effects = result.effects()
    for condition in ("skip L3", "skip L4 after_first"):
        choose(explorer, task="facts", protocol="continuation", condition=condition)
        row = effects[(effects["task"] == "facts") & (effects["condition"] == condition)]
        row = row[row["protocol"] == "continuation"].iloc[0]
        summary = explorer.find_element(By.ID, "summary").text
        assert style.format_interval(row["effect"], row["ci_low"], row["ci_high"]) in summary
        assert style.format_interval(row["harm"], row["harm_low"], row["harm_high"]) in summary


def test_a_link_restores_what_was_chosen(browser: webdriver.Chrome, page: Path) -> None:
    link = {"task": "copying", "protocol": "continuation", "condition": "skip L7 after_first"}
    browser.get("about:blank")
    browser.get(
        f"{page.as_uri()}#explore?{urlencode({**link, 'show': 'all', 'lens': 'probability'})}"
    )
    wait_for(browser, "· skip L7 after_first ·")
    chosen = browser.execute_script(
        "return [...document.querySelectorAll('[data-choice]')].map(s => s.value)"
    )
    assert chosen == ["copying", "continuation", "skip", "after_first", "block"]
    assert state(browser)[0] == ["layer 7"]
    for name, value in (("show", "all"), ("lens", "probability")):
        assert (
            browser.find_element(By.CSS_SELECTOR, f"[name={name}]:checked").get_attribute("value")
            == value
        )
    assert "probability" in cards(browser)[0]["lens"]
    browser.get("about:blank")
    browser.get(f"{page.as_uri()}#explore?task=none&condition=%00")  # of another run
    WebDriverWait(browser, 10).until(lambda of: len(state(of)[0]) == 1)
    assert browser.get_log("browser") == []


def test_another_task_keeps_the_layer(explorer: webdriver.Chrome) -> None:
    choose(explorer, task="facts", protocol="generation", condition="skip L5 after_first")
    select = explorer.find_element(By.CSS_SELECTOR, "[data-choice=task]")
    select.send_keys("reasoning")
    assert explorer.find_element(By.ID, "chosen").text == (
        "Layer 5 · skip L5 after_first · word_problems, generation"
    )
    assert "task=word_problems" in explorer.execute_script("return location.hash")


def test_a_click_in_a_figure_chooses_its_layer(explorer: webdriver.Chrome) -> None:
    figure = explorer.find_element(By.CSS_SELECTOR, "#harm-0 .nsewdrag")
    explorer.execute_script("arguments[0].scrollIntoView({block: 'center'})", figure)
    rows = "document.getElementById('harm-0').data.find(t => t.meta?.rows).meta.rows"
    row, x, y = explorer.execute_script(
        f"const p = document.getElementById('harm-0'), l = p._fullLayout, rows = {rows};"
        "const at = rows.findIndex(r => r.task === 'facts' && r.at === 'after_first');"
        "return [rows[at], l.xaxis.d2p(8) - l.xaxis._length / 2,"
        "l.yaxis.d2p(at) - l.yaxis._length / 2]"
    )
    point = ActionChains(explorer).move_to_element_with_offset(figure, int(x), int(y))
    for seconds in (0.3, 1, 3):  # until a busy machine has noticed the pointer, which a click needs
        point.pause(seconds).click().perform()
        if explorer.execute_script("return location.hash"):
            break
        point.reset_actions()
        point.move_to_element_with_offset(figure, int(x) + 1, int(y))
    wait_for(explorer, f"skip L8 after_first · facts, {row['protocol']}")
    assert state(explorer)[2] == "layer 8"  # the keys go on from there
    explorer.back()
    assert explorer.execute_script("return location.hash") == ""


def test_the_lens_is_that_of_the_example(explorer: webdriver.Chrome, lens: pd.DataFrame) -> None:
    choose(
        explorer, task="facts", protocol="generation", condition="skip L6", show="all", lens="rank"
    )
    own = lens[lens["task"] == "facts"].set_index(["example", "layer"])["rank"] + 1
    for card in cards(explorer)[:4]:
        at, end = own[card["id"], 6], own[card["id"], N_LAYERS - 1]
        assert f"after layer 6 rank {at}, at the end rank {end}" in card["lens"]
    here = explorer.find_elements(By.CSS_SELECTOR, "#cards svg .here")
    assert len(here) == N
    points = explorer.execute_script(
        "return document.querySelector('#cards polyline').getAttribute('points')"
    )
    assert len(points.split()) == N_LAYERS + 1  # the embedding too


def test_hostile_text_is_shown_and_does_nothing(explorer: webdriver.Chrome) -> None:
    choose(explorer, task="facts", protocol="generation", condition="skip L1", show="all")
    card = next(card for card in cards(explorer) if card["id"] == "facts-0003")
    for text in (card["prompt"], card["pairs"][0][0]["text"]):
        assert "</script><script>window.ran=1</script><img src=x" in text
        assert r"\u2028\u2029 \u202eright to left\u202c \x1b[31mred\x07\x00 &lt; ]]>" in text
    assert explorer.execute_script("return window.ran") is None
    assert explorer.find_elements(By.CSS_SELECTOR, "#cards img, #cards script") == []
    whole = explorer.execute_script("return document.body.textContent")
    assert not set("\u2028\u202e\u202c\x1b\x07\x00") & set(whole)


def test_it_has_labels_and_roles(explorer: webdriver.Chrome) -> None:
    unnamed = explorer.execute_script(
        "return [...document.querySelectorAll('main select, main input, main button, [role=img],"
        "[role=listbox], [role=option], [role=region], [role=group]')]"
        ".filter(e => !(e.getAttribute('aria-label') || e.textContent.trim()"
        "|| e.labels?.[0]?.textContent.trim() || e.closest('.modebar')))"
        ".map(e => e.outerHTML.slice(0, 90))"
    )
    assert unnamed == []
    assert (
        explorer.execute_script(
            "const ids = [...document.querySelectorAll('main [id]:not(svg *)')].map(e => e.id);"
            "return ids.filter((id, i) => ids.indexOf(id) !== i)"
        )
        == []
    )
    assert (
        explorer.execute_script(
            "return [...document.querySelectorAll('*')].flatMap(e => e.getAttributeNames())"
            ".filter(name => name.startsWith('on'))"
        )
        == []
    )
    assert explorer.execute_script(
        "return [...document.querySelectorAll('[role=option]')]"
        ".every(e => e.parentElement.role === 'listbox')"
    )


@pytest.mark.parametrize("width", [360, 640])  # a phone; a laptop at 200%
def test_it_fits_small_windows(browser: webdriver.Chrome, page: Path, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        opened(browser, page)
        assert overflow(browser) <= 0
        small = browser.execute_script(
            "return [...document.querySelectorAll('#explore *, nav a, .controls *')]"
            ".filter(e => e.matches('[role=option], select, button, label:has(input), a'))"
            ".map(e => e.getBoundingClientRect())"
            ".filter(b => b.width && (b.width < 24 || b.height < 24)).length"
        )
        assert small == 0
        browser.execute_script("document.querySelectorAll('#strips [role=option]')[1].focus()")
        browser.switch_to.active_element.send_keys(Keys.ARROW_DOWN)
        below = "layer 11" if width == 360 else "layer 1"  # rows of ten, or one row
        assert state(browser)[2] == below
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_is_left_out_of_print_and_without_scripts(browser: webdriver.Chrome, page: Path) -> None:
    opened(browser, page)
    shown = "return document.getElementById('explore').checkVisibility()"
    assert browser.execute_script(shown)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert not browser.execute_script(shown)
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get("about:blank")
        browser.get(page.as_uri())
        assert not browser.find_element(By.ID, "explore").is_displayed()
        assert browser.find_element(By.CSS_SELECTOR, "#verdict table").is_displayed()
        assert browser.find_element(By.CSS_SELECTOR, "#answers .answer").is_displayed()
        assert (
            browser.find_elements(By.CSS_SELECTOR, "nav [href='#explore']")[0].is_displayed()
            is False
        )
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_two_runs_are_shown_side_by_side(
    browser: webdriver.Chrome, result: SweepResult, tmp_path: Path
) -> None:
    other = synthetic_result(8, N, seed=5)
    asked = opened(browser, report(result, path=tmp_path / "two.html", against=other))
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    choose(browser, task="facts", protocol="generation", condition="skip L2", show="all")
    assert state(browser)[0] == ["layer 2", "layer 2"]
    row = compare(result, other).frame.set_index(["task", "protocol", "condition"])
    row = row.loc["facts", "generation", "skip L2"]
    summary = browser.find_element(By.ID, "summary").text
    assert style.format_interval(row["difference"], row["low"], row["high"]) in summary
    rows = other.frame[(other.frame["task"] == "facts") & (other.frame["protocol"] == "generation")]
    responses = rows.pivot(index="example", columns="condition", values="response")
    for card in cards(browser):
        sides = [1] if card["id"] == "facts-0003" else [0, 1]  # its prompt is not the same
        if len(card["pairs"]) == 2:
            assert sides == [0, 1]
            intact, ablated = card["pairs"][1]
            assert intact["text"] == (responses["intact"][card["id"]] or "(empty)")
            assert ablated["text"] == (responses["skip L2"][card["id"]] or "(empty)")
    assert len(cards(browser)) == N + 1  # the one that they asked otherwise stands there twice
    choose(browser, task="facts", protocol="generation", condition="skip L10", show="all")
    assert state(browser)[0] == ["layer 10"]  # b has no such layer
    assert "This run has no such condition." in browser.find_element(By.ID, "summary").text
    assert browser.find_element(By.ID, "two").is_displayed()
    assert browser.get_log("browser") == []


def test_similar_conditions_and_truncated_texts_are_distinguished(
    browser: webdriver.Chrome, tmp_path: Path
) -> None:
    made = synthetic_result(2, 8, protocols=["generation"], ablations=["cut\u202e"])
    own = (made.frame["at"] == "all") & (made.frame["condition"] != "intact")
    mlp = {"part": "mlp", "site": "L0.mlp", "layer": 0}
    frame = made.frame.copy()
    names = {0: "weak L0.mlp", 1: "strong L0.mlp"}
    frame.loc[own, "condition"] = frame.loc[own, "layer"].map(names)
    frame.loc[own, list(mlp)] = list(mlp.values())
    start = "word " * 240 + ", the end: "  # texts of so many characters are cut at 1200
    frame["response"] = start + "one"
    frame.loc[frame["condition"] == "strong L0.mlp", "response"] = start + "another"
    opened(browser, report(SweepResult(frame, made.manifest), path=tmp_path / "alike.html"))
    where = {"task": "facts", "protocol": "generation", "show": "all"}
    choose(browser, **where, condition="strong L0.mlp")
    cells = browser.find_elements(By.CSS_SELECTOR, "#strips [role=option]")
    assert [cell.get_attribute("aria-label").split(",")[0] for cell in cells] == list(
        names.values()
    )
    assert [cell.text.split("\n")[0] for cell in cells] == list(names.values())
    announced = browser.find_element(By.ID, "said").get_attribute("textContent")
    assert announced.startswith("strong L0.mlp: ")
    labels = "return [...document.querySelectorAll('#cards .pair')].map(e => e.textContent)"
    assert all("the same as far as shown" in each for each in browser.execute_script(labels))
    (before, after), *_ = [card["pairs"][0] for card in cards(browser)]
    assert before["text"] == f"{start[:1200]}… (14 characters more)"
    assert after["text"] == f"{start[:1200]}… (18 characters more)"
    assert before["marked"] == after["marked"] == []
    choose(browser, **where, condition="weak L0.mlp")
    assert all("word for word the same" in each for each in browser.execute_script(labels))
    assert browser.get_log("browser") == []
