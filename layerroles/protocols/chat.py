"""Ask as a chat: the same questions, as turns of a conversation in the model's own template.

Shots become turns of user and assistant, the question the last thing that the user says, and what
is scored or generated is the assistant's reply.
"""

from collections.abc import Sequence

from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.protocols.turns import Turn

# Some templates state the day; a run that goes on tomorrow must ask the same.
_DAY = "01 Jan 2025"


def check_template(model: TransformerBridge) -> None:
    """Check that a model can chat.

    Raises:
        InputError: its tokenizer has no chat template.
    """
    known = prepared(model)
    if not getattr(known.tokenizer, "chat_template", None):
        raise InputError(
            f"model {known.name!r} has no chat template: leave chat out, or use a model whose "
            f"tokenizer has one"
        )


def templated(model: TransformerBridge, turns: Sequence[Turn]) -> str:
    """Turns in the template of the model's tokenizer, up to where the assistant replies.

    Raises:
        InputError: there is no template, or it does not take these turns.
    """
    check_template(model)
    known = prepared(model)
    said = [{"role": turn.role, "content": turn.text} for turn in turns]
    try:
        text: str = known.tokenizer.apply_chat_template(
            said, tokenize=False, add_generation_prompt=True, date_string=_DAY
        )
    # A template is a program of its maker's, and raises what it likes.
    except Exception as error:
        raise InputError(
            f"model {known.name!r}: its chat template does not take these turns ({error})"
        ) from error
    return text
