"""Read whole and decimal numbers from what a model wrote."""

import re
from decimal import Decimal

from layerroles.tasks.base import Grade

_NUMBER = r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_IN_TEXT = re.compile(rf"(?<![\w.]){_NUMBER}|(?<=[a-z=]){_NUMBER}", re.IGNORECASE)
_STATED = re.compile(rf"answer is:?\s*({_NUMBER})(?!\d)", re.IGNORECASE)


def is_number(text: str) -> bool:
    """Whether the whole text is one number, as in `1,250`, `$3.50` or `-7`."""
    return re.fullmatch(_NUMBER, text.strip()) is not None


def grade_number(response: str, answer: str) -> Grade:
    """Compare numbers by value: thousands commas, `$` and trailing zeros do not matter.

    Strict: what "answer is" names first, or the response being just the number. Flexible: the last
    number in the response. Form: it names a number so, or is one.
    """
    right = _value(answer)
    stated = _STATED.search(response)
    bare = response.strip().rstrip(".")
    found = _IN_TEXT.findall(response)
    named = stated[1] if stated else bare
    return Grade(
        strict=is_number(named) and _value(named) == right,
        flexible=bool(found) and _value(found[-1]) == right,
        answered=bool(found),
        form=is_number(named),
    )


def _value(text: str) -> Decimal:
    return Decimal(text.strip().replace(",", "").replace("$", ""))
