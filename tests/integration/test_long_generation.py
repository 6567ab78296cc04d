"""Long greedy texts against transformers' own `generate`, ablated there by hooks written here."""

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM

import layerroles as lr
from layerroles.engine import encode_written
from tests.support import smollm2
from tests.support.random_models import model_path, random_model
from tests.support.tiers import mark_rest

LENGTH = 48
CONTEXTS = ["Once upon a time, there was a", "The old town lies by the"]
HEAD = 2


def skip(_module: nn.Module, args: tuple[Tensor, ...], _output: object) -> Tensor:
    """A block returns what enters it; it still runs, for its cache."""
    return args[0]


def zero(_module: nn.Module, _args: object, output: Tensor) -> Tensor:
    return torch.zeros_like(output)


def zero_head(attention: Any) -> RemovableHandle:
    """Before the output projection, heads lie side by side."""
    start, end = HEAD * attention.head_dim, (HEAD + 1) * attention.head_dim

    def without(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        heads = args[0].clone()
        heads[..., start:end] = 0
        return (heads,)

    return attention.o_proj.register_forward_pre_hook(without)


HOOKS: dict[str, Callable[[Any], Any]] = {
    "intact": lambda layers: None,
    "skip L0": lambda layers: layers[0].register_forward_hook(skip),
    "zero L1.mlp": lambda layers: layers[1].mlp.register_forward_hook(zero),
    "zero head": lambda layers: zero_head(layers[-1].self_attn),
}


def ablations(model: TransformerBridge) -> list[lr.Condition]:
    return [
        lr.Condition({}),
        lr.Condition({lr.Site(0): lr.Skip()}),
        lr.Condition({lr.Site(1, "mlp"): lr.Zero()}),
        lr.Condition({lr.Site(model.cfg.n_layers - 1, "head", HEAD): lr.Zero()}),
    ]


def written(folder: Path, prompts: list[tuple[int, ...]]) -> list[list[list[int]]]:
    """Ids that transformers writes behind each prompt: `[condition][prompt]`."""
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for hook in HOOKS.values():
        with ExitStack() as stack:
            if handle := hook(own.model.layers):
                stack.enter_context(handle)
            found.append(
                [
                    own.generate(
                        torch.tensor([prompt]),
                        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                        max_new_tokens=LENGTH,
                        do_sample=False,
                    )[0, len(prompt) :].tolist()
                    for prompt in prompts
                ]
            )
    return found


@pytest.mark.parametrize("name", mark_rest("real", ["llama", "smollm2"], first=["llama"]))
def test_long_texts_are_those_of_transformers(name: str) -> None:
    real = name == "smollm2"
    model = smollm2.model() if real else random_model(name)
    folder = lr.model_folder("smollm2-135m") if real else model_path(name)
    requests = encode_written(model, [(text, {"max_gen_toks": LENGTH}) for text in CONTEXTS])
    expected = written(folder, [request.context for request in requests])
    end = model.tokenizer.eos_token_id
    assert max(map(len, expected[0])) == LENGTH
    assert len({str(texts) for texts in expected}) == len(HOOKS)
    for executor in ("plain", "fused"):
        engine = lr.Engine(model, executor=executor)  # type: ignore[arg-type]  # a string
        found = engine.write(requests, ablations(model))
        for condition, theirs, ours in zip(HOOKS, expected, found, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert other in ([*one.ids], [*one.ids, end]), (executor, condition)
