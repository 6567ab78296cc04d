"""What two runs have in common, and, in words, what only one of them has."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from layerroles import stats
from layerroles.results.cells import INTACT, Cell
from layerroles.results.result import SweepResult, cells_of

_KEY = ["ablation", "at", "site"]
_NAMED = 5


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

    def harms(
        self, weights: Mapping[tuple[str, str], float]
    ) -> tuple[stats.Contrast, stats.Contrast]:
        """A weighted sum of harms in each run, over the examples that all were asked in both.

        Args:
            weights: of the conditions, by their names in the two runs.
        """
        cells = self.one, self.two
        names = zip(*weights, strict=True)
        asked = [
            cell.scores.reindex(columns=list(self.examples)).loc[[INTACT, *own]].notna().all()
            for cell, own in zip(cells, names, strict=True)
        ]
        both = [str(example) for example in asked[0].index[asked[0] & asked[1]]]
        one, two = (
            cell.harm({name[which]: weight for name, weight in weights.items()}, both)
            for which, cell in enumerate(cells)
        )
        return one, two


def match(a: SweepResult, b: SweepResult) -> tuple[list[Match], list[str]]:
    """The cells that both runs have, and lines on what only one has."""
    ours, theirs = ({(cell.task, cell.protocol): cell for cell in cells_of(run)} for run in (a, b))
    shared = [key for key in ours if key in theirs]
    only = _only(
        "task and protocol",
        [" ".join(key) for key in ours if key not in theirs],
        [" ".join(key) for key in theirs if key not in ours],
    )
    apart, matches = _other_prompts(a, b), []
    alone: tuple[list[str], list[str]] = [], []
    for key in shared:
        # Two runs of a task ask the same questions under the same ids.
        one, two = (replace(run[key], questions={}) for run in (ours, theirs))
        if one.unit != two.unit:
            only.append(f"{' '.join(key)} is measured in {one.unit} (a) and in {two.unit} (b)")
            continue
        conditions, examples = _same(one, two), _shared(one, two, apart)
        for which, cell in enumerate((one, two)):
            found = {names[which] for names in conditions}
            alone[which].extend(name for name in cell.conditions.index if name not in found)
        lost = [len(cell.scores.columns) - len(examples) for cell in (one, two)]
        if any(lost):
            only.append(
                f"{' '.join(key)}: {lost[0]} examples of a and {lost[1]} of b have no match"
            )
        matches.append(Match(one, two, conditions, examples))
    return matches, [*_settings(a, b), *only, *_only("condition", *alone)]


def _settings(a: SweepResult, b: SweepResult) -> list[str]:
    """Lines on what was compared though it is not the same: settings, parameters of ablations."""
    named = {
        "dtype": [run.manifest.get("model", {}).get("dtype") for run in (a, b)],
        "chat": [run.manifest.get("chat", False) for run in (a, b)],
        "seed": [run.manifest.get("seed", 0) for run in (a, b)],
    }
    ours, theirs = (_parameters(run) for run in (a, b))
    named |= {f"ablation {name}": [ours[name], theirs[name]] for name in ours if name in theirs}
    return [
        f"{name} is not the same: {one} (a), {two} (b)"
        for name, (one, two) in named.items()
        if one != two
    ] + _other_references(a, b)


def _other_references(a: SweepResult, b: SweepResult) -> list[str]:
    """Lines on tasks whose own references, chosen alike, hold other prompts in the two runs."""
    cells = [
        {(cell["task"], cell["protocol"]): cell for cell in run.manifest.get("cells", [])}
        for run in (a, b)
    ]
    found = {}
    for names in cells[0].keys() & cells[1].keys():
        ours, theirs = (each[names].get("references", {}) for each in cells)
        for words in ours.keys() & theirs.keys():
            if ours[words] != theirs[words]:
                found[names[0], words] = f"{ours[words]} (a), {theirs[words]} (b)"
    return [
        f"the reference of task {task} ({words}) does not hold the same prompts: {digests}"
        for (task, words), digests in sorted(found.items())
    ]


def _parameters(run: SweepResult) -> dict[str, str]:
    """With which parameters each ablation was made; references go by what they hold."""
    found: dict[str, set[str]] = {}
    for condition in run.manifest.get("conditions", []):
        for given in condition.get("parameters", {}).values():
            found.setdefault(condition["ablation"], set()).add(json.dumps(given, sort_keys=True))
    return {name: " or ".join(sorted(each)) for name, each in found.items()}


def _same(one: Cell, two: Cell) -> list[tuple[str, str]]:
    """The names of what does the same at the same site; where several do, by their names."""
    at_site = [_by_site(cell) for cell in (one, two)]
    found = []
    for key, ours in at_site[0].items():
        theirs = at_site[1].get(key, [])
        if len(ours) == len(theirs) == 1:
            found.append((ours[0], theirs[0]))
        else:
            found += [(name, name) for name in ours if name in theirs]
    return found


def _by_site(cell: Cell) -> dict[tuple[str, ...], list[str]]:
    found: dict[tuple[str, ...], list[str]] = {}
    for name, *key in cell.conditions[["condition", *_KEY]].itertuples(index=False):
        found.setdefault(tuple(map(str, key)), []).append(str(name))
    return found


def _other_prompts(a: SweepResult, b: SweepResult) -> set[tuple[str, str]]:
    """Task and id of the examples that have another prompt in the other run."""
    if a.examples.empty or b.examples.empty:
        return set()
    columns = ["task", "example", "prompt"]
    both = a.examples[columns].merge(b.examples[columns], on=columns[:2])
    other = both[both["prompt_x"] != both["prompt_y"]]
    return set(zip(other["task"], other["example"], strict=True))


def _shared(one: Cell, two: Cell, apart: set[tuple[str, str]]) -> list[str]:
    """The examples that both asked in the same words."""
    known = set(two.scores.columns)
    return [
        example
        for example in one.scores.columns
        if example in known and (one.task, example) not in apart
    ]


def _only(kind: str, ours: Sequence[str], theirs: Sequence[str]) -> list[str]:
    lines = []
    for run, found in (("a", ours), ("b", theirs)):
        names = list(dict.fromkeys(found))
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            lines.append(f"only {run} has the {kind} {', '.join(names[:_NAMED])}{more}")
    return lines
