r"""A question behind its worked examples, as a conversation; and the answer in what a model writes.

Worked examples become turns of user and assistant, and the question is the last thing that the user
says. The turns are read as one text, or in the template of the model's own chat. What is scored or
generated is the assistant's reply; where a chat model thinks first, only what follows `</think>` is
graded.

    >>> print(join_turns([Turn("user", "1 + 1 ="), Turn("assistant", "2")]))
    1 + 1 = 2
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles.models import chat_text
from layerroles.tasks import Example

# Some templates state the day; a run that goes on tomorrow must ask the same.
_DAY = "01 Jan 2025"
_OPEN, _CLOSED = "<think>", "</think>"


@dataclass(frozen=True)
class Turn:
    """What one side says.

    Example:
        >>> from layerroles.protocols import Turn
        >>> Turn("user", "2 + 2 =")
        Turn(role='user', text='2 + 2 =')
    """

    role: Literal["user", "assistant"]
    text: str


def turns_with_answers(example: Example) -> list[Turn]:
    """Shots that show bare answers, then the question."""
    return _make_turns(example, [shot.answer for shot in example.shots])


def turns_with_solutions(example: Example) -> list[Turn]:
    """Shots that show worked solutions where they have one, then the question."""
    return _make_turns(example, [shot.solution or shot.answer for shot in example.shots])


def _make_turns(example: Example, replies: Sequence[str]) -> list[Turn]:
    shots = [
        turn
        for shot, reply in zip(example.shots, replies, strict=True)
        for turn in (Turn("user", shot.prompt), Turn("assistant", reply))
    ]
    return [*shots, Turn("user", example.prompt)]


def join_turns(turns: Sequence[Turn]) -> str:
    r"""Turns as one text without a template: a reply follows after a space, what is next apart.

    Example:
        >>> join_turns([Turn("user", "1 + 1 ="), Turn("assistant", "2"), Turn("user", "1 + 2 =")])
        '1 + 1 = 2\n\n1 + 2 ='
    """
    text = ""
    for turn in turns:
        seam = "" if not text else " " if turn.role == "assistant" else "\n\n"
        text += seam + turn.text
    return text


def apply_template(model: TransformerBridge, turns: Sequence[Turn]) -> str:
    """Turns in the template of the model's tokenizer, up to where the assistant replies.

    Raises:
        InputError: there is no template, or it does not take these turns.
    """
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    return chat_text(model, messages, day=_DAY)


@dataclass(frozen=True)
class Reply:
    """What a model wrote.

    Attributes:
        answer: without its thinking; empty where that never ended.
        thinking: what it thought, without the marks.
        closed: whether the thinking ended; None where there was none.
    """

    answer: str
    thinking: str
    closed: bool | None


def split_thinking(text: str, *, opened: bool) -> Reply:
    """Part a text; `opened` where the prompt itself has begun the thinking.

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
    """Whether a prompt ends within a thinking block, as the templates of some models do."""
    return prompt.rfind(_OPEN) > prompt.rfind(_CLOSED)
