"""The built-in model, loaded once for all tests."""

from functools import cache

from transformer_lens.model_bridge import TransformerBridge

import layerroles as lr


@cache
def model() -> TransformerBridge:
    return lr.load("smollm2-135m", dtype="float32")
