"""How free text is read: strict, flexible, answered."""

import pytest

from layerroles.tasks import Copying, KVRetrieval, WordProblems
from layerroles.tasks.base import Example, Grade, grade_text


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


ACCEPTED = [
    " The answer is 12.",
    " 12",
    " 12.",
    " The answer is 12 apples.",
    " He has 12.",
    " $12.00",
    " twelve",
    " The answer is twelve.",
    " 5 + 7 = 12. The answer is 12.",
    " 5 + 7 = 12",
    " The answer is 5 + 7 = 12.",
    " Tom has 12 apples, not 13.",
    " **12**",
    " The answer is **12**.",
    " The answer is: 12.0",
    " \\boxed{12}",
    " 24 / 2 = 12 apples each.",
    " It is not 13 but 12.",
    " 20 - 8=12",
    " So twelve apples are left!",
    " 13 is too many. It is 12.",
    " He gave away 8 and 12 are left.",
    " 12 dollars",
    " 5 or so were lost, which leaves 12 pens.",
    " Answer: 12",
    " The answer is 12 or twelve.",
    " The answer is 12 (5 + 7 = 12).",
    " It goes down from 20 to 12.",
]
REFUSED = [
    " 12 or 13",
    " 13 or 12",
    " The answer is 12 or 13.",
    " The answer is either 13 or 12.",
    " I don't know, 12 is too many.",
    " It is not 12.",
    " The answer is not 12.",
    " It can't be 12.",
    " between 10 and 12",
    " 12-13",
    " 10 to 12",
    " 12.5",
    " -12",
    " 120",
    " 112",
    " 5 + 12",
    " The answer is 12 + 5.",
    " more than 12",
    " at least 12",
    " 12 is wrong.",
    " The answer is 11.",
    " 5 + 7 = 12. The answer is 13.",
    " eleven",
    " I do not know",
    " The answer is 12,000.",
    " 12 apples or 13 apples",
    " twelve or thirteen",
    " 13 apples or maybe 12",
    " 7 / 12",
    " 12/13",
    " The answer is thirteen or twelve.",
    "",
    " The answer is 12/13.",
    " The answer is 12 to 15.",
]


@pytest.mark.parametrize("response", ACCEPTED)
def test_a_person_would_accept(response: str) -> None:
    assert "f" in read(WordProblems(), response, "12")


@pytest.mark.parametrize("response", REFUSED)
def test_a_person_would_not_accept(response: str) -> None:
    assert read(WordProblems(), response, "12") in ("--a", "---")


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


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ("A", " B. a big number"),
        ("A", " It is a number"),
        ("A", " A big number"),
        ("A", " The answer is B, not a small one"),
        ("I", "I think it is II"),
        ("I", "I'm sure"),
        ("B", "Because"),
        ("B", "B's"),
        (".", "banana."),
        (".", ""),
        (".5", "5"),
    ],
)
def test_an_article_or_an_empty_response_is_not_the_answer(answer: str, response: str) -> None:
    grade = grade_text(response, Example(id="1", prompt="p", answer=answer))
    assert not grade.strict and not grade.flexible


@pytest.mark.parametrize(
    ("answer", "response"),
    [
        ("A", " A"),
        ("A", " A. yes"),
        ("A", " (A) yes"),
        ("A", " **A**"),
        ("A", " A is right"),
        ("A", " The answer is A"),
        ("A", " The answer is (A), yes"),
        ("B", " B because it is even"),
        ("B", " It is B."),
        ("I", " I. Rome"),
        ("I", " It is I"),
        (".", " ."),
        (".5", " It is .5."),
        ("a", " The answer is a"),
    ],
)
def test_a_letter_and_a_number_are_found_where_they_are_the_answer(
    answer: str, response: str
) -> None:
    grade = grade_text(response, Example(id="1", prompt="p", answer=answer))
    assert grade.flexible and grade.answered
