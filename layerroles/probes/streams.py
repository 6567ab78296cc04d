"""Record the residual stream at each depth, and compute its logits.

A depth is the stream before the first block, after a block, or between its attention and its MLP.
Its logits are those of the model's own final norm and unembedding (TransformerLens's
`logit_readout`).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal, NamedTuple

from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.tools.analysis.logit_lens import logit_readout

from layerroles.errors import InputError
from layerroles.models import forward, prepared
from layerroles.sites import ENTRY, EXIT, MIDDLE


class Place(NamedTuple):
    """A depth at which the stream is read.

    Attributes:
        layer: -1 for the embedding, else the 0-based block.
        part: `"block"` after the whole block (and for the embedding), `"attn"` after its attention.
    """

    layer: int
    part: Literal["attn", "block"]


def list_places(model: TransformerBridge, *, sublayers: bool = False) -> list[Place]:
    """Return the depths at which the stream is read, in order from the embedding.

    Raises:
        InputError: `sublayers` is true, and a block has no stream between attention and MLP.
    """
    depths = [Place(-1, "block")]
    for layer in range(model.cfg.n_layers):
        if sublayers:
            if model.get_hook_point(MIDDLE.format(layer=layer)) is None:
                raise InputError(
                    f"layer {layer} of {prepared(model).name} has no stream between attention and "
                    f"MLP, which read the same one: use sublayers=False"
                )
            depths.append(Place(layer, "attn"))
        depths.append(Place(layer, "block"))
    return depths


def read_out(
    model: TransformerBridge, stream: Float[Tensor, "row d_model"], *, grad: bool = False
) -> Float[Tensor, "row d_vocab"]:
    """Return the logits that the final norm and unembedding give for a stream of any depth.

    Args:
        model: the model whose final norm and unembedding are used.
        stream: the stream to read out.
        grad: whether to track gradients.

    Raises:
        InputError: the model does not compute its logits by a final norm and an unembedding.
    """
    try:
        return logit_readout(model, stream, enable_grad=grad).values
    except (ValueError, NotImplementedError) as error:
        raise InputError(
            f"model {prepared(model).name!r} cannot be read by a lens: {error}"
        ) from error


def kl_divergence(
    final_logprobs: Float[Tensor, "row d_vocab"], logprobs: Float[Tensor, "row d_vocab"]
) -> Float[Tensor, " row"]:
    """Return `sum(p log(p / q))` of each row in nats, from `log p` (final) and `log q`."""
    return kl_div(logprobs, final_logprobs, log_target=True, reduction="none").sum(-1).clamp(min=0)


def read_streams(
    model: TransformerBridge, tokens: Int[Tensor, "row pos"], attended: Int[Tensor, "row pos"]
) -> dict[Place, Float[Tensor, "row pos d_model"]]:
    """Run the model once; return the stream before the first block and after each block."""
    streams, hooks = record_streams(model, False, slice(None))
    with call_at_hooks(model, hooks):
        forward(model, tokens, attended, keep=1)
    return streams


def record_streams(
    model: TransformerBridge, sublayers: bool, positions: slice
) -> tuple[dict[Place, Tensor], dict[str, Any]]:
    """Return an empty dict, and hooks that fill it with the stream at each depth when they run.

    The hooks are a dict of functions by hook point. They keep only `positions` of the stream.
    """
    streams: dict[Place, Tensor] = {}

    def record_stream(value: Tensor, place: Place) -> None:
        streams[place] = value[:, positions]

    points = {"block": EXIT, "attn": MIDDLE}
    hooks = {
        (ENTRY if place.layer < 0 else points[place.part]).format(
            layer=max(place.layer, 0)
        ): partial(record_stream, place=place)
        for place in list_places(model, sublayers=sublayers)
    }
    return streams, hooks


@contextmanager
def call_at_hooks(model: TransformerBridge, hooks: dict[str, Any]) -> Iterator[None]:
    """Call functions `(value) -> None` with the values at hook points, inside the `with` block."""
    bound = [(name, partial(_call_with_value, function)) for name, function in hooks.items()]
    with model.hooks(fwd_hooks=bound):
        yield


def _call_with_value(function: Any, value: Tensor, *, hook: object) -> None:
    function(value)
