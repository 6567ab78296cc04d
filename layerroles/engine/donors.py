"""Weights of a donor for some tokens of a pass, and the host's own for the others.

The modules of a block that have weights treat each token by itself: what mixes tokens, attention,
has none. So for a token under a condition that puts other weights in place, these modules are run
with the other weights, and nothing else is done.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

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
        differs: whether any of the weights are others.

    Raises:
        NoTwin: what a module with such weights is given is not known to be tokens.
    """

    def __init__(self, twin: Twin, site: Site, tensors: Mapping[str, Tensor]) -> None:
        self.site, self.dims = site, twin.token_dims
        self.modules: dict[nn.Module, nn.Module] = {}
        self.differs = False
        # A bridge knows some of its tensors by further names.
        for name, own in twin.model.named_parameters(remove_duplicate=False):
            if name not in tensors:
                continue
            path, _, last = name.rpartition(".")
            module, tensor = twin.model.get_submodule(path), tensors[name]
            if module not in twin.token_dims:
                raise NoTwin(f"{name} is not the weight of a module that takes each token alone")
            if module not in self.modules:
                self.modules[module] = stand_in = copy.copy(module)
                # All else is shared with the module.
                stand_in.__dict__["_parameters"] = dict(module._parameters)
            self.modules[module]._parameters[last] = nn.Parameter(tensor, requires_grad=False)
            self.differs = self.differs or not torch.equal(own, tensor)


@contextmanager
def donating(given: Mapping[Donated, Sequence[slice]]) -> Iterator[None]:
    """Within the context, one pass over a packed row meets modules with other weights.

    Args:
        given: the stretches of tokens that meet them, in ascending order.

    Raises:
        RuntimeError: on leaving, if some were not met.
    """
    met: set[Donated] = set()
    with ExitStack() as stack:
        # Those of several sites may stand in for the same module: a block's and its attention's.
        for module in dict.fromkeys(module for donated in given for module in donated.modules):
            pieces = [
                (donated, piece)
                for donated, stretches in given.items()
                if module in donated.modules
                for piece in _joined(stretches)
            ]
            stack.enter_context(instead([module], _pieced(module, pieces, met)))
        yield
    if missed := [str(donated.site) for donated in given if donated not in met]:
        raise RuntimeError(f"what was put in place of {', '.join(missed)} was not met in a pass")


def _pieced(
    module: nn.Module, pieces: Sequence[tuple[Donated, slice]], met: set[Donated]
) -> Callable[..., Tensor]:
    """What a module gives, but that some tokens are given to another one in its place."""

    def forward(value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        met.update(donated for donated, _ in pieces)
        donated, piece = pieces[0]
        before = (slice(None),) * donated.dims[module]
        if piece == slice(0, value.shape[len(before)]):
            return _given(donated.modules[module], value, *args, **kwargs)
        out = _given(module, value, *args, **kwargs)
        for donated, piece in pieces:
            here = (*before, piece)
            out[here] = _given(donated.modules[module], value[here], *args, **kwargs)
        return out

    return forward


def _given(module: nn.Module, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """What the module's own class makes of the value."""
    out: Tensor = type(module).forward(module, value, *args, **kwargs)
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
