"""What one would run instead: an evaluation loop, once for each ablated layer."""

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import torch

import layerroles as lr

# A peer answers all requests with one layer skipped (None: none).
Peer = Callable[[int | None], None]


def lm_eval_loop(
    folder: str, dtype: torch.dtype, rows: Sequence[dict[str, Any]], size: int
) -> Peer:
    """lm-eval's own `HFLM` on a Hugging Face model, one decoder layer made the identity."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(folder), batch_size=size)
    layers = model.base_model.layers
    asked = []
    for index, row in enumerate(rows):
        if row["kind"] == "loglikelihood":
            given: tuple[Any, ...] = (row["context"], row["continuation"])
        else:
            options = {name: row[name] for name in ("until", "max_gen_toks")}
            given = (row["context"], options | {"do_sample": False})
        asked.append(Instance(row["kind"], {}, given, index))
    verb = getattr(lm, rows[0]["kind"])

    def answer(layer: int | None) -> None:
        with _identity(layers, layer):
            verb(asked, disable_tqdm=True)

    return answer


def hook_loop(model: Any, rows: Sequence[dict[str, Any]], size: int) -> Peer:
    """TransformerLens hooks around padded batches, as one writes it by hand: the plain engine."""
    engine = lr.Engine(model, executor="plain", batch_size=size)

    def answer(layer: int | None) -> None:
        condition = lr.Condition({} if layer is None else {lr.Site(layer): lr.Skip()})
        ask(engine, rows, [condition])

    return answer


def ask(engine: lr.Engine, rows: Sequence[dict[str, Any]], conditions: Sequence[Any]) -> Any:
    """Let an engine answer a request file's rows."""
    if rows[0]["kind"] == "loglikelihood":
        pairs = [(row["context"], row["continuation"]) for row in rows]
        return engine.loglikelihood(pairs, conditions)
    names = ("until", "max_gen_toks")
    return engine.generate_until(
        [(row["context"], {name: row[name] for name in names}) for row in rows], conditions
    )


@contextmanager
def _identity(layers: torch.nn.ModuleList, layer: int | None):  # type: ignore[no-untyped-def]
    if layer is None:
        yield
        return
    layers[layer].__dict__["forward"] = _same
    try:
        yield
    finally:
        layers[layer].__dict__.pop("forward")


def _same(hidden_states: torch.Tensor, *_args: object, **_kwargs: object) -> torch.Tensor:
    return hidden_states
