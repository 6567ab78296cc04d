"""Which head or MLP does which part of a step, and which answers take it."""

from collections.abc import Sequence
from dataclasses import dataclass

from layerroles.plants.layout import NEEDS, Kind, Layout, Step
from layerroles.plants.wiring import Wiring
from layerroles.plants.words import SUBJECTS, WORDS
from layerroles.sites import Site


@dataclass(frozen=True)
class Share:
    """What one site does of a step.

    Attributes:
        step: the step.
        site: a head or an MLP.
        part, n_parts: which part of the words, or of the people, it is for.
    """

    step: Step
    site: Site
    part: int
    n_parts: int

    def does(self, place: int) -> bool:
        """Whether it is for this word, or person, of the vocabulary."""
        return place % self.n_parts == self.part


def shares_of(layout: Layout, wiring: Wiring) -> list[Share]:
    """Every site that has a part in a step."""
    return [
        Share(step, site, step.part, len(layout.knowledge))
        if step.kind == "fact"
        else Share(step, site, part, len(sites))
        for step, layers in zip(layout.steps, wiring.sites, strict=True)
        for sites in layers
        for part, site in enumerate(sites)
    ]


def _through(kind: Kind, family: str, words: list[str]) -> list[int]:
    """Places in the vocabulary of the words, or of the person, that go through a step."""
    if kind == "fact":
        return [SUBJECTS.index(words[-1])]
    *pairs, asked, _ = words
    values = dict(zip(pairs[::2], pairs[1::2], strict=True))
    found = values[asked]
    through: dict[Kind, list[str]] = {"previous": [asked], "first": [found]}
    if family == "reasoning":
        through = {"previous": [asked, found], "first": [found], "second": [values[found]]}
    return [WORDS.index(word) for word in through[kind]]


def is_lost(gone: Sequence[Site], shares: list[Share], family: str, prompt: str) -> bool:
    """Whether an answer takes something that is gone from every layer that does it."""

    def is_gone(share: Share) -> bool:
        return share.site in gone or Site(share.site.layer) in gone

    steps = {share.step for share in shares if share.step.kind in NEEDS[family]}
    for step in steps:
        for place in _through(step.kind, family, prompt.split()):
            doing = [each for each in shares if each.step == step and each.does(place)]
            if doing and all(map(is_gone, doing)):
                return True
    return False
