"""Lenses: what is read at each depth equals the output of the model's own modules."""

import math

import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

import layerroles as lr
from tests.support.probe_questions import QUESTIONS, Listed
from tests.support.random_models import model_path, random_model

TASK = Listed(QUESTIONS)
# Soft caps; scaled logits and tied embeddings, twice; norms after; parallel; with a bias.
READ_OUTS = ("gemma2", "cohere", "granite", "olmo2", "neox", "gpt2", "llama")


def by_hand(architecture: str, text: str) -> Tensor:
    """Logits `[layer pos d_vocab]` read from transformers' own hidden states."""
    own = AutoModelForCausalLM.from_pretrained(model_path(architecture), dtype=torch.float32)
    ids = torch.tensor([lr.models.encode(random_model(architecture), text)])
    entries: list[Tensor] = []
    base = own.base_model
    blocks = {"gpt2": "h"}.get(architecture, "layers")
    norm = {"gpt2": "ln_f", "neox": "final_layer_norm"}.get(architecture, "norm")
    for block in getattr(base, blocks):
        block.register_forward_pre_hook(
            lambda module, args, kwargs: entries.append(
                args[0] if args else kwargs["hidden_states"]
            ),
            with_kwargs=True,
        )
    getattr(base, norm).register_forward_pre_hook(lambda module, args: entries.append(args[0]))
    with torch.no_grad():
        final = own(ids, use_cache=False).logits[0]
        streams = torch.stack(entries[: len(getattr(base, blocks)) + 1])[:, 0]
        logits = own.get_output_embeddings()(getattr(base, norm)(streams))
    config = own.config
    if architecture == "gemma2":
        cap = config.final_logit_softcapping
        capped = cap * torch.tanh(logits / cap)
        assert (logits - capped).abs().max() > 0.1  # it shows
        logits = capped
    logits = logits * getattr(config, "logit_scale", 1) / getattr(config, "logits_scaling", 1)
    assert torch.allclose(logits[-1], final, atol=1e-4)
    return logits


@pytest.mark.parametrize("architecture", READ_OUTS)
def test_the_lens_reads_as_the_models_own_modules(architecture: str) -> None:
    text = "the cat sat on"
    frame = lr.probes.LogitLens(top=2).read(random_model(architecture), [text])
    logits = by_hand(architecture, text)
    n_depths, n, _ = logits.shape
    found = logits.log_softmax(-1)
    ids = lr.models.encode(random_model(architecture), text)
    assert len(frame) == n_depths * n
    for row in frame.itertuples():
        own = found[row.layer + 1, row.position]
        final = found[-1, row.position]
        assert row.entropy == pytest.approx(float(-(own.exp() * own).sum()), abs=1e-4)
        assert row.uniform == pytest.approx(-math.log(own.shape[-1]))
        assert row.kl == pytest.approx(float((final.exp() * (final - own)).sum()), abs=1e-4)
        assert row.top_0_logprob == pytest.approx(float(own.max()), abs=1e-4)
        assert row.top_1_logprob == pytest.approx(float(own.topk(2).values[1]), abs=1e-4)
        best = lr.models.prepared(random_model(architecture)).tokenizer.decode([own.argmax()])
        assert row.top_0 == best
        assert row.agrees == (own.argmax() == final.argmax())
        if row.position == n - 1:
            assert math.isnan(row.logprob) and math.isnan(row.rank)
            continue
        follows = ids[row.position + 1]
        assert row.logprob == pytest.approx(float(own[follows]), abs=1e-4)
        assert row.rank == int((own > own[follows]).sum())
    last = frame[frame.layer == n_depths - 2]
    assert last.agrees.all()
    assert (last.kl < 1e-5).all()
    assert "".join(last.token) == text


@pytest.mark.parametrize("architecture", READ_OUTS)
def test_measured_at_the_answer_is_read_along_the_text(architecture: str) -> None:
    model = random_model(architecture)
    lens = lr.probes.LogitLens(top=1)
    frame = lens.measure(model, [TASK])
    text = "the cat sat on the m"
    along = lens.read(model, [text])
    along = along[along.position == len(text) - 2].reset_index(drop=True)
    mine = frame[frame.example == "7"].reset_index(drop=True)
    names = ["layer", "part", "rank", "top_0", "agrees"]
    pd.testing.assert_frame_equal(mine[names], along[names], check_dtype=False)
    numbers = ["logprob", "entropy", "kl", "top_0_logprob"]
    pd.testing.assert_frame_equal(mine[numbers], along[numbers], atol=1e-4)


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma2", "olmo2", "gpt2", "granite"])
def test_between_attention_and_mlp_the_stream_has_what_attention_added(architecture: str) -> None:
    model = random_model(architecture)
    frame = lr.probes.LogitLens(sublayers=True).read(model, ["the cat"])
    order = [(-1, "block"), *((layer, part) for layer in range(3) for part in ("attn", "block"))]
    first = frame[frame.position == 0]
    assert list(zip(first.layer, first.part, strict=True)) == order
    ids = torch.tensor([lr.models.encode(model, "the cat")])
    names = ["blocks.1.hook_in", "blocks.1.hook_attn_out"]
    with torch.inference_mode():
        _, cache = model.run_with_cache(ids, names_filter=names)
    between = cache[names[0]] + cache[names[1]]
    logits = lr.probes.streams.read_out(model, between[0]).log_softmax(-1)
    found = frame[(frame.layer == 1) & (frame.part == "attn")]
    entropy = (-(logits.exp() * logits).sum(-1)).tolist()
    assert found.entropy.tolist() == pytest.approx(entropy, abs=1e-3)


@pytest.mark.parametrize("architecture", ["neox", "cohere", "phi"])
def test_parallel_blocks_have_no_stream_between(architecture: str) -> None:
    with pytest.raises(lr.InputError, match=r"layer 0 of .* has no stream between attention"):
        lr.probes.LogitLens(sublayers=True).measure(random_model(architecture), [TASK])


def test_the_lens_downstream_of_a_skipped_layer() -> None:
    model = random_model("llama")
    skip = lr.Condition({lr.Site(1): lr.Skip()})
    intact, under = (
        lr.probes.LogitLens(top=1).read(model, ["the cat sat"], condition=condition)
        for condition in (None, skip)
    )
    assert set(under.condition) == {"skip L1"}

    def at(frame: pd.DataFrame, layer: int) -> pd.DataFrame:
        return frame[frame.layer == layer][["position", "entropy", "top_0"]].reset_index(drop=True)

    for upstream in (-1, 0):
        pd.testing.assert_frame_equal(at(under, upstream), at(intact, upstream))
    pd.testing.assert_frame_equal(at(under, 1), at(under, 0))
    assert not at(under, 2).entropy.round(3).equals(at(intact, 2).entropy.round(3))
    assert (under[under.layer == 2].kl < 1e-5).all()  # the final distribution is the ablated one


def test_invalid_lens_arguments_raise() -> None:
    model = random_model("llama")
    with pytest.raises(lr.InputError, match="top=-1 tokens of a vocabulary of"):
        lr.probes.LogitLens(top=-1).measure(model, [TASK])
    for texts in ([], ["a", ""], "a"):
        with pytest.raises(lr.InputError, match="a lens reads a list of texts"):
            lr.probes.LogitLens().read(model, texts)
    with pytest.raises(lr.InputError, match="a text of 300 tokens is longer than"):
        lr.probes.LogitLens().read(model, ["a" * 300])
