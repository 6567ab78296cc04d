"""The exception for mistakes in the input, and escaping of invisible characters."""

import re

# Control characters except tab and line feed, direction marks, other invisible characters, lone
# surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


class InputError(ValueError):
    """A mistake in the input, described in one line: what is wrong, its value, and what to do.

    The command line prints the line and exits with code 2; from a script it is an ordinary
    `ValueError`. Anything else that is raised is a defect of the package or of a library under it.

    Example:
        >>> import layerroles as lr
        >>> try:
        ...     lr.Site(-1)
        ... except lr.InputError as error:
        ...     print(error)
        layer -1 is not a layer number: layers count from 0
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def check_several(name: str, given: object) -> None:
    """Check that the argument `name` is not a single text, which is a sequence of letters.

    Raises:
        InputError: `given` is a text.
    """
    if isinstance(given, str):
        raise InputError(f"{name}={given!r} is one, not several: write [{given!r}]")


def visible(text: str) -> str:
    r"""Escape the characters of a text that are invisible or control a display; return the text.

    Spaces, tabs, line feeds and the joiners that some scripts need stay as they are.

    Example:
        >>> print(visible("a\x1b[2J b\u202e"))
        a\x1b[2J b\u202e
    """
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)
