"""Loading: what is checked, what is refused, and in which words."""

import json
from pathlib import Path

import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import BertConfig, BertModel

import layerroles as lr
from layerroles import checks, gguf, models
from tests.unit.random_models import ARCHITECTURES, model_path, random_model


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_add_up_and_the_cache_is_right(architecture: str) -> None:
    found = models.prepared(random_model(architecture)).checks
    assert all(found.holds)
    assert found.cache_error < 1e-3
    assert not any(found.missing.values())


def test_provenance_names_the_weights_and_not_the_folder() -> None:
    known = models.provenance(random_model("llama"))
    assert known.name == model_path("llama").name
    assert (known.n_layers, known.n_heads, known.d_model) == (3, 4, 32)
    assert known.dtype == "float32"
    assert known.architecture == "LlamaForCausalLM"
    assert known.weights != models.provenance(random_model("qwen3")).weights
    assert {"torch", "transformers", "transformer-lens", "layerroles"} <= set(known.versions)


def test_the_tokenizer_is_the_makers_own() -> None:
    model = random_model("llama")
    assert models.encode(model, "ab") == models.prepared(model).tokenizer("ab")["input_ids"]
    assert model.tokenizer.bos_token_id not in models.encode(model, "ab")


def test_a_bridge_of_ones_own_is_prepared() -> None:
    bridge = TransformerBridge.boot_transformers(str(model_path("gpt2")), device="cpu")
    assert lr.prepare(bridge, name="mine") is bridge
    assert models.prepared(bridge).name == "mine"
    assert models.prepared(bridge).tokenizer("ab")["input_ids"] == models.encode(
        random_model("gpt2"), "ab"
    )


def test_a_cache_that_is_wrong_is_refused_with_both_versions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bridge = random_model("llama")
    own = bridge.forward

    def forgetful(tokens: torch.Tensor, **arguments: object) -> object:
        if arguments.pop("past_key_values", None) is not None:
            arguments["attention_mask"] = torch.ones_like(tokens)
            arguments["use_cache"] = True
        return own(tokens, **arguments)

    monkeypatch.setattr(bridge, "forward", forgetful)
    with pytest.raises(lr.InputError, match=r"transformer-lens 4\S+ with transformers 5"):
        checks.check_model(bridge, "forgetful")


def test_sublayers_that_do_not_add_up_are_refused_and_blocks_are_not() -> None:
    sound = models.prepared(random_model("llama")).checks
    broken = checks.Checks((0.5, 0.0, 0.0), (False, True, True), sound.missing, 0.0)
    assert "do not add up" in (broken.refusal(lr.Site(0, "attn")) or "")
    assert broken.refusal(lr.Site(0)) is None
    assert broken.refusal(lr.Site(1, "mlp")) is None


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("smollm2-13m", "'smollm2-13m': did you mean 'smollm2-135m'?"),
        ("no/such-model", "offline, use 'smollm2-135m'"),
        ("missing.gguf", "there is no such file"),
    ],
)
def test_an_unknown_model_is_told_in_one_line(name: str, line: str) -> None:
    with pytest.raises(lr.InputError) as caught:
        lr.load(name)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(lr.InputError, match=r"has no config\.json"):
        lr.load(tmp_path)


def test_a_model_that_is_no_decoder_is_refused(tmp_path: Path) -> None:
    config = BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(lr.InputError, match="BertModel, not a decoder-only"):
        lr.load(tmp_path)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(gguf.CACHE_VARIABLE, str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(lr.InputError, match="cannot be read as GGUF"):
        lr.load(file)


def test_a_damaged_file_is_told_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not the model")
    with pytest.raises(lr.InputError, match=r"SHA-256 is \w+\.\.\., expected b179c952"):
        gguf.convert(file, expected="b179c952" + "0" * 56)


def test_dtypes() -> None:
    assert models.resolve_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16
    assert models.resolve_dtype(torch.float16, torch.device("cpu")) is torch.float16
    assert models.resolve_dtype("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)
    with pytest.raises(lr.InputError, match="unknown dtype 'int8'"):
        lr.load(model_path("llama"), dtype="int8")


def test_an_unknown_device_is_told() -> None:
    with pytest.raises(lr.InputError, match="unknown device 'abacus'"):
        lr.load(model_path("llama"), device="abacus")


def test_no_pickle_is_loaded(tmp_path: Path) -> None:
    """A folder whose weights are a pickle only is refused, and the pickle is not run."""
    config = json.loads((model_path("llama") / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((model_path("llama") / name).read_bytes())
    marker = tmp_path / "was-run"

    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (exec, (f"open({str(marker)!r}, 'w').close()",))

    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(lr.InputError):
        lr.load(tmp_path)
    assert not marker.exists()
