"""A question behind its worked examples, as turns of a conversation or as one text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

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
