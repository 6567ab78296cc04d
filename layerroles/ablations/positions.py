"""The positions at which a condition acts: a name, or a function written by the user.

A function is identified by its code and the values that the code refers to, so that a condition has
the same hash in every process. Classes, imported modules, and functions of the libraries in
`_LIBRARIES` are identified by their names only, so changes inside them are not noticed.
"""

import dataclasses
import dis
import hashlib
from collections.abc import Callable
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor, nn

from layerroles.ablations.base import EditContext
from layerroles.errors import InputError
from layerroles.models import tensor_bytes
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
_PLAIN = (type(None), type(...), bool, int, float, complex, str, bytes, torch.dtype, torch.device)
# Libraries whose functions and modules are identified by their names.
_LIBRARIES = ("torch", "einops", "numpy", "math", "layerroles")
# Maps the paths of what has moved to the modules in which it was first published, both without the
# prefix `layerroles.`, so that hashes in stored runs stay valid. A hash holds such a path if a
# user's ablation has the class or function as a parameter, or a function for `at` refers to it;
# ablations at sites are identified by name. So only what these may sensibly use is listed.
_FIRST_MODULES = {
    "ablations.builtin.Mean": "ablations.mean",
    "ablations.builtin.Noise": "ablations.noise",
    "ablations.builtin.Resample": "ablations.resample",
    "ablations.builtin.Skip": "ablations.simple",
    "ablations.builtin.Zero": "ablations.simple",
    "ablations.hooks.ablated": "ablations.apply",
    "ablations.model_swap.Swap": "ablations.swap",
    "ablations.token_marks.Prompt": "ablations.prompts",
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
    return repr(_describe_callable(at, ()))


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


def fingerprint(value: object) -> object:
    """Return a JSON value that identifies the content of an ablation's parameter.

    If the content cannot be identified, it is the parameter's `repr`; for a torch module, a list of
    the `repr` and a description of the state dict.
    """
    try:
        return _describe(value, ())
    except (InputError, NotImplementedError, ValueError):  # not identifiable, or has meta tensors
        if isinstance(value, nn.Module):  # such as a model, whose code refers to many values
            return [repr(value), _describe(dict(value.state_dict()), ())]
        return repr(value)


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


def _describe(value: object, above: tuple[object, ...]) -> object:
    """Return nested lists of texts that describe a value's content, the same in every process.

    `above` holds the functions and torch modules through which the value was reached. A value that
    is one of them is described as "itself", so that cycles end.
    """
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, tuple | list):
        return [type(value).__name__, *(_describe(one, above) for one in value)]
    if isinstance(value, set | frozenset):
        return ["set", *sorted(repr(_describe(one, above)) for one in value)]
    if isinstance(value, dict):
        pairs = ((_describe(k, above), _describe(v, above)) for k, v in value.items())
        return ["dict", *sorted(map(repr, pairs))]
    if isinstance(value, Tensor):
        return [repr(value.dtype), *value.shape, hashlib.sha256(tensor_bytes(value)).hexdigest()]
    if isinstance(value, np.ndarray):
        digest = hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()
        return [str(value.dtype), *value.shape, digest]
    if isinstance(value, nn.Module):
        return _describe_module(value, above)
    if isinstance(value, ModuleType):
        return value.__name__
    return _describe_callable(value, above)


def _describe_callable(value: object, above: tuple[object, ...]) -> object:
    """Describe a function, a class or an instance of a frozen dataclass, as `_describe` does.

    Raises:
        InputError: the value is of another type, so its content cannot be identified.
    """
    if any(value is one for one in above):
        return "itself"
    if isinstance(value, FunctionType):
        if value.__module__.partition(".")[0] in _LIBRARIES:
            return _first_published_path(value)
        closure = [cell.cell_contents for cell in value.__closure__ or ()]
        names = sorted(_global_names(value.__code__) & value.__globals__.keys())
        held = {name: value.__globals__[name] for name in names}
        parts = (value.__defaults__, value.__kwdefaults__, closure, held)
        code = _describe_code(value.__code__, (*above, value))
        return [value.__name__, code, *(_describe(part, (*above, value)) for part in parts)]
    if isinstance(value, type | BuiltinFunctionType):
        return _first_published_path(value)
    kind = type(value)
    if dataclasses.is_dataclass(value) and kind.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
        call = kind.__dict__.get("__call__")
        return [kind.__qualname__, _describe(fields, above), call and _describe(call, above)]
    raise InputError(
        f"at= depends on {kind.__name__} {value!r:.80}, of which nobody can tell in another "
        f"process whether it is the same: give a function, or a frozen dataclass with __call__, "
        f"of plain values"
    )


def _first_published_path(value: FunctionType | BuiltinFunctionType | type) -> str:
    """Return the path under which a class or function was first published, for use in hashes."""
    path = f"{value.__module__}.{value.__qualname__}"
    package, _, name = path.partition(".")
    first = _FIRST_MODULES.get(name) if package == "layerroles" else None
    return f"layerroles.{first}.{value.__qualname__}" if first else path


def _describe_module(value: nn.Module, above: tuple[object, ...]) -> object:
    """Describe a torch module by weights, attributes, submodules and code, as `_describe` does."""
    if any(value is one for one in above):
        return "itself"
    above = (*above, value)
    kind = type(value)
    held = {name: one for name, one in vars(value).items() if not name.startswith("_")}
    tensors = [*value.named_parameters(recurse=False), *value.named_buffers(recurse=False)]
    known = kind.__module__.partition(".")[0] in _LIBRARIES
    return [
        _first_published_path(kind),
        None if known else _describe(kind.forward, above),
        _describe(held, above),
        _describe(dict(tensors), above),
        [[name, _describe_module(part, above)] for name, part in value.named_children()],
    ]


def _describe_code(code: CodeType, above: tuple[object, ...]) -> object:
    consts = [
        _describe_code(one, above) if isinstance(one, CodeType) else _describe(one, above)
        for one in code.co_consts
    ]
    return [code.co_code.hex(), *code.co_names, consts]


def _global_names(code: CodeType) -> set[str]:
    """Return the names of the globals that code refers to, nested functions included."""
    names = {
        str(step.argval) for step in dis.get_instructions(code) if step.opname == "LOAD_GLOBAL"
    }
    inner = (one for one in code.co_consts if isinstance(one, CodeType))
    return names.union(*map(_global_names, inner))
