"""Tell a chat model's thinking from its answer: only what follows `</think>` is graded."""

from dataclasses import dataclass

_OPEN, _CLOSED = "<think>", "</think>"


@dataclass(frozen=True)
class Said:
    """What a model wrote.

    Attributes:
        answer: without its thinking; empty where that never ended.
        thinking: what it thought, without the marks.
        closed: whether the thinking ended; None where there was none.
    """

    answer: str
    thinking: str
    closed: bool | None


def said(text: str, *, opened: bool) -> Said:
    """Part a text; `opened` where the prompt itself has begun the thinking.

    Example:
        >>> said("<think>2 and 2</think> 4", opened=False)
        Said(answer=' 4', thinking='2 and 2', closed=True)
    """
    thinking, mark, answer = text.rpartition(_CLOSED)
    if mark:
        return Said(answer, thinking.strip().removeprefix(_OPEN), True)
    if opened or _OPEN in text:
        return Said("", text.strip().removeprefix(_OPEN), False)
    return Said(text, "", None)


def opens(prompt: str) -> bool:
    """Whether a prompt ends within a thinking block, as the templates of some models do."""
    return prompt.rfind(_OPEN) > prompt.rfind(_CLOSED)
