"""The parameters of ablations and tasks, which are the fields of their dataclasses."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from layerroles.errors import InputError


def typed_fields(cls: type, settings: Mapping[str, str]) -> dict[str, Any]:
    """Convert settings to the types of a dataclass's fields.

    Raises:
        InputError: the class has no such parameter, or the value is not of the parameter's type.
    """
    fields = {f.name: f for f in _fields(cls)}
    hints = typing.get_type_hints(cls) if settings else {}
    values = {}
    for name, text in settings.items():
        if name not in fields:
            known = ", ".join(fields) or "none"
            raise InputError(f"{cls.__name__} has no parameter {name!r}: known are {known}")
        try:
            values[name] = _convert(text, hints[name])
        except ValueError as error:
            raise InputError(f"--set {name}={text}: {error}") from error
    return values


def describe_fields(cls: type) -> str:
    """The parameters of a dataclass with their defaults, as in `factor=0.5`."""
    shown = []
    for field in _fields(cls):
        if field.default is not dataclasses.MISSING:
            shown.append(f"{field.name}={_show(field.default)}")
        elif field.default_factory is not dataclasses.MISSING:
            shown.append(f"{field.name}={_show(field.default_factory())}")
        else:
            shown.append(field.name)
    return ", ".join(shown)


def first_line(cls: type) -> str:
    """The first line of a class's own docstring."""
    return (cls.__doc__ or "").strip().split("\n", 1)[0]


def _fields(cls: type) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()


def _show(value: object) -> str:
    return value if isinstance(value, str) and value else repr(value)


def _convert(text: str, kind: Any) -> Any:
    """`text` as a value of type `kind`: numbers, truth values, text, literals, and unions of them.

    Raises:
        ValueError: it is none; the message says why.
    """
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return _first_that_fits(text, options)
    if _is_literal(kind):
        by_text = {str(option): option for option in options}
        if text not in by_text:
            raise ValueError(f"{text!r} is not one of {', '.join(by_text)}")
        return by_text[text]
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{text!r} is neither true nor false")
        return text.lower() == "true"
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            what = "a whole number" if kind is int else "a number"
            raise ValueError(f"{text!r} is not {what}") from None
    if kind in (str, Path):
        return kind(text)
    name = getattr(kind, "__name__", str(kind))
    raise ValueError(f"a value of type {name} cannot be given on the command line")


def _is_literal(kind: Any) -> bool:
    return typing.get_origin(kind) is typing.Literal


def _first_that_fits(text: str, options: tuple[Any, ...]) -> Any:
    if type(None) in options and text.lower() == "none":
        return None
    problems = []
    # Text fits everything, so it is tried last.
    for option in sorted(options, key=lambda option: option is str):
        if option is type(None):
            continue
        try:
            return _convert(text, option)
        except ValueError as error:
            problems.append(str(error))
    raise ValueError(", ".join(problems))
