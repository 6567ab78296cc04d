"""Edits on a packed row: hooks on transformers' modules instead of TransformerLens hook points."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from layerroles.ablations import Ablation, Condition, Edit, Prompt, References
from layerroles.engine.donors import Donated, donating
from layerroles.engine.twin import NoTwin, Twin
from layerroles.sites import Site


class Reading:
    """What tokens of a packed row are read on (a `Pass`): each is a row of one new token.

    Args:
        positions: of the tokens in their sequences.
        marks: of the tokens (see `ablations.prompts`).
        ids: gives each token's sequence up to itself; called only if an edit asks.
        prompts: of each token; None where prompts share tokens.
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
        """Ids of each token's sequence up to itself, padded on the left."""
        return self._read[0]

    @property
    def attended(self) -> Bool[Tensor, "row all_pos"]:
        """False at the pads."""
        return self._read[1]

    def read_at(self, row: int, pos: int) -> list[int] | None:
        """The tokens of a token's sequence up to itself; rows have one new token."""
        return list(self._rows[row])

    @cached_property
    def _rows(self) -> Sequence[Sequence[int]]:
        return self._ids()

    @cached_property
    def _read(self) -> tuple[Tensor, Tensor]:
        rows = self._rows
        longest = max(map(len, rows))
        tokens = torch.zeros(len(rows), longest, dtype=torch.long)
        attended = torch.zeros(len(rows), longest, dtype=torch.bool)
        for index, row in enumerate(rows):
            tokens[index, longest - len(row) :] = torch.tensor(row)
            attended[index, longest - len(row) :] = True
        device = self.positions.device
        return tokens.to(device), attended.to(device)


@dataclass
class Stretch:
    """Neighbouring tokens of a packed row that are under a condition.

    Attributes:
        condition: under which they are.
        start, end: where they lie.
        read: what they are read on.
        changed: whether an edit changed anything at each of them; None before any did.
    """

    condition: Condition
    start: int
    end: int
    read: Reading
    changed: Bool[Tensor, " pos"] | None = None

    def note(self, differs: Bool[Tensor, "pos 1"]) -> None:
        """Remember where an edit changed something."""
        here = differs[:, 0]
        self.changed = here if self.changed is None else self.changed | here


class Edits:
    """The edits of some conditions, made once and put in place around each pass.

    Args:
        twin: whose modules are hooked.
        conditions: under which parts of the row will be.
        references: what the conditions' ablations need to know.

    Raises:
        NoTwin: a site is not a module's input or output, or an edit changes the model itself in
            another way than by weights that take each token alone.
    """

    def __init__(self, twin: Twin, conditions: Sequence[Condition], references: References) -> None:
        self._twin = twin
        self._donated: dict[tuple[Ablation, Site], Donated] = {}
        self._edits: dict[tuple[Condition, Site], Edit] = {}
        for condition in conditions:
            for site, edit in condition.edits.items():
                if not edit.in_place:
                    self._edits[condition, site] = Edit(twin.bridge, condition, site, references)
                elif (edit, site) not in self._donated:
                    self._donated[edit, site] = _donated(twin, edit, site)
        self._places = {site: twin.place(site) for _, site in self._edits}

    def block(
        self,
        site: Site,
        stretch: Stretch,
        entered: Float[Tensor, "1 pos d_model"],
        left: Float[Tensor, "1 pos d_model"],
    ) -> Float[Tensor, "1 pos d_model"]:
        """What leaves a block under the stretch's condition, the block not being run.

        Args:
            site: the block.
            stretch: the whole row.
            entered: the stream that enters the block.
            left: the stream that leaves it unedited.
        """
        return self._edit(
            left, site=site, stretches=[stretch], streams={site.layer: entered}, fired={site: 0}
        )

    @contextmanager
    def on(self, stretches: Sequence[Stretch], *, since: int = 0) -> Iterator[None]:
        """Within the context, one pass sees the edits from a layer on.

        Raises:
            NoTwin: on leaving, if a hook did not fire.
        """
        wanted, given = self._by_site(stretches, since)
        layers = sorted({site.layer for site in wanted})
        streams: dict[int, Tensor] = {}
        fired: dict[Site, int] = dict.fromkeys(wanted, 0)
        handles = []
        for site in sorted(wanted, key=lambda site: site.order):
            module, is_output = self._places[site]
            edit = partial(
                self._edit, site=site, stretches=wanted[site], streams=streams, fired=fired
            )
            if is_output:
                handles.append(module.register_forward_hook(partial(_on_output, edit)))
            else:
                handles.append(module.register_forward_pre_hook(partial(_on_input, edit)))
        try:
            with self._twin.noting(layers, streams), donating(given):
                yield
        finally:
            for handle in handles:
                handle.remove()
        missed = [str(site) for site, n in fired.items() if n != 1]
        if missed:
            raise NoTwin(f"the hooks of {', '.join(missed)} did not fire once in a pass")

    def _by_site(
        self, stretches: Sequence[Stretch], since: int
    ) -> tuple[dict[Site, list[Stretch]], dict[Donated, list[slice]]]:
        """The stretches that are edited at each site, and those that meet donated weights."""
        wanted: dict[Site, list[Stretch]] = {}
        given: dict[Donated, list[slice]] = {}
        for stretch in stretches:
            if stretch.end == stretch.start:
                continue
            for site, edit in stretch.condition.edits.items():
                if site.layer < since:
                    continue
                if not edit.in_place:
                    wanted.setdefault(site, []).append(stretch)
                    continue
                donated = self._donated[edit, site]
                where = slice(stretch.start, stretch.end)
                given.setdefault(donated, []).append(where)
                stretch.note(torch.full_like(stretch.read.real, donated.differs))
        return wanted, given

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
        copied = False
        for stretch in stretches:
            where = slice(stretch.start, stretch.end)
            edit = self._edits[stretch.condition, site]
            new, differs = edit(value[0, where, None], stream[0, where, None], stretch.read)
            stretch.note(differs)
            if new is not None:
                value, copied = (value if copied else value.clone()), True
                value[0, where] = new[:, 0]
        return value


def refusal(twin: Twin, condition: Condition) -> str | None:
    """Why a condition cannot be put onto transformers' modules; None if it can."""
    try:
        for site, edit in condition.edits.items():
            if edit.in_place:
                _donated(twin, edit, site)
            else:
                twin.place(site)
    except NoTwin as error:
        return str(error)
    return None


def _donated(twin: Twin, edit: Ablation, site: Site) -> Donated:
    tensors = edit.donated(twin.bridge, site)
    if tensors is None:
        raise NoTwin(f"{edit.name} on {site} changes the model itself; use auto")
    return Donated(twin, site, tensors)


def _on_output(
    edit: Callable[[Tensor], Tensor], module: nn.Module, args: object, output: Any
) -> Any:
    if isinstance(output, tuple):
        return (edit(output[0]), *output[1:])
    return edit(output)


def _on_input(
    edit: Callable[[Tensor], Tensor], module: nn.Module, args: tuple[Any, ...]
) -> tuple[Any, ...]:
    return (edit(args[0]), *args[1:])
