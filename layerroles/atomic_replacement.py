"""Replace a file or folder in one step, so that none is ever seen half-written."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory


@contextmanager
def replace_atomically(target: Path) -> Iterator[Path]:
    """Yield a path to write to; what is there at the end of the `with` block replaces `target`.

    A folder replaces only what is missing or an empty folder. The target's parent folder is created
    if missing. After an exception, the target is as it was.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=target.parent, prefix=".new-") as folder:
        scratch = Path(folder) / f"new{target.suffix}"
        yield scratch
        scratch.replace(target)
