"""Make a planted model, and check that it is what it is said to be."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, Skip, applied
from layerroles.errors import InputError
from layerroles.models import encode, forward, prepare
from layerroles.plants.layout import LEAST_STRENGTH, MOST_NOISE, NEEDS, Layout, Step, share
from layerroles.plants.questions import Chain, Echo, Fact, LookUp, Planted
from layerroles.plants.wiring import wired
from layerroles.plants.words import ID, SUBJECTS, tokenizer
from layerroles.sites import Site
from layerroles.tasks import Task

_TASKS: dict[str, type[Planted]] = {"retrieval": LookUp, "knowledge": Fact, "reasoning": Chain}
_N_TRIED = 24
# A word that comes up where nothing was found is right now and then.
_BY_LUCK = 0.25


@dataclass(frozen=True, eq=False)
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
    """

    model: TransformerBridge
    tasks: list[Task]
    roles: dict[str, tuple[int, ...]]
    truth: dict[str, tuple[int, ...]]
    joint: dict[str, tuple[tuple[int, int], ...]]
    sites: dict[str, tuple[Site, ...]]


def planted(
    n_layers: int = 8,
    retrieval: Iterable[int] = (1, 2),
    reasoning: Iterable[int] = (5,),
    knowledge: Iterable[int] = (3,),
    inert: Iterable[int] = (6,),
    backup: Iterable[Sequence[int]] = (),
    heads: int = 2,
    strength: float = 1.0,
    noise: float = 0.05,
    seed: int = 0,
) -> Plant:
    """Make a model whose roles are known because its weights are set, not trained.

    Args:
        n_layers: layers, 1 to 64.
        retrieval: the layer of a head that looks at the previous word, and a later one of a head
            that looks up with it; or none, for no family `retrieval`.
        reasoning: a layer behind these, with a head that looks up what was found; or none.
        knowledge: layers whose MLPs hold a table of facts, a part of it each; or none.
        inert: layers that write nothing at all.
        backup: pairs of a layer and its double, which does the layer's work a second time: with
            `((5, 7),)` it takes both layer 5 and layer 7 away for reasoning to fail.
        heads: heads of each layer, 1 to 16. A step takes one, which one is drawn by `seed`.
        strength: share of examples that depends on the role, 0.2 to 1, in hundredths; the rest
            tell their answer. The harm of a layer of `truth` is about this (of a layer with a part
            of the table, about that part of it).
        noise: length of the random vectors that layers without a role, unused heads and the rest of
            MLPs write, 0 to 0.2; a word's own vector has length 1.
        seed: of noise, of heads, and of what the model prefers to say where it does not know.

    Raises:
        InputError: layers out of range or named twice, a look-up of other than two layers, an
            order in which a step would be read before it is written, an inert layer with a role,
            another value out of range, or noise that drowns a role.

    Example:
        >>> made = planted(n_layers=4, retrieval=(0, 1), reasoning=(3,), knowledge=(2,), inert=())
        >>> made.truth["reasoning"]
        (0, 1, 3)
    """
    layout = Layout(
        n_layers=n_layers,
        heads=heads,
        retrieval=_listed("retrieval", retrieval),
        reasoning=_listed("reasoning", reasoning),
        knowledge=_listed("knowledge", knowledge),
        inert=_listed("inert", inert),
        backup=_listed("backup", backup),
    )
    share("strength", strength, LEAST_STRENGTH, 1.0)
    share("noise", noise, 0.0, MOST_NOISE)
    wiring = wired(layout, noise, seed)
    wiring.model.tokenizer = tokenizer()
    prepare(wiring.model, name="planted")
    _check(wiring.model, layout, noise)
    single = [
        (step, site)
        for step, sites in zip(layout.steps, wiring.sites, strict=True)
        for site in sites
        if len(sites) == 1
    ]
    return Plant(
        model=wiring.model,
        tasks=[_task(family, strength) for family in layout.families],
        roles=layout.roles,
        truth=layout.truth,
        joint=layout.joint,
        sites={
            family: tuple(site for step, site in single if step.kind in NEEDS[family])
            for family in layout.families
        },
    )


def _listed(name: str, given: Any) -> tuple[Any, ...]:
    if not isinstance(given, Iterable) or isinstance(given, str):
        raise InputError(f"{name}={given!r} is no list: write it as a tuple, such as ({given!r},)")
    return tuple(given)


def _task(family: str, strength: float) -> Task:
    """The task of a family."""
    return Echo() if family == "language" else _TASKS[family](strength=strength)


def _check(model: TransformerBridge, layout: Layout, noise: float) -> None:
    """Ask some questions of every family, intact and without each layer and each joint pair.

    Raises:
        InputError: an answer is wrong that should be right, or right that should be wrong.
    """
    asked = [
        (family, example)
        for family in layout.families
        for example in _task(family, 1.0).examples(_N_TRIED, 0)
    ]
    tokens = torch.tensor([encode(model, example.prompt) for _, example in asked])
    answers = torch.tensor([ID[example.answer] for _, example in asked])
    needs = [
        [_needs(step, family, example.prompt, len(layout.knowledge)) for family, example in asked]
        for step in layout.steps
    ]
    pairs = {step.layers for step in layout.steps if len(step.layers) == 2}
    for layers in [(), *((layer,) for layer in range(layout.n_layers)), *sorted(pairs)]:
        right = _right(model, layers, tokens, answers)
        gone = torch.zeros(len(asked), dtype=torch.bool)
        for step, own in zip(layout.steps, needs, strict=True):
            if set(step.layers) <= set(layers):
                gone |= torch.tensor(own)
        lucky = float(right[gone].float().mean()) if gone.any() else 0.0
        if not right[~gone].all() or lucky > _BY_LUCK:
            raise InputError(
                f"noise={noise} drowns what is planted: without layers {layers}, "
                f"{int((~right[~gone]).sum())} answers are lost and {lucky:.0%} of those that "
                f"should be lost are right; use less noise"
            )


def _needs(step: Step, family: str, prompt: str, n_parts: int) -> bool:
    """Whether the answer to a question takes a step."""
    if step.kind != "fact" or family != "knowledge":
        return step.kind in NEEDS[family]
    return SUBJECTS.index(prompt.split()[-1]) % n_parts == step.part


def _right(
    model: TransformerBridge, layers: Sequence[int], tokens: Tensor, answers: Tensor
) -> Bool[Tensor, " row"]:
    """Which answers the model would give without these layers."""
    condition = Condition({Site(layer): Skip() for layer in layers}) if layers else INTACT
    with applied(model, condition, {}):
        logits, _ = forward(model, tokens, torch.ones_like(tokens), keep=1)
    return logits[:, -1].argmax(-1) == answers
