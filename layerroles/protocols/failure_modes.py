"""Classify generated answers as correct, or by the way in which they failed.

An ablated model that does not keep the format, does not stop or repeats itself is reported
separately from one that gives a wrong answer.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from layerroles.protocols.thinking_parser import Reply
from layerroles.tasks import Grade

Outcome = Literal["correct", "wrong", "no answer", "truncated", "degenerate", "empty"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_NGRAM = 4
# A text counts as degenerate if at least this share of its 4-grams repeat an earlier one.
_REPETITIVE = 0.5
_FEWEST_WORDS = 12


def outcome(text: str, grade: Grade, *, ended: bool) -> Outcome:
    """Return the outcome of a response: the first of these that applies.

    - `empty`: only white space;
    - `correct`: the right answer in any accepted form;
    - `degenerate`: at least 12 words, and at least half of its 4-word sequences occurred before in
      the text;
    - `no answer`: no answer can be read, and the text ended by itself;
    - `truncated`: the token limit was reached, and no answer can be read or the answer is not right
      in the strict form;
    - `wrong`.

    Args:
        text: the response.
        grade: the task's grading of the response.
        ended: whether the text ended by itself, rather than at the token limit.

    Example:
        >>> from layerroles.tasks import Grade
        >>> outcome("I think", Grade(strict=False, flexible=False, answered=False), ended=False)
        'truncated'
    """
    if not text.strip():
        return "empty"
    if grade.flexible:
        return "correct"
    if len(text.split()) >= _FEWEST_WORDS and repeated_share(text) >= _REPETITIVE:
        return "degenerate"
    if not grade.answered:
        return "no answer" if ended else "truncated"
    # Cut before it reached the form that the shots show: what was read is not its final answer.
    if not ended and not grade.strict:
        return "truncated"
    return "wrong"


def is_in_form(grade: Grade, outcome: Outcome) -> bool:
    """Return whether an answer, right or wrong, has the form that the shots show.

    False unless the outcome is `correct` or `wrong`. If the grade's `form` is None, a wrong answer
    counts as in form, and a correct answer only if it is right in the strict form.
    """
    if outcome not in ("correct", "wrong"):
        return False
    return (grade.strict or outcome == "wrong") if grade.form is None else grade.form


def repeated_share(text: str) -> float:
    """Return the share of 4-word sequences that repeat an earlier one; 0 if there are none."""
    runs = _ngrams(text.split(), _NGRAM)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct_share(text: str, n: int) -> float | None:
    """Return the share of n-word sequences that are distinct (distinct-n); None if there are none.

    After Li et al. 2016, "A Diversity-Promoting Objective Function" (arXiv 1510.03055).
    """
    runs = _ngrams(text.split(), n)
    return len(set(runs)) / len(runs) if runs else None


def make_details(text: str, reply: Reply) -> dict[str, float | str | None]:
    """Return the `details` of a generated answer: repetition, distinct-n and thinking.

    Args:
        text: the whole generated text.
        reply: the same text, split into thinking and answer.
    """
    return {
        "repetition": repeated_share(text),
        "distinct_1": distinct_share(text, 1),
        "distinct_2": distinct_share(text, 2),
        **({"thinking": reply.thinking} if reply.thinking else {}),
    }


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
