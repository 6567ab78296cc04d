"""Train the maps of a tuned lens, to lower the KL divergence from the final distribution.

Each map normalizes the stream `h` to `z = (h - mean) / std`, with the mean and standard deviation
of each dimension over the first texts: some dimensions are a hundred times as large as others, and
Adam takes steps of the same size for all weights.

    T(h) = h + std * (W z + c)

starts at `W = 0`, `c = 0`, and is folded into `h + A h + b` at the end.

A map has `d_model^2 + d_model` parameters. `train_maps` warns if it draws fewer distinct tokens
than that. This is a rule of thumb: a token's target is a whole distribution, so fewer tokens can be
enough, but fewer than `d_model + 1` never determine an affine map. Belrose et al. (by default, 250
steps of 2^18 tokens in their code) train on 1.7 tokens for each parameter of their largest model
(`d_model` 6144), and on 111 where `d_model` is 768.
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
from layerroles.models import check_weights, encode
from layerroles.probes.streams import Place, kl_divergence, list_places, read_out, read_streams
from layerroles.progress import show_progress

log = logging.getLogger(__name__)

# Texts read for a step, tokens read of each text, and texts from which mean and std are computed.
_TEXTS = 4
_LENGTH = 128
_FOR_MOMENTS = 16


@dataclass(frozen=True)
class Fit:
    """The settings by which a tuned lens is trained.

    Attributes:
        steps: Adam steps for each map.
        tokens: the maximum number of tokens drawn for each step.
        rate: learning rate of the first step; it falls linearly to zero.
        seed: the seed of the draws of texts and tokens.

    Raises:
        InputError: `steps`, `tokens` or `rate` is not above 0.
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
        maps: the matrices `A`, for the embedding and after each block but the last.
        shifts: the vectors `b`, for the same depths.
        n_tokens: the number of distinct (text, position) pairs drawn in training.
        n_parameters: the number of parameters of one depth's map.
    """

    maps: Float[Tensor, "depth d_model d_model"]
    shifts: Float[Tensor, "depth d_model"]
    n_tokens: int
    n_parameters: int


def train_maps(model: TransformerBridge, texts: Sequence[str], fit: Fit) -> Maps:
    """Train a map for each depth; log a warning if a map has more parameters than training tokens.

    Raises:
        InputError: no text of two tokens or more, a model without weights, or one that no lens can
            read.
    """
    if isinstance(texts, str):
        raise InputError("a tuned lens is trained on a list of texts, not on one string")
    check_weights(model)
    length = min(_LENGTH, model.cfg.n_ctx)
    rows = [row for row in (encode(model, text)[:length] for text in texts) if len(row) > 1]
    if not rows:
        raise InputError(f"none of the {len(texts)} texts has two tokens or more to train on")
    size = model.cfg.d_model
    n_tokens, n_parameters = _count_tokens(rows, fit), size * size + size
    if n_tokens < n_parameters:
        log.warning(
            "the tuned lens is trained on %s tokens, fewer than the %s parameters of each layer's "
            "map, so that it may fit these texts and read others worse: raise steps (now %d) or "
            "tokens (now %d, of which a step reads %d at most), and give more texts (these have %s "
            "tokens to train on)",
            f"{n_tokens:,}",
            f"{n_parameters:,}",
            fit.steps,
            fit.tokens,
            _TEXTS * (_LENGTH - 1),
            f"{sum(len(row) - 1 for row in rows):,}",
        )
    depths = list_places(model)[:-1]
    moments = _read_streams(model, rows[:_FOR_MOMENTS])
    maps = {place: _TrainedMap(moments[place], fit) for place in depths}
    with show_progress(fit.steps * fit.tokens, "tuned lens") as advance:
        for streams in _read_batches(model, rows, fit):
            with torch.no_grad():
                final = _read_logprobs(model, streams[list_places(model)[-1]], grad=False)
            losses = [maps[place].step(model, streams[place], final) for place in depths]
            advance(fit.tokens, f"divergence {sum(losses) / len(losses):.2f} nats")
    folded = [maps[place].fold_standardization() for place in depths]
    maps_of, shifts_of = zip(*folded, strict=True)
    return Maps(torch.stack(maps_of), torch.stack(shifts_of), n_tokens, n_parameters)


def _draw_tokens(
    rows: list[list[int]], fit: Fit
) -> Iterator[tuple[list[int], Int[Tensor, " token"]]]:
    """Yield, for each step, the indices of the texts to read and of the tokens to use.

    Every text is drawn once before any is drawn again. Token indices count through all texts of the
    step, skipping each text's first token.
    """
    rng = torch.Generator().manual_seed(fit.seed)
    order: list[int] = []
    for _ in range(fit.steps):
        if len(order) < _TEXTS:
            order += torch.randperm(len(rows), generator=rng).tolist()
        indices, order = order[:_TEXTS], order[_TEXTS:]
        n = sum(len(rows[index]) - 1 for index in indices)
        yield indices, torch.randperm(n, generator=rng)[: fit.tokens]


def _count_tokens(rows: list[list[int]], fit: Fit) -> int:
    """Count the distinct (text, position) pairs that `_draw_tokens` draws over all steps."""
    seen_tokens: set[tuple[int, int]] = set()
    for indices, draws in _draw_tokens(rows, fit):
        tokens = [(index, at) for index in indices for at in range(1, len(rows[index]))]
        seen_tokens.update(tokens[place] for place in draws.tolist())
    return len(seen_tokens)


def _read_batches(
    model: TransformerBridge, rows: list[list[int]], fit: Fit
) -> Iterator[dict[Place, Float[Tensor, "token d_model"]]]:
    """Yield, for each step, the streams at the drawn tokens, by depth."""
    for indices, draws in _draw_tokens(rows, fit):
        streams = _read_streams(model, [rows[index] for index in indices])
        yield {place: stream[draws.to(stream.device)] for place, stream in streams.items()}


def _read_streams(
    model: TransformerBridge, rows: list[list[int]]
) -> dict[Place, Float[Tensor, "token d_model"]]:
    """Return, by depth, the streams at all tokens of some texts except each text's first token."""
    tokens, attended = pad_left(rows, model)
    is_kept = attended.cumsum(-1) > 1
    streams = read_streams(model, tokens, attended)
    # Copies, since gradients cannot flow through tensors that were made in inference mode.
    return {place: stream[is_kept.to(stream.device)].clone() for place, stream in streams.items()}


def _read_logprobs(
    model: TransformerBridge, stream: Float[Tensor, "token d_model"], *, grad: bool
) -> Float[Tensor, "token d_vocab"]:
    return read_out(model, stream, grad=grad).float().log_softmax(-1)


class _TrainedMap:
    """The map of one depth during training, with its optimizer and normalization."""

    def __init__(self, moments: Float[Tensor, "token d_model"], fit: Fit) -> None:
        moments = moments.float()
        self._mean = moments.mean(0)
        # A single token has no spread: the correction for a sample would divide by zero.
        self._std = moments.std(0, correction=min(1, len(moments) - 1)).clamp(min=1e-6)
        size, device = moments.shape[1], moments.device
        self._weight = torch.zeros(size, size, device=device, requires_grad=True)
        self._shift = torch.zeros(size, device=device, requires_grad=True)
        self._adam = torch.optim.Adam([self._weight, self._shift], lr=fit.rate)
        self._fall = torch.optim.lr_scheduler.LinearLR(self._adam, 1.0, 0.0, fit.steps)

    def step(
        self,
        model: TransformerBridge,
        stream: Float[Tensor, "token d_model"],
        final: Float[Tensor, "token d_vocab"],
    ) -> float:
        """Take an Adam step; return the mean KL divergence before the step, in nats."""
        stream_float32 = stream.float()
        z = (stream_float32 - self._mean) / self._std
        mapped = stream_float32 + self._std * (z @ self._weight.T + self._shift)
        logprobs = _read_logprobs(model, mapped.to(stream.dtype), grad=True)
        loss = kl_divergence(final.to(logprobs.device), logprobs).mean()
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self._fall.step()
        return float(loss.detach())

    def fold_standardization(
        self,
    ) -> tuple[Float[Tensor, "d_model d_model"], Float[Tensor, " d_model"]]:
        """Return the trained map as `A` and `b` of `h + A h + b`, on the CPU."""
        weight = self._std[:, None] * self._weight.detach() / self._std
        return weight.cpu(), (self._std * self._shift.detach() - weight @ self._mean).cpu()
