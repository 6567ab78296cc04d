"""No strategy that does not know the facts picks the right choice more often than chance."""

import random
import re
from collections import Counter
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from layerroles.tasks import Example
from layerroles.tasks.knowledge import load_facts

ALL = [example for relation in load_facts().values() for example in relation]
ANSWERS = {
    relation: Counter(e.answer for e in examples) for relation, examples in load_facts().items()
}
SPLITS = 2

Strategy = Callable[[Example], list[float]]


def relation_of(example: Example) -> str:
    return example.id.rpartition("-")[0]


def words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))


def trigrams(text: str) -> set[str]:
    padded = f" {text.casefold()} "
    return {padded[at : at + 3] for at in range(len(padded) - 2)}


def lengths(example: Example) -> list[float]:
    return [len(choice) for choice in example.choices]


def frequency_elsewhere(example: Example) -> list[float]:
    """How often a choice is the right answer of another question of the relation."""
    answers = ANSWERS[relation_of(example)]
    return [answers[choice] - (choice == example.answer) for choice in example.choices]


def words_shared_with_choices(example: Example) -> list[float]:
    choices = example.choices
    return [sum(len(words(a) & words(b)) for b in choices if b != a) for a in choices]


def trigrams_shared_with_choices(example: Example) -> list[float]:
    choices = example.choices
    return [sum(len(trigrams(a) & trigrams(b)) for b in choices if b != a) for a in choices]


def words_shared_with_prompt(example: Example) -> list[float]:
    return [len(words(example.prompt) & words(choice)) for choice in example.choices]


def trigrams_shared_with_prompt(example: Example) -> list[float]:
    return [len(trigrams(example.prompt) & trigrams(choice)) for choice in example.choices]


def initial_of_subject(example: Example) -> list[float]:
    ((start, end),) = example.evidence
    subject = re.sub(r"^(?:the|a|an) ", "", example.prompt[start:end].casefold())
    bare = [re.sub(r"^the ", "", choice.casefold()) for choice in example.choices]
    return [choice[0] == subject[0] for choice in bare]


def letters_of_subject(example: Example) -> list[float]:
    """Whether a choice is an initial and other letters of the subject, as Mg of magnesium."""
    ((start, end),) = example.evidence
    subject = example.prompt[start:end].casefold()
    shortened = [".*".join(map(re.escape, choice.casefold())) for choice in example.choices]
    return [re.match(letters, subject) is not None for letters in shortened]


def negated(strategy: Strategy) -> Strategy:
    return lambda example: [-value for value in strategy(example)]


STRATEGIES: dict[str, Strategy] = {
    "longest": lengths,
    "shortest": negated(lengths),
    "first": lambda example: [0.0, -1.0, -2.0, -3.0],
    "second": lambda example: [0.0, 1.0, 0.0, 0.0],
    "last": lambda example: [0.0, 1.0, 2.0, 3.0],
    "most frequent elsewhere": frequency_elsewhere,
    "most words shared with choices": words_shared_with_choices,
    "fewest words shared with choices": negated(words_shared_with_choices),
    "most trigrams shared with choices": trigrams_shared_with_choices,
    "fewest trigrams shared with choices": negated(trigrams_shared_with_choices),
    "most words shared with prompt": words_shared_with_prompt,
    "most trigrams shared with prompt": trigrams_shared_with_prompt,
    "fewest trigrams shared with prompt": negated(trigrams_shared_with_prompt),
    "initial of the subject": initial_of_subject,
    "not the initial of the subject": negated(initial_of_subject),
    "letters of the subject": letters_of_subject,
    "not letters of the subject": negated(letters_of_subject),
}


def picked(values: list[float], example: Example) -> float:
    """How often the right choice is picked where ties are broken at random."""
    best = [choice for choice, v in zip(example.choices, values, strict=True) if v == max(values)]
    return (example.answer in best) / len(best)


def share(strategy: Strategy, examples: tuple[Example, ...] | list[Example]) -> float:
    return float(np.mean([picked(strategy(example), example) for example in examples]))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_without_knowledge_is_at_chance(name: str) -> None:
    assert share(STRATEGIES[name], ALL) <= 1 / 4 + 0.05
    for relation, examples in load_facts().items():
        assert share(STRATEGIES[name], examples) <= 1 / 4 + 0.15, relation


@cache
def picked_by_regression() -> dict[str, float]:
    """Per question, how often a regression on trigrams picks the right choice.

    It is fitted on a random half of the questions and asked about the other half. Questions that
    share their choices are in the same half, so that it cannot tell what was right before.
    """
    names = sorted({t for example in ALL for choice in example.choices for t in trigrams(choice)})
    column = {name: at for at, name in enumerate(names)}
    x = np.zeros((len(ALL), 4, len(names)))
    y = np.zeros((len(ALL), 4))
    for row, example in enumerate(ALL):
        for at, choice in enumerate(example.choices):
            x[row, at, [column[name] for name in trigrams(choice)]] = 1
            y[row, at] = choice == example.answer
    right: dict[str, list[float]] = {example.id: [] for example in ALL}
    sets = sorted({example.choices for example in ALL})
    for seed in range(SPLITS):
        half = set(random.Random(f"split:{seed}").sample(sets, len(sets) // 2))
        inside = np.array([example.choices in half for example in ALL])
        for fitted, asked in ((inside, ~inside), (~inside, inside)):
            weights = fit_logistic(x[fitted].reshape(-1, len(names)), y[fitted].reshape(-1))
            for row in np.flatnonzero(asked):
                right[ALL[row].id].append(picked(list(x[row] @ weights), ALL[row]))
    return {id_: float(np.mean(shares)) for id_, shares in right.items()}


def fit_logistic(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weights of a logistic regression with a ridge penalty, by gradient descent."""
    weights, bias = np.zeros(x.shape[1]), 0.0
    for _ in range(100):
        error = 1 / (1 + np.exp(-(x @ weights + bias))) - y
        weights -= 2.0 * (x.T @ error / len(y) + 1e-3 * weights)
        bias -= 2.0 * error.mean()
    return weights


def test_a_regression_on_spelling_is_at_chance() -> None:
    right = picked_by_regression()
    assert np.mean(list(right.values())) <= 1 / 4 + 0.05
    for relation, examples in load_facts().items():
        assert np.mean([right[example.id] for example in examples]) <= 1 / 4 + 0.15, relation


def test_the_regression_finds_a_spelling_that_gives_answers_away() -> None:
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (400, 6)).astype(float)
    weights = fit_logistic(x, x[:, 2])
    assert weights.argmax() == 2 and weights[2] > 2 * np.abs(np.delete(weights, 2)).max()


def test_an_answer_is_as_often_offered_as_it_should_be() -> None:
    for relation, examples in load_facts().items():
        if relation == "symbol":
            continue
        offered = Counter(choice for example in examples for choice in example.choices)
        assert offered == {answer: 4 * n for answer, n in ANSWERS[relation].items()}
