"""A browser for the tests of pages; one serves them all."""

import shutil
from collections.abc import Iterator

import pytest
from selenium import webdriver

collect_ignore = ["typed_script.py"]  # types are checked there; loaded, it would register a "scale"


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = program("chromium", "chromium-browser", "google-chrome")
    quiet = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
             "--disable-quic", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--window-size=1280,1200")  # fmt: skip
    for argument in (*quiet, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(program("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    driver.get("about:blank")  # its own first page asks for much, and is not what is tested
    yield driver
    driver.quit()


def program(*names: str) -> str:
    """The path of an installed program; its absence fails the test, with what to do."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.fail(
        f"{names[0]} is not installed: apt-get install chromium chromium-driver (make browser)"
    )
