"""Responses to look-up and needle as a person would mark them: twenty of each kind by hand."""

import pytest

from layerroles.tasks import Example, KVRetrieval, Needle, Task

LOOKUP = Example(
    id="x",
    prompt='JSON data:\n{"mountain": "tower", "circle": "wolf", "sugar": "bridge", '
    '"star": "arrow", "lamp": "feather"}\n\nPair looked up: "sugar":',
    answer='"bridge"',
    choices=('"wolf"', '"bridge"', '"tower"', '"feather"'),
)
NEEDLE = Example(
    id="x",
    prompt="Later Tom carried the bridge back to the shop without a word. The password of Mary is "
    "soldier. When Mark came home, the snow still stood behind the office. Peter walked past the "
    "office and saw a shirt near the door. There was a train in the window, which Rose had never "
    "liked.\nThe password of Mary is",
    answer="soldier",
    choices=("soldier", "bridge", "snow", "shirt"),
)

LOOKUP_RIGHT = [
    '"bridge"',
    '"bridge"}',
    '"bridge", "star": "arrow", "lamp": "feather"}',
    '"sugar": "bridge"',
    '{"sugar": "bridge"}',
    '{"sugar": "bridge", "star": "arrow"}',
    "bridge",
    "Bridge.",
    "'bridge'",
    "\N{LEFT DOUBLE QUOTATION MARK}bridge\N{RIGHT DOUBLE QUOTATION MARK}",
    "\N{LEFT SINGLE QUOTATION MARK}bridge\N{RIGHT SINGLE QUOTATION MARK}",
    "`bridge`",
    "**bridge**",
    'The value of "sugar" is "bridge".',
    "The value of sugar is bridge",
    "It's 'bridge'.",
    'Here is the value that you asked for:\n\n"bridge"',
    '"bridge"\n\nPair looked up: "star": "arrow"',
    'It is not "wolf" but "bridge".',
    'sugar -> "bridge"',
]
LOOKUP_WRONG = [
    "",
    '"',
    "I do not know.",
    "I don\N{RIGHT SINGLE QUOTATION MARK}t know which value that is.",
    "unknown",
    '"wolf"',
    '"sugar"',
    '"bridges"',
    '"abridge"',
    '"footbridge"',
    '"wolf", "bridge"',
    '"bridge", "arrow", "feather"',
    "tower wolf bridge arrow feather",
    '["tower", "wolf", "bridge", "arrow", "feather"]',
    "tower\nwolf\nbridge\narrow\nfeather",
    '{"mountain": "tower", "circle": "wolf", "sugar": "bridge"}',
    '"lamp": "bridge"',
    'The value of "lamp" is "bridge".',
    'It is not "bridge".',
    '"Bridge" is not the value.',
    "bridge is wrong",
    '"bridge" or "arrow"',
]
NEEDLE_RIGHT = [
    "soldier",
    "soldier.",
    "Soldier",
    '"soldier"',
    "'soldier'.",
    "\N{LEFT DOUBLE QUOTATION MARK}soldier\N{RIGHT DOUBLE QUOTATION MARK}",
    "`soldier`",
    "**soldier**",
    "The password of Mary is soldier.",
    'The password is "soldier"',
    "Mary\N{RIGHT SINGLE QUOTATION MARK}s password is soldier.",
    "It is soldier, as the text says.",
    "the word soldier",
    "soldier. When Mark came home, the snow still stood behind the office.",
    "soldier\nThe text also names a train.",
    "Sure!\n\nThe password of Mary is **soldier**.",
    "Let me look.\nThe password of Mary is soldier.",
    "not bridge but soldier",
    "soldier, not snow",
    "Mary, unlike Tom, has the password soldier.",
]
NEEDLE_WRONG = [
    "",
    "...",
    "I do not know.",
    "I can't find it in the text.",
    "There is no password.",
    "unknown",
    "bridge",
    "Mary",
    "soldiers",
    "a soldierly word",
    "not soldier",
    "The password of Mary isn't soldier.",
    "Soldier is not the password of Mary.",
    "soldier is wrong",
    "The password of Tom is soldier.",
    "bridge, soldier, snow, shirt",
    "soldier or snow",
    "bridge\nsoldier\nsnow\nshirt",
    "1. soldier\n2. bridge\n3. snow",
    "bridge. soldier. snow.",
    "Either the bridge or the soldier.",
    "The password of Mary is bridge. The password of Tom is soldier.",
]


def test_there_are_twenty_of_each_and_all_differ() -> None:
    for responses in (LOOKUP_RIGHT, LOOKUP_WRONG, NEEDLE_RIGHT, NEEDLE_WRONG):
        assert len(set(responses)) == len(responses) >= 20


RIGHT = [(KVRetrieval(), LOOKUP, each) for each in LOOKUP_RIGHT] + [
    (Needle(), NEEDLE, each) for each in NEEDLE_RIGHT
]
WRONG = [(KVRetrieval(), LOOKUP, each) for each in LOOKUP_WRONG] + [
    (Needle(), NEEDLE, each) for each in NEEDLE_WRONG
]


@pytest.mark.parametrize(("task", "example", "response"), RIGHT)
def test_a_person_would_accept(task: Task, example: Example, response: str) -> None:
    grade = task.grade(f" {response}", example)
    assert grade.flexible and grade.answered


@pytest.mark.parametrize(("task", "example", "response"), WRONG)
def test_a_person_would_not_accept(task: Task, example: Example, response: str) -> None:
    grade = task.grade(f" {response}", example)
    assert not grade.flexible and not grade.strict


@pytest.mark.parametrize("response", [*LOOKUP_WRONG[:5], *NEEDLE_WRONG[:6]])
def test_responses_without_an_answer_are_graded_as_unanswered(response: str) -> None:
    assert not KVRetrieval().grade(response, LOOKUP).answered
    assert not Needle().grade(response, NEEDLE).answered


def test_strict_is_the_form_of_the_shots() -> None:
    assert [KVRetrieval().grade(text, LOOKUP).strict for text in LOOKUP_RIGHT[:5]] == [
        *(True, True, True, False, False)
    ]
    assert [Needle().grade(text, NEEDLE).strict for text in NEEDLE_RIGHT[:9]] == [
        *(True, True, True, True, True, False, True, False, False)
    ]
