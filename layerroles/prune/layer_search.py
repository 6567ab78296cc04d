"""Choose layers to drop so that the families to keep lose the least skill.

A family is what a task asks for, such as retrieval or reasoning. The search is greedy. Harm is the
share of the skill above chance that an ablation removes. Every layer is skipped alone, and the one
that does least harm is dropped. For each further layer to drop, the most promising of the rest are
each skipped *together with* those dropped before, and the one that then does least harm is dropped
too. They are tried together since two layers that each do no harm alone may back each other up. The
most promising layers are taken in turn from two lists, least single-layer harm and least block
influence (how much the block changes the residual stream), since each measure alone misleads: harm
is noisy, and influence does not measure skill.

Methods of other authors are included for comparison: `block_influence` (ShortGPT, Men et al. 2024,
arXiv 2403.03853), `angular` (the run of layers over which the residual stream changes direction
least, Gromov et al. 2024, arXiv 2403.17887), `likelihood` (the same search, with harm measured by
the likelihood of given answers) and `random`.

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

from layerroles.errors import InputError
from layerroles.models import prepared
from layerroles.prune.plan import (
    METHODS,
    Candidate,
    PruningPlan,
    Step,
    skip_layers,
    sort_candidates,
)
from layerroles.prune.scoring import (
    Change,
    Harm,
    PlanningSweep,
    harm_of_layers,
    measure_changes,
    select_singles,
    tasks_with_skill,
)
from layerroles.registry import describe_unknown
from layerroles.results import SweepResult
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
    """Choose `drop` layers to leave out so that the kept families lose as little as possible.

    Args:
        model: from `load` or `prepare`.
        drop: the number of layers to drop.
        keep: families, or labels of tasks, that are to lose least; by default all of `tasks`.
        tasks: the tasks that represent families; kv_retrieval, facts and word_problems by default.
        method: one of `METHODS`; see the module.
        protocols: the protocols under which tasks are asked. The default is `("generation",)` for
            `role_aware` and `("continuation",)` for `likelihood`; the other methods score no
            answers, so they take none.
        limit: the number of examples of each task.
        seed: the seed of the examples, and of the method `random`.
        screen: the number of layers tried in each step after the first.
        path: a run folder that stores answers, so that an interrupted plan resumes, and a plan with
            another `drop` runs only the conditions that are missing. By default nothing is stored.
        singles: the result of a sweep that skipped every layer alone, for example on more examples,
            to use for the first step; if None, such a sweep is run.

    Raises:
        InputError: `drop` is not an integer, is below 1 or leaves no layer; `limit` or `screen` is
            below 1; the method is unknown; there is no task to keep; `keep` names an unknown family
            or task; a kept family has no skill above chance; a task cannot be asked under a
            protocol; `singles` is of another model, lacks a layer, task or protocol, or is not
            finished; every candidate of a step has answers that are not finite; or `protocols` or
            `singles` is given for a method that scores no answers.

    Example:
        plan = lr.plan_pruning(model, drop=1, keep=["retrieval"], tasks=tasks, limit=8)
        print(plan)
    """
    preparation, n_layers = prepared(model), model.cfg.n_layers
    if not isinstance(drop, int) or not 1 <= drop < n_layers:
        raise InputError(
            f"drop={drop!r}: {preparation.name} has {n_layers} layers, drop 1 to {n_layers - 1} "
            f"of them"
        )
    if method not in METHODS:
        raise InputError(describe_unknown("method", method, list(METHODS)))
    if limit < 1 or screen < 1:
        raise InputError(f"limit={limit}, screen={screen}: both must be 1 or more")
    if isinstance(protocols, str):
        raise InputError(f"protocols={protocols!r} is no list: write it as [{protocols!r}]")
    tasks_kept = _tasks_to_keep(keep, [task(name) for name in TASKS] if tasks is None else tasks)
    if method not in _PROTOCOLS:
        _refuse_sweep_options(method, protocols=protocols, singles=singles)
    protocols_asked = tuple(_PROTOCOLS.get(method, ()) if protocols is None else protocols)
    tasks_counted = tuple(kept_task.label for kept_task in tasks_kept)
    with _run_folder(path) as folder:
        changes_of = partial(
            measure_changes, model, tasks_kept, limit=limit, seed=seed, path=folder
        )
        if method in _PROTOCOLS:
            sweep = PlanningSweep(model, tasks_kept, protocols_asked, limit, seed, folder)
            if singles is None:
                # Raises if a kept family has no skill, before every layer is tried.
                tasks_counted = tasks_with_skill(sweep.intact())
                single_harms = sweep.harms([skip_layers([layer]) for layer in range(n_layers)])
            else:
                selected = select_singles(singles, model, tasks_kept, protocols_asked)
                tasks_counted = tasks_with_skill(selected)
                single_harms = harm_of_layers(selected)
            influence = [change.value for change in changes_of(measure="influence", n=1)]
            steps = _search_greedily(sweep, single_harms, influence, drop, screen)
        elif method == "block_influence":
            steps = _drop_least_influence(changes_of(measure="influence", n=1), drop)
        elif method == "angular":
            steps = _drop_least_turn(changes_of(measure="angular", n=drop), drop)
        else:
            steps = _draw_layers(n_layers, drop, seed)
    return PruningPlan(
        model=preparation.name,
        n_layers=n_layers,
        method=method,
        layers=tuple(layer for step in steps for layer in step.chosen),
        steps=tuple(steps),
        keep=tuple(dict.fromkeys(kept_task.family for kept_task in tasks_kept)),
        tasks=tasks_counted,
        without_skill=tuple(
            kept_task.label for kept_task in tasks_kept if kept_task.label not in tasks_counted
        ),
        protocols=protocols_asked,
        limit=limit,
        seed=seed,
    )


def _refuse_sweep_options(method: str, **given: object) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"method {method!r} asks nothing: leave out {name}")


def _tasks_to_keep(keep: Sequence[str], tasks: Sequence[Task]) -> list[Task]:
    """Return the tasks whose family or label is in `keep`; all tasks if `keep` is empty.

    Raises:
        InputError: no task, or a name that is neither a family nor a label of the tasks.
    """
    if isinstance(keep, str):
        raise InputError(f"keep={keep!r} is no list: write it as [{keep!r}]")
    tasks = as_tasks(tasks)
    if not tasks:
        raise InputError("a plan needs tasks that stand for what is to be kept")
    names = list(dict.fromkeys([*(task.family for task in tasks), *(task.label for task in tasks)]))
    for name in keep:
        if name not in names:
            raise InputError(f"keep: {describe_unknown('family or task', name, names)}")
    wanted = set(keep or names)
    return [task for task in tasks if {task.family, task.label} & wanted]


@contextmanager
def _run_folder(path: str | Path | None) -> Iterator[Path]:
    if path is not None:
        yield Path(path)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            yield Path(scratch) / "plan"


def _search_greedily(
    sweep: PlanningSweep,
    single_harms: Sequence[Harm],
    influence: Sequence[float],
    drop: int,
    screen: int,
) -> list[Step]:
    """Return the steps of a plan, each of which chooses one layer.

    Of the layers tried, it is the one that does least harm when it is skipped together with those
    chosen before.

    Args:
        sweep: the sweep that asks the kept tasks.
        single_harms: the harm of skipping each layer alone.
        influence: the block influence of each layer.
        drop: the number of layers to drop.
        screen: the number of layers tried in each step after the first.

    Raises:
        InputError: in a step, no candidate has only finite answers and a known harm.
    """
    single_candidates = sort_candidates(
        [_make_candidate(n, harm, influence[n]) for n, harm in enumerate(single_harms)]
    )
    by_influence = sorted(
        single_candidates, key=lambda candidate: (candidate.influence, candidate.layers)
    )
    # Take from both lists in turn, each layer once.
    in_turns = chain.from_iterable(zip_longest(single_candidates, by_influence))
    promising = list(
        dict.fromkeys(candidate.layers[0] for candidate in in_turns if candidate is not None)
    )
    steps: list[Step] = []
    chosen: list[int] = []
    for number in range(drop):
        dropped = tuple(chosen)
        tried = list(islice((n for n in promising if n not in chosen), screen))
        if number:
            harms = sweep.harms([skip_layers([*dropped, layer]) for layer in tried])
            joint_candidates = [
                _make_candidate(n, h, influence[n]) for n, h in zip(tried, harms, strict=True)
            ]
            candidates = sort_candidates(joint_candidates)
        else:
            candidates = single_candidates
        if candidates[0].order[0]:
            raise InputError(
                f"no layer can be chosen beside {list(dropped)}: under every candidate some "
                f"answers are not finite, or nothing can be scored"
            )
        chosen.append(candidates[0].layers[0])
        steps.append(Step(dropped, candidates, candidates[0].layers))
    return steps


def _make_candidate(layer: int, harm: Harm, influence: float) -> Candidate:
    return Candidate((layer,), harm.value, harm.interval, influence, harm.n, harm.n_failed)


def _drop_least_influence(changes: Sequence[Change], drop: int) -> list[Step]:
    ordered = sort_candidates(
        [
            Candidate((n,), change.value, change.interval, change.value, change.n)
            for n, change in enumerate(changes)
        ]
    )
    return [
        Step(
            tuple(candidate.layers[0] for candidate in ordered[:n]), ordered[n:], ordered[n].layers
        )
        for n in range(drop)
    ]


def _drop_least_turn(changes: Sequence[Change], drop: int) -> list[Step]:
    runs = sort_candidates(
        [
            Candidate(tuple(range(n, n + drop)), change.value, change.interval, n=change.n)
            for n, change in enumerate(changes)
        ]
    )
    return [Step((), runs, runs[0].layers)]


def _draw_layers(n_layers: int, drop: int, seed: int) -> list[Step]:
    """Return the steps of a plan that drops random layers.

    With one seed, a plan with a larger `drop` contains all layers of a plan with a smaller one.
    """
    order = list(range(n_layers))
    random.Random(f"prune:{seed}").shuffle(order)
    return [
        Step(tuple(order[:n]), (Candidate((order[n],), float("nan")),), (order[n],))
        for n in range(drop)
    ]
