"""Skipping layers is deleting them: against checkpoints without them, saved and loaded again."""

from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import layerroles as lr
from tests.support.hugging_face_edits import BLOCKS
from tests.support.random_models import EVERY_ARCHITECTURE, model_path, random_model, tokenizer

TOKENS = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8]])


def without(architecture: str, layers: set[int], folder: Path) -> Path:
    """A checkpoint without some layers of another; the remaining ones are renumbered."""
    source = AutoModelForCausalLM.from_pretrained(model_path(architecture))
    path = BLOCKS.get(architecture, "model.layers")
    blocks = source.get_submodule(path)
    left = [layer for layer in range(len(blocks)) if layer not in layers]
    config = source.config.to_dict()
    n_layers = len(blocks)
    for name, value in config.items():
        if isinstance(value, list) and len(value) == n_layers and name != "architectures":
            config[name] = [value[layer] for layer in left]  # one entry for each layer
    config[source.config.attribute_map.get("num_hidden_layers", "num_hidden_layers")] = len(left)
    made = AutoModelForCausalLM.from_config(type(source.config)(**config), dtype=torch.float32)
    for name, module in source.named_children():
        if name != path.split(".")[0]:
            made.get_submodule(name).load_state_dict(module.state_dict())
    base, new = source.get_submodule(path.split(".")[0]), made.get_submodule(path.split(".")[0])
    state = {k: v for k, v in base.state_dict().items() if not k.startswith(path.split(".")[1])}
    new.load_state_dict(state, strict=False)
    for place, layer in enumerate(left):
        block: nn.Module = made.get_submodule(f"{path}.{place}")
        block.load_state_dict(blocks[layer].state_dict())
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


# Each architecture first without a layer or two, another one each time.
LAYERS = [{0}, {1}, {2}, {0, 1}, {1, 2}]
DELETED = [
    pytest.param(architecture, layers, marks=() if n % 5 == place else pytest.mark.matrix)
    for n, architecture in enumerate(EVERY_ARCHITECTURE)
    for place, layers in enumerate(LAYERS)
]


@pytest.mark.parametrize(("architecture", "layers"), DELETED)
def test_skipped_layers_equal_a_checkpoint_without_them(
    architecture: str, layers: set[int], tmp_path: Path
) -> None:
    model = random_model(architecture)
    deleted = lr.load(without(architecture, layers, tmp_path), dtype="float32")
    condition = lr.Condition({lr.Site(layer): lr.Skip() for layer in layers})
    with torch.inference_mode():
        expected = deleted(TOKENS)
        with lr.ablated(model, condition):
            found = model(TOKENS)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)
    asked = [(text, {"max_gen_toks": 12}) for text in ("abc", "other words", "x")]
    texts = lr.Engine(model).generate_until(asked, [condition])
    assert texts == lr.Engine(deleted, executor="plain").generate_until(asked)
