"""Registries: maps from names to classes, for ablations, tasks, protocols and probes.

Users can register classes of their own. A registry accepts only subclasses of its base class, and
refuses a name that is taken. The error for an unknown name suggests the nearest known one. A label
is a name with parameters in brackets, as in `kv_retrieval[pairs=20]`.
"""

import dataclasses
import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from typing import Any, Generic, TypeVar

from layerroles.errors import InputError

T = TypeVar("T")
Class = TypeVar("Class", bound=type)

# Commas before `key=`, and at the end; other commas belong to a value, such as a path.
_NEXT_PARAMETER = re.compile(r",+(?=\s*\w+\s*=)|,+\s*$")
# A finite `float` as Python writes it: 0.75, 1e-05, 2.5e+20.
_FLOAT = re.compile(r"-?\d+(\.\d+)?(e[-+]\d+)?")


class Registry(Generic[T]):
    """A map from names to subclasses of `base`; errors call a subclass a `kind`, such as "task"."""

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}
        self._homes: dict[str, str] = {}

    def register(self, name: str) -> Callable[[Class], Class]:
        """Register the decorated class under `name`.

        Raises:
            InputError: the name is taken by another class, or the class is not a subclass of
                `base`.

        Example:
            from dataclasses import dataclass

            @lr.ablation("double")  # tasks, protocols and probes have such a decorator too
            @dataclass(frozen=True)
            class Double(lr.Ablation):
                def edit(self, write, ctx):
                    return 2 * write
        """

        def decorate(cls: Class) -> Class:
            fits = isinstance(cls, type) and issubclass(cls, self.base)
            if not fits:
                raise InputError(
                    f"{self.kind} {name!r}: {cls!r} is not a subclass of {self.base.__name__}"
                )
            home = self._homes.get(name)
            if home and not f"{cls.__module__}.".startswith(f"{home}."):
                import_module(home)  # registers the class that the name is reserved for
            registered = self._classes.get(name)
            if registered is not None and _identity(registered) != _identity(cls):
                raise InputError(
                    f"{self.kind} {name!r} is already registered by {registered.__module__}."
                    f"{registered.__qualname__}; choose another name"
                )
            self._classes[name] = cls
            return cls

        return decorate

    def register_module(self, name: str, module: str) -> None:
        """Register the module that defines `name`; `self[name]` imports it when first used."""
        self._homes[name] = module

    def __getitem__(self, name: str) -> type[T]:
        if name in self._homes and name not in self._classes:
            import_module(self._homes[name])
        try:
            return self._classes[name]
        except KeyError:
            raise InputError(describe_unknown(self.kind, name, self)) from None

    def make(self, name: str, parameters: Mapping[str, object]) -> T:
        """Return an instance of the class called `name`; its fields are set from `parameters`.

        Raises:
            InputError: unknown name or parameter, a required parameter that is missing, or a value
                that the class does not take.
        """
        cls = self[name]
        fields = {field.name: field for field in _fields(cls)}
        for parameter in parameters:
            if parameter not in fields:
                names = ", ".join(fields) or "none"
                raise InputError(
                    f"{self.kind} {name!r} has no parameter {parameter!r}: known are {names}"
                )
        try:
            return cls(**parameters)
        except InputError:
            raise
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.kind} {name!r}: {error}") from error

    def __iter__(self) -> Iterator[str]:
        return iter(sorted({*self._classes, *self._homes}))

    def __contains__(self, name: object) -> bool:
        return name in self._classes or name in self._homes

    def name_of(self, cls: type[T]) -> str:
        """Return the name under which `cls` is registered.

        Raises:
            InputError: the class is not registered.
        """
        for name, registered in self._classes.items():
            if registered is cls:
                return name
        raise InputError(
            f"{cls.__name__} is not a registered {self.kind}: "
            f"register it under a name, see the decorators in the documentation"
        )


def label_of(name: str, instance: object) -> str:
    """Return `name` with the non-default fields of `instance`: `kv_retrieval[pairs=20]`."""
    changed = [
        f"{field.name}={getattr(instance, field.name)}"
        for field in _fields(instance)
        if getattr(instance, field.name) != field.default
    ]
    return f"{name}[{','.join(changed)}]" if changed else name


def read_label(kind: str, label: str) -> tuple[str, dict[str, object]]:
    """Read the name and the parameters from a label; numbers become `int` or `float`.

    A float must be written as Python writes it (`1e-05`); `1e5` stays text. `kind` says in errors
    what the label belongs to, such as `"task"`.

    Raises:
        InputError: the first parameter is not of the form key=value.

    Example:
        >>> read_label("task", "kv_retrieval[pairs=20,key_style=hex]")
        ('kv_retrieval', {'pairs': 20, 'key_style': 'hex'})
    """
    match = re.fullmatch(r"(?P<name>[^\[\]]+)\[(?P<given>.*)\]", label)
    if not match:
        return label, {}
    parameters: dict[str, object] = {}
    for pair in filter(None, _NEXT_PARAMETER.split(match["given"])):
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(
                f"{kind} {match['name']!r}: parameter {pair!r} is not of the form key=value"
            )
        parameters[key.strip()] = _read_value(value.strip())
    return match["name"], parameters


def _read_value(text: str) -> object:
    try:
        return int(text)
    except ValueError:
        return float(text) if _FLOAT.fullmatch(text) else text


def describe_unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Return the error text for an unknown `name`: the nearest known name, and all known names.

    `kind` says what the names belong to, such as `"task"`.
    """
    names = sorted(known)
    near = nearest_name(name, names)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}"


def nearest_name(name: str, known: list[str]) -> str | None:
    """Return the known name that is spelt most like `name`, ignoring case; None if none is close.

    Example:
        >>> nearest_name("fact", ["FACTS", "copying"])
        'FACTS'
    """
    by_spelling = {one.casefold(): one for one in known}
    near = difflib.get_close_matches(name.casefold(), by_spelling, n=1)
    return by_spelling[near[0]] if near else None


def _fields(instance: object) -> tuple["dataclasses.Field[Any]", ...]:
    return dataclasses.fields(instance) if dataclasses.is_dataclass(instance) else ()


def _identity(cls: type) -> tuple[str, str]:
    """Return a class's module and qualified name, which stay the same if its file runs again."""
    return cls.__module__, cls.__qualname__
