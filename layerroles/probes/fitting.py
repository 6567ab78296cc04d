"""Train the maps of a tuned lens: gradient descent on the divergence from the final distribution.

Each map works on `z = (h - mean) / std`, with the moments of each of the stream's entries on the
first texts: some entries are a hundred times as large as others, and Adam moves all weights alike.

    T(h) = h + std * (W z + c)

starts at `W = 0`, `c = 0`, and is folded into `h + A h + b` at the end.

A map has `d_model^2 + d_model` parameters. `fitted` warns where it sees fewer different tokens than
that. This is a rule of thumb: a token's target is a whole distribution, so that fewer tokens can be
enough, though fewer than `d_model + 1` never determine an affine map. The authors' own training
(250 steps of 2^18 tokens by default, in their code) comes to 1.7 tokens for each parameter at the
largest of their models (`d_model` 6144) and to 111 at a `d_model` of 768.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import pad_left
from layerroles.errors import InputError
from layerroles.models import encode
from layerroles.probes.streams import Place, divergence, places, read_out, streams_of
from layerroles.progress import progress

log = logging.getLogger(__name__)

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


@dataclass(frozen=True)
class Maps:
    """The maps of a tuned lens, in float32 on the CPU, and what they were trained on.

    Attributes:
        maps: `A` for the embedding and after each block but the last.
        shifts: `b` for the same.
        n_tokens: different tokens that were read in training.
        n_parameters: of the map of one depth.
    """

    maps: Float[Tensor, "depth d_model d_model"]
    shifts: Float[Tensor, "depth d_model"]
    n_tokens: int
    n_parameters: int


def fitted(model: TransformerBridge, texts: Sequence[str], how: Fit) -> Maps:
    """Train the maps; warn where they see fewer tokens than each has parameters.

    Raises:
        InputError: no text of two tokens or more, or a model that no lens can read.
    """
    if isinstance(texts, str):
        raise InputError("a tuned lens is trained on a list of texts, not on one string")
    rows = [row for row in (encode(model, text)[:_LENGTH] for text in texts) if len(row) > 1]
    if not rows:
        raise InputError(f"none of the {len(texts)} texts has two tokens or more to train on")
    size = model.cfg.d_model
    n_tokens, n_parameters = _count_tokens(rows, how), size * size + size
    if n_tokens < n_parameters:
        log.warning(
            "the tuned lens is trained on %s tokens, fewer than the %s parameters of each layer's "
            "map, so that it may fit these texts and read others worse: raise steps (now %d) or "
            "tokens (now %d, of which a step reads %d at most), and give more texts (these have %s "
            "tokens to train on)",
            f"{n_tokens:,}",
            f"{n_parameters:,}",
            how.steps,
            how.tokens,
            _TEXTS * (_LENGTH - 1),
            f"{sum(len(row) - 1 for row in rows):,}",
        )
    depths = places(model)[:-1]
    moments = _streams(model, rows[:_FOR_MOMENTS])
    maps = {place: _Map(moments[place], how) for place in depths}
    with progress(how.steps * how.tokens, "tuned lens") as advance:
        for streams in _batches(model, rows, how):
            with torch.no_grad():
                final = _logprobs(model, streams[places(model)[-1]], grad=False)
            losses = [maps[place].step(model, streams[place], final) for place in depths]
            advance(how.tokens, f"divergence {sum(losses) / len(losses):.2f} nats")
    folded = [maps[place].folded() for place in depths]
    maps_of, shifts_of = zip(*folded, strict=True)
    return Maps(torch.stack(maps_of), torch.stack(shifts_of), n_tokens, n_parameters)


def _draws(rows: list[list[int]], how: Fit) -> Iterator[tuple[list[int], Int[Tensor, " token"]]]:
    """For each step, the texts that are read and which of their tokens; all texts come in turn.

    Tokens are counted over all of the step's texts, each one's first left out.
    """
    draw = torch.Generator().manual_seed(how.seed)
    order: list[int] = []
    for _ in range(how.steps):
        if len(order) < _TEXTS:
            order += torch.randperm(len(rows), generator=draw).tolist()
        some, order = order[:_TEXTS], order[_TEXTS:]
        n = sum(len(rows[index]) - 1 for index in some)
        yield some, torch.randperm(n, generator=draw)[: how.tokens]


def _count_tokens(rows: list[list[int]], how: Fit) -> int:
    """How many different tokens the draws come to."""
    seen: set[tuple[int, int]] = set()
    for some, drawn in _draws(rows, how):
        tokens = [(index, at) for index in some for at in range(1, len(rows[index]))]
        seen.update(tokens[place] for place in drawn.tolist())
    return len(seen)


def _batches(
    model: TransformerBridge, rows: list[list[int]], how: Fit
) -> Iterator[dict[Place, Float[Tensor, "token d_model"]]]:
    """For each step, the streams at the tokens drawn."""
    for some, drawn in _draws(rows, how):
        streams = _streams(model, [rows[index] for index in some])
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
