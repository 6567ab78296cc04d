"""Render messages as a text, by the template that a chat model was trained with."""

import logging
from collections.abc import Mapping, Sequence

from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models.loading import prepared

log = logging.getLogger(__name__)


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


def chat_text(
    model: TransformerBridge,
    messages: Sequence[Mapping[str, str]],
    *,
    add_generation_prompt: bool = True,
    day: str | None = None,
) -> str:
    """Render messages (`role`, `content`) by the chat template of the model's tokenizer.

    Args:
        model: whose tokenizer is used.
        messages: in their order.
        add_generation_prompt: open the model's turn at the end; else go on with the last message.
        day: for templates that state one, such as `"01 Jan 2025"`; by default they say which.

    A template that knows no system messages is given the others only, as lm-eval does.

    Raises:
        InputError: there is no template, or it does not take these messages.
    """
    check_template(model)
    known = prepared(model)
    options = {} if day is None else {"date_string": day}
    try:
        text: str = known.tokenizer.apply_chat_template(
            [dict(message) for message in messages],
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            **options,
        )
    # A template is a program of its maker's, and raises what it likes.
    except Exception as error:
        others = [message for message in messages if message["role"] != "system"]
        if len(others) < len(messages):
            log.warning("model %r: its chat template takes no system messages", known.name)
            return chat_text(model, others, add_generation_prompt=add_generation_prompt, day=day)
        raise InputError(
            f"model {known.name!r}: its chat template does not take these turns ({error})"
        ) from error
    return text
