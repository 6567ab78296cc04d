"""Match two runs: the cells, conditions and examples that both have, and what differs.

A cell is one task under one protocol. Conditions are matched by ablation, positions (`at`) and
site, examples by their ids and prompts. Lines of text list the conditions without a match and count
the examples without one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from layerroles import stats
from layerroles.results.result import SweepResult, cells_of
from layerroles.results.task_protocol_cells import INTACT, Cell, nearer_of_both_chances

_MATCHED_BY = ["ablation", "at", "site"]
_MOST_NAMED = 5


@dataclass(frozen=True, eq=False)
class Match:
    """A task and protocol that two runs share.

    Attributes:
        one: the first run's cell (its rows of this task and protocol).
        two: the second run's cell.
        conditions: for each shared condition, its names in the first run and in the second.
        examples: the ids of the examples that both runs asked, without those whose prompts differ.
    """

    one: Cell
    two: Cell
    conditions: Sequence[tuple[str, str]]
    examples: Sequence[str]

    def harms(
        self, weights: Mapping[tuple[str, str], float], *, guessed: bool = True
    ) -> tuple[stats.Contrast, stats.Contrast]:
        """Return each run's weighted sum of harms, over the examples with all scores in both runs.

        Args:
            weights: the weight of each condition, by its names in the first and the second run.
            guessed: see `Cell.harm`.
        """
        cells = self.one, self.two
        names = zip(*weights, strict=True)
        answered = [
            cell.scores.reindex(columns=list(self.examples)).loc[[INTACT, *condition]].notna().all()
            for cell, condition in zip(cells, names, strict=True)
        ]
        examples = [str(example) for example in answered[0].index[answered[0] & answered[1]]]
        one, two = (
            cell.harm(
                {name[run]: weight for name, weight in weights.items()}, examples, guessed=guessed
            )
            for run, cell in enumerate(cells)
        )
        return one, two

    def harm_difference(self, weights: Mapping[tuple[str, str], float]) -> stats.Contrast:
        """Return the second run's weighted sum of harms minus the first's.

        Computed under both chances (see `nearer_of_both_chances`). For the argument, see `harms`.
        """

        def difference(*, guessed: bool) -> stats.Contrast:
            one, two = self.harms(weights, guessed=guessed)
            return stats.difference_of(two, one)

        return nearer_of_both_chances(difference, (self.one, self.two))


def match(a: SweepResult, b: SweepResult) -> tuple[list[Match], list[str]]:
    """Return a `Match` per task and protocol that both runs have, and lines on what differs."""
    cells_a, cells_b = (
        {(cell.task, cell.protocol): cell for cell in cells_of(run)} for run in (a, b)
    )
    shared = [key for key in cells_a if key in cells_b]
    unmatched = _describe_unmatched(
        "task and protocol",
        [" ".join(key) for key in cells_a if key not in cells_b],
        [" ".join(key) for key in cells_b if key not in cells_a],
    )
    other_prompts, matches = _find_other_prompts(a, b), []
    unmatched_conditions: tuple[list[str], list[str]] = [], []
    for key in shared:
        # Two runs of a task ask the same questions under the same ids.
        one, two = (replace(run[key], questions={}) for run in (cells_a, cells_b))
        if one.unit != two.unit:
            unmatched.append(f"{' '.join(key)} is measured in {one.unit} (a) and in {two.unit} (b)")
            continue
        conditions, examples = _match_conditions(one, two), _match_examples(one, two, other_prompts)
        for index, cell in enumerate((one, two)):
            matched = {names[index] for names in conditions}
            unmatched_conditions[index].extend(
                name for name in cell.conditions.index if name not in matched
            )
        n_lost = [len(cell.scores.columns) - len(examples) for cell in (one, two)]
        if any(n_lost):
            unmatched.append(
                f"{' '.join(key)}: {n_lost[0]} examples of a and {n_lost[1]} of b have no match"
            )
        matches.append(Match(one, two, conditions, examples))
    return matches, [
        *_describe_settings(a, b),
        *unmatched,
        *_describe_unmatched("condition", *unmatched_conditions),
    ]


def _describe_settings(a: SweepResult, b: SweepResult) -> list[str]:
    """Return lines of text on settings, ablation parameters and references that differ."""
    settings = {
        "dtype": [run.manifest.get("model", {}).get("dtype") for run in (a, b)],
        "chat": [run.manifest.get("chat", False) for run in (a, b)],
        "seed": [run.manifest.get("seed", 0) for run in (a, b)],
    }
    parameters_a, parameters_b = (_ablation_parameters(run) for run in (a, b))
    settings |= {
        f"ablation {name}": [parameters_a[name], parameters_b[name]]
        for name in parameters_a
        if name in parameters_b
    }
    return [
        f"{name} is not the same: {one} (a), {two} (b)"
        for name, (one, two) in settings.items()
        if one != two
    ] + _describe_references(a, b)


def _describe_references(a: SweepResult, b: SweepResult) -> list[str]:
    """Return lines of text on tasks whose open references have different prompts in the two runs.

    An open reference names no prompts; a sweep fills it with held-out prompts of each task.
    """
    cells = [
        {(cell["task"], cell["protocol"]): cell for cell in run.manifest.get("cells", [])}
        for run in (a, b)
    ]
    digests_of = {}
    for names in cells[0].keys() & cells[1].keys():
        references_a, references_b = (
            cells_of_run[names].get("references", {}) for cells_of_run in cells
        )
        for chosen_by in references_a.keys() & references_b.keys():
            if references_a[chosen_by] != references_b[chosen_by]:
                digests_of[names[0], chosen_by] = (
                    f"{references_a[chosen_by]} (a), {references_b[chosen_by]} (b)"
                )
    return [
        f"the reference of task {task} ({chosen_by}) does not hold the same prompts: {digests}"
        for (task, chosen_by), digests in sorted(digests_of.items())
    ]


def _ablation_parameters(run: SweepResult) -> dict[str, str]:
    """Map each ablation to its parameters as JSON; different sets are joined by "or"."""
    parameters_of: dict[str, set[str]] = {}
    for condition in run.manifest.get("conditions", []):
        for parameters in condition.get("parameters", {}).values():
            parameters_of.setdefault(condition["ablation"], set()).add(
                json.dumps(parameters, sort_keys=True)
            )
    return {name: " or ".join(sorted(texts)) for name, texts in parameters_of.items()}


def _match_conditions(one: Cell, two: Cell) -> list[tuple[str, str]]:
    """Return pairs of names of conditions with the same ablation, `at` and site in both cells.

    If either cell has several such conditions, those with the same name are paired.
    """
    by_site = [_names_by_site(cell) for cell in (one, two)]
    pairs = []
    for key, names_a in by_site[0].items():
        names_b = by_site[1].get(key, [])
        if len(names_a) == len(names_b) == 1:
            pairs.append((names_a[0], names_b[0]))
        else:
            pairs += [(name, name) for name in names_a if name in names_b]
    return pairs


def _names_by_site(cell: Cell) -> dict[tuple[str, ...], list[str]]:
    names_by_site: dict[tuple[str, ...], list[str]] = {}
    for name, *key in cell.conditions[["condition", *_MATCHED_BY]].itertuples(index=False):
        names_by_site.setdefault(tuple(map(str, key)), []).append(str(name))
    return names_by_site


def _find_other_prompts(a: SweepResult, b: SweepResult) -> set[tuple[str, str]]:
    """Return (task, example id) of the examples whose prompts differ between the two runs.

    Empty if a run does not store its prompts.
    """
    if a.examples.empty or b.examples.empty:
        return set()
    columns = ["task", "example", "prompt"]
    both = a.examples[columns].merge(b.examples[columns], on=columns[:2])
    changed = both[both["prompt_x"] != both["prompt_y"]]
    return set(zip(changed["task"], changed["example"], strict=True))


def _match_examples(one: Cell, two: Cell, other_prompts: set[tuple[str, str]]) -> list[str]:
    """Return the ids of the examples that both runs asked and whose prompts do not differ."""
    examples_b = set(two.scores.columns)
    return [
        example
        for example in one.scores.columns
        if example in examples_b and (one.task, example) not in other_prompts
    ]


def _describe_unmatched(kind: str, names_a: Sequence[str], names_b: Sequence[str]) -> list[str]:
    lines = []
    for run, unmatched_names in (("a", names_a), ("b", names_b)):
        names = list(dict.fromkeys(unmatched_names))
        if names:
            rest = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
            lines.append(f"only {run} has the {kind} {', '.join(names[:_MOST_NAMED])}{rest}")
    return lines
