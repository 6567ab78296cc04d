"""Each architecture x ablation x part: equal to Hugging Face hooks by hand, or refused in words.

The reference knows nothing of TransformerLens: it hooks Hugging Face modules, and takes its means
and deviations from writes that it recorded itself. The resulting matrix is compared with the one in
docs/concepts.md.
"""

import hashlib
from functools import cache
from pathlib import Path

import pytest
import torch

import layerroles as lr
from layerroles.sites import PARTS
from tests.support.hugging_face_edits import (
    LAYER,
    NUMBER,
    SHARED,
    TEXTS,
    Edit,
    edited,
    exchange_layers,
    hugging_face,
    writes,
)
from tests.support.random_models import EVERY_ARCHITECTURE, WINDOWS, random_model
from tests.support.scale import Scale

IDS = [5, 9, 40, 7, 22, 13, 60, 8]
NAMES = {
    "gpt2": "GPT-2", "llama": "Llama", "qwen3": "Qwen3", "gemma2": "Gemma-2", "neox": "GPT-NeoX",
    "olmo2": "OLMo-2", "mistral": "Mistral", "qwen2": "Qwen2", "phi": "Phi", "gptj": "GPT-J",
    "gemma3": "Gemma-3", "mixtral": "Mixtral", "qwen3_moe": "Qwen3-MoE", "bloom": "BLOOM",
    "falcon": "Falcon",
}  # fmt: skip
ABLATIONS = ("skip", "zero", "mean", "resample", "noise", "swap", "scale")


def reference_edit(architecture: str, part: str, ablation: str) -> Edit:
    """The ablation written out from its definition."""
    if ablation in ("skip", "zero"):
        return lambda write: torch.zeros_like(write)
    if ablation == "scale":
        return lambda write: -0.5 * write
    seen = writes(architecture, part)
    if ablation == "resample":
        donors = sorted(seen, key=len)
        digest = hashlib.sha256(f"0 {IDS}".encode()).digest()
        donor = donors[int.from_bytes(digest[:8], "big") % len(donors)]
        n = len(donor)
        # From the end; no token but the first takes the donor's first.
        rest = [min(max(place - len(IDS) + n, 1), n - 1) for place in range(1, len(IDS))]
        return lambda write: donor[[0, *rest]][None].to(write)
    first = torch.stack([each[0] for each in seen])
    rest = torch.cat([each[1:] for each in seen])
    if ablation == "mean":
        means = torch.cat([first.mean(0)[None], rest.mean(0).expand(len(IDS) - 1, -1)])
        return lambda write: means[None].to(write)
    spread = torch.cat(
        [first.std(0, correction=0)[None], rest.std(0, correction=0).expand(len(IDS) - 1, -1)]
    )
    site = str(lr.Site(LAYER, part, NUMBER.get(part)))  # type: ignore[arg-type]  # a part
    share = SHARED.get(architecture, 2) if part == "kv_group" else 0
    drawn = []
    for n in range(1, len(IDS) + 1):
        digest = hashlib.sha256(f"{site} {IDS[:n]}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        width = spread.shape[1]
        shape = (share, width // share) if share else (width,)
        drawn.append(torch.randn(shape, generator=generator).flatten())
    return lambda write: write + 0.5 * torch.stack(drawn).to(write) * spread.to(write)


def made(architecture: str, ablation: str) -> lr.Ablation:
    return {
        "skip": lambda: lr.Skip(),
        "zero": lambda: lr.Zero(),
        "mean": lambda: lr.Mean(lr.Reference(TEXTS)),
        "resample": lambda: lr.Resample(lr.Reference(TEXTS)),
        "noise": lambda: lr.Noise(0.5, lr.Reference(TEXTS)),
        "swap": lambda: lr.Swap(random_model(architecture, seed=1)),
        "scale": lambda: Scale(-0.5),
    }[ablation]()


@cache
def outcome(architecture: str, ablation: str, part: str) -> str | None:
    """None if the ablation does what the reference does; else the reason why it is refused."""
    model = random_model(architecture)
    tokens = torch.tensor([IDS])
    try:
        site = lr.Site(LAYER, part, NUMBER.get(part))  # type: ignore[arg-type]  # a part
        with (
            torch.inference_mode(),
            lr.ablated(model, lr.Condition({site: made(architecture, ablation)})),
        ):
            found = model(tokens)
    except lr.InputError as error:
        return str(error)
    with torch.inference_mode():
        if ablation == "swap":
            expected = exchange_layers(architecture, [LAYER], part)(tokens).logits
        else:
            with edited(architecture, part, reference_edit(architecture, part, ablation)) as hf:
                expected = hf(tokens).logits
        intact = hugging_face(architecture)(tokens).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (expected - intact).abs().max() > 1e-3, "the reference itself does nothing"
    return None


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_equal_to_hooks_by_hand_or_refused(architecture: str, ablation: str, part: str) -> None:
    reason = outcome(architecture, ablation, part)
    heads = part in ("head", "kv_group", "stream")
    refused = ablation in ("skip", "swap") and heads
    one_norm = architecture in ("phi", "gptj", "falcon")
    refused = refused or (one_norm and ablation == "swap" and part != "block")
    assert (reason is not None) == refused, reason
    if reason is not None:
        assert any(text in reason for text in ("cannot be", "share their norm")), reason


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("ablation", ["zero", "mean", "resample", "noise", "scale"])
@pytest.mark.parametrize("architecture", WINDOWS)
def test_beyond_a_sliding_window(architecture: str, ablation: str, part: str) -> None:
    assert outcome(architecture, ablation, part) is None


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("part", ["block", "attn", "mlp", "head"])
def test_half_precisions(part: str, dtype: str) -> None:
    model, site = random_model("llama", dtype), lr.Site(LAYER, part, NUMBER.get(part))  # type: ignore[arg-type]
    with edited("llama", part, torch.zeros_like) as hf, torch.inference_mode():
        expected = hf(torch.tensor([IDS])).logits
    with lr.ablated(model, lr.Condition({site: lr.Zero()})), torch.inference_mode():
        intact = hugging_face("llama")(torch.tensor([IDS])).logits
        found = model(torch.tensor([IDS]))
    rounding = {"bfloat16": 0.05, "float16": 0.01}[dtype] * float(expected.std())
    assert found.dtype == getattr(torch, dtype)
    assert (found.float() - expected).abs().mean() < rounding
    assert (intact - expected).abs().mean() > 2 * rounding
    pairs = [("abc", "de"), ("abcd", "x"), ("hello", "you")]
    for at in ("all", "prompt", "generated"):
        condition = lr.Condition({site: lr.Zero()}, at=at)  # type: ignore[arg-type]  # a string
        engines = [lr.Engine(model, executor=name) for name in ("plain", "hooked", "fused")]  # type: ignore[arg-type]
        logprobs = [one.loglikelihood(pairs, [condition]).logprob for one in engines]
        assert max(abs(each - logprobs[0]).max() for each in logprobs) < 0.35


def test_the_matrix_stands_in_the_docs() -> None:
    lines = [f"| ablation | {' | '.join(PARTS)} |", "| --- " * (len(PARTS) + 1) + "|"]
    for ablation in ABLATIONS:
        cells = []
        for part in PARTS:
            without = [a for a in EVERY_ARCHITECTURE if outcome(a, ablation, part) is not None]
            if not without:
                cells.append("equal")
            elif len(without) == len(EVERY_ARCHITECTURE):
                cells.append("refused")
            else:
                names = ", ".join(NAMES[architecture] for architecture in without)
                cells.append(f"equal; {names}: refused")
        lines.append(f"| `{ablation}` | {' | '.join(cells)} |")
    table = "\n".join(lines)
    print(table)
    docs = Path(__file__).parents[3] / "docs" / "concepts.md"
    assert table in docs.read_text(encoding="utf-8")
