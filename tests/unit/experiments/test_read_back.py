"""The benchmarks' loop that reads back what lies below a skipped layer gives the loop's answers."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import layerroles as lr
from tests.support.random_models import CONFIGS

BENCHMARKS = str(Path(__file__).parents[3] / "benchmarks")
# Two prompts that are read together, the first one padded on the left.
PROMPTS = torch.tensor([[0, 0, 11, 12, 13, 14], [21, 22, 23, 24, 25, 26]])
MASK = (PROMPTS > 0).long()
MORE = torch.tensor([[31, 32, 33], [34, 35, 36]])
ONE = torch.tensor([[41], [42]])


@contextmanager
def plainly(model: Any, skipped: int | None) -> Iterator[None]:
    """The layer is the identity, and all below it is computed."""
    if skipped is None:
        yield
        return
    layer = model.base_model.layers[skipped]
    layer.__dict__["forward"] = lambda hidden_states, **_: hidden_states
    yield
    del layer.__dict__["forward"]


def made() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(CONFIGS["llama"]).eval()


def texts(model: Any) -> list[list[int]]:
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    found = []
    for tokens, mask in ((PROMPTS, MASK), (ONE, torch.ones_like(ONE))):
        found += model.generate(input_ids=tokens, attention_mask=mask, **options).tolist()
    return found


@pytest.fixture
def read_back(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [BENCHMARKS, *sys.path])
    return import_module("read_back").ReadBack


def test_likelihoods_are_the_loops_bit_for_bit(read_back: Any) -> None:
    model, other = made(), made()
    back = read_back(other, writes=False)
    with torch.inference_mode():
        for skipped in (None, 0, 1, 2, 1):
            with plainly(model, skipped):
                plain = [model(ids).logits for ids in (PROMPTS, MORE)]
            with back.under(None if skipped is None else lr.Site(skipped)):
                found = [other(ids).logits for ids in (PROMPTS, MORE)]
            assert all(torch.equal(*pair) for pair in zip(plain, found, strict=True)), skipped


def test_texts_are_the_loops_and_right_without_the_first_layer(read_back: Any) -> None:
    model, other = made(), made()
    back = read_back(other, writes=True)
    with torch.inference_mode():
        found = {}
        for skipped in (None, 0, 1, 2):
            with back.under(None if skipped is None else lr.Site(skipped)):
                found[skipped] = texts(other)
        for skipped in (None, 1, 2):
            with plainly(model, skipped):
                assert found[skipped] == texts(model), skipped
        # Without the first layer, the loop with a cache goes wrong; without one it is right.
        with plainly(model, 0):
            cached = texts(model)
            model.generation_config.use_cache = False
            assert found[0] == texts(model) != cached
    assert len({str(each) for each in found.values()}) == 4


def test_what_cannot_be_read_back_is_refused(read_back: Any) -> None:
    back = read_back(made(), writes=False)
    with pytest.raises(ValueError, match="L1: whole layers"), back.under(lr.Site(1)):
        pass
