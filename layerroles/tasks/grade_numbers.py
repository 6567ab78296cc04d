"""Grade answers that are whole or decimal numbers."""

import re
from decimal import Decimal

from layerroles.tasks.base import Grade

_WORDS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen
    fifteen sixteen seventeen eighteen nineteen twenty""".split()

NUMBER = r"-?\$?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?"
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety hundred thousand".split()
_WORD = rf"(?:{'|'.join(sorted(_WORDS, reverse=True))})"
_DIGITS_IN_TEXT = re.compile(rf"(?<![\w.]){NUMBER}|(?<=[a-z=]){NUMBER}", re.IGNORECASE)
_WORD_IN_TEXT = re.compile(rf"\b{_WORD}\b", re.IGNORECASE)
# "thirty-two", "two hundred and twelve": read neither as a number nor by one of their words.
_ANY = "|".join(sorted({*_WORDS, *_TENS}, reverse=True))
_COMPOUND = re.compile(rf"\b(?:{_ANY})(?:[ -](?:and )?(?:{_ANY}))+\b", re.IGNORECASE)
_SIGN = r"[ \t]*[-–+*/×÷][ \t]*"
_STATED = re.compile(
    rf"answer is:?\s*(?:{NUMBER}(?:{_SIGN}{NUMBER})+\s*=\s*)?"
    rf"({NUMBER}(?!\d)|{_WORD}\b)",
    re.IGNORECASE,
)

# What precedes or follows a number that is not an answer: "not 12", "12 is too many".
_DENIED_BEFORE = re.compile(
    r"(?:(?:\bnot|n['’]t)(?: (?:think|believe) (?:it|that|the answer) (?:is|was))?"
    r"|\bcannot|\bnever|\bat (?:least|most)"
    r"|\b(?:more|less|fewer|greater|higher|lower) than)"
    r"(?: be| equal(?: to)?| have)?[\s*]*$",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"\W*(?:\w+ )?(?:(?:is|are|was|would be|seems) )?"
    r"(?:too (?:many|few|much|little|high|low|large|small|big)|wrong|incorrect"
    r"|not (?:right|correct|possible|the answer)|impossible)\b",
    re.IGNORECASE,
)
# The text between two numbers that are alternatives, or parts of a calculation without a result.
_OFFERED = re.compile(
    rf"[*\s]*(?:\w+ ){{0,2}}\w*,?\s*\bor\b\s*(?:\w+ ){{0,2}}[*\s]*|{_SIGN}|\s+to\s+",
    re.IGNORECASE,
)
_BETWEEN = re.compile(r"\bbetween[\s*]*$", re.IGNORECASE)
_FROM = re.compile(r"\bfrom[\s*]*$", re.IGNORECASE)


def is_number(text: str) -> bool:
    """Return whether the whole text is one number, as in `1,250`, `$3.50` or `-7`."""
    return re.fullmatch(NUMBER, text.strip()) is not None


def grade_number(response: str, answer: str) -> Grade:
    """Grade a number by value; thousands commas, `$` and trailing zeros are ignored.

    Strict: the number after "answer is" is right, or, without these words, the whole response is
    the right number. Flexible: the last number in the response is right. Form: a number follows
    "answer is", or is the whole response.

    Numbers up to twenty may be words: after "answer is", or in a response without digits. Denied
    numbers ("not 12", "12 is too many") are ignored. One of several alternatives ("12 or 13"), or a
    number of an expression without a result ("5 + 12"), is not an answer.
    """
    response = _COMPOUND.sub("-", response.replace("\N{MINUS SIGN}", "-"))
    right = _to_decimal(answer)
    stated = _STATED.search(response)
    bare = response.strip().strip("*").rstrip(".!").strip("*")
    answer_text = stated[1] if stated else bare
    form = is_number(answer_text) or answer_text.casefold() in _WORDS
    matches = _find_numbers(response)
    last_match = matches[-1] if matches else None
    return Grade(
        strict=form
        and _to_decimal(answer_text) == right
        and not (stated and _is_continued(response, stated)),
        flexible=last_match is not None
        and _to_decimal(last_match[0]) == right
        and not _is_alternative(response, matches),
        answered=last_match is not None,
        form=form,
    )


def _find_numbers(response: str) -> list[re.Match[str]]:
    """Return the numbers in a response, without denied ones such as "not 12".

    Number words are returned only if the response has no digits.
    """
    matches = list(_DIGITS_IN_TEXT.finditer(response)) or list(_WORD_IN_TEXT.finditer(response))
    return [
        match
        for match in matches
        if not _DENIED_BEFORE.search(response, 0, match.start())
        and not _DENIED_BEHIND.match(response, match.end())
    ]


def _is_alternative(response: str, matches: list[re.Match[str]]) -> bool:
    """Return whether the last number is one of two alternatives, or ends an expression.

    Examples are "12 or 13" and "5 + 12"; `matches` are the numbers from `_find_numbers`.
    """
    if len(matches) < 2:
        return False
    previous, last = matches[-2:]
    if _to_decimal(previous[0]) == _to_decimal(last[0]) or _FROM.search(
        response, 0, previous.start()
    ):
        return False
    text_between = response[previous.end() : last.start()]
    return (
        _OFFERED.fullmatch(text_between) is not None
        or _BETWEEN.search(response, 0, previous.start()) is not None
    )


def _is_continued(response: str, stated: re.Match[str]) -> bool:
    """Return whether an operation or an alternative follows the number after "answer is"."""
    pattern = _WORD_IN_TEXT if stated[1].isalpha() else _DIGITS_IN_TEXT
    following = pattern.search(response, stated.end())
    if following is None or _to_decimal(following[0]) == _to_decimal(stated[1]):
        return False
    return _OFFERED.fullmatch(response, stated.end(), following.start()) is not None


def _to_decimal(text: str) -> Decimal:
    text = text.strip().casefold()
    if text in _WORDS:
        return Decimal(_WORDS.index(text))
    return Decimal(text.replace(",", "").replace("$", ""))
