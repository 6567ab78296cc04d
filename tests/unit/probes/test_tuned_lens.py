"""The tuned lens: what it maps, how it is trained, what is saved with it."""

import json
import logging
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import layerroles as lr
from layerroles.probes import LogitLens, TunedLens
from layerroles.probes.streams import read_out
from tests.support.probe_questions import QUESTIONS, Listed
from tests.support.random_models import random_model

TEXTS = [f"the {one} sat on the {two}" for one in ("cat", "dog", "owl") for two in ("mat", "bed")]


@pytest.fixture(scope="module")
def lens() -> TunedLens:
    return TunedLens.fit(random_model("llama"), TEXTS, steps=40, tokens=32, rate=0.01)


def test_it_maps_the_stream_before_it_is_read(lens: TunedLens) -> None:
    model, text = random_model("llama"), "the owl sat"
    frame = lens.read(model, [text])
    ids = torch.tensor([lr.models.encode(model, text)])
    with torch.inference_mode():
        final, cache = model.run_with_cache(ids)
    final = final[0].log_softmax(-1)
    for layer, name in enumerate(["blocks.0.hook_in", "blocks.0.hook_out", "blocks.1.hook_out"]):
        stream = cache[name][0]
        mapped = stream + torch.einsum("ij,pj->pi", lens.maps[layer], stream) + lens.shifts[layer]
        found = read_out(model, mapped).log_softmax(-1)
        kl = (final.exp() * (final - found)).sum(-1)
        mine = frame[frame.layer == layer - 1]
        assert mine.kl.tolist() == pytest.approx(kl.tolist(), abs=1e-4)
        assert mine.entropy.tolist() == pytest.approx(
            (-(found.exp() * found).sum(-1)).tolist(), abs=1e-4
        )
    assert (frame[frame.layer == 2].kl < 1e-5).all()  # the model's own output
    assert frame[frame.layer == 2].agrees.all()


def test_without_training_it_is_the_logit_lens(lens: TunedLens) -> None:
    model, tasks = random_model("llama"), [Listed(QUESTIONS)]
    plain = TunedLens(torch.zeros_like(lens.maps), torch.zeros_like(lens.shifts), lens.trained)
    found, expected = (one.measure(model, tasks) for one in (plain, LogitLens()))
    training = ["trained_tokens", "map_parameters"]
    assert list(found) == [*expected, *training]
    found = found.drop(columns=training)
    assert set(found.probe) == {"tuned_lens"}
    pd.testing.assert_frame_equal(found.drop(columns="probe"), expected.drop(columns="probe"))


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "cohere"])
def test_it_is_nearer_to_the_output_on_texts_that_it_was_not_trained_on(
    architecture: str, lens: TunedLens
) -> None:
    model = random_model(architecture)
    if architecture != "llama":
        lens = TunedLens.fit(model, TEXTS, steps=40, tokens=32, rate=0.01)
    held = ["the fox sat on the rug", "the cow sat on the hay"]
    raw, tuned = (one.read(model, held).query("position > 0") for one in (LogitLens(), lens))
    gain = raw.groupby("layer").kl.mean() - tuned.groupby("layer").kl.mean()
    assert (gain[:-1] > 0.1 * raw.groupby("layer").kl.mean()[:-1]).all()
    assert abs(gain[2]) < 1e-5


def test_the_first_step_is_adams_down_the_divergence() -> None:
    model, text, rate = random_model("llama"), "the cat sat on the mat", 0.01
    # All tokens are drawn: 21 after the first.
    lens = TunedLens.fit(model, [text], steps=1, tokens=999, rate=rate)
    ids = torch.tensor([lr.models.encode(model, text)])
    with torch.no_grad():
        final, cache = model.run_with_cache(ids)
    final = final[0, 1:].log_softmax(-1)
    stream = cache["blocks.0.hook_out"][0, 1:].clone()
    mean, std = stream.mean(0), stream.std(0)
    weight = torch.zeros(32, 32, requires_grad=True)
    shift = torch.zeros(32, requires_grad=True)
    mapped = stream + std * ((stream - mean) / std @ weight.T + shift)
    found = read_out(model, mapped, grad=True).log_softmax(-1)
    (final.exp() * (final - found)).sum(-1).mean().backward()
    assert weight.grad is not None and shift.grad is not None
    step_w = -rate * weight.grad / (weight.grad.abs() + 1e-8)
    step_b = -rate * shift.grad / (shift.grad.abs() + 1e-8)
    expected = std[:, None] * step_w / std
    # A gradient of next to nothing may have either sign.
    sure = weight.grad.abs() > 1e-5
    assert sure.float().mean() > 0.9
    torch.testing.assert_close(lens.maps[1][sure], expected[sure], rtol=1e-2, atol=1e-6)
    shifts = std * step_b - lens.maps[1] @ mean
    torch.testing.assert_close(lens.shifts[1], shifts, rtol=1e-2, atol=1e-4)


def test_training_leaves_the_model_and_is_the_same_again(lens: TunedLens) -> None:
    model = random_model("llama")
    before = lr.models.provenance(model).weights
    again = TunedLens.fit(model, TEXTS, steps=40, tokens=32, rate=0.01)
    assert lr.models.provenance(model).weights == before == again.trained.weights
    torch.testing.assert_close(again.maps, lens.maps)
    other = TunedLens.fit(model, TEXTS, steps=2, tokens=4, seed=1)
    assert repr(other) != repr(lens)
    assert repr(again) == repr(lens) or not torch.equal(again.maps, lens.maps)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_lens_is_saved_with_its_provenance(lens: TunedLens, tmp_path: Path) -> None:
    path = lens.save(tmp_path / "new" / "lens.safetensors")
    read = TunedLens.load(path, top=2)
    assert torch.equal(read.maps, lens.maps) and torch.equal(read.shifts, lens.shifts)
    assert read.trained == lens.trained
    known = lr.models.provenance(random_model("llama"))
    assert (read.trained.weights, read.trained.dtype) == (known.weights, "float32")
    assert (read.trained.n_texts, read.trained.fit.steps, read.trained.fit.seed) == (6, 40, 0)
    assert "torch" in read.trained.versions
    frame = read.measure(random_model("llama"), [Listed(QUESTIONS)])
    assert {"top_0", "top_1_logprob"} <= set(frame)
    assert [one.name for one in path.parent.iterdir()] == ["lens.safetensors"]


def test_a_lens_of_other_weights_is_refused(lens: TunedLens) -> None:
    with pytest.raises(lr.InputError, match=r"trained on .*weights .*, not on .*: fit one for"):
        lens.measure(random_model("llama", seed=1), [Listed(QUESTIONS)])
    with pytest.raises(lr.InputError, match="fit one for this model"):
        lens.read(random_model("llama", seed=1), ["a text"])
    with pytest.raises(lr.InputError, match="fit one for this model"):
        lr.probes.Decision(lens=lens).measure(random_model("qwen3"), [Listed(QUESTIONS)])


def test_two_tokens_are_enough_to_train_on() -> None:
    model = random_model("llama")
    lens = TunedLens.fit(model, ["ab"], steps=2)
    assert lens.maps.isfinite().all()
    assert lens.shifts.isfinite().all()
    assert lens.shifts.abs().max() > 0


def warnings_of(
    caplog: pytest.LogCaptureFixture, texts: list[str], steps: int, tokens: int
) -> tuple[TunedLens, list[str]]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="layerroles.probes.tuned_lens_training"):
        lens = TunedLens.fit(random_model("llama"), texts, steps=steps, tokens=tokens)
    name = "layerroles.probes.tuned_lens_training"
    return lens, [record.getMessage() for record in caplog.records if record.name == name]


def test_a_lens_of_fewer_tokens_than_parameters_is_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = random_model("llama")  # d_model is 32
    lengths = [len(lr.models.encode(model, text)) for text in TEXTS]
    lens, (line,) = warnings_of(caplog, TEXTS, steps=2, tokens=4)
    assert (lens.trained.n_tokens, lens.trained.n_parameters) == (8, 32 * 32 + 32)
    assert "\n" not in line and "trained on 8 tokens, fewer than the 1,056 parameters of" in line
    assert "raise steps (now 2) or tokens (now 4, of which a step reads 508 at most)" in line
    assert f"(these have {sum(lengths) - len(TEXTS)} tokens to train on)" in line
    frame = lens.read(model, ["the owl sat"])
    assert set(frame.trained_tokens) == {8} and set(frame.map_parameters) == {1056}
    # More draws than there are tokens: each counts once.
    lens, (line,) = warnings_of(caplog, TEXTS, steps=20, tokens=999)
    assert lens.trained.n_tokens == sum(lengths) - len(TEXTS)
    assert lens.trained.n_tokens < 20 * 4 * (min(lengths) - 1)


def test_a_lens_of_as_many_tokens_as_parameters_is_not(caplog: pytest.LogCaptureFixture) -> None:
    texts = ["the cat sat on the mat " * 8] * 16
    model = random_model("llama")
    length = min(len(lr.models.encode(model, texts[0])), 128) - 1
    assert 12 * length >= 1056 > 4 * length
    lens, lines = warnings_of(caplog, texts, steps=3, tokens=999)
    assert lens.trained.n_tokens == 12 * length and lines == []
    lens, lines = warnings_of(caplog, texts, steps=1, tokens=999)
    assert lens.trained.n_tokens == 4 * length and len(lines) == 1


def test_invalid_tuned_lens_arguments_and_files_raise(lens: TunedLens, tmp_path: Path) -> None:
    model = random_model("llama")
    with pytest.raises(lr.InputError, match="needs steps above 0, not steps=0"):
        TunedLens.fit(model, TEXTS, steps=0)
    with pytest.raises(lr.InputError, match="none of the 1 texts has two tokens or more"):
        TunedLens.fit(model, ["a"])
    with pytest.raises(lr.InputError, match="a list of texts, not on one string"):
        TunedLens.fit(model, "a text")
    with pytest.raises(lr.InputError, match="cannot be read"):
        TunedLens.load(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not one")
    with pytest.raises(lr.InputError, match="cannot be read"):
        TunedLens.load(tmp_path / "broken.safetensors")
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(lr.InputError, match=r"no tuned lens of format 2.*fit the lens again"):
        TunedLens.load(tmp_path / "other.safetensors")
    about = {"format": "2", "trained": json.dumps({"unknown": 1})}
    save_file({"other": torch.zeros(1)}, tmp_path / "old.safetensors", metadata=about)
    with pytest.raises(lr.InputError, match="cannot be read"):
        TunedLens.load(tmp_path / "old.safetensors")
    (tmp_path / "file").write_text("")
    with pytest.raises(lr.InputError, match="cannot be written"):
        lens.save(tmp_path / "file" / "lens.safetensors")


def test_under_a_condition_the_final_distribution_is_the_ablated_one(lens: TunedLens) -> None:
    skip = lr.Condition({lr.Site(2): lr.Skip()})
    frame = lens.read(random_model("llama"), ["the cat"], condition=skip)
    raw = LogitLens().read(random_model("llama"), ["the cat"], condition=skip)
    assert (frame[frame.layer == 2].kl < 1e-5).all()
    # Unmapped, the stream after block 1 is now the last; mapped, it is something else.
    assert np.allclose(raw[raw.layer == 1].kl, 0, atol=1e-5)
    assert (frame[frame.layer == 1].kl > 1e-3).all()
