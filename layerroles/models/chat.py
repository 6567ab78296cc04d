"""Render chat messages as text, with the chat template of the model's tokenizer."""

import logging
from collections.abc import Mapping, Sequence

from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models.loading import prepared

log = logging.getLogger(__name__)


def check_template(model: TransformerBridge) -> None:
    """Check that the model's tokenizer has a chat template.

    Raises:
        InputError: the tokenizer has none.
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
    """Return messages as text, rendered with the chat template of the model's tokenizer.

    If the template rejects the messages and some of them are system messages, those are dropped
    with a warning, as in lm-eval.

    Args:
        model: the model whose tokenizer is used.
        messages: dicts with `role` and `content`, in order.
        add_generation_prompt: end with the header of the model's turn; if false, leave the last
            message open, to be continued.
        day: date for templates that state one, such as `"01 Jan 2025"`; None uses the template's
            default.

    Raises:
        InputError: there is no template, or it rejects these messages.
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
    # A template is arbitrary code and may raise any exception.
    except Exception as error:
        others = [message for message in messages if message["role"] != "system"]
        if len(others) < len(messages):
            log.warning("model %r: its chat template takes no system messages", known.name)
            return chat_text(model, others, add_generation_prompt=add_generation_prompt, day=day)
        raise InputError(
            f"model {known.name!r}: its chat template does not take these turns ({error})"
        ) from error
    return text
