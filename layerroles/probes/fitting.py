"""Train the maps of a tuned lens: gradient descent on the divergence from the final distribution.

Each map works on `z = (h - mean) / std`, with the moments of each of the stream's entries on the
first texts: some entries are a hundred times as large as others, and Adam moves all weights alike.

    T(h) = h + std * (W z + c)

starts at `W = 0`, `c = 0`, and is folded into `h + A h + b` at the end.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.reference import pad_left
from layerroles.errors import InputError
from layerroles.models import encode
from layerroles.probes.depths import Place, divergence, places, read_out, streams_of
from layerroles.progress import progress

# Texts read for a step, tokens of each, and texts over which the moments are taken.
_TEXTS = 4
_LENGTH = 128
_FOR_MOMENTS = 16


@dataclass(frozen=True)
class Fit:
    """How a tuned lens is trained.

    Attributes:
        steps: of Adam, for each map.
        tokens: drawn for each step.
        rate: of the first step; it falls linearly to zero.
        seed: draws texts and tokens.

    Raises:
        InputError: a number that is not above 0.
    """

    steps: int
    tokens: int
    rate: float
    seed: int

    def __post_init__(self) -> None:
        for name in ("steps", "tokens", "rate"):
            if not getattr(self, name) > 0:
                raise InputError(
                    f"a tuned lens needs {name} above 0, not {name}={getattr(self, name)}"
                )


def fitted(
    model: TransformerBridge, texts: Sequence[str], how: Fit
) -> tuple[Float[Tensor, "depth d_model d_model"], Float[Tensor, "depth d_model"]]:
    """The maps `A` and the shifts `b`, in float32 on the CPU.

    Raises:
        InputError: no text of two tokens or more, or a model that no lens can read.
    """
    if isinstance(texts, str):
        raise InputError("a tuned lens is trained on a list of texts, not on one string")
    rows = [row for row in (encode(model, text)[:_LENGTH] for text in texts) if len(row) > 1]
    if not rows:
        raise InputError(f"none of the {len(texts)} texts has two tokens or more to train on")
    draw = torch.Generator().manual_seed(how.seed)
    depths = places(model)[:-1]
    moments = _streams(model, rows[:_FOR_MOMENTS])
    maps = {place: _Map(moments[place], how) for place in depths}
    with progress(how.steps * how.tokens, "tuned lens") as advance:
        for streams in _batches(model, rows, how, draw):
            with torch.no_grad():
                final = _logprobs(model, streams[places(model)[-1]], grad=False)
            losses = [maps[place].step(model, streams[place], final) for place in depths]
            advance(how.tokens, f"divergence {sum(losses) / len(losses):.2f} nats")
    folded = [maps[place].folded() for place in depths]
    return torch.stack([a for a, _ in folded]), torch.stack([b for _, b in folded])


def _batches(
    model: TransformerBridge, rows: list[list[int]], how: Fit, draw: torch.Generator
) -> Iterator[dict[Place, Float[Tensor, "token d_model"]]]:
    """For each step, the streams at tokens drawn from texts drawn; all texts come in turn."""
    order: list[int] = []
    for _ in range(how.steps):
        if len(order) < _TEXTS:
            order += torch.randperm(len(rows), generator=draw).tolist()
        some, order = order[:_TEXTS], order[_TEXTS:]
        streams = _streams(model, [rows[index] for index in some])
        n = len(streams[Place(-1, "block")])
        drawn = torch.randperm(n, generator=draw)[: how.tokens]
        yield {place: stream[drawn.to(stream.device)] for place, stream in streams.items()}


def _streams(
    model: TransformerBridge, rows: list[list[int]]
) -> dict[Place, Float[Tensor, "token d_model"]]:
    """The streams at all real tokens of some texts but each one's first."""
    tokens, attended = pad_left(rows, model)
    kept = attended.cumsum(-1) > 1
    found = streams_of(model, tokens, attended)
    # Copies: what was made in inference mode takes no part in gradients.
    return {place: stream[kept.to(stream.device)].clone() for place, stream in found.items()}


def _logprobs(
    model: TransformerBridge, stream: Float[Tensor, "token d_model"], *, grad: bool
) -> Float[Tensor, "token d_vocab"]:
    return read_out(model, stream, grad=grad).float().log_softmax(-1)


class _Map:
    """One depth's map while it is trained."""

    def __init__(self, moments: Float[Tensor, "token d_model"], how: Fit) -> None:
        moments = moments.float()
        self._mean = moments.mean(0)
        # A single token has no spread: the correction for a sample would divide by zero.
        self._std = moments.std(0, correction=min(1, len(moments) - 1)).clamp(min=1e-6)
        size, device = moments.shape[1], moments.device
        self._weight = torch.zeros(size, size, device=device, requires_grad=True)
        self._shift = torch.zeros(size, device=device, requires_grad=True)
        self._adam = torch.optim.Adam([self._weight, self._shift], lr=how.rate)
        self._fall = torch.optim.lr_scheduler.LinearLR(self._adam, 1.0, 0.0, how.steps)

    def step(
        self,
        model: TransformerBridge,
        stream: Float[Tensor, "token d_model"],
        final: Float[Tensor, "token d_vocab"],
    ) -> float:
        """Take a step; the divergence before it, in nats."""
        wide = stream.float()
        z = (wide - self._mean) / self._std
        mapped = wide + self._std * (z @ self._weight.T + self._shift)
        found = _logprobs(model, mapped.to(stream.dtype), grad=True)
        loss = divergence(final.to(found.device), found).mean()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self._fall.step()
        return float(loss.detach())

    def folded(self) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
        """`A` and `b` of `h + A h + b`."""
        weight = self._std[:, None] * self._weight.detach() / self._std
        return weight.cpu(), (self._std * self._shift.detach() - weight @ self._mean).cpu()
