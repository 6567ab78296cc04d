"""Show the `Example:` of a docstring as code; mkdocstrings would set it as prose."""

import re

import griffe

_EXAMPLE = re.compile(r"^Example:\n((?:(?: {4}.*)?\n)*(?: {4}.*)(?:\n|\Z))", re.MULTILINE)


class Examples(griffe.Extension):
    """Put a fence around what stands under `Example:`."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Called for every module, class and function that is read."""
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_fenced, obj.docstring.value)


def _fenced(found: re.Match[str]) -> str:
    language = "pycon" if ">>>" in found[1] else "python"
    return f"Example:\n    ```{language}\n{found[1].rstrip()}\n    ```\n"
