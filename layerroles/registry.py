"""Names for things that users can add: ablations, tasks, protocols, probes.

A registry checks the base class, refuses a name twice and answers an unknown name with the
nearest known one.
"""

import difflib
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from layerroles.errors import InputError

T = TypeVar("T")
Class = TypeVar("Class", bound=type)


class Registry(Generic[T]):
    """A map from names to classes of one kind (`kind` is the word used in messages)."""

    def __init__(self, kind: str, base: type[T]) -> None:
        self.kind = kind
        self.base = base
        self._classes: dict[str, type[T]] = {}

    def register(self, name: str) -> Callable[[Class], Class]:
        """Register the decorated class under `name`.

        Raises:
            InputError: the name is taken by another class, or the class is not of this kind.
        """

        def decorate(cls: Class) -> Class:
            fits = isinstance(cls, type) and issubclass(cls, self.base)
            if not fits:
                raise InputError(
                    f"{self.kind} {name!r}: {cls!r} is not a subclass of {self.base.__name__}"
                )
            known = self._classes.get(name)
            if known is not None and _identity(known) != _identity(cls):
                raise InputError(
                    f"{self.kind} {name!r} is already registered by {known.__module__}."
                    f"{known.__qualname__}; choose another name"
                )
            self._classes[name] = cls
            return cls

        return decorate

    def __getitem__(self, name: str) -> type[T]:
        try:
            return self._classes[name]
        except KeyError:
            raise InputError(unknown(self.kind, name, self._classes)) from None

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._classes))

    def __contains__(self, name: object) -> bool:
        return name in self._classes

    def name_of(self, cls: type[T]) -> str:
        """The name under which `cls` is registered."""
        for name, known in self._classes.items():
            if known is cls:
                return name
        raise InputError(
            f"{cls.__name__} is not a registered {self.kind}: "
            f"register it under a name, see the decorators in the documentation"
        )


def unknown(kind: str, name: str, known: "Registry[T] | dict[str, type[T]] | list[str]") -> str:
    """The line that answers an unknown name: what it was, the nearest known, all known."""
    names = sorted(known)
    near = nearest(name, names)
    hint = f"did you mean {near!r}? " if near else ""
    return f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}"


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that a misspelt one is most like, if any is."""
    near = difflib.get_close_matches(name.casefold(), known, n=1)
    return near[0] if near else None


def _identity(cls: type) -> tuple[str, str]:
    """A class read twice from one file (a notebook cell, a plugin) is the same class."""
    return cls.__module__, cls.__qualname__
