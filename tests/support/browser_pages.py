"""Pages in a real browser: open one, and list its requests."""

import json
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait


def opened(browser: webdriver.Chrome, page: Path, scheme: str = "light") -> list[str]:
    """Open the page, wait until all is drawn, and return the addresses that it asked for."""
    browser.get_log("performance")
    browser.get_log("browser")
    media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    browser.get(page.as_uri())
    WebDriverWait(browser, 60).until(lambda d: drawn(d) is not None)
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert page.as_uri() in asked  # the log does work
    return asked


def drawn(browser: webdriver.Chrome) -> str | None:
    count = browser.execute_script("return document.documentElement.dataset.drawn")
    return count if count is None else str(count)


def overflow(browser: webdriver.Chrome) -> int:
    """By how many pixels the page is wider than its window."""
    spill = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    return int(browser.execute_script(spill))
