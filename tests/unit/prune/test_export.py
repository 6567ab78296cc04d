"""An exported checkpoint is the model with the layers skipped, as plain transformers reads it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3TextConfig,
    GPT2Config,
    Qwen3MoeConfig,
)

import layerroles as lr
from layerroles.models.named_parameters import lend_tensors
from layerroles.prune.checkpoint import (
    _are_built_alike,
    _build_smaller,
    _check_same_logits,
    _smaller_config,
    check_layers,
)
from tests.support.random_models import (
    CONFIGS,
    EVERY_ARCHITECTURE,
    WINDOWS,
    model_path,
    random_model,
    tokenizer,
)

TOKENS = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8, 17, 3, 71, 30]])
# What goes: the first, the last, or one between; two in a model whose layers differ in turn.
CASES = [
    *((architecture, {1}) for architecture in EVERY_ARCHITECTURE),
    *((architecture, {0, 1}) for architecture in ("gpt2", "gemma2", "gemma3", *WINDOWS)),
    *(("llama", {layer}) for layer in (0, 2)),
    *((architecture, {2}) for architecture in ("cohere", "granite")),
]


def skipping(layers: set[int]) -> lr.Condition:
    return lr.Condition({lr.Site(layer): lr.Skip() for layer in layers})


@pytest.mark.parametrize(("architecture", "layers"), CASES)
def test_a_reloaded_checkpoint_answers_as_the_model_that_skips(
    architecture: str, layers: set[int], tmp_path: Path
) -> None:
    model = random_model(architecture)
    folder = lr.export(model, drop=layers, path=tmp_path / "pruned")
    plain = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode(), lr.ablated(model, skipping(layers)):
        expected = model(TOKENS)
    with torch.inference_mode():
        found = plain(TOKENS).logits
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)

    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ("abc", "other words", "x")
    asked = [(text, {"max_gen_toks": 12}) for text in texts]
    (expected_texts,) = lr.Engine(model).generate_until(asked, [skipping(layers)])
    for text, expected_text in zip(texts, expected_texts, strict=True):
        read = tokenizer(text, return_tensors="pt")
        out = plain.generate(**read, max_new_tokens=12, do_sample=False, pad_token_id=0)
        new = out[0, read["input_ids"].shape[1] :]
        assert tokenizer.decode(new, skip_special_tokens=True) == expected_text


def test_exported_folder_records_its_source(tmp_path: Path) -> None:
    model = random_model("gemma3")
    # An empty folder will do, and one below a folder that is not there.
    (tmp_path / "empty").mkdir()
    folder = lr.export(model, drop=[2, 0], path=tmp_path / "empty")
    lr.export(model, drop=[2], path=tmp_path / "new" / "deep")
    assert {path.name for path in tmp_path.iterdir()} == {"empty", "new"}  # no scratch is left
    about = json.loads((folder / "layerroles.json").read_text(encoding="utf-8"))
    assert (about["dropped"], about["kept"]) == ([0, 2], [1])
    assert about["source"]["n_layers"] == 3
    assert about["source"]["architecture"] == "Gemma3ForCausalLM"
    assert about["source"]["versions"]["layerroles"] == lr.__version__
    assert (folder / "model.safetensors").is_file()
    # Nothing but the number of layers and the list of their kinds has changed.
    before, after = (
        json.loads((where / "config.json").read_text(encoding="utf-8"))
        for where in (model_path("gemma3"), folder)
    )
    changed = {key for key in {*before, *after} if before.get(key) != after.get(key)}
    assert changed == {"num_hidden_layers", "layer_types"}
    assert after["layer_types"] == ["full_attention"]
    assert after["num_hidden_layers"] == 1
    settings = "generation_config.json"
    assert json.loads((folder / settings).read_text()) == (
        json.loads((model_path("gemma3") / settings).read_text())
    )
    # It loads as any model, and can be pruned again.
    again = lr.load(folder, dtype="float32")
    assert again.cfg.n_layers == 1


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = random_model("llama")
    before = model(TOKENS).clone()
    lr.export(model, drop=[0], path=tmp_path / "pruned")
    assert torch.equal(model(TOKENS), before)
    assert model.original_model.config.num_hidden_layers == 3


def test_a_list_as_long_as_the_model_may_be_no_list_of_layers() -> None:
    gemma, moe = CONFIGS["gemma3"].to_dict(), CONFIGS["qwen3_moe"].to_dict()
    config = Gemma3TextConfig(**{**gemma, "eos_token_id": [2, 3, 4]})
    small = _smaller_config(config, [0, 2], 3)
    assert small.eos_token_id == [2, 3, 4]
    assert small.layer_types == ["sliding_attention", "sliding_attention"]
    numbered = Qwen3MoeConfig(**{**moe, "mlp_only_layers": [0, 2]})
    assert _smaller_config(numbered, [1, 2], 3).mlp_only_layers == [1]


@pytest.mark.parametrize(
    ("drop", "line"),
    [
        ([3], r"^drop=\[3\]: .* has layers 0 to 2, not 3$"),
        ([-1], r"^drop=\[-1\]: .* has layers 0 to 2, not -1$"),
        ([1, 1], r"^drop=\[1, 1\]: name each layer once, and at least one$"),
        ([], r"^drop=\[\]: name each layer once, and at least one$"),
        ([0, 1, 2], r"^drop=\[0, 1, 2\] leaves none of the 3 layers of "),
    ],
)
def test_invalid_layers_raise_a_one_line_error(drop: list, line: str, tmp_path: Path) -> None:
    with pytest.raises(lr.InputError, match=line) as caught:
        lr.export(random_model("llama"), drop=drop, path=tmp_path / "pruned")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "pruned").exists()


@pytest.mark.parametrize("drop", [["1"], 2, [1.0], None])
def test_layers_that_are_no_list_raise(drop: object) -> None:
    with pytest.raises(lr.InputError, match=r"is no list of layers: write it as \[21, 22\]$"):
        check_layers(random_model("llama"), drop)


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    model = random_model("llama")
    (tmp_path / "mine.txt").write_text("mine")
    for path in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(lr.InputError, match=r"exists and is not an empty folder: choose"):
            lr.export(model, drop=[1], path=path)
    with pytest.raises(lr.InputError, match=r"mine.txt/pruned' cannot be (read|written): "):
        lr.export(model, drop=[1], path=tmp_path / "mine.txt" / "pruned")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_model_that_transformers_does_not_know_is_refused(tmp_path: Path) -> None:
    made = lr.planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), knowledge=(2,), inert=())
    with pytest.raises(lr.InputError, match=r"^model 'planted' \(\w+\) has no Hugging Face form"):
        lr.export(made.model, drop=[2], path=tmp_path / "pruned")


@pytest.mark.parametrize("drop", [[0], [1]])
def test_blocks_that_depend_on_their_number_are_refused(drop: list[int], tmp_path: Path) -> None:
    # Each layer's scores are divided by its number.
    config = GPT2Config(**{**CONFIGS["gpt2"].to_dict(), "scale_attn_by_inverse_layer_idx": True})
    torch.manual_seed(0)
    source = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    source.save_pretrained(tmp_path / "source")
    tokenizer().save_pretrained(tmp_path / "source")
    model = lr.load(tmp_path / "source", dtype="float32")
    with pytest.raises(lr.InputError, match=r"depends on their number \(L\d would change\)$"):
        lr.export(model, drop=drop, path=tmp_path / "pruned")
    lr.export(model, drop=[2], path=tmp_path / "pruned")  # the others keep their numbers


def test_a_smaller_model_that_answers_otherwise_is_refused() -> None:
    model = random_model("llama")
    made = _build_smaller(model, model.original_model, [0, 1])
    _check_same_logits(model, made, {2})
    with pytest.raises(lr.InputError, match=r"without layers 1: .* does not answer as the model"):
        _check_same_logits(model, made, {1})


def test_blocks_of_another_kind_under_another_number_are_refused() -> None:
    blocks = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4), torch.nn.Linear(4, 5)
    blocks[1].layer_idx = 3
    assert _are_built_alike(blocks[0], blocks[1])
    assert not _are_built_alike(blocks[0], blocks[2])
    blocks[1].sliding_window = 8
    assert not _are_built_alike(blocks[0], blocks[1])


def test_a_model_without_weights_is_not_exported(tmp_path: Path) -> None:
    model = lr.load(str(model_path("llama")), device="meta")
    with pytest.raises(lr.InputError, match=r"has no weights .* estimated, not run"):
        lr.export(model, drop=[1], path=tmp_path / "pruned")


def test_a_model_is_lent_the_very_tensors_of_another() -> None:
    from_, to = torch.nn.BatchNorm1d(3), torch.nn.BatchNorm1d(3, device="meta")
    tensors = {f"old.{name}": tensor for name, tensor in from_.state_dict(keep_vars=True).items()}
    assert lend_tensors(to, tensors, "old.{}".format) is None
    for name, tensor in to.state_dict(keep_vars=True).items():
        assert tensor.data_ptr() == tensors[f"old.{name}"].data_ptr() and not tensor.requires_grad
    assert lend_tensors(to, tensors) == "weight"
    assert lend_tensors(torch.nn.BatchNorm1d(4), tensors, "old.{}".format) == "old.weight"
