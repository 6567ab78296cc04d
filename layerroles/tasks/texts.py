"""Language: plain texts without a question, the control for damage to the language model as such.

The passages of `passages.txt` were written for this package, so that no model has seen them before.
"""

import hashlib
import random
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import ClassVar

from layerroles.errors import InputError
from layerroles.tasks.base import Example, Task, register

# One in so many is never asked, so that there is something to make a reference of.
_HELD_OUT = 5


@register("plain_text")
@dataclass(frozen=True)
class PlainText(Task):
    """Read short passages of plain English prose; asked under `text_logprob` only.

    Attributes:
        path: a text file of one's own, passages separated by blank lines; if empty, the 40 passages
            of this package. One in five is held out.

    Raises:
        InputError: a file that cannot be read, or holds no text.

    Example:
        >>> from layerroles.tasks import task
        >>> text = task("plain_text")
        >>> len(text.examples(limit=100, seed=0)), len(text.held_out(limit=100, seed=0))
        (32, 8)
    """

    family: ClassVar[str] = "language"
    protocol: ClassVar[str] = "text_logprob"

    path: str = ""

    def __post_init__(self) -> None:
        """Read the file.

        Raises:
            InputError: it cannot be read, or holds no passage.
        """
        object.__setattr__(self, "path", str(self.path))
        if not self._passages():
            raise InputError(f"{self.path} holds no text: separate passages by blank lines")

    def examples(self, limit: int, seed: int) -> list[Example]:
        """The first `limit` passages of the order under `seed`, without a prompt."""
        asked, _ = self._parted(seed)
        return [
            Example(hashlib.sha256(text.encode()).hexdigest()[:12], "", text)
            for text in asked[:limit]
        ]

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Passages that are never asked."""
        _, apart = self._parted(seed)
        return apart[:limit]

    def n_reserved(self, seed: int) -> int:
        """One passage in five, the same number under every seed."""
        return len(self._parted(seed)[1])

    def _parted(self, seed: int) -> tuple[list[str], list[str]]:
        passages = self._passages()
        random.Random(f"plain_text:{seed}").shuffle(passages)
        n_apart = len(passages) // _HELD_OUT
        return passages[n_apart:], passages[:n_apart]

    def _passages(self) -> list[str]:
        text = _read(Path(self.path)) if self.path else _own()
        parts = (part.strip() for part in re.split(r"\n\s*\n", text))
        return list(dict.fromkeys(part for part in parts if part))


def _own() -> str:
    return files("layerroles.tasks").joinpath("passages.txt").read_text(encoding="utf-8")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise InputError(f"task 'plain_text': {path} cannot be read: {reason}") from None
