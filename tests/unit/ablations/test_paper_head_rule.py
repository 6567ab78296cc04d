"""The head rule of the paper (arXiv 2510.02091), applied to weights, is `Zero` of a group.

The rule sets to 0 the query and output slices of a head, and the keys and values that it shares.
"""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import layerroles as lr
from tests.support.random_models import model_path, random_model

TOKENS = torch.tensor([[5, 9, 40, 7, 22, 13, 60, 8]])
LAYER, N_HEADS = 1, 4
# Key/value heads of a layer; where there are as many as query heads, none is shared.
N_KV_HEADS = {"llama": 2, "qwen3": 2, "qwen2": 2, "phi": 4}


def head_by_the_paper(architecture: str, head: int, *, biases: bool) -> nn.Module:
    """A Hugging Face model whose weights were edited by the paper's rule for one head."""
    model = AutoModelForCausalLM.from_pretrained(
        model_path(architecture), attn_implementation="eager"
    )
    attention = model.model.layers[LAYER].self_attn
    output = attention.dense if architecture == "phi" else attention.o_proj
    width = output.weight.shape[1] // N_HEADS
    group = head * N_KV_HEADS[architecture] // N_HEADS
    own, shared = (slice(n * width, (n + 1) * width) for n in (head, group))
    slices = ((attention.q_proj, own), (attention.k_proj, shared), (attention.v_proj, shared))
    with torch.no_grad():
        for projection, rows in slices:
            projection.weight[rows] = 0
            if biases and projection.bias is not None:
                projection.bias[rows] = 0
        output.weight[:, own] = 0
    return model.eval()


def logits_of(model: nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model(TOKENS).logits


def without(architecture: str, site: lr.Site) -> torch.Tensor:
    """Logits of the model in which a site's write is 0."""
    model = random_model(architecture)
    with torch.inference_mode(), lr.ablated(model, lr.Condition({site: lr.Zero()})):
        return model(TOKENS)


@pytest.mark.parametrize("head", range(N_HEADS))
@pytest.mark.parametrize(
    ("architecture", "biases"),
    [("llama", False), ("qwen3", False), ("qwen2", True), ("phi", False), ("phi", True)],
)
def test_a_head_by_the_papers_rule_is_its_group(architecture: str, biases: bool, head: int) -> None:
    n_kv_heads = N_KV_HEADS[architecture]
    group = lr.Site(LAYER, "kv_group", head * n_kv_heads // N_HEADS)
    theirs = logits_of(head_by_the_paper(architecture, head, biases=biases))
    torch.testing.assert_close(without(architecture, group), theirs, atol=1e-5, rtol=1e-5)
    ours = without(architecture, lr.Site(LAYER, "head", head))
    if n_kv_heads < N_HEADS:  # the siblings are silent too
        assert (ours - theirs).abs().max() > 1e-2
    else:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_with_the_bias_of_values_left_in_the_siblings_write_a_constant() -> None:
    theirs = logits_of(head_by_the_paper("qwen2", 0, biases=False))
    group = without("qwen2", lr.Site(LAYER, "kv_group", 0))
    assert (theirs - group).abs().max() > 1e-2
