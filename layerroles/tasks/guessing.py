"""Measure chance: the best score that is possible without understanding the question.

A model that always writes "A" is right on a quarter of four-way questions, without any skill. So
chance is measured: the guessing strategy that scores best on other questions of the task is scored
on the questions that are asked. The result is a score of guessing for each question, which can be
paired with the model's score. For a task that generates questions, the other questions are drawn
under another seed. A finite task is split in halves, and each half is guessed by the strategy that
scores best on the other half. If the answer is one of given choices, chance is that of a random
choice, unless a rule that ignores the question, such as always the second choice, is shown to be
better (`best_choice`).
"""

import functools
import math
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task, normalize_text
from layerroles.tasks.grade_numbers import NUMBER
from layerroles.tasks.task_base_classes import Generated

# The score of a text as the answer to an example.
Scorer = Callable[[Example, str], float]
# The texts that a strategy writes for an example, equally likely; empty if it does not apply.
Guesser = Callable[[Example], Iterable[str]]
# The choice that is taken for an example; None for a random one.
Chooser = Callable[[Example], str | None]

# How many other questions are used to compare strategies.
N_OTHERS = 2000
_OTHER_CHOICES = 500  # to compare rules for choosing; fewer, since lm-eval builds each prompt
_FEWEST = 50
_CHARACTERS = 1_000_000  # of all other questions together, since long prompts take time
_CONSTANTS = 4
_OTHER_SEED = 1_000_003


@dataclass(frozen=True)
class Guess:
    """The best guessing strategy for some examples, and its scores.

    Attributes:
        strategy: the name of the strategy. For a finite task, the names for both halves, joined by
            "or" if they differ.
        scores: the strategy's expected score on each example, by id. If it is wrong on all examples
            but right on some other questions, each score is the mean over the other questions: few
            examples do not show that guessing is impossible.
    """

    strategy: str
    scores: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The mean score over the examples."""
        return fmean(self.scores.values())


def best_guess(task: Task, examples: Sequence[Example], seed: int, score: Scorer) -> Guess:
    """Return the best guessing strategy, and its score on each example that a sweep asks.

    The strategy is the one that scores best on other questions of the task. If the task generates
    questions, the other questions are drawn under another seed. Otherwise each half of the
    questions is guessed by the strategy that scores best on the other half.

    Args:
        task: the task of the examples.
        examples: the examples that the sweep asks.
        seed: the seed of the sweep.
        score: returns the score of a text as the answer to an example.
    """
    if isinstance(task, Generated):
        others = _draw_others(task, examples, seed)
        guesser = _find_best(task, others, score)
        return Guess(guesser.name, guesser.score_each(examples, score))
    by_id = {example.id: example for example in (*task.examples(N_OTHERS, seed), *examples)}
    half_of = _split_in_halves(by_id)
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in by_id.values():
        parts[half_of[example.id]].append(example)
    guessers = [_find_best(task, others, score) for others in reversed(parts)]
    scores: dict[str, float] = {}
    for place, guesser in enumerate(guessers):
        scores |= guesser.score_each(
            [example for example in examples if half_of[example.id] == place], score
        )
    names = dict.fromkeys(guessers[half_of[example.id]].name for example in examples)
    return Guess(" or ".join(names), {example.id: scores[example.id] for example in examples})


def best_choice(task: Task, examples: Sequence[Example], seed: int) -> Guess | None:
    """Return the best rule for choosing without reading the question, and its scores.

    The rules are: always the choice at one position, always one text (a random choice where there
    is no such choice), the longest choice, and the shortest. Each half of the questions is answered
    by the rule that is right most often on the other half. Returns None if no rule is shown to be
    better than choosing at random. Also returns None for tasks that generate questions: these
    shuffle their choices.

    Args:
        task: the task of the examples.
        examples: the examples that the sweep asks; all have choices.
        seed: the seed of the sweep.
    """
    if isinstance(task, Generated):
        return None
    questions = (*task.examples(_OTHER_CHOICES, seed), *examples)
    by_id = {each.id: each for each in questions if each.choices}
    half_of = _split_in_halves(by_id)
    choosers = [
        _find_best_chooser([each for each in by_id.values() if half_of[each.id] != half])
        for half in (0, 1)
    ]
    if choosers == [None, None]:
        return None
    names = [chooser[0] if chooser else "any choice" for chooser in choosers]
    scores = {}
    for example in examples:
        chooser = choosers[half_of[example.id]]
        chosen = chooser[1](example) if chooser else None
        scores[example.id] = _choice_score(example, chosen)
    used = dict.fromkeys(names[half_of[example.id]] for example in examples)
    return Guess(" or ".join(used), scores)


def _find_best_chooser(others: Sequence[Example]) -> tuple[str, Chooser] | None:
    """Return (name, chooser) of the rule that is right most often; None if none beats chance.

    To beat chance, a rule must exceed it by more than three standard errors.
    """
    if not others:
        return None
    at_random = [_choice_score(example, None) for example in others]
    error = math.sqrt(sum(chance * (1 - chance) for chance in at_random))
    best, most = None, sum(at_random) + 3 * error
    for name, chooser in _make_choosers(others):
        n_right = sum(_choice_score(example, chooser(example)) for example in others)
        if n_right > most:
            best, most = (name, chooser), n_right
    return best


def _choice_score(example: Example, chosen: str | None) -> float:
    """Return 1 if the chosen text is the answer, else 0; for None, the score of a random choice."""
    return 1 / len(example.choices) if chosen is None else float(chosen == example.answer)


def _make_choosers(others: Sequence[Example]) -> Iterable[tuple[str, Chooser]]:
    """Yield (name, chooser) for each rule that `best_choice` compares."""
    for place in range(max(len(example.choices) for example in others)):
        yield f"always choice {place + 1}", functools.partial(_choose_place, place=place)
    for answer, _ in Counter(example.answer for example in others).most_common(_CONSTANTS):
        yield f"always {answer!r}", functools.partial(_choose_text, text=answer)
    yield "the longest choice", lambda example: max(example.choices, key=len)
    yield "the shortest choice", lambda example: min(example.choices, key=len)


def _choose_place(example: Example, *, place: int) -> str | None:
    return example.choices[place] if place < len(example.choices) else None


def _choose_text(example: Example, *, text: str) -> str | None:
    return text if text in example.choices else None


@dataclass(frozen=True)
class _BestGuesser:
    """The strategy that scores best on other questions, and its mean score on them.

    Attributes:
        name: the strategy's name.
        strategy: the strategy as a function, which returns its guesses for an example.
        mean: the mean score on the other questions.
    """

    name: str
    strategy: Guesser
    mean: float

    def score_each(self, examples: Sequence[Example], score: Scorer) -> dict[str, float]:
        scores = {
            example.id: _expected_score(example, self.strategy, score) for example in examples
        }
        return scores if any(scores.values()) else dict.fromkeys(scores, self.mean)


def _draw_others(task: Generated, examples: Sequence[Example], seed: int) -> list[Example]:
    """Draw questions under another seed, without those in `examples`; the list may be empty."""
    length = fmean(len(example.context()) for example in examples)
    n = min(N_OTHERS, max(_FEWEST, int(_CHARACTERS / length)))
    asked_ids = {example.id for example in examples}
    while n:
        try:
            drawn = task.examples(n, seed + _OTHER_SEED)
        except InputError:  # the task has fewer
            n //= 2
        else:
            return [example for example in drawn if example.id not in asked_ids]
    return []


def _split_in_halves(ids: Iterable[str]) -> dict[str, int]:
    """Assign each id to half 0 or 1 by its hash; the order of `ids` has no influence."""
    ranked = sorted(ids, key=lambda id: (zlib.crc32(id.encode()), id))
    return {id: place % 2 for place, id in enumerate(ranked)}


def _find_best(task: Task, others: Sequence[Example], score: Scorer) -> _BestGuesser:
    """Return the strategy with the highest mean score on `others`.

    If all strategies score 0, return one that never guesses; its name is `no guess`.
    """
    best = _BestGuesser("no guess", _never_guess, 0.0)
    for name, strategy in _make_guessers(task, others) if others else ():
        mean = fmean(_expected_score(example, strategy, score) for example in others)
        if mean > best.mean + 1e-12:
            best = _BestGuesser(name, strategy, mean)
    return best


def _expected_score(example: Example, strategy: Guesser, score: Scorer) -> float:
    texts = list(strategy(example))
    return fmean(score(example, text) for text in texts) if texts else 0.0


def _make_guessers(task: Task, others: Sequence[Example]) -> Iterable[tuple[str, Guesser]]:
    """Yield (name, strategy) for each guessing strategy; some depend on the answers to `others`."""
    answers = Counter(example.answer for example in others)
    for answer, count in answers.most_common(_CONSTANTS):
        if count == 1:  # of no use for any other question
            break
        yield f"always {answer!r}", _always_guess(answer)
    by_group: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for example in others:
        by_group[task.group(example)][example.answer] += 1
    if len(by_group) > 1:
        frequent = {group: counts.most_common(1)[0][0] for group, counts in by_group.items()}
        yield (
            "the most frequent answer of its group",
            lambda example: (
                [frequent[task.group(example)]] if task.group(example) in frequent else []
            ),
        )
    yield "any of the options", lambda example: example.choices if _shows_choices(example) else ()
    yield "the answer of a worked example", lambda example: [shot.answer for shot in example.shots]
    pattern = _find_pattern(answers)
    known_answers = _KnownAnswers(others)

    def shown(example: Example) -> list[str]:
        candidates = task.candidates(example)
        if candidates is None and pattern:
            return list(dict.fromkeys(re.findall(pattern, example.prompt)))
        return known_answers.find_in(example) if candidates is None else candidates

    yield "any value in the prompt", shown


def _find_pattern(answers: Counter[str]) -> str:
    """Return the regular expression, for quoted texts or for numbers, that matches all answers.

    Return an empty string if neither does.
    """
    for pattern in (r'"[^"]*"', NUMBER):
        if answers and all(re.fullmatch(pattern, answer) for answer in answers):
            return pattern
    return ""


class _KnownAnswers:
    """The answers to the questions `others`, indexed by their first word."""

    def __init__(self, others: Sequence[Example]) -> None:
        self._counts = Counter(normalize_text(example.answer) for example in others)
        self._own = {example.id: normalize_text(example.answer) for example in others}
        self._text = {normalize_text(example.answer): example.answer for example in others}
        self._by_first: defaultdict[str, list[str]] = defaultdict(list)
        for answer in sorted(self._counts):
            if words := re.findall(r"\w+", answer):
                self._by_first[words[0]].append(answer)

    def find_in(self, example: Example) -> list[str]:
        """Return the answers to `others` that occur in the example's prompt as whole words.

        The example's own answer is left out unless it is also the answer to another question.
        """
        text = normalize_text(example.prompt)
        first_words = set(re.findall(r"\w+", text)) & self._by_first.keys()
        return [
            self._text[answer]
            for word in sorted(first_words)
            for answer in self._by_first[word]
            if self._counts[answer] > (self._own.get(example.id) == answer)
            and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)
        ]


def _shows_choices(example: Example) -> bool:
    """Return whether the prompt lists all choices after letters or numbers, as in `A. Paris`."""
    return bool(example.choices) and all(
        re.search(rf"(?<!\w)\w[.):] {re.escape(choice)}", example.prompt)
        for choice in example.choices
    )


def _always_guess(answer: str) -> Guesser:
    return lambda _: [answer]


def _never_guess(example: Example) -> Iterable[str]:
    return ()
