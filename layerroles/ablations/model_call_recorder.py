"""Record the tokens and positions of the current forward pass, for the hooks that run in it.

An edit needs the absolute positions and the token ids of its rows (the sequences of the batch).
Plain TransformerLens calls (`model(...)`, `run_with_cache`, `generate`, with and without a KV
cache) pass neither to hooks. Both are taken from the arguments of the Hugging Face model's call.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations.token_marks import Marks, Prompt
from layerroles.errors import InputError


@dataclass(frozen=True)
class ModelCall:
    """A `Pass`: the inputs of one call of the model.

    Attributes:
        tokens: ids of all tokens read so far, pads included, new ones last; None if not known (the
            model was run on embeddings, or on a cache that was filled in unrecorded passes).
        attended: mask of all tokens read so far, new ones last; false at pads.
        positions: index of each new token among its row's real tokens; negative at pads.
        real: mask of the new tokens; false at pads.
        marks: the marks of each new token (see the module `token_marks`).
        given: the rows' prompts as passed to `Watch.begin`; if none were passed, the ids and the
            mask of the tokens that were read without a cache; None if these are not known either.
    """

    tokens: Int[Tensor, "row all_pos"] | None
    attended: Bool[Tensor, "row all_pos"]
    positions: Int[Tensor, "row pos"]
    real: Bool[Tensor, "row pos"]
    marks: Int[Tensor, "row pos"]
    given: Sequence[Prompt] | tuple[Tensor, Tensor] | None

    def read_at(self, row: int, pos: int) -> list[int] | None:
        """Return the ids of the real tokens that a row has read, up to and including `pos`.

        `pos` is an index among the new tokens. Returns None if the tokens are not known.
        """
        if self.tokens is None:
            return None
        end = self.tokens.shape[1] - self.positions.shape[1] + pos + 1
        ids: list[int] = self.tokens[row, :end][self.attended[row, :end]].tolist()
        return ids

    @property
    def prompts(self) -> Sequence[Prompt] | None:
        """Each row's prompt; None if it is not known, as for embeddings."""
        if not isinstance(self.given, tuple):
            return self.given
        rows = zip(*self.given, strict=True)
        return [Prompt(tuple(ids[real].tolist())) for ids, real in rows]


class Watch:
    """Records forward passes: the latest one in `.current`, the tokens read so far in `.tokens`.

    Unless prompts are given (`begin`), tokens read without a cache count as a row's prompt, and
    tokens read on top of a cache count as generated.
    """

    def __init__(self) -> None:
        self.current: ModelCall | None = None
        self.tokens: Int[Tensor, "row all_pos"] | None = None
        self._given: Sequence[Prompt] | tuple[Tensor, Tensor] | None = None
        self._marks: Marks | None = None
        self._check = False

    def begin(
        self,
        tokens: Int[Tensor, "row all_pos"] | None,
        prompts: Sequence[Prompt] | None,
        *,
        check: bool = False,
    ) -> None:
        """Start a new batch of rows.

        Args:
            tokens: token ids in the cache that the rows continue; None if there is no cache.
            prompts: each row's prompt; None takes the tokens read without a cache as prompts.
            check: in passes without a cache, refuse rows that do not begin with their prompts.
        """
        self.tokens, self._marks, self._check = tokens, None, check
        self._given = None if prompts is None else list(prompts)

    def keep(self, rows: Int[Tensor, " row"]) -> None:
        """Keep only the rows with these indices, for example when the other rows have ended."""
        if self.tokens is not None:
            self.tokens = self.tokens[rows]
        if self._marks is not None:
            self._marks = self._marks.select(rows)
        if isinstance(self._given, tuple):
            self._given = self._given[0][rows], self._given[1][rows]
        elif self._given is not None:
            self._given = [self._given[row] for row in rows.tolist()]

    def record_call(
        self, _module: torch.nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        """Record the arguments of a forward pass (a torch forward pre-hook)."""
        tokens = args[0] if args else kwargs.get("input_ids")
        new = tokens if tokens is not None else kwargs["inputs_embeds"]
        rows, n_new = new.shape[:2]
        # Named `cache` since transformers 5.24 (see `private_apis.rename_cache_arguments`).
        cache = kwargs.get("past_key_values", kwargs.get("cache"))
        n_past = 0 if cache is None else self._count_past(cache)
        mask = kwargs.get("attention_mask")
        if mask is None or mask.ndim != 2:
            mask = torch.ones(rows, n_past + n_new, dtype=torch.bool, device=new.device)
        attended = mask.to(device=new.device, dtype=torch.bool)
        positions = (attended.long().cumsum(-1) - 1).masked_fill(~attended, -1)
        self.tokens = self._joined(tokens, n_past)
        marks = self._known_marks(attended, fresh=n_past == 0)
        self.current = ModelCall(
            tokens=self.tokens,
            attended=attended,
            positions=positions[:, -n_new:],
            real=attended[:, -n_new:],
            marks=marks.at(positions[:, -n_new:]),
            given=self._given,
        )

    def _count_past(self, cache: Any) -> int:
        """Return how many tokens were read into a cache."""
        try:
            return int(cache.get_seq_length())
        except ValueError:  # a state-space model's cache only knows whether any were read
            if self.tokens is None or not cache.has_previous_state():
                return 0
            return int(self.tokens.shape[1])

    def _known_marks(self, attended: Bool[Tensor, "row all_pos"], *, fresh: bool) -> Marks:
        if isinstance(self._given, list):
            if len(self._given) != len(attended):
                raise InputError(f"{len(self._given)} prompts are given for {len(attended)} rows")
            if fresh and self._check and self.tokens is not None:
                _check_begun(self._given, self.tokens, attended)
            self._marks = self._marks or Marks.of(self._given, attended.device)
        elif fresh:
            self._marks = Marks.whole(attended)
            self._given = None if self.tokens is None else (self.tokens, attended)
        elif self._marks is None:  # the cache was filled in passes not recorded
            return Marks(torch.zeros_like(attended[:, :0], dtype=torch.long))
        return self._marks

    def _joined(self, tokens: Tensor | None, n_past: int) -> Tensor | None:
        if tokens is None or n_past == 0:
            return tokens
        # The cache was filled in passes that were not recorded, so its tokens are not known.
        if self.tokens is None or self.tokens.shape != (tokens.shape[0], n_past):
            return None
        return torch.cat([self.tokens, tokens], dim=1)


def _check_begun(prompts: Sequence[Prompt], tokens: Tensor, attended: Tensor) -> None:
    for index, (prompt, ids, real) in enumerate(zip(prompts, tokens, attended, strict=True)):
        begun = tuple(ids[real][: len(prompt.ids)].tolist())
        if begun != prompt.ids[: len(begun)]:
            raise InputError(
                f"row {index} begins with tokens {list(begun[:4])}..., its prompt with "
                f"{list(prompt.ids[:4])}... (a bridge's own to_tokens prepends BOS)"
            )


@contextmanager
def watch_passes(model: TransformerBridge) -> Iterator[Watch]:
    """Record the inputs of forward passes run inside the `with` block; yields the `Watch`."""
    watch = Watch()
    handle = model.original_model.register_forward_pre_hook(watch.record_call, with_kwargs=True)
    try:
        yield watch
    finally:
        handle.remove()
