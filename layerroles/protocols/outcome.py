"""How a generated answer failed, if it did.

An ablated model that cannot keep a format, stops nowhere or repeats itself has not simply got the
answer wrong, and is not reported as if it had.
"""

from typing import Literal, get_args

from layerroles.tasks import Grade

Outcome = Literal["correct", "wrong", "no answer", "truncated", "degenerate", "empty"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

_NGRAM = 4
# Share of 4-grams that occurred before, from which a text counts as degenerate.
_REPETITIVE = 0.5
_FEWEST_WORDS = 12


def outcome(text: str, grade: Grade, *, ended: bool) -> Outcome:
    """Name what a response is.

    In this order: `empty` (nothing but white space), `correct`, `degenerate` (half or more of its
    4-word runs occurred before in it), `no answer` or `truncated` (no answer can be read; it ended
    by itself or was cut), `wrong`.
    """
    if not text.strip():
        return "empty"
    if grade.flexible:
        return "correct"
    if repetition(text) >= _REPETITIVE:
        return "degenerate"
    if not grade.answered:
        return "no answer" if ended else "truncated"
    # Cut before it came to the form that the shots show: what was read so far is not its answer.
    if not ended and not grade.strict:
        return "truncated"
    return "wrong"


def repetition(text: str) -> float:
    """The share of a text's 4-word runs that occurred before in it; 0 for short texts."""
    words = text.split()
    if len(words) < _FEWEST_WORDS:
        return 0.0
    runs = [tuple(words[i : i + _NGRAM]) for i in range(len(words) - _NGRAM + 1)]
    return 1 - len(set(runs)) / len(runs)
