"""An exported checkpoint is the model with the layers skipped, as plain transformers reads it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import layerroles as lr
from tests.unit.random_models import EVERY_ARCHITECTURE, WINDOWS, model_path, random_model

TOKENS = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8, 17, 3, 71, 30]])
OTHERS = (*WINDOWS, "cohere", "granite")


def skipping(layers: set[int]) -> lr.Condition:
    return lr.Condition({lr.Site(layer): lr.Skip() for layer in layers})


@pytest.mark.parametrize("layers", [{0}, {1}, {1, 2}])
@pytest.mark.parametrize("architecture", [*EVERY_ARCHITECTURE, *OTHERS])
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
    for text in ("abc", "other words", "x"):
        read = tokenizer(text, return_tensors="pt")
        out = plain.generate(**read, max_new_tokens=12, do_sample=False, pad_token_id=0)
        written = tokenizer.decode(out[0, read["input_ids"].shape[1] :], skip_special_tokens=True)
        (expected_text,) = lr.Engine(model).generate_until(
            [(text, {"max_gen_toks": 12})], [skipping(layers)]
        )[0]
        assert written == expected_text
