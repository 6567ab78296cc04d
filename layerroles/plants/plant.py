"""Make a planted model, and check that it is what it is said to be.

Each head or MLP that does a step does it for its own part of the words. An answer is lost where one
of its words is left without any site that does the step for it. That gives the truth about each
layer and the harm to expect without each head. A planted model is asked some questions without each
of them before it is returned.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, Skip, Zero, applied
from layerroles.display import html_block, html_paragraph, html_table
from layerroles.errors import InputError
from layerroles.models import encode, forward, prepare
from layerroles.plants.layout import (
    LEAST_STRENGTH,
    MOST_NOISE,
    NEEDS,
    PlantedStep,
    RoleLayout,
    StepKind,
    check_share,
)
from layerroles.plants.questions import Chain, Echo, Fact, LookUp, PlantedQuestion
from layerroles.plants.wiring import Wiring, build_wiring
from layerroles.plants.words import ID, SUBJECTS, WORDS, make_tokenizer
from layerroles.sites import Site
from layerroles.tasks import Task

_TASKS: dict[str, type[PlantedQuestion]] = {
    "retrieval": LookUp,
    "knowledge": Fact,
    "reasoning": Chain,
}
_N_TRIED, _N_COUNTED = 24, 200
# The layer that is inert if nothing is said of inert layers.
_INERT = 6
# A word that comes up where nothing was found is right now and then.
_BY_LUCK = 0.25


@dataclass(frozen=True, eq=False, repr=False)
class Plant:
    """A model whose roles are known, and tasks that show them.

    Attributes:
        model: a prepared bridge.
        tasks: one for each family that is planted, and `planted_echo` (family `language`), which
            depends on no layer.
        roles: for each family, the layers planted for it. The second look-up is reasoning's; the
            two layers before it are retrieval's.
        truth: for each family, every layer that it depends on: without any one of them its skill
            is gone. Reasoning's holds retrieval's too. Layers that stand in for each other are not
            among them.
        joint: for each family, the pairs of layers that stand in for each other: it takes both of a
            pair away to show either.
        sites: for each family, the heads and MLPs that it depends on, as `truth` is for layers.
        harms: for each family, the harm to expect without each of `sites`: the share of its
            questions whose answer takes that head or MLP, 0 to 1.
    """

    model: TransformerBridge
    tasks: list[Task]
    roles: dict[str, tuple[int, ...]]
    truth: dict[str, tuple[int, ...]]
    joint: dict[str, tuple[tuple[int, int], ...]]
    sites: dict[str, tuple[Site, ...]]
    harms: dict[str, dict[Site, float]]

    def __repr__(self) -> str:
        rows = "".join(f"\n  {family}: {needs}" for family, needs in self._needs())
        return f"{self._headline()}{rows}"

    def _repr_html_(self) -> str:
        return html_block(
            html_paragraph(self._headline()),
            html_table(["family", "layers it depends on"], self._needs()),
        )

    def _headline(self) -> str:
        cfg = self.model.cfg
        return (
            f"Plant: .model has {cfg.n_layers} layers of {cfg.n_heads} heads (0-based), "
            f"{len(self.tasks)} .tasks ask it; layers that each family depends on, in .truth:"
        )

    def _needs(self) -> list[tuple[str, str]]:
        return [
            (family, ", ".join(map(str, layers)) or "none") for family, layers in self.truth.items()
        ]


def planted(
    n_layers: int = 8,
    retrieval: Iterable[int] = (1, 2),
    reasoning: Iterable[int] = (5,),
    knowledge: Iterable[int] = (3,),
    inert: Iterable[int] | None = None,
    backup: Iterable[Sequence[int]] = (),
    heads: int = 2,
    strength: float = 1.0,
    noise: float = 0.05,
    seed: int = 0,
    *,
    heads_of: Mapping[int, Sequence[int]] = MappingProxyType({}),
) -> Plant:
    """Make a model whose roles are known because its weights are set, not trained.

    Args:
        n_layers: layers, 1 to 64.
        retrieval: the layer of a head that looks at the previous word, and a later one of a head
            that looks up with it; or none, for no family `retrieval`.
        reasoning: a layer behind these, with a head that looks up what was found; or none.
        knowledge: layers whose MLPs hold a table of facts, a part of it each; or none.
        inert: layers that write nothing at all; by default layer 6, if there is one without a role.
        backup: pairs of a layer and its double, which does the layer's work a second time: with
            `((5, 7),)` it takes both layer 5 and layer 7 away for reasoning to fail.
        heads: heads of each layer, 1 to 16. A step takes one, which one is drawn by `seed`, unless
            `heads_of` says.
        strength: share of examples that depends on the role, 0.2 to 1, in hundredths; the rest
            tell their answer. The harm of a layer of `truth` is about this (of a layer with a part
            of the table, about that part of it).
        noise: length of the random vectors that layers without a role, unused heads and the rest of
            MLPs write, 0 to 0.2; a word's own vector has length 1.
        seed: of noise, of heads, and of what the model prefers to say where it does not know.
        heads_of: the heads that do the step of a layer: with `{2: (0, 3)}` heads 0 and 3 of layer 2
            share it, each for its own part of the words, and without one of them a part of the
            answers is lost.

    Raises:
        InputError: layers out of range or named twice, a look-up of other than two layers, an
            order in which a step would be read before it is written, an inert layer with a role,
            heads for a layer that has no step for them, another value out of range, or noise that
            drowns a role.

    Example:
        >>> made = planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), knowledge=(2,), inert=())
        >>> made.truth["reasoning"]
        (0, 1, 3)
    """
    layout = RoleLayout(
        n_layers=n_layers,
        heads=heads,
        retrieval=_to_tuple("retrieval", retrieval),
        reasoning=_to_tuple("reasoning", reasoning),
        knowledge=_to_tuple("knowledge", knowledge),
        inert=() if inert is None else _to_tuple("inert", inert),
        backup=_to_tuple("backup", backup),
        heads_of=_to_dict("heads_of", heads_of),
    )
    if inert is None and _INERT in layout.free:
        layout = replace(layout, inert=(_INERT,))
    check_share("strength", strength, LEAST_STRENGTH, 1.0)
    check_share("noise", noise, 0.0, MOST_NOISE)
    wiring = build_wiring(layout, noise, seed)
    wiring.model.tokenizer = make_tokenizer()
    prepare(wiring.model, name="planted")
    shares = list_shares(layout, wiring)
    _check_answers(wiring.model, layout, shares, noise)
    harms = _expect_harms(layout, shares, strength)
    return Plant(
        model=wiring.model,
        tasks=[_make_task(family, strength) for family in layout.families],
        roles=layout.roles,
        truth=layout.truth,
        joint=layout.joint,
        sites={family: tuple(family_harms) for family, family_harms in harms.items()},
        harms=harms,
    )


@dataclass(frozen=True)
class Share:
    """What one site does of a step.

    Attributes:
        step: the step.
        site: a head or an MLP.
        part, n_parts: which part of the words, or of the people, it is for.
    """

    step: PlantedStep
    site: Site
    part: int
    n_parts: int

    def covers(self, place: int) -> bool:
        """Whether it is for this word, or person, of the vocabulary."""
        return place % self.n_parts == self.part


def list_shares(layout: RoleLayout, wiring: Wiring) -> list[Share]:
    """Every site that has a part in a step."""
    return [
        Share(step, site, step.part, len(layout.knowledge))
        if step.kind == "fact"
        else Share(step, site, part, len(sites))
        for step, layers in zip(layout.steps, wiring.sites, strict=True)
        for sites in layers
        for part, site in enumerate(sites)
    ]


def is_lost(gone: Sequence[Site], shares: list[Share], family: str, prompt: str) -> bool:
    """Whether an answer takes something that is gone from every layer that does it."""

    def is_gone(share: Share) -> bool:
        return share.site in gone or Site(share.site.layer) in gone

    steps = {share.step for share in shares if share.step.kind in NEEDS[family]}
    for step in steps:
        for place in _places_through(step.kind, family, prompt.split()):
            doing = [each for each in shares if each.step == step and each.covers(place)]
            if doing and all(map(is_gone, doing)):
                return True
    return False


def _places_through(kind: StepKind, family: str, words: list[str]) -> list[int]:
    """Places in the vocabulary of the words, or of the person, that go through a step."""
    if kind == "fact":
        return [SUBJECTS.index(words[-1])]
    *pairs, asked, _ = words
    values = dict(zip(pairs[::2], pairs[1::2], strict=True))
    value = values[asked]
    words_by_kind: dict[StepKind, list[str]] = {"previous": [asked], "first": [value]}
    if family == "reasoning":
        words_by_kind = {"previous": [asked, value], "first": [value], "second": [values[value]]}
    return [WORDS.index(word) for word in words_by_kind[kind]]


def _expect_harms(
    layout: RoleLayout, shares: list[Share], strength: float
) -> dict[str, dict[Site, float]]:
    """For each family, its sites that nothing stands in for, and the harm to expect of each."""
    harms = {}
    for family in layout.families:
        prompts = [example.prompt for example in _make_task(family, 1.0).examples(_N_COUNTED, 0)]
        family_shares = [share for share in shares if share.step.kind in NEEDS[family]]
        harms[family] = {
            share.site: strength
            * sum(is_lost([share.site], family_shares, family, prompt) for prompt in prompts)
            / len(prompts)
            for share in family_shares
            if len(share.step.layers) == 1
        }
    return harms


def _check_answers(
    model: TransformerBridge, layout: RoleLayout, shares: list[Share], noise: float
) -> None:
    """Ask some questions of every family, intact and without each layer, joint pair and head.

    Raises:
        InputError: an answer is wrong that should be right, or right that should be wrong.
    """
    family_examples = [
        (family, example)
        for family in layout.families
        for example in _make_task(family, 1.0).examples(_N_TRIED, 0)
    ]
    tokens = torch.tensor([encode(model, example.prompt) for _, example in family_examples])
    answers = torch.tensor([ID[example.answer] for _, example in family_examples])
    layers = [(Site(layer),) for layer in range(layout.n_layers)]
    pairs = {tuple(map(Site, step.layers)) for step in layout.steps if len(step.layers) == 2}
    heads = [(share.site,) for share in shares if share.n_parts > 1 and share.site.part == "head"]
    for gone in [(), *layers, *sorted(pairs, key=str), *heads]:
        right = _are_right(model, gone, tokens, answers)
        lost = torch.tensor(
            [is_lost(gone, shares, family, example.prompt) for family, example in family_examples]
        )
        lucky = float(right[lost].float().mean()) if lost.any() else 0.0
        if not right[~lost].all() or lucky > _BY_LUCK:
            without = ", ".join(map(str, gone)) or "anything"
            raise InputError(
                f"noise={noise} drowns what is planted: without {without}, "
                f"{int((~right[~lost]).sum())} answers are lost and {lucky:.0%} of those that "
                f"should be lost are right; use less noise"
            )


def _are_right(
    model: TransformerBridge, gone: Sequence[Site], tokens: Tensor, answers: Tensor
) -> Bool[Tensor, " row"]:
    """Which answers the model would give without these layers and heads."""
    ablations = {site: Skip() if site.part == "block" else Zero() for site in gone}
    condition = Condition(ablations) if gone else INTACT
    with applied(model, condition, {}):
        logits, _ = forward(model, tokens, torch.ones_like(tokens), keep=1)
    return logits[:, -1].argmax(-1) == answers


def _to_tuple(name: str, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise InputError(f"{name}={given!r} is no list: write it as a tuple, such as ({given!r},)")
    return tuple(given)


def _to_dict(name: str, given: Any) -> dict[Any, Any]:
    if not isinstance(given, Mapping):
        raise InputError(f"{name}={given!r} does not say of which layer: write {{2: (0, 1)}}")
    return dict(given)


def _make_task(family: str, strength: float) -> Task:
    """The task of a family."""
    return Echo() if family == "language" else _TASKS[family](strength=strength)
