"""Public names, registered names and command-line options are those of `tests/data/names.txt`.

Users' scripts and run folders contain them. `make pages` adds the lines of new ones.
"""

import importlib
import pydoc

import layerroles.plants  # noqa: F401  (registers the tasks of planted models)
from tests.support.pages import NAMES, names


def resolves(path: str) -> bool:
    """Return whether a name exists, lazily imported or not."""
    module, _, name = path.rpartition(".")
    return hasattr(importlib.import_module(module), name)


def is_inherited(line: str) -> bool:
    """Return whether a line `class: member` names a member that the class has from a base class."""
    path, colon, member = line.partition(": ")
    return bool(colon) and hasattr(pydoc.locate(path), member)


def test_the_names_are_those_of_the_file() -> None:
    lines = NAMES.read_text("utf-8").splitlines()
    known = {line for line in lines if line and not line.startswith("#")}
    paths = {line for line in known if " " not in line}
    gone = {path for path in paths if not resolves(path)}
    gone |= {line for line in known - paths - names() if not is_inherited(line)}
    assert not gone, f"these names are gone, which breaks users' scripts: {sorted(gone)}"
    assert not names() - known, f"make pages adds these lines: {sorted(names() - known)}"
