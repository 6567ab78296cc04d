"""Checks of shapes and types at each call, several times faster than jaxtyping's own.

`jaxtyping.jaxtyped` binds the arguments of each call to name them in an error, and checks them
before the call and again with what it returns. Here beartype checks both once, and sizes are
compared only where an annotation names a shape.
"""

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType
from typing import Any, get_args, get_type_hints

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

VIOLATION = TypeError
_check_types = beartype(conf=BeartypeConf(violation_type=VIOLATION))

# A nested function is made anew at each call of the one around it, and beartype takes a millisecond
# to generate its checks. Maps module and code of a function to its annotations and a function that
# checks calls, from which the first nested function, a keyword default, is removed.
_NESTED: dict[tuple[str, CodeType], tuple[dict[str, Any], FunctionType]] = {}
_FUNCTION = "__beartype_func"


class _OneShapeMemo(contextlib.ContextDecorator, type(jaxtyped("context"))):  # type: ignore[misc]
    """Hold one shape memo per call: an axis name has one size in parameters and return value.

    A decorator of contextlib, so that no frame of a test is in the traceback of an error.
    """


def make_checker(*, typechecker: object) -> Callable[[Any], Any]:
    """Return a decorator for functions and dataclasses.

    It stands in for `jaxtyped` in jaxtyping's import hook, which names a type checker.
    """
    return _check_class_or_function


def _check_class_or_function(decorated: Any) -> Any:
    if not inspect.isclass(decorated):
        return _check_function(decorated)
    if dataclasses.is_dataclass(decorated) and "__init__" in vars(decorated):
        decorated.__init__ = _check_function(decorated.__init__)  # type: ignore[misc]
    return decorated


def _check_function(function: Callable[..., Any]) -> Callable[..., Any]:
    is_nested = "<locals>" in function.__qualname__ and not hasattr(function, "__wrapped__")
    key = (function.__module__, function.__code__) if is_nested else None
    annotations = dict(function.__annotations__)
    if key in _NESTED:
        before, template = _NESTED[key]
        if before == annotations:
            return _check_another(template, function)
    hints = dict(_known_hints(function))
    function.__annotations__ = hints
    checked = _check_types(_as_plain_function(function))
    if any(map(_has_shape, hints.values())):
        return _OneShapeMemo()(checked)
    defaults = getattr(checked, "__kwdefaults__", None) or {}
    if key and _FUNCTION in defaults and checked.__closure__ is None:
        template = FunctionType(checked.__code__, checked.__globals__)
        template.__kwdefaults__ = {name: defaults[name] for name in defaults if name != _FUNCTION}
        _NESTED[key] = (annotations, template)
    return checked


def _check_another(template: FunctionType, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the checked form of another function of the same code."""
    checked = FunctionType(template.__code__, template.__globals__)
    defaults = template.__kwdefaults__ or {}
    checked.__kwdefaults__ = {**defaults, _FUNCTION: _as_plain_function(function)}
    return functools.update_wrapper(checked, function)


def _as_plain_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that only makes the generator, so that it is checked when it is called."""
    if not inspect.isgeneratorfunction(function):
        return function

    @functools.wraps(function)
    def make_generator(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return make_generator


def _known_hints(function: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    """Annotations with names looked up; one whose names only type checkers import is left out."""
    names = getattr(function, "__globals__", {})
    for name, hint in function.__annotations__.items():
        owner = type("owner", (), {"__annotations__": {name: hint}})
        with contextlib.suppress(NameError):
            yield name, get_type_hints(owner, names, include_extras=True)[name]


def _has_shape(hint: Any) -> bool:
    if inspect.isclass(hint) and issubclass(hint, AbstractArray):
        return True
    return any(map(_has_shape, get_args(hint)))
