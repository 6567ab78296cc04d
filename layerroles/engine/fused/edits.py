"""Edits on a packed row: hooks on transformers' modules instead of TransformerLens hook points.

Weights of a donor for some tokens of a pass, and the host's own for the others.

The modules of a block that have weights treat each token by itself: what mixes tokens, attention,
has none. So for a token under a condition that puts other weights in place, these modules are run
with the other weights, and nothing else is done.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from layerroles.ablations import Ablation, Condition, Edit, Prompt, References
from layerroles.engine.fused.model import NoTwin, Twin
from layerroles.models import instead
from layerroles.sites import Site


class Donated:
    """Modules of a twin with other weights.

    Args:
        twin: whose modules they stand in for.
        site: where they do.
        tensors: the other weights, by transformers' names.

    Attributes:
        site: as given.
        dims: see `Twin.token_dims`.
        modules: the stand-ins, by the modules that they stand in for.

    Raises:
        NoTwin: a module with such weights is not known to take each token alone, or there is none.
    """

    def __init__(self, twin: Twin, site: Site, tensors: Mapping[str, Tensor]) -> None:
        self.site, self.dims = site, twin.token_dims
        self.modules: dict[nn.Module, nn.Module] = {}
        for path, module in twin.blocks[site.layer].named_modules(prefix=twin.paths[site.layer]):
            given = {
                last: nn.Parameter(tensors[f"{path}.{last}"], requires_grad=False)
                for last, own in module._parameters.items()
                if own is not None and f"{path}.{last}" in tensors
            }
            if given and module not in twin.token_dims:
                raise NoTwin(f"{path}, which would be another's, is not known to take tokens alone")
            if given:
                self.modules[module] = stand_in = copy.copy(module)
                # All else is shared with the module.
                stand_in.__dict__["_parameters"] = module._parameters | given
        if not self.modules:
            raise NoTwin(f"none of the tensors for {site} has a name that transformers gives")

    @cached_property
    def differs(self) -> bool:
        """Whether any of the weights are others."""
        pairs = [
            pair
            for module, stand_in in self.modules.items()
            for pair in zip(module.parameters(), stand_in.parameters(), strict=True)
        ]
        return not all(torch.equal(own, other) for own, other in pairs)


@contextmanager
def donating(given: Mapping[Donated, Sequence[slice]]) -> Iterator[None]:
    """Within the context, one pass over a packed row meets modules with other weights.

    Args:
        given: the stretches of tokens that meet them, in ascending order.

    Raises:
        NoTwin: on leaving, if some were not met.
    """
    met: set[Donated] = set()
    # Of two that stand in for the same module, a block's and its attention's, the latter wins.
    ordered = sorted(given.items(), key=lambda item: item[0].site.order)
    with ExitStack() as stack:
        for module in dict.fromkeys(module for donated in given for module in donated.modules):
            pieces = [
                (donated, piece)
                for donated, stretches in ordered
                if module in donated.modules
                for piece in _joined(stretches)
            ]
            stack.enter_context(instead([module], _pieced(module, pieces, met)))
        yield
    if missed := [str(donated.site) for donated in given if donated not in met]:
        raise NoTwin(f"what was put in place of {', '.join(missed)} was not met in a pass")


def _pieced(
    module: nn.Module, pieces: Sequence[tuple[Donated, slice]], met: set[Donated]
) -> Callable[..., Tensor]:
    """What a module gives, but that some tokens are given to another one in its place."""

    def forward(value: Tensor) -> Tensor:
        met.update(donated for donated, _ in pieces)
        donated, piece = pieces[-1]
        before = (slice(None),) * donated.dims[module]
        if piece == slice(0, value.shape[len(before)]):
            return _given(donated.modules[module], value)
        out = _given(module, value)
        for donated, piece in pieces:
            here = (*before, piece)
            out[here] = _given(donated.modules[module], value[here])
        return out

    return forward


def _given(module: nn.Module, value: Tensor) -> Tensor:
    """What the module's own class makes of the value."""
    out: Tensor = type(module).forward(module, value)
    return out


def _joined(stretches: Sequence[slice]) -> list[slice]:
    """Stretches in ascending order, those that touch made one."""
    found: list[slice] = []
    for stretch in stretches:
        if found and found[-1].stop == stretch.start:
            found[-1] = slice(found[-1].start, stretch.stop)
        else:
            found.append(stretch)
    return found


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
