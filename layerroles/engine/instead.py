"""Replace the forward of modules within a context."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def instead(modules: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Within the context, calling one of the modules calls `forward`; their hooks still fire."""
    try:
        for module in modules:
            # Past a bridge's own __setattr__, which would write through to the module it wraps.
            module.__dict__["forward"] = forward
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)


def passing(stream: Tensor) -> Callable[..., Tensor]:
    """A replacement for a block's `forward` that returns this stream for any input."""

    def passed(*_args: Any, **_kwargs: Any) -> Tensor:
        return stream

    return passed
