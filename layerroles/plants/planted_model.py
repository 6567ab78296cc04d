"""Make a planted model, and check that its roles are as planned.

Steps, such as a look-up or the recall of a fact, lead to an answer (see `wiring`). Heads or MLPs do
a step, each for its own part of the vocabulary. An answer is lost if, for some step and some word
that the step must process, all heads or MLPs that do the step for that word are ablated. This rule
gives the layers that a family depends on, and the harm to expect from ablating each head or MLP.
Before a planted model is returned, it is run on some questions to check the rule: intact, and with
each layer, each pair of backup layers and each head that shares a step ablated.
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
from layerroles.errors import InputError
from layerroles.models import encode, forward, prepare
from layerroles.notebook_display import html_block, html_paragraph, html_table
from layerroles.plants.planted_language import ID, SUBJECTS, WORDS, make_tokenizer
from layerroles.plants.questions import Chain, Echo, Fact, LookUp, PlantedQuestion
from layerroles.plants.role_layout import (
    LEAST_STRENGTH,
    MOST_NOISE,
    NEEDS,
    PlantedStep,
    RoleLayout,
    StepKind,
    check_share,
)
from layerroles.plants.wiring import Wiring, build_wiring
from layerroles.sites import Site
from layerroles.tasks import Task

_TASKS: dict[str, type[PlantedQuestion]] = {
    "retrieval": LookUp,
    "knowledge": Fact,
    "reasoning": Chain,
}
# Numbers of questions of a family: to check a model, and to compute expected harms.
_N_TRIED, _N_COUNTED = 24, 200
# The layer that is inert by default.
_INERT = 6
# Of the answers that should be lost, the largest share that may be right by luck.
_BY_LUCK = 0.25


@dataclass(frozen=True, eq=False, repr=False)
class Plant:
    """A model whose layers have known roles, and tasks that test these roles.

    Attributes:
        model: a prepared bridge.
        tasks: one for each planted family, and `planted_echo` (family `language`), which depends on
            no layer.
        roles: for each family, the layers planted for it. The layer of the second look-up is
            planted for reasoning; the two layers before it are planted for retrieval.
        truth: for each family, every layer whose ablation alone lowers its score. For reasoning,
            this includes the layers of retrieval. Layers with a double are in `joint` instead.
        joint: for each family, the pairs of layers that do the same step: the score falls only if
            both are ablated.
        sites: for each family, the heads and MLPs that it depends on, in the layers of `truth`.
        harms: for each family, the harm to expect from ablating each of `sites`, 0 to 1: the share
            of its questions whose answer needs that head or MLP.
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
    """Make a model whose layers have known roles because its weights are set, not trained.

    Args:
        n_layers: number of layers, 1 to 64.
        retrieval: two layers: one with a head that attends to the previous word, and a later one
            with a head that uses this to look up a value. Empty for a model without `retrieval`.
        reasoning: a later layer, with a head that looks up what the first look-up found; or empty.
        knowledge: layers whose MLPs each hold a part of a table of facts; or empty.
        inert: layers that write nothing; by default layer 6, if it exists and has no role.
        backup: pairs of a layer and its double, which does the same step: with `((5, 7),)`
            reasoning fails only if layers 5 and 7 are both ablated.
        heads: number of heads per layer, 1 to 16. A step uses one head, drawn by `seed`, unless
            `heads_of` names its heads.
        strength: share of examples that need the planted layers, 0.2 to 1, in steps of 0.01. The
            prompts of the others end in their answer, which the model repeats without any layer.
            The harm of ablating a layer in `truth` is about `strength` (times the layer's share of
            the table, if several layers hold facts).
        noise: length of the random vectors that layers without a role, unused heads and unused MLP
            units write, 0 to 0.2; a word's own vector has length 1.
        seed: seed of the noise, the heads, and the words that the model prefers if it finds no
            answer.
        heads_of: the heads that share a layer's step: with `{2: (0, 3)}` heads 0 and 3 of layer 2
            each do the step for a part of the words, so that ablating one head loses a part of the
            answers.

    Raises:
        InputError: layers out of range or named twice, `retrieval` with neither 0 nor 2 layers, a
            layer that does not come after one whose result it reads, an inert layer with a role,
            heads for a layer that has no step for them, another value out of range, or noise so
            strong that answers change.

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
    """The part of a step that one site does.

    Attributes:
        step: the step.
        site: a head or an MLP.
        part, n_parts: the site does the step for the words, or subjects, with the indices `part`,
            `part + n_parts`, `part + 2 n_parts`, and so on.
    """

    step: PlantedStep
    site: Site
    part: int
    n_parts: int

    def covers(self, place: int) -> bool:
        """Return whether the site does the step for the word or subject with this index."""
        return place % self.n_parts == self.part


def list_shares(layout: RoleLayout, wiring: Wiring) -> list[Share]:
    """Return a `Share` for each step and each site that does a part of it."""
    return [
        Share(step, site, step.part, len(layout.knowledge))
        if step.kind == "fact"
        else Share(step, site, part, len(sites))
        for step, layers in zip(layout.steps, wiring.sites, strict=True)
        for sites in layers
        for part, site in enumerate(sites)
    ]


def is_lost(gone: Sequence[Site], shares: list[Share], family: str, prompt: str) -> bool:
    """Return whether the answer to a prompt is lost if the sites `gone` are ablated.

    It is lost if, for some step and some word that the step must process, all sites that do the
    step for that word are ablated. A layer in `gone` ablates all sites of the layer.
    """

    def is_gone(share: Share) -> bool:
        return share.site in gone or Site(share.site.layer) in gone

    steps = {share.step for share in shares if share.step.kind in NEEDS[family]}
    for step in steps:
        for place in _needed_indices(step.kind, family, prompt.split()):
            doing = [each for each in shares if each.step == step and each.covers(place)]
            if doing and all(map(is_gone, doing)):
                return True
    return False


def _needed_indices(kind: StepKind, family: str, words: list[str]) -> list[int]:
    """Return the indices of the words of a prompt that a step of this kind must process.

    They are indices in `WORDS`; for the kind `fact`, in `SUBJECTS`.
    """
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
    """Return the expected harm (0 to 1) by family and site; sites with a double are left out."""
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
    """Check that ablations make those answers wrong that `is_lost` predicts, and no others.

    Answers are checked with nothing ablated, and with each of these ablated in turn: every layer,
    every pair of layers that back each other up, and every head that does a step of the computation
    together with other heads. Of the lost answers, up to a quarter may be right by luck.

    Raises:
        InputError: an answer that should be right is wrong, or more than a quarter of the answers
            that should be wrong are right.
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
    """Return a mask of the answers that are right if the layers and heads `gone` are ablated."""
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
    """Return the task of a family; that of `language` has no `strength`."""
    return Echo() if family == "language" else _TASKS[family](strength=strength)
