"""Read the configuration of a loaded model."""

from typing import Any

from torch import nn
from transformer_lens.model_bridge import TransformerBridge


def text_config(original: nn.Module) -> Any:
    """Return the configuration of a transformers model's text blocks; None without a configuration.

    In a multimodal model, the configuration of text blocks is one part of the model's.
    """
    config: Any = getattr(original, "config", None)
    inner = getattr(config, "get_text_config", None)
    return config if inner is None else inner(decoder=True)


def first_shared_keys(original: nn.Module) -> int | None:
    """Return the first layer whose keys and values later layers reuse, as in Gemma 4; None if none.

    Each of the last `num_kv_shared_layers` layers reuses the keys and values of the last earlier
    layer that has the same attention type and computes its own.
    """
    config = text_config(original)
    n_shared = getattr(config, "num_kv_shared_layers", None) or 0
    if not n_shared:
        return None
    own_types, reusing_types = config.layer_types[:-n_shared], config.layer_types[-n_shared:]
    lenders = (len(own_types) - 1 - own_types[::-1].index(kind) for kind in set(reusing_types))
    return int(min(lenders))


# Values of a configuration that have no effect on what a block computes.
_NO_BEHAVIOUR = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache"),
    *("initializer_range", "max_position_embeddings", "n_positions", "n_ctx"),
    *("quantization_config", "task_specific_params"),
    # Of a model that TransformerLens made itself.
    *("device", "init_mode", "init_weights", "model_name", "n_devices", "n_params", "seed"),
    *("tokenizer_appends_eos", "tokenizer_name", "tokenizer_prepends_bos", "default_prepend_bos"),
}


def behaviour_config(model: TransformerBridge) -> dict[str, Any]:
    """Return the configuration values that, with the weights, define what blocks compute."""
    config: Any = getattr(model.original_model, "config", model.cfg)
    return {name: value for name, value in config.to_dict().items() if name not in _NO_BEHAVIOUR}
