"""Loading: what is checked, what is refused, and in which words."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformer_lens.model_bridge import TransformerBridge
from transformers import BertConfig, BertModel

import layerroles as lr
from layerroles import private_apis
from layerroles.models import checks, forward, gguf, loading, provenance
from layerroles.private_apis import conversion_bar_on_terminals
from tests.support.families import family_model
from tests.support.random_models import (
    ARCHITECTURES,
    EVERY_ARCHITECTURE,
    model_path,
    random_model,
)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parts_add_up_and_the_cache_is_right(architecture: str) -> None:
    found = loading.prepared(random_model(architecture)).checks
    assert all(found.holds)
    assert found.cache_error < 1e-3
    assert not any(found.missing.values())


def test_unembedding_input_is_contiguous() -> None:
    """Else torch copies the read-out matrix once for each row: 70 times as slow."""
    model, tokens = random_model("llama"), torch.ones(3, 5, dtype=torch.long)
    seen = []
    handle = model.unembed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        forward(model, tokens, torch.ones_like(tokens), keep=1)
    finally:
        handle.remove()
    assert [(one.shape, one.is_contiguous()) for one in seen] == [((3, 1, 32), True)]


def test_provenance_names_the_weights_and_not_the_folder() -> None:
    known = provenance(random_model("llama"))
    assert known.name == model_path("llama").name
    assert (known.n_layers, known.n_heads, known.d_model) == (3, 4, 32)
    assert known.dtype == "float32"
    assert known.architecture == "LlamaForCausalLM"
    assert known.weights != provenance(random_model("qwen3")).weights
    assert {"torch", "transformers", "transformer-lens", "layerroles"} <= set(known.versions)


def test_the_tokenizer_is_the_makers_own() -> None:
    model = random_model("llama")
    assert loading.encode(model, "ab") == loading.prepared(model).tokenizer("ab")["input_ids"]
    assert model.tokenizer.bos_token_id not in loading.encode(model, "ab")


def test_a_bridge_of_ones_own_is_prepared() -> None:
    bridge = TransformerBridge.boot_transformers(str(model_path("gpt2")), device="cpu")
    assert lr.prepare(bridge, name="mine") is bridge
    assert loading.prepared(bridge).name == "mine"
    assert loading.prepared(bridge).tokenizer("ab")["input_ids"] == loading.encode(
        random_model("gpt2"), "ab"
    )


def test_onednn_cache_is_limited_unless_the_user_sets_it(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    bridge = TransformerBridge.boot_transformers(str(model_path("gpt2")), device="cpu")
    seen: list[str | None] = []

    def noting(*_: object) -> checks.Checks:  # the first that computes
        seen.append(os.environ.get(name))
        return checks.assume_checks(bridge)

    monkeypatch.setattr(loading, "check_model", noting)
    for size in (None, "7"):
        monkeypatch.delenv(name, raising=False) if size is None else monkeypatch.setenv(name, size)
        lr.prepare(bridge)
    assert seen == ["256", "7"]


def test_a_bridge_in_compatibility_mode_is_refused() -> None:
    bridge = TransformerBridge.boot_transformers(str(model_path("gpt2")), device="cpu")
    bridge.enable_compatibility_mode()  # changes its weights for good
    with pytest.raises(lr.InputError, match="compatibility mode"):
        lr.prepare(bridge)


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
    with pytest.raises(lr.InputError, match=r"transformer-lens 4\S+ and transformers 5"):
        checks.check_model(bridge, "forgetful")


@pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated:FutureWarning")
@pytest.mark.parametrize("architecture", ["llama", "neox", "deepseek_v3"])
def test_a_cache_is_read_under_the_name_that_transformers_5_24_gives_it(
    architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = TransformerBridge.boot_transformers(str(model_path(architecture)), device="cpu")
    for block in bridge.blocks:  # as 5.24 calls attention
        for old in ("past_key_values", "layer_past"):
            private_apis._rename_argument(block.attn, old, "cache")
    with pytest.raises(lr.InputError, match="decoding with a cache gives other logits"):
        checks.check_model(bridge, "renamed")
    known = private_apis._takes_cache
    monkeypatch.setattr(
        private_apis, "_takes_cache", lambda one: one is not bridge.original_model or known(one)
    )
    private_apis.rename_cache_arguments(bridge)
    private_apis.rename_cache_arguments(bridge)  # once more changes nothing
    assert checks.check_model(bridge, "renamed").cache_error is not None


def test_a_cache_that_gives_no_numbers_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    bridge = random_model("llama")
    own = bridge.forward

    def broken(tokens: torch.Tensor, **arguments: object) -> object:
        found = own(tokens, **arguments)
        if arguments.get("past_key_values") is None:
            return found
        return found[0] * float("nan"), found[1]

    monkeypatch.setattr(bridge, "forward", broken)
    with pytest.raises(lr.InputError, match="difference nan"):
        checks.check_model(bridge, "broken")


def test_sublayers_that_do_not_add_up_are_refused_and_blocks_are_not() -> None:
    sound = loading.prepared(random_model("llama")).checks
    broken = replace(sound, identity_error=(0.5, 0.0, 0.0), holds=(False, True, True))
    assert "do not add up" in (broken.refusal(lr.Site(0, "attn")) or "")
    assert broken.refusal(lr.Site(0)) is None
    assert broken.refusal(lr.Site(1, "mlp")) is None


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_values_returned_by_hooks_are_used(architecture: str) -> None:
    assert not any(loading.prepared(random_model(architecture)).checks.deaf.values())


@pytest.mark.parametrize("part", ["block", "attn", "mlp", "head"])
@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("architecture", ["llama", "neox", "bloom"])
def test_a_hook_whose_value_is_thrown_away_is_found_and_its_site_refused(
    architecture: str, layer: int, part: str
) -> None:
    model = lr.load(model_path(architecture), dtype="float32")
    site = lr.Site(layer, part, 3 if part == "head" else None)  # type: ignore[arg-type]  # a part
    hook = model.get_hook_point(site.hook_name)

    class Deaf(type(hook)):  # type: ignore[misc]  # whatever it is
        def __call__(self, value: torch.Tensor) -> torch.Tensor:
            super().__call__(value)
            return value

    hook.__class__ = Deaf
    model = lr.prepare(model)
    condition = lr.Condition({site: lr.Zero()})
    with pytest.raises(lr.InputError, match="does not go on"), lr.ablated(model, condition):
        pass
    others = [lr.Site(one) for one in range(3) if one != layer]
    lr.Engine(model).loglikelihood([("ab", "c")], [lr.Condition(dict.fromkeys(others, lr.Zero()))])


def test_a_model_that_reads_pads_is_refused() -> None:
    with pytest.raises(lr.InputError, match="reads the pads of a batch"):
        random_model("recurrent_gemma")


def test_attention_is_refused_in_layers_without_it() -> None:
    hybrid = random_model("jamba")
    for part in ("attn", "head"):
        site = lr.Site(0, part, 1 if part == "head" else None)  # type: ignore[arg-type]  # a part
        with pytest.raises(lr.InputError, match="the layer has no attention: part 'mixer'"):
            lr.Engine(hybrid).loglikelihood([("ab", "c")], [lr.Condition({site: lr.Zero()})])


@pytest.mark.parametrize("architecture", ["jamba", "mamba", "olmo_hybrid", "nemotron_h", "qwen3_5"])
def test_a_model_with_states_answers_in_a_batch_as_alone(architecture: str) -> None:
    hybrid = family_model(architecture)[1]
    condition = lr.Condition({lr.Site(0): lr.Skip(), lr.Site(2, "mixer"): lr.Zero()})
    pairs = [("a", "bc"), ("some longer text", "x"), ("another one", "abc")]
    together = lr.Engine(hybrid).loglikelihood(pairs, [condition]).logprob[0]
    alone = [lr.Engine(hybrid).loglikelihood([one], [condition]).logprob[0, 0] for one in pairs]
    assert together == pytest.approx(alone, abs=1e-4)
    asked = [(text, {"max_gen_toks": 8}) for text, _ in pairs]
    written = [lr.Engine(hybrid).generate_until([one], [condition])[0][0] for one in asked]
    assert lr.Engine(hybrid).generate_until(asked, [condition])[0] == written


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("smollm2-13m", "'smollm2-13m': did you mean 'smollm2-135m'?"),
        ("./modles/mine", "there is no such folder or file"),
        ("runs/twins/missing", "'runs/twins/missing': there is no such folder or file"),
        ("no/such-model", "offline, use 'smollm2-135m'"),
        ("missing.gguf", "there is no such file"),
        ("~nobody-of-that-name", "there is no such folder or file"),
        (300 * "a", "cannot be looked up: File name too long"),
    ],
)
def test_unknown_model_raises_a_one_line_error(name: str, line: str) -> None:
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


def test_a_conversion_fills_no_log_with_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import modeling_gguf_pytorch_utils as conversion

    before = conversion.tqdm
    with conversion_bar_on_terminals():
        assert list(conversion.tqdm([1, 2], desc="Converting")) == [1, 2]
    assert conversion.tqdm is before
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("rename", "line"),
    [
        (lambda name: "" if name == "lm_head.weight" else name, "lack 1 of its weights, such as"),
        (lambda name: "" if ".layers.1." in name else name, "'model.layers.1."),
        (lambda name: f"_orig_mod.{name}", r"hold '_orig_mod\.lm_head\.weight', which the model"),
    ],
)
def test_missing_weights_raise(rename: Callable[[str], str], line: str, tmp_path: Path) -> None:
    """Transformers draws them at random, anew at each load."""
    folder = shutil.copytree(model_path("llama"), tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    renamed = {rename(name): weight for name, weight in weights.items() if rename(name)}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(lr.InputError, match=line):
        lr.load(folder)


@pytest.mark.parametrize("content", [b"GGUF" + b"\0" * 64, b"GGUFnope"])
def test_a_file_that_is_no_gguf_is_refused(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(gguf.CACHE_VARIABLE, str(tmp_path / "cache"))
    file = tmp_path / "broken.gguf"
    file.write_bytes(content)
    with pytest.raises(lr.InputError, match="cannot be read as GGUF"):
        lr.load(file)


CONVERTS = """
import multiprocessing, pathlib, sys, time
from layerroles.models import gguf

def slowly(file, folder):
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        time.sleep(0.5)
        (folder / name).write_text(name)

gguf._dequantize = slowly
forked = multiprocessing.get_context("fork")  # forked processes import nothing again
gate = forked.Barrier(2)

def convert():
    gate.wait(60)
    print(gguf.convert(pathlib.Path(sys.argv[1])), flush=True)

both = [forked.Process(target=convert) for _ in range(2)]
for one in both:
    one.start()
for one in both:
    one.join()
sys.exit(any(one.exitcode for one in both))
"""


@pytest.mark.matrix
def test_two_processes_that_convert_at_once_come_to_one_folder(tmp_path: Path) -> None:
    file, cache = tmp_path / "model.gguf", tmp_path / "cache"
    file.write_bytes(b"a model")
    done = subprocess.run(
        [sys.executable, "-c", CONVERTS, str(file)],
        env={**os.environ, gguf.CACHE_VARIABLE: str(cache)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=120,
    )
    one, other = map(Path, done.stdout.splitlines())
    assert one == other
    assert {entry.name for entry in one.iterdir()} == {"config.json", "model.safetensors"}
    assert list(one.parent.iterdir()) == [one]


def test_damaged_file_is_detected_by_its_hash(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(b"not the model")
    with pytest.raises(lr.InputError, match=r"SHA-256 is \w+\.\.\., expected b179c952"):
        gguf.convert(file, expected="b179c952" + "0" * 56)


def test_dtypes() -> None:
    assert loading.resolve_dtype("bfloat16", torch.device("cpu")) is torch.bfloat16
    assert loading.resolve_dtype(torch.float16, torch.device("cpu")) is torch.float16
    assert loading.resolve_dtype("auto", torch.device("cpu")) in (torch.bfloat16, torch.float32)
    with pytest.raises(lr.InputError, match="unknown dtype 'int8'"):
        lr.load(model_path("llama"), dtype="int8")


def test_unknown_device_raises() -> None:
    with pytest.raises(lr.InputError, match="unknown device 'abacus'"):
        lr.load(model_path("llama"), device="abacus")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is such a device")
@pytest.mark.parametrize("device", ["cuda", "cuda:7", "xpu", "hpu"])
def test_unavailable_device_raises(device: str) -> None:
    with pytest.raises(lr.InputError, match=f"device '{device}' cannot be used here: "):
        lr.load(model_path("llama"), device=device)


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


def test_a_model_that_lies_on_disk_in_part_answers_alike() -> None:
    where = {f"model.layers.{layer}": "disk" for layer in (1, 2)}
    rest = ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb", "lm_head")
    spread = lr.load(
        model_path("llama"), dtype="float32", device_map=where | dict.fromkeys(rest, "cpu")
    )
    assert any(parameter.is_meta for parameter in spread.parameters())
    conditions = [
        lr.Condition({}),
        lr.Condition({lr.Site(1): lr.Skip()}),
        lr.Condition({lr.Site(2, "head", 1): lr.Mean(lr.Reference(["ab", "cde"]))}, at="prompt"),
    ]
    whole, pairs = random_model("llama"), [("abc", "de"), ("a", "bc")]
    for executor in ("plain", "hooked", "auto"):
        engine, other = (
            lr.Engine(model, executor=executor)  # type: ignore[arg-type]  # a string to the checker
            for model in (spread, whole)
        )
        found, expected = (one.loglikelihood(pairs, conditions).logprob for one in (engine, other))
        assert abs(found - expected).max() < 1e-4
        asked = [(text, {"max_gen_toks": 5}) for text, _ in pairs]
        assert engine.generate_until(asked, conditions) == other.generate_until(asked, conditions)
    with pytest.raises(lr.InputError, match="on several devices or on disk"):
        lr.Engine(spread, executor="fused").loglikelihood(pairs)
    with pytest.raises(lr.InputError, match="lie whole on one device"):
        lr.Engine(whole).loglikelihood(pairs, [lr.Condition({lr.Site(1): lr.Swap(spread)})])
    assert provenance(spread).weights == provenance(whole).weights


def test_a_device_and_a_map_of_devices_are_one_too_many() -> None:
    with pytest.raises(lr.InputError, match="are both given"):
        lr.load(model_path("llama"), device="cpu", device_map="auto")
