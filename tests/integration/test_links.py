"""Links on the pages that mkdocs does not build are not dead; external ones are https.

(mkdocs builds `docs/` strictly: a link or an anchor there that leads nowhere is an error.)
"""

import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).parents[2]
OUTSIDE_DOCS = sorted(path.name for path in ROOT.glob("*.md"))
PAGES = [*OUTSIDE_DOCS, *sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("docs/**/*.md"))]
_LINK = re.compile(r"!?\[[^\]]*\]\((?P<to>[^)\s]+)(?: \"[^\"]*\")?\)")
_FENCE = re.compile(r"^ *```.*?^ *```$|`[^`\n]*`", re.MULTILINE | re.DOTALL)


def links(page: str) -> list[str]:
    """Where the links and pictures of a page lead; what stands in code is no link."""
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    return [match["to"] for match in _LINK.finditer(text)]


def anchors(page: Path) -> set[str]:
    """The anchors that headings make."""
    text = _FENCE.sub(lambda found: found[0] if "\n" not in found[0] else "", page.read_text())
    found = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in found}


def dead(page: str) -> list[str]:
    """The links of a page to files of the project, or anchors in them, that are not there."""
    found = []
    for link in links(page):
        path, _, anchor = link.partition("#")
        there = ROOT / (path or page)
        if "://" not in link and not (there.exists() and (not anchor or anchor in anchors(there))):
            found.append(link)
    return found


@pytest.mark.parametrize("page", OUTSIDE_DOCS)
def test_links_between_files_lead_to_something(page: str) -> None:
    assert not dead(page)


@pytest.mark.parametrize("page", PAGES)
def test_links_to_elsewhere_are_https_and_well_formed(page: str) -> None:
    for link in links(page):
        if "://" in link:
            parts = urlsplit(link)
            assert parts.scheme == "https" and "." in parts.netloc, f"{page}: {link}"


def test_pages_that_are_opened_offline_ask_nothing_of_the_network() -> None:
    config = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    # What the plugin would load from elsewhere, were there no file of that name here.
    assert {"search", "offline"} <= {str(plugin) for plugin in config["plugins"]}
    assert [path for path in config["extra"]["polyfills"] if "iframe-worker" in path]
    for path in [*config["extra"]["polyfills"], *config["extra_css"]]:
        assert "://" not in (ROOT / "docs" / path).read_text(encoding="utf-8")
    for page in PAGES:
        assert "](http" not in "".join(re.findall(r"!\[.*", (ROOT / page).read_text())), page


def test_a_link_that_leads_nowhere_is_found_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    right = "[a](docs/protocols.md#the-noise-floor), [b](#here), [c](https://example.org/x)"
    wrong = "[d](docs/nowhere.md), [e](docs/protocols.md#nowhere), [f](#nowhere)"
    page.write_text(f"# Here\n\n{right}, {wrong}\n", encoding="utf-8")
    assert dead(str(page)) == ["docs/nowhere.md", "docs/protocols.md#nowhere", "#nowhere"]
