"""Small configs of the model families that people use: one for each way to write a model's code.

A family that the installed transformers does not know is left out.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import transformers
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging

import layerroles as lr
from layerroles.models import prepared
from layerroles.models.checks import library_versions
from layerroles.sites import NUMBERED, Part
from tests.support.random_models import (
    CONFIGS,
    LLAMA_LIKE,
    SIZE,
    VOCABULARY,
    make_random,
    tokenizer,
)

PAGE = Path(__file__).parents[2] / "docs" / "families.md"
SHOWN: tuple[Part, ...] = ("block", "mixer", "attn", "mlp", "head", "kv_group")
TEXTS = [("abc", "de"), ("hello you", "x")]
Family = Callable[[], PretrainedConfig]

_NO_GROUPS = {**LLAMA_LIKE, "num_key_value_heads": 4}
_FOUR = {**LLAMA_LIKE, "num_hidden_layers": 4}
_GPT2 = {**SIZE, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 256}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
_LOCAL_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_ROUTED = {
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "moe_intermediate_size": 24,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
_LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 12,
}
# Attention with the delta rule, and with softmax at the last of four layers.
_DELTA = {
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
_SHARED_EXPERT = {
    **_EXPERTS,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 24,
}
_MAMBA = {
    "mamba_n_heads": 8,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 4,
    "mamba_chunk_size": 8,
}
_GRANITE_HYBRID = {
    **LLAMA_LIKE,
    **_MAMBA,
    "residual_multiplier": 0.5,
    "position_embedding_type": "nope",
    "layer_types": ["mamba", "attention", "mamba"],
    "shared_intermediate_size": 24,
}
_CONV_AND_ATTENTION = ["conv", "full_attention", "conv"]


def _reused(name: str) -> Family:
    return partial(CONFIGS.__getitem__, name)


def _config(name: str, values: dict[str, Any], more: dict[str, Any]) -> PretrainedConfig:
    return getattr(transformers, f"{name}Config")(**values | more)


_KNOWN = set(dir(transformers))
FAMILIES: dict[str, Family] = {
    family: _reused(name)
    for family, name in {
        "bloom": "bloom",
        "cohere": "cohere",
        "deepseek_v3": "deepseek_v3",
        "falcon": "falcon",
        "gemma2": "gemma2",
        "gemma3": "gemma3",
        "gemma4": "gemma4",
        "gpt2": "gpt2",
        "gpt_neo": "neo",
        "gpt_neox": "neox",
        "gptj": "gptj",
        "granite": "granite",
        "jamba": "jamba",
        "llama": "llama",
        "mamba": "mamba",
        "mistral": "mistral",
        "mixtral": "mixtral",
        "olmo2": "olmo2",
        "opt": "opt",
        "phi": "phi",
        "qwen2": "qwen2",
        "qwen3": "qwen3",
        "qwen3_moe": "qwen3_moe",
        "recurrent_gemma": "recurrent_gemma",
    }.items()
}


def _add(family: str, name: str, values: dict[str, Any], **more: Any) -> None:
    """Add the family of transformers' class `{name}Config`, if it has that class."""
    if f"{name}Config" in _KNOWN:
        FAMILIES[family] = partial(_config, name, values, more)


_add("apertus", "Apertus", LLAMA_LIKE)
_add("arcee", "Arcee", LLAMA_LIKE)
_add("bamba", "Bamba", LLAMA_LIKE, attn_layer_indices=[1], **_MAMBA)
_add("bitnet", "BitNet", LLAMA_LIKE)
_add("codegen", "CodeGen", _GPT2, rotary_dim=4)
_add("cohere2", "Cohere2", LLAMA_LIKE, sliding_window=128)
_add("deepseek_v2", "DeepseekV2", _NO_GROUPS, **_ROUTED, **_LATENT)
_add("ernie4_5", "Ernie4_5", LLAMA_LIKE, head_dim=8)
_add(
    "ernie4_5_moe", "Ernie4_5_Moe", LLAMA_LIKE, moe_num_experts=4, moe_k=2, moe_intermediate_size=24
)
_add("exaone4", "Exaone4", _FOUR, sliding_window=128)
_add(
    "falcon_h1",
    "FalconH1",
    LLAMA_LIKE,
    head_dim=8,
    mamba_d_ssm=64,
    ssm_out_multiplier=0.5,
    attention_out_multiplier=0.25,
    **_MAMBA,
)
_add("flex_olmo", "FlexOlmo", LLAMA_LIKE, **_EXPERTS)
_add("gemma", "Gemma", LLAMA_LIKE, head_dim=8)
_add(
    "gemma3n",
    "Gemma3nText",
    LLAMA_LIKE | {"num_hidden_layers": 5},
    head_dim=8,
    sliding_window=128,
    vocab_size_per_layer_input=VOCABULARY,
    hidden_size_per_layer_input=8,
    laurel_rank=8,
    num_kv_shared_layers=2,
    activation_sparsity_pattern=[0.9, 0.0, 0.0, 0.0, 0.0],
    layer_types=[f"{kind}_attention" for kind in ("sliding", "full", "full", "sliding", "full")],
)
_add("glm", "Glm", LLAMA_LIKE, head_dim=8)
_add("glm4", "Glm4", LLAMA_LIKE, head_dim=8)
_add("glm4_moe", "Glm4Moe", LLAMA_LIKE, head_dim=8, **_ROUTED)
_add("gpt_bigcode", "GPTBigCode", _GPT2)
_add("gpt_oss", "GptOss", LLAMA_LIKE, head_dim=8, sliding_window=128, **_LOCAL_EXPERTS)
_add("granite_moe", "GraniteMoe", LLAMA_LIKE, residual_multiplier=0.5, **_LOCAL_EXPERTS)
_add("granite_moe_hybrid", "GraniteMoeHybrid", _GRANITE_HYBRID, **_LOCAL_EXPERTS)
_add("granite_moe_hybrid_dense", "GraniteMoeHybrid", _GRANITE_HYBRID, num_local_experts=0)
_add("hunyuan_v1_dense", "HunYuanDenseV1", LLAMA_LIKE, head_dim=8)
_add("lfm2", "Lfm2", LLAMA_LIKE, layer_types=_CONV_AND_ATTENTION, block_multiple_of=8)
_add(
    "lfm2_moe",
    "Lfm2Moe",
    LLAMA_LIKE,
    layer_types=_CONV_AND_ATTENTION,
    num_dense_layers=1,
    moe_intermediate_size=24,
    **_EXPERTS,
)
_add(
    "llama4",
    "Llama4Text",
    _FOUR,
    head_dim=8,
    intermediate_size_mlp=48,
    interleave_moe_layer_step=2,
    attention_chunk_size=128,
    num_local_experts=4,
)
_add(
    "mamba2",
    "Mamba2",
    SIZE,
    hidden_size=32,
    num_hidden_layers=3,
    state_size=4,
    num_heads=8,
    head_dim=8,
    n_groups=1,
    chunk_size=8,
)
_add("minimax_m2", "MiniMaxM2", LLAMA_LIKE, head_dim=8, **_LOCAL_EXPERTS)
_add("ministral3", "Ministral3", LLAMA_LIKE, head_dim=8)
_add("mpt", "Mpt", SIZE, d_model=32, n_heads=4, n_layers=3, max_seq_len=256)
_add("nemotron", "Nemotron", LLAMA_LIKE)
_add(
    "nemotron_h",
    "NemotronH",
    {name: value for name, value in LLAMA_LIKE.items() if name != "num_hidden_layers"},
    layers_block_type=["mamba", "moe", "attention", "mlp", "mamba"],
    head_dim=8,
    ssm_state_size=4,
    mamba_num_heads=8,
    mamba_head_dim=8,
    n_groups=1,
    chunk_size=8,
    use_mamba_kernels=False,
    n_routed_experts=4,
    moe_intermediate_size=24,
    moe_shared_expert_intermediate_size=24,
)
_add("olmo", "Olmo", LLAMA_LIKE)
_add("olmo3", "Olmo3", _FOUR, sliding_window=128)
_add("olmo_hybrid", "OlmoHybrid", _FOUR, **_DELTA | {"linear_num_key_heads": 4})
_add("olmoe", "Olmoe", LLAMA_LIKE, **_EXPERTS)
_add("phi3", "Phi3", LLAMA_LIKE)
_add("phimoe", "Phimoe", LLAMA_LIKE, **_LOCAL_EXPERTS)
_add("qwen2_moe", "Qwen2Moe", LLAMA_LIKE, **_SHARED_EXPERT)
_add("qwen3_5", "Qwen3_5Text", _FOUR, head_dim=8, **_DELTA)
_add("qwen3_5_moe", "Qwen3_5MoeText", _FOUR, head_dim=8, **_DELTA, **_SHARED_EXPERT)
_add("qwen3_next", "Qwen3Next", _FOUR, head_dim=8, **_DELTA, **_SHARED_EXPERT)
_add("seed_oss", "SeedOss", LLAMA_LIKE, head_dim=8)
_add("smollm3", "SmolLM3", _FOUR)
_add("stablelm", "StableLm", _NO_GROUPS)
_add("starcoder2", "Starcoder2", LLAMA_LIKE)
_add(
    "zamba2",
    "Zamba2",
    _NO_GROUPS,
    layers_block_type=["mamba", "hybrid", "mamba"],
    mamba_d_state=4,
    n_mamba_heads=8,
    mamba_headdim=8,
    chunk_size=8,
    use_mamba_kernels=False,
)


def family_model(family: str, seed: int = 0) -> tuple[nn.Module, TransformerBridge]:
    """A random model of a family: transformers' own, and the bridge that a user loads.

    Raises:
        InputError: the package refuses it.
    """
    with TemporaryDirectory(prefix=f"{family}-") as folder:
        made = make_random(FAMILIES[family](), seed)
        made.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        own = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
        return own.eval(), lr.load(folder, dtype="float32")


def describe(family: str) -> list[str]:
    """The family's lines on the page: its row of the table, and what is refused, if anything is."""
    try:
        _, model = family_model(family)
    except lr.InputError as error:
        reason = re.sub(r"^model '[^']*' |\(they move[^)]*\), ", "", str(error))
        return [f"| {family} | refused |{' |' * len(SHOWN)}", f"- {family}: {reason}"]
    checks, layers = prepared(model).checks, range(model.cfg.n_layers)
    reasons: dict[str, None] = {}
    cells = []
    for part in SHOWN:
        refusals = [
            checks.refusal(lr.Site(n, part, 0 if part in NUMBERED else None)) for n in layers
        ]
        cells.append(f"{refusals.count(None)}/{len(layers)}" if any(refusals) else "all")
        reasons |= dict.fromkeys(re.sub(r" \(relative error [^)]*\)", "", r) for r in refusals if r)
    engine = lr.Engine(model)
    engine.loglikelihood(TEXTS, [lr.Condition({lr.Site(1): lr.Skip()})])
    (used,) = engine.used
    row = f"| {family} | {used} | {' | '.join(cells)} |"
    return [row, f"- {family}: {'; '.join(reasons)}"] if reasons else [row]


def table() -> str:
    """The table of the documentation, and what is refused."""
    head = f"| family | executor | {' | '.join(f'`{part}`' for part in SHOWN)} |"
    lines = [describe(family) for family in sorted(FAMILIES)]
    rows = [head, "| --- " * (len(SHOWN) + 2) + "|", *(row for row, *_ in lines)]
    reasons = [reason for _, *rest in lines for reason in rest]
    said = ["", "What is refused, and why:", "", *reasons]
    return "\n".join([f"With {library_versions()}:", "", *rows, *said])


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    text = PAGE.read_text(encoding="utf-8")
    made_of = re.compile(r"(?<=<!-- families -->\n).*?(?=<!-- end -->)", re.DOTALL)
    PAGE.write_text(made_of.sub(lambda _: f"{table()}\n", text), encoding="utf-8")
