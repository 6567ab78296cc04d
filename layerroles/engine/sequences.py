"""The tokens of requests as sequences of numbers, for a trie.

Two requests may share a token only if the edits on it are the same for both. So a number
holds the token's id and its marks (see `ablations.prompts`: whether it is part of the prompt, its
last token, evidence), and for ablations that read whole prompts also which prompt it belongs to.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from layerroles.ablations import Prompt
from layerroles.engine.requests import Scored, Written

_MARKS, _PROMPT = 32, 40  # the bits at which these begin

Ids = tuple[int, ...]
Numbers = Int[np.ndarray, " token"]


class Sequences:
    """The sequences of some requests.

    Args:
        requests: what is asked.
        apart: whether different prompts share nothing.
    """

    def __init__(self, requests: Iterable[Scored | Written], *, apart: bool) -> None:
        self._numbers: dict[Prompt, int] | None = None
        self._known: dict[int, int] = {}  # each number is held once
        if apart:
            prompts = dict.fromkeys(request.prompt for request in requests)
            self._numbers = {prompt: number for number, prompt in enumerate(prompts)}

    def of(self, request: Scored | Written) -> Ids:
        """What is read for a request: its context, and the continuation without its last token."""
        own = 0 if self._numbers is None else self._numbers[request.prompt] << _PROMPT
        marks = request.prompt.marks
        read = [
            token | mark << _MARKS | own for token, mark in zip(request.context, marks, strict=True)
        ]
        if isinstance(request, Scored):
            read += [token | own for token in request.continuation[:-1]]
        return tuple(self._known.setdefault(number, number) for number in read)

    @property
    def prompts(self) -> tuple[Prompt, ...] | None:
        """The prompts by their numbers; None if what they have in common is shared."""
        return None if self._numbers is None else tuple(self._numbers)


def token_ids(numbers: Sequence[int]) -> Numbers:
    """The tokens' ids."""
    return np.array(numbers, dtype=np.int64) & ((1 << _MARKS) - 1)


def token_marks(numbers: Sequence[int]) -> Numbers:
    """The tokens' marks."""
    return (np.array(numbers, dtype=np.int64) >> _MARKS) & ((1 << (_PROMPT - _MARKS)) - 1)


def prompt_numbers(numbers: Sequence[int]) -> Numbers:
    """Which prompts the tokens belong to, if those are kept apart."""
    return np.array(numbers, dtype=np.int64) >> _PROMPT
