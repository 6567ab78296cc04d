"""A question behind its worked examples, as turns of a conversation or as one text.

Ask as a chat: the same questions, as turns of a conversation in the model's own template.

Shots become turns of user and assistant, the question the last thing that the user says, and what
is scored or generated is the assistant's reply.

Tell a chat model's thinking from its answer: only what follows `</think>` is graded.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles.models import chat_text
from layerroles.tasks import Example


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


def as_text(turns: Sequence[Turn]) -> str:
    r"""Turns as one text without a template: a reply follows after a space, what is next apart.

    Example:
        >>> as_text([Turn("user", "1 + 1 ="), Turn("assistant", "2"), Turn("user", "1 + 2 =")])
        '1 + 1 = 2\n\n1 + 2 ='
    """
    text = ""
    for turn in turns:
        seam = "" if not text else " " if turn.role == "assistant" else "\n\n"
        text += seam + turn.text
    return text


def bare(example: Example) -> list[Turn]:
    """Shots that show bare answers, then the question."""
    return _asked(example, [shot.answer for shot in example.shots])


def worked(example: Example) -> list[Turn]:
    """Shots that show worked solutions where they have one, then the question."""
    return _asked(example, [shot.solution or shot.answer for shot in example.shots])


def _asked(example: Example, replies: Sequence[str]) -> list[Turn]:
    shots = [
        turn
        for shot, reply in zip(example.shots, replies, strict=True)
        for turn in (Turn("user", shot.prompt), Turn("assistant", reply))
    ]
    return [*shots, Turn("user", example.prompt)]


# Some templates state the day; a run that goes on tomorrow must ask the same.
_DAY = "01 Jan 2025"


def templated(model: TransformerBridge, turns: Sequence[Turn]) -> str:
    """Turns in the template of the model's tokenizer, up to where the assistant replies.

    Raises:
        InputError: there is no template, or it does not take these turns.
    """
    said = [{"role": turn.role, "content": turn.text} for turn in turns]
    return chat_text(model, said, day=_DAY)


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
