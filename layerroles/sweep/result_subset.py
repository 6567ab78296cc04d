"""Select the part of a run folder's result that one sweep asks for."""

from layerroles.ablations import Condition
from layerroles.errors import InputError
from layerroles.results import SweepResult, deferred_names
from layerroles.sweep.sweep import Sweep


def select_asked(stored: SweepResult, sweep: Sweep) -> SweepResult:
    """Return the part of a run folder's result that one sweep asks for.

    The folder may also hold answers of other sweeps: of other tasks, protocols or conditions, or of
    more examples. The part counts as finished if it has all answers that the sweep asks for, except
    under deferred conditions (`results.deferred_names`).
    """
    asked = {cell.names: {example.id for example in cell.examples} for cell in sweep.cells}
    names = {name_in_result(stored, condition) for condition in sweep.conditions}
    frame = stored.frame[stored.frame["condition"].isin(names)]
    keys = frame[["task", "protocol", "example"]].itertuples(index=False, name=None)
    frame = frame[[id in asked.get((task, protocol), ()) for task, protocol, id in keys]]
    cells = [
        {**cell, "n": len(asked[cell["task"], cell["protocol"]])}
        for cell in stored.manifest["cells"]
        if (cell["task"], cell["protocol"]) in asked
    ]
    manifest = {**stored.manifest, "cells": cells}
    deferred = deferred_names(manifest)
    n_asked = frame.groupby(["condition", "task", "protocol"]).size()
    if all(
        n_asked.get((name, *cell), 0) == len(examples)
        for cell, examples in asked.items()
        for name in names - deferred
    ):
        manifest["unfinished"] = []
    examples = stored.examples
    examples = examples[examples["task"].isin([task for task, _ in asked])]
    return SweepResult(frame.reset_index(drop=True), manifest, examples.reset_index(drop=True))


def name_in_result(result: SweepResult, condition: Condition) -> str:
    """Return a condition's name in a result: the first name it had in the run folder.

    Raises:
        InputError: the result does not have the condition.
    """
    for entry in result.manifest["conditions"]:
        if entry["hash"] == condition.hash:
            return str(entry["name"])
    raise InputError(f"the result lacks {condition.name!r}: sweep it")
