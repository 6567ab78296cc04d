"""The same seed gives the same questions on every machine and Python: these, to the letter.

A change here changes what runs of before asked, and belongs into the changelog.
"""

import pytest

from layerroles.tasks import Copying, Facts, KVRetrieval, Needle, Task, WordProblems

COPIED = "On Monday Alice found 15 hats near the store, and Sarah keeps 5 shirts in the hall."
NEEDLE = (
    "Paul and Tom talked about the parrot for more than an hour. When Frank came home, "
    "the letter still stood behind the shop. Later Jack carried the bottle back to the "
    "village without a word. Jack walked past the store and saw a needle near the door. "
    "Nobody at the market could say where the mask came from. In the morning somebody had"
    " left a doctor in the garage. The password of Mary is soldier. It rained all day, "
    "and the market looked smaller than the branch in the old picture. There was a rocket"
    " in the window, which Tom had never liked. It rained all day, and the yard looked "
    "smaller than the temple in the old picture."
    "\nThe password of Mary is"
)
FIRST = {
    KVRetrieval(): (
        "375c1f507652",
        'JSON data:\n{"mountain": "tower", "jacket": "valley", "crown": "cousin", '
        '"circle": "wolf", "sugar": "bridge", "star": "arrow", "lamp": "feather", '
        '"yard": "bell", "hotel": "autumn", "dress": "shirt"}\n\nPair looked up: "sugar":',
        '"bridge"',
        ('"autumn"', '"wolf"', '"bridge"', '"cousin"'),
    ),
    Facts(): (
        "class-ebe62f34",
        "Biologists classify penguins as",
        "birds",
        ("insects", "arachnids", "birds", "mammals"),
    ),
    WordProblems(): (
        "92f604ed3351",
        "Question: Henry scores 10 points in the first round of a board game. The second round "
        "brings 7 points. In the third round Henry gets 4 points. What is the final score of "
        "Henry?\nAnswer:",
        "21",
        ("22", "28", "31", "21"),
    ),
    Needle(): (
        "03fac5297541",
        NEEDLE,
        "soldier",
        ("rocket", "letter", "soldier", "parrot"),
    ),
    Copying(): (
        "9b732f4dea86",
        f"Text: {COPIED}\nCopy of the text:",
        COPIED,
        (
            COPIED,
            COPIED.replace("shirts", "books"),
            COPIED.replace("5 shirts", "8 shirts"),
            COPIED.replace("store", "park"),
        ),
    ),
}
FINGERPRINTS = {
    KVRetrieval(): "5d0664cd987f2632",
    Facts(): "0cbc9eb17f63e86b",
    WordProblems(): "c309f31dd57364b3",
    WordProblems(steps=3, level=3): "70f62ff97a9e61c4",
    Needle(): "17bb3e511d473be1",
    KVRetrieval(position="late"): "42cba1d603e5c6b3",
    Facts(context="distractors"): "d8f99eb1ad315582",
    Copying(): "9a26cdba0ed377b6",
}


@pytest.mark.parametrize("made", FIRST, ids=lambda made: made.label)
def test_the_first_question(made: Task) -> None:
    example = made.examples(1, seed=0)[0]
    assert (example.id, example.prompt, example.answer, example.choices) == FIRST[made]


@pytest.mark.parametrize("made", FINGERPRINTS, ids=lambda made: made.label)
def test_the_first_32_with_their_shots(made: Task) -> None:
    assert made.fingerprint(32, seed=0) == FINGERPRINTS[made]
