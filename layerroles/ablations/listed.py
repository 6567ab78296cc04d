"""A list of conditions that prints in a line and finds one by its name."""

from typing import SupportsIndex, overload

from layerroles.ablations.condition import Condition
from layerroles.errors import InputError
from layerroles.registry import nearest

_SHOWN = 3


class Conditions(list[Condition]):
    """A list like any other, but that `conditions["skip L3"]` is the condition of that name.

    Raises:
        InputError: no condition has that name.
    """

    @overload
    def __getitem__(self, at: SupportsIndex) -> Condition: ...
    @overload
    def __getitem__(self, at: slice) -> "Conditions": ...
    @overload
    def __getitem__(self, at: str) -> Condition: ...

    def __getitem__(self, at: SupportsIndex | slice | str) -> "Condition | Conditions":
        if isinstance(at, slice):
            return Conditions(super().__getitem__(at))
        if not isinstance(at, str):
            return super().__getitem__(at)
        found = next((condition for condition in self if condition.name == at), None)
        if found is None:
            names = self._ipython_key_completions_()
            near = nearest(at, names)
            hint = f"did you mean {near!r}" if near else f"they are called like {names[:_SHOWN]}"
            raise InputError(f"none of {len(self)} conditions is called {at!r}: {hint}")
        return found

    def __repr__(self) -> str:
        names = self._ipython_key_completions_()
        if len(names) > _SHOWN + 1:
            names = [*names[:_SHOWN], "...", names[-1]]
        n = "1 condition" if len(self) == 1 else f"{len(self)} conditions"
        return f"<{n}: {', '.join(names)}>" if names else "<no conditions>"

    def _ipython_key_completions_(self) -> list[str]:
        return [condition.name for condition in self]
