"""References: prompts on which the intact model's writes are measured.

A reference without prompts of its own is filled by a sweep, for each task with the task's held-out
prompts. `write_statistics` runs the model on the prompts.
"""

import hashlib
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Protocol, runtime_checkable

from layerroles.errors import InputError

ONLY_IN_SWEEP = (
    "a reference without texts is made of the asked task's questions: use it in a Sweep, or give "
    "texts or a task, as in lr.Reference(texts)"
)


@runtime_checkable
class HeldOut(Protocol):
    """A source of prompts that are held out from evaluation, such as a task."""

    def held_out(self, limit: int, seed: int) -> list[str]:
        """Return up to `limit` prompts of examples that `seed` never draws for evaluation."""
        ...


@dataclass(frozen=True, eq=False, repr=False)
class Reference:
    """Prompts on which the intact model's writes are collected.

    Without a source, the reference is *open*: for each task, a sweep replaces it by one made of the
    task's own held-out prompts (those that are never asked in the evaluation).

    Args:
        source: texts (a list, or a column of a `datasets` data set), a text file with a prompt on
            each line, or a task, whose held-out examples are taken; None makes the reference open.
        limit: the maximum number of prompts.
        seed: seed by which a task draws its examples; None means 0, or the sweep's seed if the
            reference is open.

    Raises:
        InputError: no prompt, one string, a limit below 1, or a file that cannot be read.

    Example:
        >>> import layerroles as lr
        >>> len(lr.Reference(lr.task("facts"), limit=8).prompts)
        8
        >>> lr.Condition({lr.Site(3): lr.Mean(lr.Reference())})  # open: for use in a sweep
        Condition('mean L3')
    """

    source: Sequence[str] | Path | HeldOut | None = None
    limit: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise InputError(f"a reference needs limit >= 1, not {self.limit}")
        if isinstance(self.source, str):
            raise InputError(
                "a reference takes a list of texts, not one string: use [text], or Path(file)"
            )
        is_table = isinstance(self.source, Mapping) or hasattr(self.source, "columns")
        if is_table and not isinstance(self.source, HeldOut):
            raise InputError(
                f"a reference takes a list of texts, not a {type(self.source).__name__}: give one "
                "column, as in lr.Reference(table['text'])"
            )
        if not self.is_open and not self.prompts:
            raise InputError("a reference needs at least one prompt that is not empty")

    @property
    def is_open(self) -> bool:
        """Whether there is no source: a sweep then takes the held-out prompts of each task."""
        return self.source is None

    def of_task(self, task: HeldOut, seed: int) -> "Reference":
        """Return `self`, or, if the reference is open, one made of the task's held-out prompts.

        Args:
            task: the task that is evaluated.
            seed: the sweep's seed, used if the reference has none.

        Raises:
            InputError: the reference is open, and the task has no held-out prompt.
        """
        if not self.is_open:
            return self
        seed = seed if self.seed is None else self.seed
        prompts = [prompt for prompt in task.held_out(self.limit, seed) if prompt]
        if not prompts:
            raise InputError(
                "no question is kept apart to make a reference of: give texts or another task, "
                "as in lr.Reference(texts)"
            )
        return Reference(prompts, self.limit, seed)

    @cached_property
    def prompts(self) -> list[str]:
        """The prompts, at most `limit`; empty texts of a list or file are left out.

        Raises:
            InputError: the file cannot be read, an item is not a string, or the reference is open.
        """
        if self.source is None:
            raise InputError(ONLY_IN_SWEEP)
        if isinstance(self.source, HeldOut):
            return self.source.held_out(self.limit, self.seed or 0)
        if isinstance(self.source, Path):
            return _read_lines(self.source, self.limit)
        texts = list(islice((text for text in self.source if text), self.limit))
        for text in texts:
            if not isinstance(text, str):
                raise InputError(
                    f"a reference takes texts, and {text!r} is a {type(text).__name__}"
                )
        return texts

    @cached_property
    def digest(self) -> str:
        """A hash of the prompts; for an open reference, a description of how they are chosen."""
        if self.is_open:
            seed = "the sweep's seed" if self.seed is None else f"seed {self.seed}"
            return f"the asked task's own, limit {self.limit}, {seed}"
        joined = "\0".join(self.prompts)
        return hashlib.sha256(joined.encode()).hexdigest()[:16]

    def __repr__(self) -> str:
        if self.is_open:
            return f"Reference({self.digest})"
        n, source = len(self.prompts), self.source
        has_name = isinstance(source, Path | HeldOut)
        shown = repr(source) if has_name else f"{reprlib.repr(self.prompts[0])} ..."
        return f"Reference({n} {'prompt' if n == 1 else 'prompts'}: {shown}, {self.digest})"

    def __reduce__(self) -> tuple[object, ...]:
        if self.is_open:
            return Reference, (None, self.limit, self.seed)
        # The source may be a file or an object that the other process lacks.
        return Reference, (tuple(self.prompts), len(self.prompts), self.seed)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Reference) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def _read_lines(file: Path, limit: int) -> list[str]:
    try:
        with file.open(encoding="utf-8", newline="\n") as lines:
            texts = (line.rstrip("\r\n") for line in lines)
            return list(islice((text for text in texts if text.strip()), limit))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"reference file {str(file)!r} cannot be read: {reason}") from error
