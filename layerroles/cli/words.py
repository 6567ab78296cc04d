"""Read what the value of an option says: lists and settings."""

import re
from collections.abc import Iterable

from layerroles.errors import InputError


def split_list(text: str, option: str) -> list[str]:
    """Split at commas, but not at those inside brackets.

    Raises:
        InputError: the list or one of its items is empty, or an item stands there twice.

    Example:
        >>> split_list("facts, kv_retrieval[pairs=20,key_style=hex]", "--tasks")
        ['facts', 'kv_retrieval[pairs=20,key_style=hex]']
    """
    words = [word.strip() for word in re.split(r",(?![^\[]*\])", text)]
    if not all(words):
        raise InputError(f"{option} {text!r} has an empty item: separate names by single commas")
    for word in words:
        if words.count(word) > 1:
            raise InputError(f"{option} {text!r} names {word!r} more than once")
    return words


def split_settings(pairs: Iterable[str]) -> dict[str, str]:
    """Read `--set name=value` options.

    Raises:
        InputError: no `=`, no name, or a name that is set twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise InputError(f"--set {pair!r} is not of the form name=value")
        if name in settings:
            raise InputError(f"--set names {name!r} more than once")
        settings[name] = value.strip()
    return settings
