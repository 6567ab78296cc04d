"""A GGUF of another family than the built-in model's, written here, is read as it was written."""

import string
from pathlib import Path

import gguf
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

import layerroles as lr
from layerroles.models import gguf as reading
from tests.support.random_models import model_path

Q8 = gguf.GGMLQuantizationType.Q8_0
BLOCK = 32  # numbers that share a scale
WORDS = ["<eos>", "th", *string.ascii_letters, *string.digits, *string.punctuation, "Ġ"]


def stored(name: str, weight: Tensor, *, quantized: bool) -> bool:
    """Whether a weight is stored with 8 bits."""
    return quantized and weight.ndim == 2 and weight.shape[-1] % BLOCK == 0


def write(model: PreTrainedModel, file: Path, *, quantized: bool) -> dict[str, Tensor]:
    """Write a Qwen2 as llama.cpp does; return each weight as it is to be read."""
    config, writer = model.config, gguf.GGUFWriter(file, "qwen2")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    words = [*WORDS, *(f"<{n}>" for n in range(config.vocab_size - len(WORDS)))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(words)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(words))
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config.num_hidden_layers)
    expected = {}
    for name, weight in model.state_dict().items():
        values, kind = weight.numpy(), None
        if stored(name, weight, quantized=quantized):
            values, kind = gguf.quants.quantize(values, Q8), Q8
            expected[name] = torch.from_numpy(gguf.quants.dequantize(values, Q8))
        else:
            expected[name] = weight
        place = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(place, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return expected


@pytest.mark.parametrize("quantized", [False, True])
def test_every_weight_of_a_qwen2_is_read_as_it_was_written(
    quantized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(reading.CACHE_VARIABLE, str(tmp_path / "cache"))
    own = AutoModelForCausalLM.from_pretrained(model_path("qwen2"), attn_implementation="eager")
    expected = write(own, tmp_path / "model.gguf", quantized=quantized)
    assert any(not torch.equal(expected[name], own.state_dict()[name]) for name in expected) == (
        quantized
    )
    model = lr.load(tmp_path / "model.gguf", dtype="float32")
    found = load_file(reading.convert(tmp_path / "model.gguf") / "model.safetensors")
    assert set(found) == set(expected)
    for name, weight in expected.items():
        assert torch.equal(found[name], weight), name
    own.load_state_dict(expected)
    tokens = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8]])
    with torch.inference_mode():
        torch.testing.assert_close(model(tokens), own(tokens).logits, atol=1e-5, rtol=1e-5)
    assert model.tokenizer.decode(model.tokenizer("the 7s")["input_ids"]) == "the 7s"
