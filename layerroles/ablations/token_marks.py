"""Mark the tokens of a row's prompt, and among them those that contain the evidence.

A row is one sequence of a batch. The tokens before its answer are its prompt; all later tokens,
given or written by the model, count as generated. The *marks* of a token are a sum of flags:
`IN_PROMPT`, `LAST` (the prompt's last token), `EVIDENCE` (information needed to answer), and
`UNKNOWN` (a token of a prompt whose evidence positions are not known). By these marks, a condition
can be restricted to some tokens (`at=`).
"""

import reprlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import index
from typing import SupportsIndex

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from layerroles.errors import InputError

IN_PROMPT, LAST, EVIDENCE, UNKNOWN = 1, 2, 4, 8


@dataclass(frozen=True, repr=False)
class Prompt:
    """The token ids of a row's prompt, and the positions of its evidence.

    Attributes:
        ids: the prompt's token ids, without pads.
        evidence: positions of the tokens with the information needed to answer; None if unknown.

    Raises:
        InputError: no tokens, evidence positions outside the prompt, or values that are not whole
            numbers.

    Example:
        >>> import layerroles as lr
        >>> prompt = lr.Prompt((5, 9, 40), evidence=(1,))
        >>> len(prompt.ids), len(prompt.marks)
        (3, 3)
    """

    ids: tuple[int, ...]
    evidence: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", _whole_numbers("ids", self.ids))
        if self.evidence is not None:
            object.__setattr__(self, "evidence", _whole_numbers("evidence", self.evidence))
        if not self.ids:
            raise InputError("a prompt needs a token or more")
        if not all(0 <= position < len(self.ids) for position in self.evidence or ()):
            raise InputError(
                f"evidence at positions {self.evidence} of a prompt of {len(self.ids)} tokens"
            )

    def __repr__(self) -> str:
        ids = reprlib.repr(self.ids)
        return f"Prompt({len(self.ids)} tokens {ids}, evidence={self.evidence})"

    @property
    def marks(self) -> list[int]:
        """The marks of the prompt's tokens: for each token, the sum of its flags."""
        marks = [IN_PROMPT | UNKNOWN * (self.evidence is None)] * len(self.ids)
        marks[-1] |= LAST
        for position in self.evidence or ():
            marks[position] |= EVIDENCE
        return marks


def _whole_numbers(what: str, values: Iterable[SupportsIndex]) -> tuple[int, ...]:
    try:
        return tuple(index(value) for value in values)
    except TypeError:
        raise InputError(
            f"a prompt's {what} are whole numbers, such as (5, 9), not {values!r:.80}"
        ) from None


class Marks:
    """The marks of rows' tokens, looked up by position.

    Args:
        table: marks at the first `n` positions of each row; all later positions have the marks 0.
    """

    def __init__(self, table: Int[Tensor, "row n"]) -> None:
        self._table = torch.nn.functional.pad(table, (0, 1))

    @classmethod
    def of(cls, prompts: Sequence[Prompt], device: torch.device) -> "Marks":
        """Return the marks of rows that begin with these prompts."""
        longest = max(len(prompt.ids) for prompt in prompts)
        table = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            table[row, : len(prompt.ids)] = torch.tensor(prompt.marks)
        return cls(table.to(device))

    @classmethod
    def whole(cls, attended: Bool[Tensor, "row pos"]) -> "Marks":
        """Return the marks of rows of which every token is prompt, with unknown evidence."""
        lengths = attended.long().sum(-1, keepdim=True)
        places = torch.arange(attended.shape[1], device=attended.device)
        return cls((IN_PROMPT + UNKNOWN) * (places < lengths) + LAST * (places == lengths - 1))

    def at(self, positions: Int[Tensor, "row pos"]) -> Int[Tensor, "row pos"]:
        """Return the marks of tokens at these positions of their rows; 0 at pads (negative)."""
        beyond = self._table.shape[1] - 1
        places = torch.where(positions < 0, beyond, positions.clamp(max=beyond))
        return self._table.gather(1, places)

    def select(self, rows: Int[Tensor, " row"]) -> "Marks":
        """Return the marks of these rows only."""
        return Marks(self._table[rows, :-1])
