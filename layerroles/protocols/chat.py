"""Ask as a chat: the same questions, as turns of a conversation in the model's own template.

Shots become turns of user and assistant, the question the last thing that the user says, and what
is scored or generated is the assistant's reply.
"""

from collections.abc import Sequence

from transformer_lens.model_bridge import TransformerBridge

from layerroles.chat import chat_text
from layerroles.protocols.turns import Turn

# Some templates state the day; a run that goes on tomorrow must ask the same.
_DAY = "01 Jan 2025"


def templated(model: TransformerBridge, turns: Sequence[Turn]) -> str:
    """Turns in the template of the model's tokenizer, up to where the assistant replies.

    Raises:
        InputError: there is no template, or it does not take these turns.
    """
    said = [{"role": turn.role, "content": turn.text} for turn in turns]
    return chat_text(model, said, day=_DAY)
