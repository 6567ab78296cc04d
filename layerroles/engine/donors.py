"""Weights of a donor for some tokens of a pass, and the host's own for the others.

The modules of a block that have weights treat each token by itself: what mixes tokens, attention,
has none. So for a token under a condition that puts other weights in place, these modules are run
with the other weights, and nothing else is done.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from layerroles.engine.instead import instead
from layerroles.engine.twin import NoTwin, Twin
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
