"""The two tiers of the tests: `make test` runs what has no marker, `make test-rest` the others."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["pytest"]
MARKERS = [marker.partition(":")[0] for marker in SETTINGS["ini_options"]["markers"]]


def selection(target: str) -> str | None:
    """Which tests a target of the Makefile selects, by their markers."""
    (recipe,) = re.findall(rf"^{target}: setup browser\n\t\$\(PYTEST\)(.*)$", MAKEFILE, re.M)
    chosen = re.search(r'-m "(.*)"', recipe)
    return chosen and chosen[1]


def test_both_tiers_together_are_all_tests() -> None:
    (slow,) = re.findall(r"^SLOW := (.*)$", MAKEFILE, re.M)
    assert slow.split(" or ") == MARKERS
    assert selection("test-rest") == "$(SLOW)"
    assert selection("test") == "not ($(SLOW))"
    assert selection("test-all") is None
    assert not re.search(r"-m |--deselect|--ignore", str(SETTINGS["ini_options"]["addopts"]))


def test_every_marker_occurs() -> None:
    files = [file for file in ROOT.glob("tests/**/*.py") if file != Path(__file__)]
    code = "".join(file.read_text(encoding="utf-8") for file in files)
    for marker in MARKERS:
        assert re.search(rf'pytest\.mark\.{marker}\b|mark_rest\(\s*"{marker}"', code), marker
