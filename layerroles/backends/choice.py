"""A backend by its name."""

from collections.abc import Mapping

from layerroles.backends.base import Backend
from layerroles.backends.local import Local
from layerroles.backends.ray import Ray
from layerroles.errors import InputError
from layerroles.registry import unknown


def backend(name: str | Backend, options: Mapping[str, object]) -> Backend:
    """The backend of a name.

    Args:
        name: `"local"`, `"ray"`, or a backend.
        options: of `Ray`; those that are None are left out.

    Raises:
        InputError: an unknown name, or an option that the backend does not take.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if name == "ray":
        return Ray(**given)  # type: ignore[arg-type]
    if given:
        what = f"{next(iter(given))} is an option of backend='ray'"
        if isinstance(name, Backend):
            raise InputError(f"{what}: give it to the backend itself")
        raise InputError(f"{what}, not of {name!r}")
    if isinstance(name, Backend):
        return name
    if name == "local":
        return Local()
    raise InputError(unknown("backend", str(name), ["local", "ray"]))
