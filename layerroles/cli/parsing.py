"""Parse the values of options: lists, and settings of ablations and tasks.

The parameters that `--set` and brackets give are the fields of dataclasses, and are converted to
their types.

>>> split_settings(["factor=0.5"])
{'factor': '0.5'}
"""

import dataclasses
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from layerroles.cli import shell_completion
from layerroles.errors import InputError
from layerroles.registry import describe_unknown
from layerroles.sites import check_words


def split_list(text: str, option: str) -> list[str]:
    """Split at commas, but not at those inside brackets; return the items.

    Raises:
        InputError: the list or one of its items is empty, or an item occurs twice.

    Example:
        >>> split_list("facts, kv_retrieval[pairs=20,key_style=hex]", "--tasks")
        ['facts', 'kv_retrieval[pairs=20,key_style=hex]']
    """
    words = [word.strip() for word in re.split(r",(?![^\[]*\])", text)]
    if not all(words):
        raise InputError(f"{option} {text!r} has an empty item: separate names by single commas")
    for word in words:
        if words.count(word) > 1:
            raise InputError(f"{option} {text!r} names {word!r} more than once")
    return words


def check_options(
    *,
    limit: int | None,
    until: str | None = None,
    minutes: float | None = None,
    protocols: str = "",
    ablation: str = "",
    probe: str = "",
    sites: str = "all",
    executor: str = "auto",
    backend: str = "local",
) -> None:
    """Check option values early, before slow modules such as torch are imported.

    If torch is imported already, by a plugin or by the caller, names are not checked here: the
    registries check them later, and also know the names that plugins add.

    Raises:
        InputError: `limit` is below 1, or with `until` below the number of questions after which a
            sweep first looks at its results; `until` is unknown, or is `claims` with only one
            ablation; `minutes` is not above 0; `sites` is not a list of sites; or a name is
            unknown.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit} asks for nothing: give 1 or more")
    if until is not None and until not in shell_completion.UNTIL:
        raise InputError(
            f"--until {until!r} is unknown: known are {', '.join(shell_completion.UNTIL)}"
        )
    if until == "claims" and "," not in ablation:
        raise InputError(
            f"--until claims takes two kinds of ablation, and --ablation {ablation!r} is one: such "
            f"as --ablation skip,mean"
        )
    if until is not None and limit is not None and limit < shell_completion.FIRST_LOOK:
        raise InputError(
            f"--limit {limit} is less than the {shell_completion.FIRST_LOOK} questions before the "
            f"first look at what is decided"
        )
    if minutes is not None and not minutes > 0:
        raise InputError(f"--minutes {minutes:g} leaves no time: give more than 0")
    check_words(sites)
    if "torch" in sys.modules:
        return
    for kind, option, text, known in (
        ("protocol", "--protocols", protocols, shell_completion.PROTOCOLS),
        ("ablation", "--ablation", ablation, shell_completion.ABLATIONS),
        ("probe", "--probe", probe, (*shell_completion.PROBES, "tuned_lens")),
        ("executor", "--executor", executor, shell_completion.EXECUTORS),
        ("backend", "--backend", backend, shell_completion.BACKENDS),
    ):
        for word in split_list(text, option) if text else ():
            name = word.partition("[")[0]
            if name not in known:
                raise InputError(describe_unknown(kind, name, known))


def split_settings(pairs: Iterable[str]) -> dict[str, str]:
    """Map names to values of `--set name=value` options.

    Raises:
        InputError: no `=`, no name, or a name that is set twice.
    """
    settings: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier():
            raise InputError(f"--set {pair!r} is not of the form name=value")
        if name in settings:
            raise InputError(f"--set names {name!r} more than once")
        settings[name] = value.strip()
    return settings


def parse_parameters(cls: type, settings: Mapping[str, str]) -> dict[str, Any]:
    """Convert settings to the types of a dataclass's parameters; return values by name.

    Args:
        cls: the dataclass.
        settings: texts by name; each name is one of `parameters_of(cls)`.

    Raises:
        InputError: the type of a parameter is not known, or a value is not of that type.
    """
    fields = parameters_of(cls)
    values = {}
    for name, text in settings.items():
        try:
            values[name] = _convert(text, _evaluate_type(cls, fields[name]))
        except ValueError as error:
            raise InputError(f"--set {name}={text}: {error}") from error
    return values


def _evaluate_type(cls: type, field: "dataclasses.Field[Any]") -> Any:
    """Return the type of a dataclass's field, evaluated if its annotation is text.

    Other fields are not evaluated: their types may be imported for type checkers only.

    Raises:
        InputError: the annotation holds a name that is not known when the program runs.
    """
    names: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        names |= getattr(sys.modules.get(base.__module__), "__dict__", {})
    annotated = types.SimpleNamespace(__annotations__={field.name: field.type})
    try:
        return typing.get_type_hints(annotated, names)[field.name]
    except NameError as error:
        raise InputError(
            f"--set {field.name}: {cls.__name__} gives it the type {str(field.type)!r}, and "
            f"{error}: import it outside of TYPE_CHECKING"
        ) from error


def _convert(text: str, kind: Any) -> Any:
    """Convert text to a type: a number, bool, text, path, literal, or a union of these.

    Raises:
        ValueError: the text is no value of the type; the message says why.
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


def describe_parameters(cls: type) -> str:
    """Return the parameters of a dataclass with their defaults, as in `factor=0.5`."""
    shown = []
    for field in parameters_of(cls).values():
        if field.default is not dataclasses.MISSING:
            shown.append(f"{field.name}={_format_value(field.default)}")
        elif field.default_factory is not dataclasses.MISSING:
            shown.append(f"{field.name}={_format_value(field.default_factory())}")
        else:
            shown.append(field.name)
    return ", ".join(shown)


def _format_value(value: object) -> str:
    return value if isinstance(value, str) and value else repr(value)


def parameters_of(cls: type) -> dict[str, "dataclasses.Field[Any]"]:
    """Return the fields of a dataclass that its constructor takes, by name; none of other classes.

    Class variables are not among them.
    """
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {field.name: field for field in fields if field.init}


def first_line(cls: type) -> str:
    """Return the first line of a class's docstring; empty if it has none."""
    return (cls.__doc__ or "").strip().split("\n", 1)[0]
