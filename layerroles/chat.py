"""Messages as a text, by the template that a chat model was trained with."""

from collections.abc import Sequence

from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import prepared


def chat_text(
    model: TransformerBridge,
    messages: Sequence[dict[str, str]],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """Render messages (`role`, `content`) by the tokenizer's chat template.

    Args:
        model: whose tokenizer is used.
        messages: in their order.
        add_generation_prompt: open the model's turn at the end; else go on with the last message.

    Raises:
        InputError: the tokenizer has no chat template, or it refuses the messages.
    """
    tokenizer = prepared(model).tokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise InputError(
            f"model {prepared(model).name!r} has no chat template: ask it without chat, or give "
            f"its tokenizer one (tokenizer.chat_template)"
        )
    text: str = tokenizer.apply_chat_template(
        list(messages),
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=not add_generation_prompt,
    )
    return text
