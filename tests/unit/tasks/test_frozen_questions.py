"""The same seed gives the same questions on every machine and Python: these, to the letter.

A change here changes what runs of before asked, and belongs into the changelog.
"""

import pytest

from layerroles.tasks import Copying, Facts, KVRetrieval, Needle, Task, WordProblems


def _with(hats: str, near: str, shirts: str, place: str) -> str:
    return (
        f"On Monday Alice found {hats} hats near the {near}, and Sarah keeps {shirts} shirts "
        f"in the {place}."
    )


COPIED = _with("15", "store", "5", "hall")
NEEDLE = (
    "Later Tom carried the bridge back to the shop without a word. In the morning somebody "
    "had left a forest in the shed. When Mark came home, the snow still stood behind the "
    "office. Peter walked past the office and saw a sand near the door. Nobody at the garden "
    "could say where the harbor came from. There was a train in the window, which Rose had "
    "never liked. The password of Mary is soldier. It rained all day, and the barn looked "
    "smaller than the gold in the old picture. Mark and Nick talked about the shirt for more "
    "than an hour. It rained all day, and the kitchen looked smaller than the flower in the "
    "old picture."
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
        ("21", "29", "28", "25"),
    ),
    Needle(): (
        "db4354a84c40",
        NEEDLE,
        "soldier",
        ("shirt", "flower", "sand", "soldier"),
    ),
    Copying(): (
        "9b732f4dea86",
        f"Text: {COPIED}\nCopy of the text:",
        COPIED,
        (
            _with("5", "store", "15", "hall"),
            _with("5", "hall", "15", "store"),
            _with("15", "store", "5", "hall"),
            _with("15", "hall", "5", "store"),
        ),
    ),
}
FINGERPRINTS = {
    KVRetrieval(): "5d0664cd987f2632",
    Facts(): "f159aa8ed01bfcf8",
    WordProblems(): "b720f62036c8613a",
    WordProblems(steps=3, level=3): "216e97157c0c94ed",
    Needle(): "7c51d5f7abff54de",
    KVRetrieval(position="late"): "906bea08aad114ce",
    Facts(context="distractors"): "d8f99eb1ad315582",
    KVRetrieval(num_fewshot=2): "2f721d6ee0a69c65",
    Needle(num_fewshot=1): "cfc6c6b8d1d437a9",
    Copying(): "0d4b4daa190cd7f8",
}


@pytest.mark.parametrize("made", FIRST, ids=lambda made: made.label)
def test_the_first_question(made: Task) -> None:
    example = made.examples(1, seed=0)[0]
    assert (example.id, example.prompt, example.answer, example.choices) == FIRST[made]


@pytest.mark.parametrize("made", FINGERPRINTS, ids=lambda made: made.label)
def test_the_first_32_with_their_shots(made: Task) -> None:
    assert made.fingerprint(32, seed=0) == FINGERPRINTS[made]
