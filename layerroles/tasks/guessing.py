"""What guessing scores: the best that one can do without understanding the question.

A model that always writes "A" is right on a quarter of four-way questions. So chance is measured:
of the strategies below, the one that does best on other questions of the task is scored on those
that are asked, with its score on each, so that its error is known and paired with the model's. The
other questions of a task without end are drawn under another seed; a finite task is split in
halves, and each half is guessed by the strategy that does best on the other.
"""

import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task, normalised
from layerroles.tasks.grading import NUMBER
from layerroles.tasks.sources import Generated

# The score of a text as the answer to an example.
Scorer = Callable[[Example, str], float]
# The texts that a strategy writes for an example, each as likely; none where it has none.
Strategy = Callable[[Example], Iterable[str]]

_OTHERS = 2000
_FEWEST = 50
_CHARACTERS = 1_000_000  # of other questions: long prompts take their time
_CONSTANTS = 4
_OTHER_SEED = 1_000_003


@dataclass(frozen=True)
class Guess:
    """The best guess for some examples.

    Attributes:
        strategy: its name; of a finite task the names for both halves, where they differ.
        scores: its expected score on each example, by id. Where it is wrong on all, and was right
            on some of the other questions, its mean score on those: that a few questions show
            nothing to guess does not make guessing impossible.
    """

    strategy: str
    scores: Mapping[str, float]

    @property
    def mean(self) -> float:
        """The score of guessing."""
        return fmean(self.scores.values())


def best_guess(task: Task, examples: Sequence[Example], seed: int, score: Scorer) -> Guess:
    """Score the best guessing strategy on the examples that a sweep asks.

    Args:
        task: whose examples they are.
        examples: those that are asked.
        seed: of the sweep.
        score: the score of a text as the answer to an example.
    """
    if isinstance(task, Generated):
        others = _drawn(task, examples, seed)
        best = _best(task, others, score)
        return Guess(best.name, best.scored(examples, score))
    known = {one.id: one for one in (*task.examples(_OTHERS, seed), *examples)}
    half = _halves(known)
    parts: tuple[list[Example], list[Example]] = ([], [])
    for one in known.values():
        parts[half[one.id]].append(one)
    chosen = [_best(task, others, score) for others in reversed(parts)]
    scores: dict[str, float] = {}
    for at, best in enumerate(chosen):
        scores |= best.scored([one for one in examples if half[one.id] == at], score)
    names = dict.fromkeys(chosen[half[one.id]].name for one in examples)
    return Guess(" or ".join(names), {one.id: scores[one.id] for one in examples})


@dataclass(frozen=True)
class _Best:
    """The strategy that does best on other questions, with its mean score on them."""

    name: str
    strategy: Strategy
    mean: float

    def scored(self, examples: Sequence[Example], score: Scorer) -> dict[str, float]:
        scores = {one.id: _expected(one, self.strategy, score) for one in examples}
        return scores if any(scores.values()) else dict.fromkeys(scores, self.mean)


def _drawn(task: Generated, examples: Sequence[Example], seed: int) -> list[Example]:
    """Questions under another seed."""
    length = fmean(len(one.context()) for one in examples)
    n = min(_OTHERS, max(_FEWEST, int(_CHARACTERS / length)))
    asked = {one.id for one in examples}
    while n:
        try:
            drawn = task.examples(n, seed + _OTHER_SEED)
        except InputError:  # the task has fewer
            n //= 2
        else:
            return [one for one in drawn if one.id not in asked]
    return []


def _halves(ids: Iterable[str]) -> dict[str, int]:
    """Split ids in two halves by their hashes: their order does not matter."""
    ranked = sorted(ids, key=lambda id: (zlib.crc32(id.encode()), id))
    return {id: place % 2 for place, id in enumerate(ranked)}


def _best(task: Task, others: Sequence[Example], score: Scorer) -> _Best:
    """The strategy that does best on other questions; the first of those that do equally well."""
    best = _Best("no guess", _nothing, 0.0)
    for name, strategy in _strategies(task, others) if others else ():
        mean = fmean(_expected(one, strategy, score) for one in others)
        if mean > best.mean + 1e-12:
            best = _Best(name, strategy, mean)
    return best


def _expected(example: Example, strategy: Strategy, score: Scorer) -> float:
    texts = list(strategy(example))
    return fmean(score(example, text) for text in texts) if texts else 0.0


def _strategies(task: Task, others: Sequence[Example]) -> Iterable[tuple[str, Strategy]]:
    """Ways to guess, with what they learn from other questions."""
    answers = Counter(one.answer for one in others)
    for answer, count in answers.most_common(_CONSTANTS):
        if count == 1:  # of no use for any other question
            break
        yield f"always {answer!r}", _constant(answer)
    by_group: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for one in others:
        by_group[task.group(one)][one.answer] += 1
    if len(by_group) > 1:
        frequent = {group: counts.most_common(1)[0][0] for group, counts in by_group.items()}
        yield (
            "the most frequent answer of its group",
            lambda one: [frequent[task.group(one)]] if task.group(one) in frequent else [],
        )
    yield "any of the options", lambda one: one.choices if _are_shown(one) else ()
    yield "the answer of a worked example", lambda one: [shot.answer for shot in one.shots]
    pattern = _pattern(answers)
    known = _Answers(others)

    def shown(one: Example) -> list[str]:
        found = task.candidates(one)
        if found is None and pattern:
            return list(dict.fromkeys(re.findall(pattern, one.prompt)))
        return known.named_in(one) if found is None else found

    yield "any value in the prompt", shown


def _pattern(answers: Counter[str]) -> str:
    """What the answers look like: texts in quotes or numbers; empty for other texts."""
    for pattern in (r'"[^"]*"', NUMBER):
        if answers and all(re.fullmatch(pattern, answer) for answer in answers):
            return pattern
    return ""


class _Answers:
    """The answers to other questions, to be found in a prompt."""

    def __init__(self, others: Sequence[Example]) -> None:
        self._counts = Counter(normalised(one.answer) for one in others)
        self._own = {one.id: normalised(one.answer) for one in others}
        self._text = {normalised(one.answer): one.answer for one in others}
        self._by_first: defaultdict[str, list[str]] = defaultdict(list)
        for answer in sorted(self._counts):
            if words := re.findall(r"\w+", answer):
                self._by_first[words[0]].append(answer)

    def named_in(self, example: Example) -> list[str]:
        """Those that stand in the prompt as whole words, the example's own answer not counted."""
        text = normalised(example.prompt)
        first = set(re.findall(r"\w+", text)) & self._by_first.keys()
        return [
            self._text[answer]
            for word in sorted(first)
            for answer in self._by_first[word]
            if self._counts[answer] > (self._own.get(example.id) == answer)
            and re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text)
        ]


def _are_shown(example: Example) -> bool:
    """Whether the prompt lists the choices, each behind a letter or a number, as in `A. Paris`."""
    return bool(example.choices) and all(
        re.search(rf"(?<!\w)\w[.):] {re.escape(choice)}", example.prompt)
        for choice in example.choices
    )


def _constant(answer: str) -> Strategy:
    return lambda _: [answer]


def _nothing(example: Example) -> Iterable[str]:
    return ()
