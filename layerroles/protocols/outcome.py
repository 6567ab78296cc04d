"""How a generated answer failed, if it did.

An ablated model that does not keep the format, does not stop or repeats itself is reported
separately from one that gives a wrong answer.
"""

from collections.abc import Sequence
from typing import Literal, get_args

from layerroles.protocols.turns import Reply
from layerroles.tasks import Grade

Outcome = Literal["correct", "wrong", "no answer", "truncated", "degenerate", "empty"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_NGRAM = 4
# Share of 4-grams that occurred before, from which a text counts as degenerate.
_REPETITIVE = 0.5
_FEWEST_WORDS = 12


def outcome(text: str, grade: Grade, *, ended: bool) -> Outcome:
    """Name what a response is.

    In this order: `empty` (nothing but white space), `correct`, `degenerate` (12 words or more, and
    half or more of its 4-word runs occurred before in it), `no answer` or `truncated` (no answer
    can be read; it ended by itself or was cut), `wrong`.

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
    # Cut before it came to the form that the shots show: what was read so far is not its answer.
    if not ended and not grade.strict:
        return "truncated"
    return "wrong"


def is_in_form(grade: Grade, outcome: Outcome) -> bool:
    """Whether an answer came in the form of the shots, be it right or wrong.

    As the grade says; where it does not, an answer is in form if it is strict, or wrong (a wrong
    answer has no form that could be distinguished from the right one's).
    """
    if outcome not in ("correct", "wrong"):
        return False
    return (grade.strict or outcome == "wrong") if grade.form is None else grade.form


def repeated_share(text: str) -> float:
    """The share of a text's 4-word runs that occurred before in it; 0 if it has none."""
    runs = _ngrams(text.split(), _NGRAM)
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def distinct_share(text: str, n: int) -> float | None:
    """The share of a text's n-word runs that are different (distinct-n); None if it has none.

    After Li et al. 2016, "A Diversity-Promoting Objective Function" (arXiv 1510.03055).
    """
    runs = _ngrams(text.split(), n)
    return len(set(runs)) / len(runs) if runs else None


def make_details(text: str, reply: Reply) -> dict[str, float | str | None]:
    """What the rows of a written answer keep in `details`.

    Args:
        text: all that was written.
        reply: the thinking and the answer in it.
    """
    return {
        "repetition": repeated_share(text),
        "distinct_1": distinct_share(text, 1),
        "distinct_2": distinct_share(text, 2),
        **({"thinking": reply.thinking} if reply.thinking else {}),
    }


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
