"""Apply conditions to a packed row, with hooks on transformers' modules.

A packed row holds the tokens of many requests (see `prefix_packing`). Those of them that are under
one condition form a *stretch*. The hooked modules are those of the *twin*, a copy of the model that
shares its weights (see `transformers_twin`).

An ablation that edits writes is called in a hook, with the tokens of its stretch. An ablation that
replaces weights is applied by `weight_replacement`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from layerroles.ablations import Ablation, Condition, Edit, Prompt, References
from layerroles.engine.fused.transformers_twin import NoTwin, Twin
from layerroles.engine.fused.weight_replacement import DonatedModules, use_donated
from layerroles.sites import Site


class TokenPass:
    """The inputs that an edit can read (`ablations.base.Pass`), for tokens of a packed row.

    The edit gets each of these tokens as the only new token of a separate row.

    Args:
        positions: each token's position in its sequence.
        marks: each token's marks: flags, such as "in the prompt" (see `ablations.token_marks`).
        ids: returns, for each token, the token ids of its sequence up to and including it; called
            only if an edit asks for them.
        prompts: each token's prompt; None if different prompts may share tokens.
    """

    def __init__(
        self,
        positions: Int[Tensor, " pos"],
        marks: Int[Tensor, " pos"],
        ids: Callable[[], Sequence[Sequence[int]]],
        prompts: Sequence[Prompt] | None,
    ) -> None:
        self.positions = positions[:, None]
        self.marks = marks[:, None]
        self.real = torch.ones_like(self.positions, dtype=torch.bool)
        self._ids = ids
        self.prompts = prompts

    @property
    def tokens(self) -> Int[Tensor, "row all_pos"]:
        """Token ids of each token's sequence up to and including it, padded on the left."""
        return self._padded[0]

    @property
    def attended(self) -> Bool[Tensor, "row all_pos"]:
        """False at the pads of `tokens`."""
        return self._padded[1]

    def read_at(self, row: int, pos: int) -> list[int] | None:
        """Return the token ids of a row, up to and including its new token.

        `pos`, the new token's index in the pass, is always 0, since each row has one new token.
        """
        return list(self._rows[row])

    @cached_property
    def _rows(self) -> Sequence[Sequence[int]]:
        return self._ids()

    @cached_property
    def _padded(self) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(row) for row in self._rows]
        real = [torch.ones_like(row, dtype=torch.bool) for row in rows]
        tokens, attended = (
            pad_sequence(parts, batch_first=True, padding_side="left") for parts in (rows, real)
        )
        device = self.positions.device
        return tokens.to(device), attended.to(device)


@dataclass
class Stretch:
    """Consecutive tokens of a packed row that are under one condition.

    Attributes:
        condition: the condition.
        start, end: half-open range of the tokens in the row.
        tokens: the `Pass` of these tokens.
        changed: for each token, whether an edit changed a write there; None before the first edit.
    """

    condition: Condition
    start: int
    end: int
    tokens: TokenPass
    changed: Bool[Tensor, " pos"] | None = None

    def record(self, differs: Bool[Tensor, "pos 1"]) -> None:
        """Set `changed` to true at the tokens where an edit changed the write (`differs`)."""
        flags = differs[:, 0]
        self.changed = flags if self.changed is None else self.changed | flags


class Edits:
    """The edits of some conditions, prepared once and then applied to any number of passes.

    Args:
        twin: the twin whose modules are hooked.
        conditions: the conditions that will be applied.
        references: from `resolve_references`, for these conditions.

    Raises:
        NoTwin: what a site edits is not a module's input or output, or an ablation that is
            `in_place` changes something other than weights of modules that process tokens
            independently.
    """

    def __init__(self, twin: Twin, conditions: Sequence[Condition], references: References) -> None:
        self._twin = twin
        self._donated: dict[tuple[Ablation, Site], DonatedModules] = {}
        self._edits: dict[tuple[Condition, Site], Edit] = {}
        for condition in conditions:
            for site, edit in condition.edits.items():
                if not edit.in_place:
                    self._edits[condition, site] = Edit(twin.bridge, condition, site, references)
                elif (edit, site) not in self._donated:
                    self._donated[edit, site] = DonatedModules(twin, edit, site)
        self._modules = {site: twin.locate(site) for _, site in self._edits}

    def edit_block(
        self,
        site: Site,
        stretch: Stretch,
        entered: Float[Tensor, "1 pos d_model"],
        left: Float[Tensor, "1 pos d_model"],
    ) -> Float[Tensor, "1 pos d_model"]:
        """Return a block's output under the stretch's condition, without running the block.

        Args:
            site: a site of part `"block"` or `"stream"`.
            stretch: all tokens of the streams, as one stretch.
            entered: the stream that enters the block.
            left: the block's output before the edit.
        """
        return self._edit(
            left, site=site, stretches=[stretch], streams={site.layer: entered}, fired={site: 0}
        )

    @contextmanager
    def apply(self, stretches: Sequence[Stretch], *, since: int = 0) -> Iterator[None]:
        """Apply the edits of these stretches to the one pass that is run inside the `with` block.

        Edits at layers before `since` are not applied.

        Raises:
            NoTwin: at the end of the `with` block, if a hook did not fire exactly once.
        """
        edited, donated = self._group_by_site(stretches, since)
        layers = sorted({site.layer for site in edited})
        streams: dict[int, Tensor] = {}
        fired: dict[Site, int] = dict.fromkeys(edited, 0)
        with ExitStack() as stack:
            for site in sorted(edited, key=lambda site: site.order):
                module, is_output = self._modules[site]
                edit = partial(
                    self._edit, site=site, stretches=edited[site], streams=streams, fired=fired
                )
                if is_output:
                    handle = module.register_forward_hook(partial(_edit_output, edit))
                else:
                    handle = module.register_forward_pre_hook(partial(_edit_input, edit))
                stack.enter_context(handle)
            stack.enter_context(self._twin.record_streams(layers, streams.__setitem__))
            stack.enter_context(use_donated(donated))
            yield
        missed = [str(site) for site, n in fired.items() if n != 1]
        if missed:
            raise NoTwin(f"the hooks of {', '.join(missed)} did not fire once in a pass")

    def _group_by_site(
        self, stretches: Sequence[Stretch], since: int
    ) -> "tuple[dict[Site, list[Stretch]], dict[DonatedModules, list[slice]]]":
        """Map each site to the stretches edited there, and donated modules to token ranges.

        The donated modules are to run on these ranges. Sites at layers before `since` are left out.
        For donated modules, `Stretch.changed` is set here: to true, at all tokens of the stretch,
        if the donated weights differ from the twin's own.
        """
        edited: dict[Site, list[Stretch]] = {}
        donated: dict[DonatedModules, list[slice]] = {}
        for stretch in stretches:
            if stretch.end == stretch.start:
                continue
            for site, edit in stretch.condition.edits.items():
                if site.layer < since:
                    continue
                if not edit.in_place:
                    edited.setdefault(site, []).append(stretch)
                    continue
                modules = self._donated[edit, site]
                donated.setdefault(modules, []).append(slice(stretch.start, stretch.end))
                stretch.record(torch.full_like(stretch.tokens.real, modules.differs))
        return edited, donated

    def _edit(
        self,
        value: Tensor,
        *,
        site: Site,
        stretches: Sequence[Stretch],
        streams: dict[int, Tensor],
        fired: dict[Site, int],
    ) -> Tensor:
        fired[site] += 1
        stream = streams[site.layer]
        is_copied = False
        for stretch in stretches:
            places = slice(stretch.start, stretch.end)
            edit = self._edits[stretch.condition, site]
            new, differs = edit(value[0, places, None], stream[0, places, None], stretch.tokens)
            stretch.record(differs)
            if new is not None:
                value, is_copied = (value if is_copied else value.clone()), True
                value[0, places] = new[:, 0]
        return value


def refusal(twin: Twin, condition: Condition) -> str | None:
    """Return why a condition cannot be applied to transformers' modules; None if it can."""
    try:
        for site, edit in condition.edits.items():
            if edit.in_place:
                DonatedModules(twin, edit, site)
            else:
                twin.locate(site)
    except NoTwin as error:
        return str(error)
    return None


def _edit_output(
    edit: Callable[[Tensor], Tensor], module: nn.Module, args: object, output: Any
) -> Any:
    if isinstance(output, tuple):
        return (edit(output[0]), *output[1:])
    return edit(output)


def _edit_input(
    edit: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (edit(args[0]), *args[1:])
