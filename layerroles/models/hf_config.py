"""Read the configuration of a loaded model."""

import json
from collections.abc import Mapping
from typing import Any

from torch import nn
from transformer_lens.model_bridge import TransformerBridge


def text_config(original: nn.Module) -> Any:
    """Return the configuration of a transformers model's text blocks; None if the model has none.

    In a multimodal model, it is one part of the model's configuration.
    """
    config: Any = getattr(original, "config", None)
    inner = getattr(config, "get_text_config", None)
    return config if inner is None else inner(decoder=True)


def first_shared_keys(original: nn.Module) -> int | None:
    """Return the first layer whose keys and values a later layer reuses (Gemma 4); None if none.

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


def depends_on_length(config: Any) -> bool:
    """Return whether a token's output depends on its text's length, or on its own index in a pass.

    In Llama 4, the chunks of attention and the scale of queries depend on that index.
    """
    chunked = getattr(config, "attention_chunk_size", None)
    return bool(chunked or _rope_kinds(config) & {"dynamic", "longrope"})


def _rope_kinds(config: Any) -> set[str]:
    """Return the types of rotary position embedding in a configuration, over all layer types."""
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    parts = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    return {str(part.get("rope_type")) for part in parts}


def can_batch(model: TransformerBridge) -> bool:
    """Return whether texts of different lengths have the same outputs in one batch as alone.

    They do not in Phi-3 with long contexts, for example: it chooses the rotary frequencies by the
    length of the padded batch, for all of its texts.
    """
    return not depends_on_length(text_config(model.original_model))


# Values of a configuration that have no effect on what a block computes.
_NO_BEHAVIOUR = {
    *("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "tie_word_embeddings", "use_cache"),
    *("initializer_range", "max_position_embeddings", "n_positions", "n_ctx"),
    *("quantization_config", "task_specific_params"),
    # In the configurations of models that TransformerLens made itself.
    *("device", "init_mode", "init_weights", "model_name", "n_devices", "n_params", "seed"),
    *("tokenizer_appends_eos", "tokenizer_name", "tokenizer_prepends_bos", "default_prepend_bos"),
}


def behaviour_config(model: TransformerBridge) -> dict[str, Any]:
    """Return the configuration values that, with the weights, define what blocks compute.

    They are JSON values, so that they can be stored and compared with stored ones.
    """
    config: Any = getattr(model.original_model, "config", model.cfg)
    values = {name: value for name, value in config.to_dict().items() if name not in _NO_BEHAVIOUR}
    behaviour: dict[str, Any] = json.loads(json.dumps(values, default=repr))
    return behaviour


def first_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """Return the name of the first value that differs between two configurations, or None.

    Ignored are values that have no effect on what a block computes, and values that only one of
    them has: another version of transformers may add some.
    """
    for name in sorted((one.keys() & other.keys()) - _NO_BEHAVIOUR):
        a, b = one[name], other[name]
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            inner = first_difference(a, b)
            if inner is not None:
                return f"{name}.{inner}"
        elif a != b:
            return name
    return None
