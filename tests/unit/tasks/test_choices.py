"""No built-in task gives its answers away: strategies that do not read get what guessing gets."""

import pandas as pd
import pytest

from layerroles.tasks import Copying, Facts, KVRetrieval, Needle, Task, WordProblems
from layerroles.tasks.strategy_significance import strategy_frame
from tests.support.tiers import mark_rest

# Without shots, which no strategy looks at.
ALL = [
    Copying(num_fewshot=0),
    Copying(clauses=1, num_fewshot=0),
    Copying(clauses=3, num_fewshot=0),
    KVRetrieval(),
    KVRetrieval(pairs=4),
    KVRetrieval(pairs=20, key_style="uuid"),
    KVRetrieval(pairs=12, position="late"),
    Needle(),
    Needle(words=40),
    Facts(num_fewshot=0),
    WordProblems(num_fewshot=0),
    WordProblems(steps=1, level=2, num_fewshot=0),
    WordProblems(steps=3, level=3, num_fewshot=0),
]
# What the place in the prompt gives away where a third has three places: a third, not a quarter.
THREE_PLACES = {
    "earliest in the prompt": KVRetrieval(position="early"),
    "latest in the prompt": Needle(position="late"),
}


def shares(made: Task) -> pd.DataFrame:
    frame: pd.DataFrame = strategy_frame(made.examples(2000, seed=0))
    return frame.set_index("strategy")


@pytest.mark.parametrize(
    "made", mark_rest("truth", ALL, first=ALL[::4]), ids=lambda made: made.label
)
def test_no_strategy_beats_guessing_by_a_twentieth(made: Task) -> None:
    frame = shares(made)
    assert len(frame) >= 14
    assert frame["excess"].max() <= 0.05, frame["excess"].head()


@pytest.mark.parametrize(("strategy", "made"), THREE_PLACES.items())
def test_three_places_give_away_a_third_and_no_more(strategy: str, made: Task) -> None:
    excess = shares(made)["excess"]
    assert excess[strategy] <= 1 / 3 - 1 / 4 + 0.05
    assert excess.drop(strategy).max() <= 0.05


def test_each_choice_of_copying_is_as_far_from_the_others() -> None:
    """Wrong choices exchange one pair, another, and both: no one of the four is their centre."""
    for made in (Copying(num_fewshot=0), Copying(clauses=1, num_fewshot=0), Copying(clauses=5)):
        for example in made.examples(100, seed=1):
            split = [choice.split() for choice in example.choices]
            distances = [
                sorted(sum(a != b for a, b in zip(one, other, strict=True)) for other in split)
                for one in split
            ]
            assert all(each == distances[0] for each in distances)
            assert distances[0][1] > 0


def test_a_password_and_its_wrong_choices_occur_once() -> None:
    for words in (40, 400, 2500):  # the last one has more sentences than there are things
        for example in Needle(words=words).examples(20, seed=0):
            text = example.prompt.replace(".", " ").replace(",", " ").split()
            assert {text.count(choice) for choice in example.choices} == {1}
