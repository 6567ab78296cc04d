"""Apply conditions to a packed row, with hooks on transformers' modules.

A packed row holds the tokens of many requests (see `prefix_packing`). Those of them that are under
one condition form a *stretch*. The hooked modules are those of the *twin*, a copy of the model that
shares its weights (see `twin_model`).

An ablation that edits writes is called in a hook, with the tokens of its stretch. An ablation that
replaces weights gives the *donated* weights to use instead (`Ablation.donated`). Copies of the
twin's modules that have these weights (*donated modules*) are run on the stretch, and their outputs
replace those of the twin's modules there. This is possible because modules with weights process
each token independently; only the attention operation, which has no weights, mixes tokens.
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
from layerroles.engine.fused.twin_model import NoTwin, Twin
from layerroles.models import replace_forward
from layerroles.private_apis import saved_tensors
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
                    self._donated[edit, site] = _make_donated(twin, edit, site)
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
        handles = []
        for site in sorted(edited, key=lambda site: site.order):
            module, is_output = self._modules[site]
            edit = partial(
                self._edit, site=site, stretches=edited[site], streams=streams, fired=fired
            )
            if is_output:
                handles.append(module.register_forward_hook(partial(_edit_output, edit)))
            else:
                handles.append(module.register_forward_pre_hook(partial(_edit_input, edit)))
        try:
            with self._twin.record_streams(layers, streams.__setitem__), use_donated(donated):
                yield
        finally:
            for handle in handles:
                handle.remove()
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
                _make_donated(twin, edit, site)
            else:
                twin.locate(site)
    except NoTwin as error:
        return str(error)
    return None


class DonatedModules:
    """Copies of a twin's modules at a site, with donated weights.

    Args:
        twin: the twin whose modules are copied.
        site: the site whose modules are copied.
        tensors: the donated weights, by their names in the transformers model.

    Attributes:
        site: the site.
        dims: the token dimension of each module (see `Twin.token_dims`).
        modules: maps each of the twin's modules that get donated weights to its copy.

    Raises:
        NoTwin: a module that gets donated weights is not known to process tokens independently, a
            saved buffer of a module differs from the donated one, or none of the site's modules has
            a weight with a name in `tensors`.
    """

    def __init__(self, twin: Twin, site: Site, tensors: Mapping[str, Tensor]) -> None:
        self.site, self.dims = site, twin.token_dims
        self.modules: dict[nn.Module, nn.Module] = {}
        for path, module in twin.blocks[site.layer].named_modules(prefix=twin.paths[site.layer]):
            weights = {
                name: nn.Parameter(tensors[f"{path}.{name}"], requires_grad=False)
                for name, own in module._parameters.items()
                if own is not None and f"{path}.{name}" in tensors
            }
            for name in saved_tensors(module).keys() - module._parameters.keys():
                own, given = module._buffers[name], tensors.get(f"{path}.{name}")
                if own is not None and given is not None and not torch.equal(own, given):
                    raise NoTwin(f"cannot swap {path}: its buffer {name!r} is not a parameter")
            if weights and module not in twin.token_dims:
                raise NoTwin(f"cannot swap {path}: it is not known to process tokens independently")
            if weights:
                self.modules[module] = replacement = copy.copy(module)
                # The copy shares everything else with the module.
                replacement.__dict__["_parameters"] = module._parameters | weights
        if not self.modules:
            raise NoTwin(f"none of the tensors for {site} has a name that transformers gives")

    @cached_property
    def differs(self) -> bool:
        """Whether any of the donated weights differ from the twin's own."""
        pairs = [
            pair
            for module, replacement in self.modules.items()
            for pair in zip(module.parameters(), replacement.parameters(), strict=True)
        ]
        return not all(torch.equal(own, other) for own, other in pairs)


def _make_donated(twin: Twin, edit: Ablation, site: Site) -> DonatedModules:
    tensors = edit.donated(twin.bridge, site)
    if tensors is None:
        raise NoTwin(f"{edit.name} on {site} changes the model itself; use auto")
    return DonatedModules(twin, site, tensors)


@contextmanager
def use_donated(stretches: Mapping[DonatedModules, Sequence[slice]]) -> Iterator[None]:
    """Inside the `with` block, run donated modules in place of the twin's own on some tokens.

    The caller runs exactly one pass in the block.

    Args:
        stretches: maps donated modules to the ranges of tokens that they run on, ascending.

    Raises:
        NoTwin: at the end of the `with` block, if some of the donated modules were not run.
    """
    were_run: set[DonatedModules] = set()
    # If a block's and a sublayer's donated modules replace the same module, the sublayer's win.
    ordered = sorted(stretches.items(), key=lambda item: item[0].site.order)
    with ExitStack() as stack:
        for module in dict.fromkeys(module for donated in stretches for module in donated.modules):
            parts = [
                (donated, part)
                for donated, slices in ordered
                if module in donated.modules
                for part in _join_adjacent(slices)
            ]
            stack.enter_context(
                replace_forward([module], _make_mixed_forward(module, parts, were_run))
            )
        yield
    if missed := [str(donated.site) for donated in stretches if donated not in were_run]:
        raise NoTwin(f"the modules put in place of {', '.join(missed)} were not run in a pass")


def _make_mixed_forward(
    module: nn.Module,
    parts: Sequence[tuple[DonatedModules, slice]],
    were_run: set[DonatedModules],
) -> Callable[..., Tensor]:
    """Return a function to replace a module's `forward`: it uses donated weights on some tokens.

    Args:
        module: one of the twin's modules; tokens outside of all ranges get its own output.
        parts: pairs of `DonatedModules` and a range of tokens on which their copy of the module is
            run. Where ranges overlap, the last pair's copy gives the output.
        were_run: a set; whenever the returned function is called, it adds the `DonatedModules` of
            `parts` to this set.
    """

    def forward(value: Tensor) -> Tensor:
        were_run.update(donated for donated, _ in parts)
        donated, part = parts[-1]
        before = (slice(None),) * donated.dims[module]
        if part == slice(0, value.shape[len(before)]):
            return _run_forward(donated.modules[module], value)
        out = _run_forward(module, value)
        for donated, part in parts:
            places = (*before, part)
            out[places] = _run_forward(donated.modules[module], value[places])
        return out

    return forward


def _run_forward(module: nn.Module, value: Tensor) -> Tensor:
    """Run `forward` of the module's class, even if the instance has a `forward` of its own."""
    out: Tensor = type(module).forward(module, value)
    return out


def _join_adjacent(slices: Sequence[slice]) -> list[slice]:
    """Return ascending slices with adjacent ones joined."""
    joined: list[slice] = []
    for part in slices:
        if joined and joined[-1].stop == part.start:
            joined[-1] = slice(joined[-1].start, part.stop)
        else:
            joined.append(part)
    return joined


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
