"""Split what a chat model thinks, between `<think>` and `</think>`, from its answer.

Only the answer is graded.
"""

from dataclasses import dataclass

_OPEN, _CLOSED = "<think>", "</think>"


@dataclass(frozen=True)
class Reply:
    """A generated text, split into thinking and answer.

    Attributes:
        answer: the text without its thinking block; empty if that block was not closed.
        thinking: the text of the thinking block; empty if there was none.
        closed: whether the thinking block was closed; None if there was none.
    """

    answer: str
    thinking: str
    closed: bool | None


def split_thinking(text: str, *, opened: bool) -> Reply:
    """Split a text into thinking and answer.

    Args:
        text: the generated text.
        opened: whether the prompt ends within a thinking block.

    Example:
        >>> split_thinking("<think>2 and 2</think> 4", opened=False)
        Reply(answer=' 4', thinking='2 and 2', closed=True)
    """
    thinking, mark, answer = text.rpartition(_CLOSED)
    if mark:
        return Reply(answer, thinking.strip().removeprefix(_OPEN), True)
    if opened or _OPEN in text:
        return Reply("", text.strip().removeprefix(_OPEN), False)
    return Reply(text, "", None)


def opens_thinking(prompt: str) -> bool:
    """Return whether a prompt ends within a thinking block, as some chat templates do."""
    return prompt.rfind(_OPEN) > prompt.rfind(_CLOSED)
