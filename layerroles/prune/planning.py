"""Choose the layers whose loss costs the named skills least.

Greedy with joint re-evaluation. Every layer is skipped alone; the best is dropped. Then, as often
as asked, the most promising of the rest are each skipped *together with* those dropped before, and
the one that hurts least is added: two layers that are spare alone may stand in for each other. The
most promising are taken in turn from two lists, least single-layer harm and least block influence,
since either alone is misled: harm by noise, influence by what it does not measure.

What others choose by, for comparison, are methods too: `block_influence` (ShortGPT, Men et al.
2024, arXiv 2403.03853), `angular` (the run of layers over which the stream turns least, Gromov et
al. 2024, arXiv 2403.17887), `likelihood` (the same search, its questions asked by the likelihood of
given answers) and `random`.

    plan = plan_pruning(model, drop=2, keep=["reasoning"], limit=64, path="runs/plan")
    print(plan)
    export(model, drop=plan.layers, path="pruned/")
"""

import random
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path

from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import Condition, Skip
from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.prune.plan import METHODS, Candidate, PruningPlan, Step, best_first
from layerroles.prune.scoring import (
    Asker,
    Change,
    Harm,
    changes,
    single_layers,
    swept_alone,
    with_skill,
)
from layerroles.registry import unknown
from layerroles.results import SweepResult
from layerroles.sites import Site
from layerroles.tasks import Task, as_tasks, task

TASKS = ("kv_retrieval", "facts", "word_problems")
# The default protocols of the two searches.
_PROTOCOLS = {"role_aware": ("generation",), "likelihood": ("continuation",)}


def plan_pruning(
    model: TransformerBridge,
    *,
    drop: int,
    keep: Sequence[str] = (),
    tasks: Sequence[Task] | None = None,
    method: str = "role_aware",
    protocols: Sequence[str] | None = None,
    limit: int = 32,
    seed: int = 0,
    screen: int = 8,
    path: str | Path | None = None,
    singles: SweepResult | None = None,
) -> PruningPlan:
    """Choose `drop` layers to leave out, such that what is named loses as little as possible.

    Args:
        model: from `load` or `prepare`.
        drop: how many layers.
        keep: families, or labels of tasks, that are to lose least; all of `tasks` by default.
        tasks: that stand for the families; kv_retrieval, facts and word_problems by default.
        method: one of `METHODS`; see above.
        protocols: under which the tasks are asked, `("generation",)` by default, and
            `("continuation",)` for the method `likelihood`; the other methods ask nothing.
        limit: examples of each task.
        seed: of the examples, and of the method `random`.
        screen: how many layers are tried in each step after the first.
        path: a run folder for what is asked: a plan that was cut off goes on there, and one for
            another `drop` asks only what is missing; by default nothing is kept.
        singles: a sweep that skipped every layer alone, such as on more examples; it stands in for
            the first step.

    Raises:
        InputError: no layer to drop or not one left, an unknown method, nothing that is to be kept,
            a kept family without skill above chance, a protocol that a task cannot be asked under,
            `singles` of another model or without some layer, or either of them for a method that
            asks nothing.

    Example:
        plan = lr.plan_pruning(model, drop=1, keep=["retrieval"], tasks=tasks, limit=8)
        print(plan)
    """
    known, n_layers = prepared(model), model.cfg.n_layers
    if not isinstance(drop, int) or not 1 <= drop < n_layers:
        raise InputError(
            f"drop={drop!r}: {known.name} has {n_layers} layers, drop 1 to {n_layers - 1} of them"
        )
    if method not in METHODS:
        raise InputError(unknown("method", method, list(METHODS)))
    if limit < 1 or screen < 1:
        raise InputError(f"limit={limit}, screen={screen}: both must be 1 or more")
    if isinstance(protocols, str):
        raise InputError(f"protocols={protocols!r} is no list: write it as [{protocols!r}]")
    kept = _kept(keep, [task(name) for name in TASKS] if tasks is None else tasks)
    if method not in _PROTOCOLS:
        _asks_nothing(method, protocols=protocols, singles=singles)
    asked = tuple(_PROTOCOLS.get(method, ()) if protocols is None else protocols)
    counted = tuple(each.label for each in kept)
    with _folder(path) as folder:
        measured = partial(changes, model, kept, limit=limit, seed=seed, path=folder)
        if method in _PROTOCOLS:
            asker = Asker(model, kept, asked, limit, seed, folder)
            if singles is None:
                # Raises for a family that cannot be kept, before every layer is tried.
                counted = with_skill(asker.intact())
                first = asker.harms([_skipping(layer) for layer in range(n_layers)])
            else:
                alone = swept_alone(singles, model, kept, asked)
                counted, first = with_skill(alone), single_layers(alone)
            influence = [change.value for change in measured(measure="influence", n=1)]
            steps = _search(asker, first, influence, drop, screen)
        elif method == "block_influence":
            steps = _least_influence(measured(measure="influence", n=1), drop)
        elif method == "angular":
            steps = _least_turn(measured(measure="angular", n=drop), drop)
        else:
            steps = _drawn(n_layers, drop, seed)
    return PruningPlan(
        model=known.name,
        n_layers=n_layers,
        method=method,
        layers=tuple(layer for step in steps for layer in step.chosen),
        steps=tuple(steps),
        keep=tuple(dict.fromkeys(each.family for each in kept)),
        tasks=counted,
        without_skill=tuple(one.label for one in kept if one.label not in counted),
        protocols=asked,
        limit=limit,
        seed=seed,
    )


def _asks_nothing(method: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"method {method!r} asks nothing: leave out {name}")


def _kept(keep: Sequence[str], tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks whose family or label is to be kept."""
    if isinstance(keep, str):
        raise InputError(f"keep={keep!r} is no list: write it as [{keep!r}]")
    tasks = as_tasks(tasks)
    if not tasks:
        raise InputError("a plan needs tasks that stand for what is to be kept")
    known = list(dict.fromkeys([*(one.family for one in tasks), *(one.label for one in tasks)]))
    for name in keep:
        if name not in known:
            raise InputError(f"keep: {unknown('family or task', name, known)}")
    wanted = set(keep or known)
    return [one for one in tasks if {one.family, one.label} & wanted]


@contextmanager
def _folder(path: str | Path | None) -> Iterator[Path]:
    if path is not None:
        yield Path(path)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch) / "plan"


def _skipping(*layers: int) -> Condition:
    return Condition({Site(layer): Skip() for layer in layers})


def _search(
    asker: Asker, first: Sequence[Harm], influence: Sequence[float], drop: int, screen: int
) -> list[Step]:
    """Drop the best layer, then repeatedly the best in addition to those dropped."""
    alone = best_first([_candidate(n, harm, influence[n]) for n, harm in enumerate(first)])
    by_influence = sorted(alone, key=lambda one: (one.influence, one.layers))
    # Take from both lists in turn, each layer once.
    turns = chain.from_iterable(zip_longest(alone, by_influence))
    promising = list(dict.fromkeys(one.layers[0] for one in turns if one is not None))
    steps: list[Step] = []
    chosen: list[int] = []
    for number in range(drop):
        before = tuple(chosen)
        tried = list(islice((n for n in promising if n not in chosen), screen))
        if number:
            harms = asker.harms([_skipping(*before, layer) for layer in tried])
            found = [_candidate(n, h, influence[n]) for n, h in zip(tried, harms, strict=True)]
            candidates = best_first(found)
        else:
            candidates = alone
        if candidates[0].order[0]:
            raise InputError(
                f"no layer can be chosen beside {list(before)}: under every candidate some answers "
                f"are not finite, or nothing can be scored"
            )
        chosen.append(candidates[0].layers[0])
        steps.append(Step(before, candidates, candidates[0].layers))
    return steps


def _candidate(layer: int, harm: Harm, influence: float) -> Candidate:
    return Candidate((layer,), harm.value, harm.interval, influence, harm.n, harm.n_failed)


def _least_influence(found: Sequence[Change], drop: int) -> list[Step]:
    ordered = best_first(
        [Candidate((n,), one.value, one.interval, one.value, one.n) for n, one in enumerate(found)]
    )
    return [
        Step(tuple(one.layers[0] for one in ordered[:n]), ordered[n:], ordered[n].layers)
        for n in range(drop)
    ]


def _least_turn(found: Sequence[Change], drop: int) -> list[Step]:
    runs = best_first(
        [
            Candidate(tuple(range(n, n + drop)), one.value, one.interval, n=one.n)
            for n, one in enumerate(found)
        ]
    )
    return [Step((), runs, runs[0].layers)]


def _drawn(n_layers: int, drop: int, seed: int) -> list[Step]:
    """Draw layers at random; those of a smaller `drop` are among those of a larger one."""
    order = list(range(n_layers))
    random.Random(f"prune:{seed}").shuffle(order)
    return [
        Step(tuple(order[:n]), (Candidate((order[n],), float("nan")),), (order[n],))
        for n in range(drop)
    ]
