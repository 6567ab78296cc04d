"""The engine's answers are those of lm-eval's own `HFLM`, on a small model of each architecture.

Hooks on Hugging Face's own modules ablate there, so that no code of layerroles is on that side.
"""

import string
from contextlib import nullcontext
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from torch.nn import Linear, Module
from torch.utils.hooks import RemovableHandle
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerroles as lr
from layerroles.sites import Part
from tests.support.random_models import model_path, random_model
from tests.support.tiers import mark_rest

ARCHITECTURES = ["llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2", "neox", "phi"]
HEAD = 2
PARTS: dict[Part, lr.Skip | lr.Zero] = {
    "block": lr.Skip(),
    "attn": lr.Zero(),
    "mlp": lr.Zero(),
    "head": lr.Zero(),
}
SITES = [
    lr.Site(layer, part, HEAD if part == "head" else None)
    for part, layer in product(PARTS, range(3))
]
PREFIX = "Some words that all of the questions begin with. "
CONTEXTS = [PREFIX + "Who is it?", PREFIX + "What is it that they all have?", "x", ""]
# One token each, almost all that there are: the greedy one is nearly always among them.
CHARACTERS = string.ascii_letters + string.digits + string.punctuation
ENDINGS = [*CHARACTERS, " nobody", " a longer answer", " a longer one"]
PAIRS = list(product(CONTEXTS, ENDINGS))
ASKED = [(context, {"until": ["a", "\n"], "max_gen_toks": 8}) for context in CONTEXTS[:3]]


def hooked(hf: Any, site: lr.Site) -> RemovableHandle:
    """Ablate the Hugging Face model, until the handle's context is left."""
    block = hf.base_model.layers[site.layer]
    attention = block.attention if hasattr(block, "attention") else block.self_attn
    modules: dict[str, Module] = {"block": block, "attn": attention, "mlp": block.mlp}
    if site.part in modules:
        return modules[site.part].register_forward_hook(same if site.part == "block" else zeroed)
    output: Linear = attention.dense if hasattr(attention, "dense") else attention.o_proj
    width = output.in_features // hf.config.num_attention_heads
    where = slice(HEAD * width, (HEAD + 1) * width)
    return output.register_forward_pre_hook(partial(without_head, where=where))


def same(_module: Module, given: Any, _found: Any) -> Any:
    """The block still runs, for its cache: off layer 0's transformers reads how long a text is."""
    return given[0]


def zeroed(_module: Module, _given: Any, found: Any) -> Any:
    """Attention returns its weights too, in a tuple; they are left."""
    if isinstance(found, tuple):
        return (torch.zeros_like(found[0]), *found[1:])
    return torch.zeros_like(found)


def without_head(_module: Module, given: Any, *, where: slice) -> Any:
    """Before the output projection the heads lie side by side."""
    heads = given[0].clone()
    heads[..., where] = 0
    return (heads,)


def answers(lm: HFLM) -> tuple[list[float], list[bool], list[str]]:
    """What lm-eval makes of the requests: log-likelihoods, whether they are greedy, texts."""
    scored = [Instance("loglikelihood", {}, pair, n) for n, pair in enumerate(PAIRS)]
    found = lm.loglikelihood(scored, disable_tqdm=True)
    asked = [
        Instance("generate_until", {}, (text, {**options, "do_sample": False}), n)
        for n, (text, options) in enumerate(ASKED)
    ]
    texts = lm.generate_until(asked, disable_tqdm=True)
    return [logprob for logprob, _ in found], [greedy for _, greedy in found], texts


def chosen(logprobs: Any) -> list[int]:
    """The likeliest ending of each context."""
    found: list[int] = np.reshape(logprobs, (len(CONTEXTS), len(ENDINGS))).argmax(-1).tolist()
    return found


@pytest.mark.parametrize(
    "architecture", mark_rest("matrix", ARCHITECTURES, first=["llama", "neox"])
)
def test_the_answers_are_those_of_lm_eval(architecture: str) -> None:
    """At every layer, every kind: what is likely, what is chosen and what is written."""
    conditions = [lr.Condition({}), *(lr.Condition({one: PARTS[one.part]}) for one in SITES)]
    engine = lr.Engine(random_model(architecture))
    found = engine.loglikelihood(PAIRS, conditions)
    texts = engine.generate_until(ASKED, conditions)
    assert engine.used == {"fused"}
    assert (abs(found.logprob[1:] - found.logprob[0]).max(-1) > 0.1).all()

    folder = model_path(architecture)
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    lm = HFLM(pretrained=hf, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=1)
    for place, site in enumerate([None, *SITES]):
        with nullcontext() if site is None else hooked(hf, site):
            logprobs, greedy, written = answers(lm)
        name = conditions[place].name
        assert abs(found.logprob[place] - logprobs).max() < 1e-3, name
        assert found.is_greedy[place].tolist() == greedy, name
        assert chosen(found.logprob[place]) == chosen(logprobs), name
        assert texts[place] == written, name
