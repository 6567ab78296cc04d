"""Lenses: read out the residual stream at any depth as if it were the last block's output.

A stream `h` at depth `l` is read as `unembed(norm(T_l(h)))`, with the model's own final norm and
unembedding and a translation `T_l`: the identity for the logit lens (nostalgebraist 2020,
"interpreting GPT: the logit lens"), an affine map for the tuned lens
(`layerroles.probes.tuned_lens`). The logit lens is unreliable for early streams: the model was not
trained to unembed them.

TransformerLens's `logit_readout` computes the logits, soft caps and scaling included. It is checked
that the last depth gives the model's own output.

Example:
    lens = LogitLens(top=3).measure(model, tasks, limit=32)
    table = LogitLens(top=1).read(model, ["The capital of France is Paris"])
"""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, Prompt, ablated, as_condition
from layerroles.errors import InputError
from layerroles.models import check_weights, encode, forward, prepared
from layerroles.probes.answering_position import Batch
from layerroles.probes.base import Probe, register
from layerroles.probes.streams import (
    Place,
    call_at_hooks,
    kl_divergence,
    list_places,
    read_out,
    record_streams,
)

# Largest allowed difference of the last depth from the model's own log-probability, in nats.
_TOLERANCE = {torch.float32: 1e-2, torch.float16: 0.1, torch.bfloat16: 0.5}


class Lens(Probe):
    """A probe that reads out the residual stream at each depth: at answers, or at every token.

    Columns: layer (-1 is the embedding, l is after block l, the last is the model's output), part
    (`block`, or `attn` for the stream between attention and MLP), rank (of the answer; 0 is the
    likeliest token), logprob (of the answer, nats), uniform (the log-probability of every token
    under a uniform distribution, `-log d_vocab`), entropy (nats), kl (`sum(p log(p / q))` in nats,
    with `p` the model's final distribution and `q` the lens's at this depth), agrees (whether `p`
    and `q` have the same likeliest token). If `top` is above 0, also the likeliest tokens `top_0`,
    `top_1`, ... with their log-probabilities `top_0_logprob`, ...

    Attributes:
        sublayers: whether to read the stream between attention and MLP too.
        top: the number of likeliest tokens to return at each depth.

    Example:
        lens = lr.probes.LogitLens(top=2)
        lens.measure(model, tasks, limit=8)  # at the answers of tasks
        lens.read(model, ["silver fence silver"])  # at every token of a text
    """

    sublayers: bool
    top: int

    @abstractmethod
    def translated(
        self, stream: Float[Tensor, "row d_model"], place: Place
    ) -> Float[Tensor, "row d_model"]:
        """Return the stream at a depth, mapped by the lens's `T_l` so that it can be read out."""

    def check(self, model: TransformerBridge) -> None:
        """Check that the lens can be used on a model.

        Raises:
            InputError: `top` exceeds the vocabulary, or `sublayers` is set for a model with a block
                that has no stream between attention and MLP.
        """
        if not 0 <= self.top <= model.cfg.d_vocab:
            raise InputError(
                f"top={self.top} tokens of a vocabulary of {model.cfg.d_vocab}: use 0 or more"
            )
        list_places(model, sublayers=self.sublayers)

    def rows(self, model: TransformerBridge, batch: Batch) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield a row for each example and depth."""
        streams, hooks = record_streams(model, self.sublayers, slice(-1, None))
        final = batch.run(model, hooks)
        answers = torch.tensor(batch.answers, device=final.device)
        for place, columns in self._columns(model, streams, final, answers):
            for row, example in enumerate(batch.examples):
                yield example.id, {**place._asdict(), **{k: v[row] for k, v in columns.items()}}

    def read(
        self, model: TransformerBridge, texts: Sequence[str], *, condition: Condition | None = None
    ) -> pd.DataFrame:
        """Read out the stream at every token of texts.

        Args:
            model: from `load` or `prepare`.
            texts: the texts to read, each as one prompt.
            condition: the condition under which to read; None for the intact model.

        Returns:
            A tidy frame with the columns probe, model, condition, text (its index), position, token
            (the token at that position) and the columns of the lens. `rank` and `logprob` are those
            of the text's next token, NaN at the last position.

        Raises:
            InputError: no text, an empty text, a text longer than the model's context, a model
                without weights, a lens that was trained on another model, or a condition that
                cannot be applied to the model.
        """
        if isinstance(texts, str) or not texts or not all(texts):
            raise InputError("a lens reads a list of texts, none of them empty")
        check_weights(model)
        self.check(model)
        condition = INTACT if condition is None else as_condition(condition)
        columns = {"probe": self.name, "model": prepared(model).name, "condition": condition.name}
        frames = [
            self._read_text(model, encode(model, text), condition).assign(text=number)
            for number, text in enumerate(texts)
        ]
        frame = pd.concat(frames, ignore_index=True).assign(**columns)
        first_columns = [*columns, "text", "position", "token"]
        return frame[[*first_columns, *(name for name in frame if name not in first_columns)]]

    def _read_text(
        self, model: TransformerBridge, ids: list[int], condition: Condition
    ) -> pd.DataFrame:
        if len(ids) > model.cfg.n_ctx:
            raise InputError(
                f"a text of {len(ids)} tokens is longer than the model's context of "
                f"{model.cfg.n_ctx}: cut it"
            )
        tokens = torch.tensor([ids], device=model.cfg.device)
        streams, hooks = record_streams(model, self.sublayers, slice(None))
        ablation = (
            nullcontext()
            if condition.is_intact
            else ablated(model, condition, prompts=[Prompt(tuple(ids))])
        )
        with ablation, call_at_hooks(model, hooks):
            final, _ = forward(model, tokens, torch.ones_like(tokens))
        next_tokens = torch.tensor([*ids[1:], ids[0]], device=final.device)  # last: a placeholder
        token_texts = [prepared(model).tokenizer.decode([token_id]) for token_id in ids]
        has_next = [True] * (len(ids) - 1) + [False]
        frames = []
        for place, columns in self._columns(model, streams, final[0], next_tokens):
            position_columns = {
                "position": range(len(ids)),
                "token": token_texts,
                **place._asdict(),
            }
            frames.append(pd.DataFrame({**position_columns, **columns}))
            frames[-1][["rank", "logprob"]] = frames[-1][["rank", "logprob"]].where(
                pd.Series(has_next)
            )
        return pd.concat(frames, ignore_index=True).sort_values(
            ["position"], kind="stable", ignore_index=True
        )

    def _columns(
        self,
        model: TransformerBridge,
        streams: dict[Place, Tensor],
        final: Float[Tensor, "row d_vocab"],
        targets: Int[Tensor, " row"],
    ) -> Iterator[tuple[Place, dict[str, list[Any]]]]:
        """Yield the lens's columns at each depth, with a value for each row.

        `rank` and `logprob` are those of the token in `targets`; `rank` is 0 for the likeliest
        token. Log-probabilities, entropy and KL divergence are in nats.

        Raises:
            InputError: the last depth's log-probabilities differ from the model's own.
        """
        final_logprobs = final.float().log_softmax(-1)
        for place, logits in self.readings(model, streams):
            # The parts of a model may lie on several devices.
            final, final_logprobs, targets = (
                tensor.to(logits.device) for tensor in (final, final_logprobs, targets)
            )
            logprobs = logits.float().log_softmax(-1)
            target_logprobs = logprobs.gather(-1, targets[:, None])
            yield (
                place,
                {
                    # By logits, since different logits may round to the same log-probability.
                    "rank": (logits > logits.gather(-1, targets[:, None])).sum(-1).tolist(),
                    "logprob": target_logprobs[:, 0].tolist(),
                    "uniform": [-math.log(logits.shape[-1])] * len(logits),
                    "entropy": (-(logprobs.exp() * logprobs).sum(-1)).tolist(),
                    "kl": kl_divergence(final_logprobs, logprobs).tolist(),
                    "agrees": (logits.argmax(-1) == final.argmax(-1)).tolist(),
                    **self._likeliest(model, logprobs),
                },
            )
        error = float(
            (target_logprobs[:, 0] - final_logprobs.gather(-1, targets[:, None])[:, 0]).abs().max()
        )
        if not error <= _TOLERANCE[model.cfg.dtype]:
            raise InputError(
                f"the last entry of the lens on {prepared(model).name} differs from the model's "
                f"own output by {error:.2g} nats: the lens does not read this architecture"
            )

    def readings(
        self, model: TransformerBridge, streams: dict[Place, Float[Tensor, "row pos d_model"]]
    ) -> Iterator[tuple[Place, Float[Tensor, "token d_vocab"]]]:
        """Yield each depth, in order, with the logits read out there for all rows and positions.

        One depth is computed at a time, to save memory.
        """
        for place in list_places(model, sublayers=self.sublayers):
            stream = rearrange(streams[place], "row pos d_model -> (row pos) d_model")
            yield place, read_out(model, self.translated(stream, place))

    def _likeliest(
        self, model: TransformerBridge, logprobs: Float[Tensor, "row d_vocab"]
    ) -> dict[str, list[Any]]:
        if not self.top:
            return {}
        values, ids = logprobs.topk(self.top, dim=-1)
        decode = prepared(model).tokenizer.decode
        columns: dict[str, list[Any]] = {}
        for k in range(self.top):
            columns[f"top_{k}"] = [decode([token_id]) for token_id in ids[:, k].tolist()]
            columns[f"top_{k}_logprob"] = values[:, k].tolist()
        return columns


@register("logit_lens")
@dataclass(frozen=True)
class LogitLens(Lens):
    """Read out the residual stream at each depth as if it were the last block's; see `Lens`.

    Attributes:
        sublayers: whether to read the stream between attention and MLP too.
        top: the number of likeliest tokens to return at each depth.

    Raises:
        InputError: `top` is not a whole number, or `sublayers` is neither true nor false.

    Example:
        lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
        lens.groupby(["task", "layer"])["rank"].median()
    """

    sublayers: bool = False
    top: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.top, int):
            raise InputError(f"top={self.top!r} is not a whole number")
        if self.sublayers not in (True, False):  # 0 and 1 come from the command line
            raise InputError(f"sublayers={self.sublayers!r} is neither 1 nor 0")

    def translated(
        self, stream: Float[Tensor, "row d_model"], place: Place
    ) -> Float[Tensor, "row d_model"]:
        """Return the stream unchanged."""
        return stream
