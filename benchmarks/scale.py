"""What a full study takes on many GPUs, by the cost model: prints a table for docs/scale.md.

Nothing is run, and nothing is downloaded: models are folders with a config.json of published sizes
(see paper.py). A sweep's units go to workers as they are free, so that the time is that of the
units, shared out, and of loading the model once on each worker.

    python benchmarks/scale.py
"""

from paper import MODELS
from transformers import LlamaConfig

import layerroles as lr

_LLAMA_70B = LlamaConfig(
    architectures=["LlamaForCausalLM"],
    hidden_size=8192,
    intermediate_size=28672,
    num_hidden_layers=80,
    num_attention_heads=64,
    num_key_value_heads=8,
    vocab_size=128256,
    max_position_embeddings=131072,
    tie_word_embeddings=False,
)
# GPUs a worker: the 70B model's weights alone are 141 GB, and it is spread over the GPUs.
STUDIED = {"Llama-3.1-8B": (MODELS["Llama-3.1-8B"], 1), "Llama-3.1-70B": (_LLAMA_70B, 4)}
GPUS = (1, 8, 64)
# Bytes a second at which weights are read from disk: assumed.
READING = 2e9


def study(model: lr.load, limit: int) -> lr.Sweep:  # type: ignore[valid-type]
    """Every layer, skipped at all positions and after the first, five tasks, two protocols."""
    names = ("facts", "copying", "kv_retrieval[pairs=20]", "word_problems[steps=2]", "rag_facts")
    conditions = [
        *lr.each_layer(model, lr.Skip()),
        *lr.each_layer(model, lr.Skip(), at="after_first"),
    ]
    return lr.Sweep(model, [lr.task(name) for name in names], conditions, limit=limit)
