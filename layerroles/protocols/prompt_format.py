r"""Put worked examples and a question into turns, and these into the text of a prompt.

Worked examples become turns of user and assistant, and the question is the last user turn. The
turns are joined to one text, or put into the model's chat template. The assistant's reply is what
is scored or generated.

    >>> print(join_turns([Turn("user", "1 + 1 ="), Turn("assistant", "2")]))
    1 + 1 = 2
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformer_lens.model_bridge import TransformerBridge

from layerroles.models import chat_text
from layerroles.tasks import Example

# Some templates state the date; a run resumed on another day must send the same prompts.
_DAY = "01 Jan 2025"
# The cues with which the wordings of `tasks.wordings` ask for the answer. "Copy of the text:" is
# left out, so that the default prompts stay what they are.
_CUE = re.compile(r"(?:Answer|\n(?:A|Solution|Result|Repeated|Duplicate)):\Z")


@dataclass(frozen=True)
class Turn:
    """One message of a conversation.

    Example:
        >>> from layerroles.protocols import Turn
        >>> Turn("user", "2 + 2 =")
        Turn(role='user', text='2 + 2 =')
    """

    role: Literal["user", "assistant"]
    text: str


def turns_with_answers(example: Example) -> list[Turn]:
    """Return chat turns: the shots, with bare answers, then the question."""
    return _make_turns(example, [shot.answer for shot in example.shots])


def turns_with_solutions(example: Example) -> list[Turn]:
    """Return chat turns: the shots, with worked solutions if they have them, then the question."""
    return _make_turns(example, [shot.solution or shot.answer for shot in example.shots])


def _make_turns(example: Example, replies: Sequence[str]) -> list[Turn]:
    shots = [
        turn
        for shot, reply in zip(example.shots, replies, strict=True)
        for turn in (Turn("user", shot.prompt), Turn("assistant", reply))
    ]
    return [*shots, Turn("user", example.prompt)]


def join_turns(turns: Sequence[Turn]) -> str:
    r"""Join turns to one text: replies after a space, other turns after a blank line.

    Example:
        >>> join_turns([Turn("user", "1 + 1 ="), Turn("assistant", "2"), Turn("user", "1 + 2 =")])
        '1 + 1 = 2\n\n1 + 2 ='
    """
    text = ""
    for turn in turns:
        seam = "" if not text else " " if turn.role == "assistant" else "\n\n"
        text += seam + turn.text
    return text


def strip_cue(prompt: str) -> str:
    r"""Return a prompt without the cue for the answer at its end, such as `A:`.

    "Answer:" is removed in any case; other cues (see `_CUE`) only if they have a line of their own.

    Example:
        >>> strip_cue("Q: What is 2 + 2?\nA:"), strip_cue("2 + 2 =")
        ('Q: What is 2 + 2?', '2 + 2 =')
    """
    return _CUE.sub("", prompt).rstrip()


def apply_template(model: TransformerBridge, turns: Sequence[Turn]) -> str:
    """Return the turns in the tokenizer's chat template, up to the start of the assistant's reply.

    Raises:
        InputError: there is no template, or it does not accept these turns.
    """
    messages = [{"role": turn.role, "content": turn.text} for turn in turns]
    return chat_text(model, messages, day=_DAY)
