"""Escape the characters of a text that are invisible or control a display."""

import re

# Control characters except tab and line feed, direction marks, other invisible characters, lone
# surrogates.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str) -> str:
    r"""Escape the characters of a text that are invisible or control a display; return the text.

    Spaces, tabs, line feeds and the joiners that some scripts need stay as they are.

    Example:
        >>> print(visible("a\x1b[2J b\u202e"))
        a\x1b[2J b\u202e
    """
    return _UNSEEN.sub(lambda found: repr(found[0])[1:-1], text)
