"""Small models with random weights, made from configs: one for each way to build a block."""

import string
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformer_lens.model_bridge import TransformerBridge
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    DeepseekV3Config,
    FalconConfig,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    Gemma4TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GptOssConfig,
    GraniteConfig,
    JambaConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    OPTConfig,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    RecurrentGemmaConfig,
)

import layerroles as lr

_ALPHABET = string.ascii_letters + string.digits + string.punctuation + " \n"
_SPECIAL = ["<pad>", "<bos>", "<eos>"]
VOCABULARY = len(_ALPHABET) + len(_SPECIAL)

SIZE = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
LLAMA_LIKE = {
    **SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}

CONFIGS: dict[str, PretrainedConfig] = {
    # Attention with a head of keys and values for each query head; learned positions.
    "gpt2": GPT2Config(**SIZE, n_embd=32, n_layer=3, n_head=4, n_positions=256),
    # Grouped query heads, tied and untied.
    "llama": LlamaConfig(**LLAMA_LIKE, tie_word_embeddings=False),
    # Norms on queries and keys; heads that are wider than d_model / n_heads.
    "qwen3": Qwen3Config(**LLAMA_LIKE, head_dim=16, tie_word_embeddings=True),
    # Norms before and after, soft caps, sliding windows in turn.
    "gemma2": Gemma2Config(**LLAMA_LIKE, head_dim=8, sliding_window=128, query_pre_attn_scalar=8),
    # Attention and MLP in parallel.
    "neox": GPTNeoXConfig(
        **SIZE,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=256,
        use_parallel_residual=True,
    ),
    # Norms after the sublayers only.
    "olmo2": Olmo2Config(**LLAMA_LIKE),
}
ARCHITECTURES = tuple(CONFIGS)

# Built like one of the above, but by modules of their own, which the engine drives.
CONFIGS |= {
    "mistral": MistralConfig(**LLAMA_LIKE, sliding_window=None),
    "qwen2": Qwen2Config(**LLAMA_LIKE, use_sliding_window=False),
    "phi": PhiConfig(**LLAMA_LIKE | {"num_key_value_heads": 4}, partial_rotary_factor=0.5),
    "gemma3": Gemma3TextConfig(
        **LLAMA_LIKE,
        head_dim=8,
        sliding_window=128,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "mixtral": MixtralConfig(**LLAMA_LIKE, num_local_experts=4, num_experts_per_tok=2),
    "qwen3_moe": Qwen3MoeConfig(
        **LLAMA_LIKE,
        head_dim=16,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=24,
        decoder_sparse_step=1,
    ),
}
ALL_ARCHITECTURES = tuple(CONFIGS)

# What the engine does not drive, so that the reference answers: attention of their own (GPT-J,
# Falcon), positions as biases (BLOOM, Falcon).
CONFIGS |= {
    "gptj": GPTJConfig(**SIZE, n_embd=32, n_layer=3, n_head=4, n_positions=256, rotary_dim=4),
    "bloom": BloomConfig(**SIZE, hidden_size=32, n_layer=3, n_head=4),
    "falcon": FalconConfig(
        **SIZE,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        alibi=True,
        multi_query=False,
        new_decoder_architecture=False,
        parallel_attn=True,
    ),
}
EVERY_ARCHITECTURE = tuple(CONFIGS)

# Sliding windows that even short texts outgrow; in the last, heads have learned sinks.
CONFIGS |= {
    "mistral_window": MistralConfig(**LLAMA_LIKE, sliding_window=4),
    "gemma2_window": Gemma2Config(
        **LLAMA_LIKE, head_dim=8, sliding_window=4, query_pre_attn_scalar=8
    ),
    "gpt_oss_window": GptOssConfig(
        **LLAMA_LIKE, head_dim=8, sliding_window=4, num_local_experts=4, num_experts_per_tok=2
    ),
}
WINDOWS = ("mistral_window", "gemma2_window", "gpt_oss_window")

# Layers with attention among layers with a state; layers with a state only.
CONFIGS["jamba"] = JambaConfig(
    **LLAMA_LIKE,
    num_experts=2,
    attn_layer_period=2,
    attn_layer_offset=1,
    mamba_d_state=4,
    use_mamba_kernels=False,
)
CONFIGS["mamba"] = MambaConfig(**SIZE, hidden_size=32, num_hidden_layers=3, state_size=4)

# MLPs without a module of their own, at which a bridge has hooks of its own.
CONFIGS["opt"] = OPTConfig(
    **SIZE,
    hidden_size=32,
    word_embed_proj_dim=32,
    ffn_dim=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    max_position_embeddings=256,
)

# Recurrent layers that read the pads of a batch.
CONFIGS["recurrent_gemma"] = RecurrentGemmaConfig(**LLAMA_LIKE, lru_width=32, head_dim=8)

# Values that are narrower than keys; heads that a bridge's hook splits by the keys' width.
CONFIGS["deepseek_v3"] = DeepseekV3Config(
    **LLAMA_LIKE | {"num_key_value_heads": 4},
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    moe_intermediate_size=24,
    n_group=1,
    topk_group=1,
    first_k_dense_replace=1,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=12,
)

# A model that reads more than text keeps what it says of its text blocks in a part of its
# configuration.
CONFIGS["gemma3_whole"] = Gemma3Config(
    text_config={
        **LLAMA_LIKE,
        "head_dim": 8,
        "sliding_window": 32,
        "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    vision_config={
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 14,
        "patch_size": 7,
    },
    mm_tokens_per_image=4,
    image_token_index=50,
    boi_token_index=51,
    eoi_token_index=52,
    architectures=["Gemma3ForConditionalGeneration"],
)

# Attention of its own, which does not go through transformers' interface.
CONFIGS["neo"] = GPTNeoConfig(
    **SIZE,
    hidden_size=32,
    num_layers=3,
    num_heads=4,
    attention_types=[[["global"], 3]],
    max_position_embeddings=256,
)
# The last two layers attend to keys and values of those before them.
CONFIGS["gemma4"] = Gemma4TextConfig(
    **LLAMA_LIKE | {"num_hidden_layers": 5},
    head_dim=8,
    global_head_dim=8,
    hidden_size_per_layer_input=8,
    vocab_size_per_layer_input=VOCABULARY,
    layer_types=[f"{kind}_attention" for kind in ("full", "sliding", "full", "sliding", "full")],
    num_kv_shared_layers=2,
    sliding_window=4,
)
# Logits that are scaled, from tied embeddings; what sublayers write is scaled in the second.
CONFIGS["cohere"] = CohereConfig(**LLAMA_LIKE, logit_scale=0.25, tie_word_embeddings=True)
CONFIGS["granite"] = GraniteConfig(
    **LLAMA_LIKE, logits_scaling=4.0, residual_multiplier=0.5, tie_word_embeddings=True
)


def model_of(config: PretrainedConfig) -> TransformerBridge:
    """A random model of a configuration."""
    folder = Path(mkdtemp())
    make_random(config, seed=0).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return lr.load(folder, dtype="float32")


def model_path(architecture: str, seed: int = 0) -> Path:
    """A Hugging Face folder with a random model and a tokenizer of single characters."""
    return _made(architecture, seed)


@cache
def _made(architecture: str, seed: int) -> Path:
    folder = Path(mkdtemp(prefix=f"layerroles-{architecture}-"))
    make_random(CONFIGS[architecture], seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def make_random(config: PretrainedConfig, seed: int = 0) -> PreTrainedModel:
    """A model with random weights, in float32."""
    torch.manual_seed(seed)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in model.parameters():
            # Weights of the usual scale write so little that no ablation would show.
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def tokenizer() -> PreTrainedTokenizerFast:
    """One token for each character."""
    ids = {text: index for index, text in enumerate([*_SPECIAL, *_ALPHABET])}
    spelling = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    spelling.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    spelling.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=spelling, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )


def random_model(architecture: str, dtype: str = "float32", seed: int = 0) -> TransformerBridge:
    """A random model, loaded as a user would."""
    return _loaded(architecture, dtype, seed)


_shared: dict[str, tuple[list[torch.Tensor], list[int]]] = {}


@cache
def _loaded(architecture: str, dtype: str, seed: int) -> TransformerBridge:
    model = lr.load(model_path(architecture, seed), dtype=dtype)
    # Those of a model that was loaded in inference mode have no counter.
    weights: list[torch.Tensor] = [each for each in model.parameters() if not each.is_inference()]
    _shared[f"{architecture}, {dtype}, seed {seed}"] = (weights, _versions(weights))
    return model


def _versions(weights: list[torch.Tensor]) -> list[int]:
    """How often each was written to."""
    return [each._version for each in weights]


def changed_models() -> list[str]:
    """The shared models whose weights a test wrote to: no later test can trust them."""
    return [name for name, (weights, before) in _shared.items() if _versions(weights) != before]
