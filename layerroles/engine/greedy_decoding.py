"""Greedy decoding of a batch of rows (one text each): its state, and when a text ends.

All executors (the engine's ways to run a model) share this code.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad
from transformer_lens.model_bridge import TransformerBridge

from layerroles.engine.requests import Writing, Written
from layerroles.models import prepared

# Rows whose logits are converted to float32 and compared at once on a CPU. Comparing in float32 is
# twice as fast as in 16 bits.
_CHUNK = 32
# `highest_tokens` cuts the vocabulary into parts of this many tokens, and compares their maxima.
_WIDTH = 256


class Stops:
    """Detects the end of a text: an end-of-text token, or a string of the request's `until`."""

    def __init__(self, model: TransformerBridge) -> None:
        self.tokenizer = prepared(model).tokenizer
        config = getattr(model.original_model, "generation_config", None)
        known = getattr(config, "eos_token_id", None)
        listed = known if isinstance(known, list) else [known]
        self.eos = {id for id in (*listed, self.tokenizer.eos_token_id) if id is not None}
        ids, names = self.tokenizer.all_special_ids, self.tokenizer.all_special_tokens
        # Names of special tokens, which decoded texts leave out.
        self._names = dict(zip(ids, names, strict=True))

    def ends(self, token: int, until: Sequence[str]) -> bool:
        """Return whether this token ends a text, regardless of the tokens before it.

        True for an end-of-text token, and for a special token whose name contains an `until` string
        (as in lm-eval, although decoded texts leave out special tokens).
        """
        name = self._names.get(token, "")
        return token in self.eos or any(text in name for text in until)

    def text(self, ids: Sequence[int], until: Sequence[str]) -> tuple[str, bool]:
        """Return the decoded text, cut before the first `until` string, and whether it was cut."""
        whole: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        starts = [start for start in (whole.find(text) for text in until) if start >= 0]
        return (whole[: min(starts)], True) if starts else (whole, False)


@dataclass(frozen=True)
class NextTokens:
    """The most likely next token of each row, and whether all of the row's logits were finite."""

    tokens: Int[Tensor, " row"]
    finite: Bool[Tensor, " row"]


def choose_greedy(logits: Float[Tensor, "row d_vocab"]) -> NextTokens:
    """Return each row's most likely next token, and whether the row's logits are finite."""
    chosen = [(rows.argmax(-1), all_finite(rows)) for rows in split_rows(logits)]
    return NextTokens(*map(torch.cat, zip(*chosen, strict=True)))


def split_rows(logits: Float[Tensor, "row d_vocab"]) -> Iterator[Float[Tensor, "_ d_vocab"]]:
    """Yield the rows' logits in float32: on a CPU in chunks of a few rows, else all at once."""
    yield from map(
        Tensor.float, logits.split(_CHUNK if logits.device.type == "cpu" else len(logits))
    )


def highest_tokens(logits: Float[Tensor, "row d_vocab"], n: int) -> Int[Tensor, "row n"]:
    """Return the ids of each row's `n` tokens with the highest logits, sorted by id.

    If the vocabulary has fewer tokens, all are returned. The maxima of parts of the vocabulary are
    compared first, which is faster than `topk` or `argmax` on the whole vocabulary.
    """
    d_vocab = logits.shape[-1]
    if d_vocab <= n * _WIDTH:
        return logits.topk(min(n, d_vocab), -1).indices.sort(-1).values
    if d_vocab % _WIDTH:
        logits = pad(logits, (0, -d_vocab % _WIDTH), value=float("-inf"))
    parts = rearrange(logits, "row (part width) -> row part width", width=_WIDTH)
    chosen = parts.amax(-1).topk(n, -1).indices
    candidates = parts.gather(1, repeat(chosen, "row n -> row n width", width=_WIDTH))
    places = candidates.flatten(1).topk(n, -1).indices
    found = chosen.gather(1, places // _WIDTH) * _WIDTH + places % _WIDTH
    # Indices of pads are chosen only if fewer than `n` logits are finite.
    return found.clamp(max=d_vocab - 1).sort(-1).values


def all_finite(logits: Float[Tensor, "*row d_vocab"]) -> Bool[Tensor, "*row"]:
    """Return for each row whether all of its logits are finite.

    The row's sum in float32 is tested: it is finite only if all terms are, and a sum takes one pass
    over memory where `isfinite` takes four.
    """
    return torch.isfinite(logits.sum(-1, dtype=torch.float32))


class Decoding:
    """The state of a batch of rows during greedy decoding.

    Attributes:
        last: the newest token of each live row, `[row]`.
        live: the indices of the rows that the model is still run on; `keep` removes some.
    """

    last: Int[Tensor, " row"]

    def __init__(self, stops: Stops, requests: Sequence[Written]) -> None:
        self.stops = stops
        self.requests = requests
        self.ids: list[list[int]] = [[] for _ in requests]
        self.done = [False] * len(requests)
        self.ended = [False] * len(requests)
        self.finite = [True] * len(requests)
        self.live = list(range(len(requests)))

    def add(self, chosen: NextTokens) -> bool:
        """Append its chosen token to each unfinished text; return whether all texts are finished.

        A text is finished if it holds an `until` string or an end-of-text token, has `max_gen_toks`
        tokens, or had a logit that was not finite. `chosen` has one token for each row that is
        still in the batch (`live`); those of finished texts are ignored.
        """
        self.last = chosen.tokens
        # In one transfer, so that the program waits for a GPU only once.
        both = torch.stack([chosen.tokens, chosen.finite.to(chosen.tokens)]).tolist()
        for row, token, is_finite in zip(self.live, *both, strict=True):
            if not self.done[row]:
                self._append(row, token, bool(is_finite))
        return all(self.done)

    def unfinished_mask(self) -> list[bool]:
        """Return for each live row whether its text is unfinished."""
        return [not self.done[row] for row in self.live]

    def unfinished(self) -> list[int]:
        """Return the indices into `live` of the rows whose texts are unfinished."""
        return [place for place, row in enumerate(self.live) if not self.done[row]]

    def keep(self, places: Sequence[int]) -> None:
        """Keep only the live rows at these indices into `live` (`places`)."""
        self.live = [self.live[place] for place in places]
        self.last = self.last[list(places)]

    def results(self, changed: Bool[Tensor, " row"] | None) -> list[Writing]:
        """Return each row's answer: the generated text and how it ended.

        `changed` is true for the rows in which an edit changed anything; None if nothing was
        edited.
        """
        return [
            Writing(
                text=self.stops.text(self._without_eos(row), request.until)[0],
                n_tokens=len(self.ids[row]),
                ended=self.ended[row],
                finite=self.finite[row],
                changed=changed is not None and bool(changed[row]),
                ids=tuple(self.ids[row]),
            )
            for row, request in enumerate(self.requests)
        ]

    def _append(self, row: int, token: int, finite: bool) -> None:
        request = self.requests[row]
        self.ids[row].append(token)
        self.finite[row] = self.finite[row] and finite
        self.ended[row] = self.stops.ends(token, request.until) or (
            # Decoded only if there are strings to look for.
            bool(request.until) and self.stops.text(self.ids[row], request.until)[1]
        )
        self.done[row] = self.ended[row] or len(self.ids[row]) >= request.max_gen_toks or not finite

    def _without_eos(self, row: int) -> list[int]:
        ids = self.ids[row]
        return ids[:-1] if ids and ids[-1] in self.stops.eos else ids
