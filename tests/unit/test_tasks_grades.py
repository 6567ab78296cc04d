"""How free text is read: strict, flexible, answered."""

import pytest

from layerroles.tasks import Copying, KVRetrieval, WordProblems
from layerroles.tasks.base import Example, Grade


def read(made: object, response: str, answer: str) -> str:
    grade: Grade = made.grade(response, Example(id="x", prompt="p", answer=answer))
    flags = (grade.strict, grade.flexible, grade.answered)
    return "".join(mark if flag else "-" for mark, flag in zip("sfa", flags, strict=True))


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (" 3 + 4 = 7. The answer is 7.", "sfa"),
        (" The answer is $7.00", "sfa"),
        (" The answer is: 7", "sfa"),
        (" 7", "sfa"),
        (" So Tom has 7 apples", "-fa"),
        (" 3 + 4 = 7. That is 7 of 9", "--a"),
        (" The answer is 7. Check: 3 + 5 = 8.", "s-a"),
        (" The answer is 70.", "--a"),
        (" The answer is 7.5.", "--a"),
        (" The answer is -7.", "--a"),
        (" 10 - 3=7", "-fa"),
        (" 1. 2. 3.", "--a"),
        (" I do not know", "---"),
        ("", "---"),
    ],
)
def test_numbers(response: str, expected: str) -> None:
    assert read(WordProblems(), response, "7") == expected


def test_thousands() -> None:
    assert read(WordProblems(), " The answer is 1,250.", "1250") == "sfa"
    assert read(WordProblems(), " It is 1,250.0 dollars.", "1250") == "-fa"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (' "river"', "sfa"),
        (' "river", "lamp": "stone"', "sfa"),
        (" river", "-fa"),
        (' "River"}', "-fa"),
        (' "rivers"', "--a"),
        (' "lamp", "river"', "--a"),
        (' "', "---"),
        ("\n", "---"),
    ],
)
def test_values(response: str, expected: str) -> None:
    assert read(KVRetrieval(), response, '"river"') == expected


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (" Tom buys 3 eggs in the hall.", "sfa"),
        (" tom buys 3 eggs, in the hall\nText: more", "-fa"),
        (" Tom buys 3 eggs in the hall. Tom", "--a"),
        (" Tom buys 4 eggs in the hall.", "--a"),
        (" ...", "---"),
    ],
)
def test_copies(response: str, expected: str) -> None:
    assert read(Copying(), response, "Tom buys 3 eggs in the hall.") == expected
