"""Ways to pick a choice without understanding the question.

A strategy scores every choice of a question and picks the highest. It uses the choices and their
order, the words of the prompt and the right answers of other questions, but not the question's
meaning. If it is right more often than chance, the choices give answers away, and a protocol that
compares choices may measure that instead of skill (Gururangan et al. 2018, arXiv 1803.02324, on
natural language inference; Balepur et al. 2024, arXiv 2402.12483, on choices shown without their
question).

Strategies that learn are cross-fitted: questions are split in halves, equal prompts in the same
half, and each half is scored by a model fitted on the other.
"""

import math
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float
from scipy import optimize, sparse

from layerroles.tasks.base import Example
from layerroles.tasks.grade_numbers import NUMBER

# A score for each choice of each question; None where the strategy does not apply to a question.
ChoiceScores = list[Float[np.ndarray, "_"] | None]
ScoreFunction = Callable[[Sequence[Example]], ChoiceScores]

_NUMBER = re.compile(rf"{NUMBER}%?")
# A trigram is used if at least 2 choices contain it and it is one of the 5000 most frequent.
_FEWEST, _MOST_FEATURES = 2, 5000
_RIDGE = 1.0


@dataclass(frozen=True)
class Strategy:
    """A way to pick a choice without understanding the question.

    Attributes:
        name: a short name, for tables.
        picks: what the strategy picks, as a phrase for sentences, such as "the longest choice".
        score: returns a score for each choice of each question; the highest is picked.
        learns: whether the strategy is fitted on right answers of the other half of the questions;
            see `find_second_half`.
        by_place: whether the pick depends on the order of the choices.
    """

    name: str
    picks: str
    score: ScoreFunction
    learns: bool = False
    by_place: bool = False


def strategies() -> tuple[Strategy, ...]:
    """Return all strategies that an audit tries."""
    return (
        Strategy("longest", "the longest choice", _score_each(_choice_lengths)),
        Strategy("shortest", "the shortest choice", _score_each(_choice_lengths, sign=-1)),
        Strategy("first", "the first choice", _score_each(_choice_places, sign=-1), by_place=True),
        Strategy("last", "the last choice", _score_each(_choice_places), by_place=True),
        Strategy("largest", "the largest number", _score_number_rank(-1)),
        Strategy("second largest", "the second largest number", _score_number_rank(-2)),
        Strategy("second smallest", "the second smallest number", _score_number_rank(1)),
        Strategy("smallest", "the smallest number", _score_number_rank(0)),
        Strategy(
            "most frequent",
            "the choice that is the answer to most other questions",
            _cross_fit(_learn_frequencies),
            learns=True,
        ),
        Strategy(
            "most alike in words",
            "the choice that shares most words with the others",
            _score_each(_sum_similarities(_share_words)),
        ),
        Strategy(
            "least alike in words",
            "the choice that shares fewest words with the others",
            _score_each(_sum_similarities(_share_words), sign=-1),
        ),
        Strategy(
            "most alike word by word",
            "the choice that has most words where the others have them",
            _score_each(_sum_similarities(_share_places)),
        ),
        Strategy(
            "least alike word by word",
            "the choice that has fewest words where the others have them",
            _score_each(_sum_similarities(_share_places), sign=-1),
        ),
        Strategy(
            "most words of the prompt",
            "the choice that shares most words with the prompt",
            _score_each(_count_prompt_words),
        ),
        Strategy(
            "fewest words of the prompt",
            "the choice that shares fewest words with the prompt",
            _score_each(_count_prompt_words, sign=-1),
        ),
        Strategy(
            "earliest in the prompt",
            "the choice that comes first in the prompt",
            _score_occurrence(lambda text, choice: -text.index(choice)),
        ),
        Strategy(
            "latest in the prompt",
            "the choice that comes last in the prompt",
            _score_occurrence(lambda text, choice: -text[::-1].index(choice)),
        ),
        Strategy(
            "most often in the prompt",
            "the choice that the prompt names most often",
            _score_occurrence(lambda text, choice: text.count(choice)),
        ),
        Strategy(
            "least often in the prompt",
            "the choice that the prompt names least often",
            _score_occurrence(lambda text, choice: -text.count(choice)),
        ),
        Strategy(
            "trigrams of characters",
            "the choice that a regression on trigrams of its characters prefers",
            _cross_fit(_learn_trigrams),
            learns=True,
        ),
        Strategy(
            "bigrams of words",
            "the choice that is likeliest by its bigrams of words",
            _cross_fit(lambda taught: _learn_bigrams(taught, words)),
            learns=True,
        ),
        Strategy(
            "bigrams of characters",
            "the choice that is likeliest by its bigrams of characters",
            _cross_fit(lambda taught: _learn_bigrams(taught, list)),
            learns=True,
        ),
    )


@lru_cache(maxsize=2**14)
def words(text: str) -> tuple[str, ...]:
    """Return the words and numbers of a text, in lower case and without punctuation."""
    return tuple(re.findall(r"\w+", text.casefold()))


def _score_each(
    score: Callable[[Example], Sequence[float] | None], *, sign: int = 1
) -> ScoreFunction:
    def scores(examples: Sequence[Example]) -> ChoiceScores:
        found = map(score, examples)
        return [None if given is None else sign * np.array(given, float) for given in found]

    return scores


def _choice_lengths(example: Example) -> list[int]:
    return [len(choice) for choice in example.choices]


def _choice_places(example: Example) -> list[int]:
    return list(range(len(example.choices)))


def _score_number_rank(rank: int) -> ScoreFunction:
    """Return a function that scores 1 for the number of this rank (0: smallest, -1: largest).

    Other choices score 0. Questions with a choice that is not a number get no scores.
    """

    def score(example: Example) -> list[float] | None:
        if not all(_NUMBER.fullmatch(choice.strip()) for choice in example.choices):
            return None
        values = [float(re.sub(r"[$,%]", "", choice)) for choice in example.choices]
        ranked = sorted(set(values))
        at = min(rank, len(ranked) - 1) if rank >= 0 else max(rank, -len(ranked))
        return [float(value == ranked[at]) for value in values]

    return _score_each(score)


def _sum_similarities(
    similarity: Callable[[Sequence[str], Sequence[str]], float],
) -> Callable[[Example], list[float]]:
    """Return a function that gives each choice the sum of its similarities to the others."""

    def of_example(example: Example) -> list[float]:
        split = [words(choice) for choice in example.choices]
        pairs = np.zeros((len(split), len(split)))
        for at, first in enumerate(split):
            for place, second in enumerate(split[:at]):
                pairs[at, place] = similarity(first, second)
        return list((pairs + pairs.T).sum(axis=0))

    return of_example


def _share_words(first: Sequence[str], second: Sequence[str]) -> float:
    """Return how many words two choices share, divided by how many either has.

    This is the Jaccard index of their multisets of words.
    """
    shared = (Counter(first) & Counter(second)).total()
    return shared / max(len(first) + len(second) - shared, 1)


def _share_places(first: Sequence[str], second: Sequence[str]) -> float:
    """Return the share of the longer choice's positions at which both have the same word."""
    same = sum(one == other for one, other in zip(first, second, strict=False))
    return same / max(len(first), len(second), 1)


def _count_prompt_words(example: Example) -> list[int]:
    """Return how many distinct words of each choice occur in the prompt."""
    known = set(words(example.prompt))
    return [len(set(words(choice)) & known) for choice in example.choices]


def _score_occurrence(score: Callable[[Sequence[str], str], int]) -> ScoreFunction:
    """Return a function that scores choices by where or how often they occur in the prompt.

    A question gets scores only if all its choices are single words of its prompt: to find longer
    texts there would take some understanding.
    """

    def of_example(example: Example) -> list[int] | None:
        text, split = words(example.prompt), [words(choice) for choice in example.choices]
        if not all(len(found) == 1 and found[0] in text for found in split):
            return None
        return [score(text, found) for (found,) in split]

    return _score_each(of_example)


def find_second_half(examples: Sequence[Example]) -> list[bool]:
    """Split questions at random by prompt; return for each whether it is in the second half."""
    prompts = sorted({example.prompt for example in examples})
    random.Random("halves").shuffle(prompts)
    second = set(prompts[len(prompts) // 2 :])
    return [example.prompt in second for example in examples]


def _cross_fit(learn: Callable[[Sequence[Example]], ScoreFunction]) -> ScoreFunction:
    """Return a function that scores each half of the questions by a fit on the other half."""

    def scores(examples: Sequence[Example]) -> ChoiceScores:
        second = find_second_half(examples)
        all_scores: ChoiceScores = [None] * len(examples)
        for half in (False, True):
            places = [at for at, is_in in enumerate(second) if is_in == half]
            other_half = [examples[at] for at, is_in in enumerate(second) if is_in != half]
            if other_half and places:
                half_scores = learn(other_half)([examples[at] for at in places])
                for at, score in zip(places, half_scores, strict=True):
                    all_scores[at] = score
        return all_scores

    return scores


def _learn_frequencies(taught: Sequence[Example]) -> ScoreFunction:
    count = Counter(example.answer for example in taught)
    return _score_each(lambda example: [count[choice] for choice in example.choices])


def _learn_bigrams(
    taught: Sequence[Example], split: Callable[[str], Iterable[str]]
) -> ScoreFunction:
    """Return a function that scores choices by their log-likelihood under a bigram model.

    The model is fitted, with add-one smoothing, to the right answers of `taught`.
    """
    pairs = Counter(pair for example in taught for pair in _bigrams_of(split(example.answer)))
    first_counts = Counter[str]()
    for (first, _), number in pairs.items():
        first_counts[first] += number
    size = len({second for _, second in pairs}) + 1  # one for unseen tokens

    def likelihoods(example: Example) -> list[float]:
        return [
            sum(
                math.log((pairs[pair] + 1) / (first_counts[pair[0]] + size))
                for pair in _bigrams_of(split(choice))
            )
            for choice in example.choices
        ]

    return _score_each(likelihoods)


def _bigrams_of(tokens: Iterable[str]) -> Iterable[tuple[str, str]]:
    return pairwise(["<start>", *tokens, "<end>"])


def _learn_trigrams(taught: Sequence[Example]) -> ScoreFunction:
    """Return a function that scores choices by a regression on their character trigrams.

    A conditional logistic regression of the right choice, with a ridge penalty, is fitted to
    `taught`: the probabilities of a question's choices sum to one (McFadden 1974). Scores are
    logits.
    """
    count = Counter(t for e in taught for choice in e.choices for t in set(_trigrams_of(choice)))
    common = [name for name, n in count.most_common(_MOST_FEATURES) if n >= _FEWEST]
    column = {name: place for place, name in enumerate(common)}
    x = _count_features([choice for e in taught for choice in e.choices], column)
    sizes = [len(e.choices) for e in taught]
    starts = np.cumsum([0, *sizes[:-1]])
    right = starts + [e.choices.index(e.answer) for e in taught]

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        scores = x @ weights
        scores -= np.repeat(np.maximum.reduceat(scores, starts), sizes)
        total = np.add.reduceat(np.exp(scores), starts)
        share = np.exp(scores) / np.repeat(total, sizes)
        share[right] -= 1
        value = np.log(total).sum() - scores[right].sum() + _RIDGE / 2 * weights @ weights
        return float(value), x.T @ share + _RIDGE * weights

    fit = optimize.minimize(loss, np.zeros(len(column)), jac=True, method="L-BFGS-B")

    def logits(examples: Sequence[Example]) -> ChoiceScores:
        found = _count_features([choice for e in examples for choice in e.choices], column) @ fit.x
        return list(np.split(found, np.cumsum([len(e.choices) for e in examples])[:-1]))

    return logits


def _trigrams_of(text: str) -> list[str]:
    padded = f"  {text} "
    return [padded[at : at + 3] for at in range(len(padded) - 2)]


def _count_features(texts: Sequence[str], column: dict[str, int]) -> sparse.csr_matrix:
    rows, columns = [], []
    for row, text in enumerate(texts):
        known = [column[name] for name in _trigrams_of(text) if name in column]
        rows += [row] * len(known)
        columns += known
    ones = np.ones(len(rows))
    return sparse.csr_matrix((ones, (rows, columns)), shape=(len(texts), len(column)))
