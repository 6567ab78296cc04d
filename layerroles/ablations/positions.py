"""The positions at which a condition acts: a name, or a function written by the user."""

import hashlib
from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor

from layerroles.ablations.base import EditContext
from layerroles.ablations.fingerprints import describe_callable
from layerroles.errors import InputError
from layerroles.sites import ATS, NamedAt

# The name of a set of positions, or a function that returns a mask of the positions.
At = NamedAt | Callable[[EditContext], Bool[Tensor, "row pos"]]

_ACTS: dict[NamedAt, Callable[[EditContext], Bool[Tensor, "row pos"]]] = {
    "all": lambda ctx: ctx.real,
    "after_first": lambda ctx: ctx.positions > 0,
    "prompt": lambda ctx: ctx.in_prompt,
    "generated": lambda ctx: ctx.real & ~ctx.in_prompt,
    "evidence": lambda ctx: ctx.is_evidence,
    "last": lambda ctx: ctx.is_last,
}


def identify(at: At) -> str:
    """Return a text that identifies `at` in every process: its name, or a function's content.

    Raises:
        InputError: an unknown name, a function whose name is one of `ATS`, or a function that
            refers to something whose content cannot be identified.
    """
    if not callable(at):
        if at not in ATS:
            known = ", ".join(ATS)
            raise InputError(f"unknown at={at!r}: known are {known}, or a function")
        return at
    if getattr(at, "__name__", None) in ATS:
        raise InputError(f"a function called {at.__name__!r} is taken for at={at.__name__!r}")
    return repr(describe_callable(at))


def at_name(at: At) -> str:
    """Return the name of the positions `at`: `at` itself if a string, else the function's name.

    A lambda is named by a hash of its content.
    """
    if not callable(at):
        return at
    name = getattr(at, "__name__", type(at).__name__)
    if name.isidentifier():
        return name
    # The hash distinguishes lambdas.
    return f"lambda-{hashlib.sha256(identify(at).encode()).hexdigest()[:6]}"


def position_mask(at: At, ctx: EditContext) -> Bool[Tensor, "row pos"]:
    """Return a mask of a forward pass's new tokens: true where `at` includes them, false at pads.

    Raises:
        InputError: the `at` function did not return a boolean mask of shape `[row pos]`.
    """
    if not callable(at):
        return _ACTS[at](ctx)
    mask = at(ctx)
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != ctx.real.shape:
        returned = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else repr(mask)
        raise InputError(
            f"at={at_name(at)} returned {returned[:80]}: a mask is a torch.bool tensor of shape "
            f"{tuple(ctx.real.shape)}"
        )
    return mask.to(ctx.real.device) & ctx.real
