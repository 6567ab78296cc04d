"""Sweeps that ask until they have decided, played on the answers of a whole sweep."""

import dataclasses

import pandas as pd

from layerroles import stats
from layerroles.results import SweepResult, find_deferred
from layerroles.sweep.next_cells import next_cells
from layerroles.sweep.next_counts import Plan

KEYS = ["condition", "task", "protocol", "example"]
# A condition, a task and a protocol.
Lacking = tuple[str, str, str]


def plan_of(result: SweepResult, limit: int, goal: str = "layers") -> Plan:
    """The command that asks up to a limit until the goal is decided."""
    cells = [[cell["task"], cell["protocol"], limit] for cell in result.manifest["cells"]]
    hashes = [entry["hash"] for entry in result.manifest["conditions"]]
    return {"cells": cells, "conditions": hashes, "until": goal}


def as_decided(whole: SweepResult, limit: int, goal: str = "layers") -> SweepResult:
    """The same answers, in a sweep that looks at them."""
    looks = list(stats.Looks().extended(32, limit).sizes)
    tasks = {cell["task"] for cell in whole.manifest["cells"]}
    manifest = whole.manifest | {
        "until": {"error": 0.05, "first": 32, "simultaneous": False, "goal": goal},
        "looks": dict.fromkeys(sorted(tasks), looks),
        "only_needed": True,
    }
    return dataclasses.replace(whole, manifest=manifest)


def ask(
    whole: SweepResult, limit: int, goal: str = "layers", *, lacking: set[Lacking] | None = None
) -> SweepResult:
    """Return the result of such a sweep, whose answers are taken from a whole sweep.

    Args:
        whole: the sweep that has all answers.
        limit: the most questions of a task.
        goal: "layers" or "claims".
        lacking: if given, what the sweep asks and `whole` has no answers of is put into it, and is
            not asked; without it, that is an error.
    """
    result, plan = as_decided(whole, limit, goal), plan_of(whole, limit, goal)
    names = {entry["hash"]: entry["name"] for entry in whole.manifest["conditions"]}
    deferred = find_deferred(whole.manifest["conditions"], plan, only_needed=True)
    later = {names[hash] for hash in deferred}
    keys = list(zip(*(whole.frame[key] for key in KEYS[:3]), strict=True))
    place = whole.frame.groupby(KEYS[:3]).cumcount()
    targets = {key: 0 if key[0] in later else 32 for key in keys}
    while True:
        asked = place < pd.Series([targets[key] for key in keys], whole.frame.index)
        result = dataclasses.replace(result, frame=whole.frame[asked].reset_index(drop=True))
        asked_next = next_cells(result, plan)
        more = {
            (names[hash], task, protocol): n for (hash, task, protocol), n in asked_next.items()
        }
        if lacking is not None:
            lacking |= more.keys() - targets.keys()
            more = {key: n for key, n in more.items() if key in targets}
        if not more:
            return result
        for key, n in more.items():
            assert n > targets[key]  # each look asks more, or it never ends
            targets[key] = n
