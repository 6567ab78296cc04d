"""Checks of shapes and types at each call, several times faster than jaxtyping's own.

`jaxtyping.jaxtyped` binds the arguments of each call to name them in an error, and checks them
before the call and again with what it returns. Here beartype checks both once, and sizes are
compared only where an annotation names a shape.
"""

import contextlib
import dataclasses
import inspect
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

VIOLATION = TypeError
_typed = beartype(conf=BeartypeConf(violation_type=VIOLATION))


class _Sizes(contextlib.ContextDecorator, type(jaxtyped("context"))):  # type: ignore[misc]
    """While a function runs, a name stands for one size, in what it takes and in what it returns.

    A decorator of contextlib, so that no frame of a test is in the traceback of an error.
    """


def checked(*, typechecker: object) -> Callable[[Any], Any]:
    """Return a decorator for functions and dataclasses.

    It stands in for `jaxtyped` in jaxtyping's import hook, which names a type checker.
    """
    return _check_class_or_function


def _check_class_or_function(given: Any) -> Any:
    if not inspect.isclass(given):
        return _check_function(given)
    if dataclasses.is_dataclass(given) and "__init__" in vars(given):
        given.__init__ = _check_function(given.__init__)  # type: ignore[misc]
    return given


def _check_function(function: Callable[..., Any]) -> Callable[..., Any]:
    hints = dict(_known_hints(function))
    function.__annotations__ = hints
    typed = _typed(function)
    return _Sizes()(typed) if any(map(_has_shape, hints.values())) else typed


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
