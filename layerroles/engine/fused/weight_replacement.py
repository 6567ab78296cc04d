"""Run modules with other weights on some tokens of a packed row.

A packed row holds the tokens of many requests (see `prefix_packing`). An ablation that replaces
weights gives the *donated* weights to use instead (`Ablation.donated`). Copies of the modules of
the twin (see `transformers_twin`) that have these weights (*donated modules*) are run on the tokens
under the ablation, and their outputs replace those of the modules there. This is possible because
modules with weights process each token independently; only the attention operation, which has no
weights, mixes tokens.
"""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property

import torch
from torch import Tensor, nn

from layerroles.ablations import Ablation
from layerroles.engine.fused.transformers_twin import NoTwin, Twin
from layerroles.models import replace_forward
from layerroles.private_apis import saved_tensors
from layerroles.sites import Site


class DonatedModules:
    """Copies of a twin's modules at a site, with donated weights.

    Args:
        twin: the twin whose modules are copied.
        edit: the ablation that donates the weights.
        site: the site whose modules are copied.

    Attributes:
        site: the site.
        dims: the token dimension of each module (see `Twin.token_dims`).
        modules: maps each of the twin's modules that get donated weights to its copy.

    Raises:
        NoTwin: the ablation does not donate weights, a module that gets donated weights is not
            known to process tokens independently, a saved buffer of a module differs from the
            donated one, or none of the donated tensors has the name of a weight at the site.
    """

    def __init__(self, twin: Twin, edit: Ablation, site: Site) -> None:
        tensors = edit.donated(twin.bridge, site)
        if tensors is None:
            raise NoTwin(f"{edit.name} on {site} changes the model itself; use auto")
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
