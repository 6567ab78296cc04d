"""Show the `Example:` of a docstring as code, and `Class attributes:` as a list.

mkdocstrings would set both as prose.
"""

import re

import griffe

_BLOCK = r"\n((?:(?: {4}.*)?\n)*(?: {4}.*)(?:\n|\Z))"
_EXAMPLE = re.compile(rf"^Example:{_BLOCK}", re.MULTILINE)
_ATTRIBUTES = re.compile(rf"^Class attributes:{_BLOCK}", re.MULTILINE)


class Examples(griffe.Extension):
    """Write the two as Markdown before a docstring is read."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called for every module, class and function that is read."""
        if obj.docstring is not None:
            text = _EXAMPLE.sub(_fenced, obj.docstring.value)
            obj.docstring.value = _ATTRIBUTES.sub(_listed, text)


def _fenced(found: re.Match[str]) -> str:
    language = "pycon" if ">>>" in found[1] else "python"
    return f"Example:\n    ```{language}\n{found[1].rstrip()}\n    ```\n"


def _listed(found: re.Match[str]) -> str:
    items = re.sub(r"^ {4}(\w+):", r"    - `\1`:", found[1], flags=re.MULTILINE)
    return f"Class attributes:\n{items.rstrip()}\n"
