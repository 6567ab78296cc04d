"""Identify functions and values by their content, so that hashes are the same in every process.

A function is identified by its code and the values that the code refers to. Classes, imported
modules, and functions of the libraries in `_LIBRARIES` are identified by their names only, so
changes inside them are not noticed.
"""

import dataclasses
import dis
import hashlib
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType

import numpy as np
import torch
from torch import Tensor, nn

from layerroles.errors import InputError
from layerroles.models import tensor_bytes

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
    "ablations.cross_model_swap.Swap": "ablations.swap",
    "ablations.reference_prompts.Reference": "ablations.reference",
    "ablations.token_marks.Prompt": "ablations.prompts",
}


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


def describe_callable(value: object) -> object:
    """Return nested lists of texts that describe a function's content, the same in every process.

    Raises:
        InputError: `value` refers to something whose content cannot be identified.
    """
    return _describe_callable(value, ())


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
