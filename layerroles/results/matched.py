"""What two runs have in common, and, in words, what only one of them has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from layerroles.results.cells import Cell, cells_of
from layerroles.results.result import SweepResult

_KEY = ["ablation", "at", "site"]
_NAMED = 5

Key = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Match:
    """A task and protocol of two runs.

    Attributes:
        one: the first run's cell.
        two: the second run's.
        conditions: the names of each condition that both have, in the first run and in the second.
        examples: the ids of those that both asked.
    """

    one: Cell
    two: Cell
    conditions: Sequence[tuple[str, str]]
    examples: Sequence[str]


def match(a: SweepResult, b: SweepResult) -> tuple[list[Match], list[str]]:
    """The cells that both runs have, and lines on what only one has."""
    ours, theirs = (
        {(cell.task, cell.protocol): cell for cell in cells_of(run.frame, run.manifest)}
        for run in (a, b)
    )
    matches, only = [], [*_only("task and protocol", map(" ".join, ours), map(" ".join, theirs))]
    apart = _other_prompts(a, b)
    alone: tuple[dict[Key, str], dict[Key, str]] = {}, {}
    for key in ours:
        if key not in theirs:
            continue
        one, two = ours[key], theirs[key]
        name = " ".join(key)
        if one.unit != two.unit:
            only.append(f"{name} is measured in {one.unit} (a) and in {two.unit} (b)")
            continue
        keys = _keyed(one), _keyed(two)
        for mine, others, found in zip(keys, reversed(keys), alone, strict=True):
            found.update({key: mine[key] for key in mine if key not in others})
        conditions = [(keys[0][key], keys[1][key]) for key in keys[0] if key in keys[1]]
        examples = [
            example
            for example in one.scores.columns
            if example in two.scores.columns and (one.task, example) not in apart
        ]
        lost = len(one.scores.columns) - len(examples), len(two.scores.columns) - len(examples)
        if any(lost):
            only.append(f"{name}: {lost[0]} examples of a and {lost[1]} of b have no match")
        matches.append(Match(one, two, conditions, examples))
    only += _only("condition", alone[0].values(), alone[1].values())
    return matches, only


def _keyed(cell: Cell) -> dict[Key, str]:
    """Each condition's name by what it does; also by its name where several do it at one site."""
    known = cell.conditions
    twins = known.duplicated(_KEY, keep=False)
    return {
        (*(str(known.at[name, column]) for column in _KEY), name if twins[name] else ""): name
        for name in map(str, known.index)
    }


def _other_prompts(a: SweepResult, b: SweepResult) -> set[tuple[str, str]]:
    """Task and id of the examples that have another prompt in the other run."""
    if a.examples.empty or b.examples.empty:
        return set()
    columns = ["task", "example", "prompt"]
    both = a.examples[columns].merge(b.examples[columns], on=columns[:2])
    other = both[both["prompt_x"] != both["prompt_y"]]
    return set(zip(other["task"], other["example"], strict=True))


def _only(kind: str, ours: Iterable[str], theirs: Iterable[str]) -> list[str]:
    mine, others = list(dict.fromkeys(ours)), list(dict.fromkeys(theirs))
    lines = []
    for run, own, other in (("a", mine, others), ("b", others, mine)):
        names = [name for name in own if name not in other]
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"only {run} has the {kind} {', '.join(names[:_NAMED])}{more}")
    return lines
