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
from layerroles.tasks.base import Example, Task
from layerroles.tasks.generated import Generated

# The score of a text as the answer to an example.
Scorer = Callable[[Example, str], float]
# The texts that a strategy writes for an example, each as likely; none where it has none.
Strategy = Callable[[Example], Iterable[str]]

_OTHERS = 2000
_FEWEST = 50
_CHARACTERS = 1_000_000  # of other questions: long prompts take their time
_CONSTANTS = 4
_OTHER_SEED = 1_000_003
_KINDS = {"quoted": r'"[^"]*"', "number": r"-?\d+(?:\.\d+)?"}
_WORD = r"[^\W_]+"


@dataclass(frozen=True)
class Guess:
    """The best guess for some examples.

    Attributes:
        strategy: its name; of a finite task the names for both halves, where they differ.
        scores: its expected score on each example, by id.
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
        name, strategy = _best(task, others, score)
        return Guess(name, {one.id: _expected(one, strategy, score) for one in examples})
    known = {one.id: one for one in (*task.examples(_OTHERS, seed), *examples)}
    halves = [[one for one in known.values() if _half(one) == half] for half in (0, 1)]
    chosen = [_best(task, others, score) for others in reversed(halves)]
    names = dict.fromkeys(chosen[_half(one)][0] for one in examples)
    scores = {one.id: _expected(one, chosen[_half(one)][1], score) for one in examples}
    return Guess(" or ".join(names), scores)


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


def _half(example: Example) -> int:
    return zlib.crc32(example.id.encode()) % 2


def _best(task: Task, others: Sequence[Example], score: Scorer) -> tuple[str, Strategy]:
    """The strategy that does best on other questions; the first of those that do equally well."""
    best: tuple[str, Strategy] = ("no guess", _nothing)
    reached = 0.0
    for name, strategy in _strategies(task, others):
        found = fmean(_expected(one, strategy, score) for one in others)
        if found > reached + 1e-12:
            best, reached = (name, strategy), found
    return best


def _expected(example: Example, strategy: Strategy, score: Scorer) -> float:
    texts = list(strategy(example))
    return fmean(score(example, text) for text in texts) if texts else 0.0


def _strategies(task: Task, others: Sequence[Example]) -> Iterable[tuple[str, Strategy]]:
    """Ways to guess, with what they learn from other questions."""
    answers = Counter(one.answer for one in others)
    for answer, _ in answers.most_common(_CONSTANTS):
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
    if pattern == _WORD:
        words = {word for answer in answers for word in re.findall(_WORD, answer)}
        yield (
            "any word of the prompt that can be an answer",
            lambda one: task.candidates(one) or sorted(set(re.findall(_WORD, one.prompt)) & words),
        )
    else:
        yield (
            "any value in the prompt",
            lambda one: task.candidates(one) or _matches(pattern, one.prompt),
        )


def _pattern(answers: Counter[str]) -> str:
    """What the answers look like: quoted texts, numbers or single words; empty for other texts."""
    for pattern in (*_KINDS.values(), _WORD):
        if answers and all(re.fullmatch(pattern, answer) for answer in answers):
            return pattern
    return ""


def _are_shown(example: Example) -> bool:
    """Whether the prompt lists the choices, each behind a letter or a number, as in `A. Paris`."""
    return bool(example.choices) and all(
        re.search(rf"(?<!\w)\w[.):] {re.escape(choice)}", example.prompt)
        for choice in example.choices
    )


def _matches(pattern: str, prompt: str) -> list[str]:
    return list(dict.fromkeys(re.findall(pattern, prompt))) if pattern else []


def _constant(answer: str) -> Strategy:
    return lambda _: [answer]


def _nothing(example: Example) -> Iterable[str]:
    return ()
