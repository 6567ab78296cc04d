"""Read a run folder as a table with a row per condition, task, protocol and example."""

import hashlib
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pandas as pd

from layerroles import stats
from layerroles.results.condition_verdicts import find_deferred, find_waiting
from layerroles.results.read_run_folder import ROW, read_run
from layerroles.results.result import SweepResult

# Columns added in later versions come last.
_LATER = ["strict", "form", "thought", "details"]
_COLUMNS = [
    *("model", "condition", "ablation", "at", "site", "layer", "part", "head"),
    *("task", "family", "protocol", "example"),
    *(name for name in ROW if name not in _LATER),
    *_LATER,
]
_EXAMPLE = ["task", "example", "prompt", "answer", "evidence", "question", "cluster"]
_TYPES = {
    **dict.fromkeys(("layer", "head", "n_tokens"), "Int64"),
    **dict.fromkeys(("correct", "strict", "form", "thought", "changed"), "boolean"),
    "score": "float",
}


def read(path: str | Path) -> SweepResult:
    """Read the result of a sweep from its run folder; the run may still be in progress.

    Raises:
        InputError: the path is not a run folder, or its files are damaged.

    Example:
        result = lr.read("runs/first")
    """
    manifest, rows, examples = read_run(Path(path))
    conditions = {item["hash"]: item for item in manifest["conditions"]}
    families = {cell["task"]: cell["family"] for cell in manifest["cells"]}
    order = {hash: place for place, hash in enumerate(conditions)}
    rows.sort(key=lambda row: order[row["condition"]])
    frame = pd.DataFrame(
        [
            {
                "model": manifest["model"]["name"],
                **_condition_columns(conditions[row["condition"]]),
                "task": row["task"],
                "family": families[row["task"]],
                "protocol": row["protocol"],
                "example": row["example"],
                **{name: row.get(name) for name in ROW},
            }
            for row in rows
        ],
        columns=_COLUMNS,
    ).astype(_TYPES)
    return SweepResult(
        frame=_leave_out_begun_looks(
            frame, manifest.get("looks", {}), examples, deferred_names(manifest)
        ),
        manifest=manifest,
        examples=_example_table(examples),
    )


def deferred_names(manifest: dict[str, Any]) -> set[str]:
    """Return the names of deferred conditions: those used only if earlier answers require it."""
    entries, only_needed = manifest["conditions"], bool(manifest.get("only_needed"))
    deferred = set(find_waiting(entries)) if only_needed else set()
    for plan in manifest.get("unfinished", []):
        deferred |= find_deferred(entries, plan, only_needed=only_needed)
    return {str(entry["name"]) for entry in entries if entry["hash"] in deferred}


def _leave_out_begun_looks(
    frame: pd.DataFrame,
    looks: dict[str, list[int]],
    examples: list[dict[str, Any]],
    deferred: set[str],
) -> pd.DataFrame:
    """Return the rows up to the last complete look, since verdicts are given at looks only.

    A look is a number of questions after which the run judges its results. It is complete for a
    condition, task and protocol if all examples up to it are answered there. As long as the first
    look is not complete, the rows before the first missing example are kept, so that there are
    estimates, except the rows of deferred conditions.

    Args:
        frame: all rows.
        looks: the looks of each task.
        examples: the stored examples of all tasks, in the order in which they are asked.
        deferred: the names of the deferred conditions, see `deferred_names`.
    """
    if not looks or frame.empty:
        return frame
    places: defaultdict[str, dict[str, int]] = defaultdict(dict)  # of examples, by task
    for example in examples:
        of_task = places[example["task"]]
        of_task.setdefault(example["example"], len(of_task))
    place = pd.Series(
        [places[t][e] for t, e in zip(frame["task"], frame["example"], strict=True)], frame.index
    )
    keys = [frame[name] for name in ("condition", "task", "protocol")]
    # True before the first missing example: the rank of an example's place equals its place.
    is_gapless = place.groupby(keys).rank().sub(1).eq(place)
    n_gapless = is_gapless.groupby(keys).transform("sum")
    complete = [
        0
        if name in deferred and n < min(looks.get(task, ()), default=0)
        else stats.Looks(tuple(looks.get(task, ()))).complete(int(n))
        for name, task, n in zip(frame["condition"], frame["task"], n_gapless, strict=True)
    ]
    is_begun = (n_gapless > complete) | (n_gapless < place.groupby(keys).transform("size"))
    return frame[~is_begun | (place < complete)].reset_index(drop=True)


def _example_table(examples: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a table with a row for each task and example.

    The columns `contexts` (digests of the texts that the model reads) and `guesses` (the scores of
    guessing) hold JSON objects by protocol. A value that a run of an earlier version lacks is "".
    """
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    contexts: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    guesses: defaultdict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    for example in examples:
        key, protocol = (example["task"], example["example"]), example["protocol"]
        rows.setdefault(key, {name: example.get(name) or "" for name in _EXAMPLE})
        contexts[key][protocol] = _short_digest(example["context"] or "")
        if example.get("guess") is not None:
            guesses[key][protocol] = float(example["guess"])
    return pd.DataFrame(
        [
            row | {"contexts": json.dumps(contexts[key]), "guesses": json.dumps(guesses[key])}
            for key, row in rows.items()
        ],
        columns=[*_EXAMPLE, "contexts", "guesses"],
    )


def _short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _condition_columns(condition: dict[str, Any]) -> dict[str, Any]:
    layers, parts, heads = (condition[key] for key in ("layers", "parts", "heads"))
    return {
        "condition": condition["name"],
        "ablation": condition["ablation"],
        "at": condition["at"],
        "site": "+".join(condition["sites"]),
        "layer": layers[0] if len(layers) == 1 else None,
        "part": parts[0] if len(parts) == 1 else "mixed" if parts else "",
        "head": heads[0] if len(heads) == 1 and len(condition["sites"]) == 1 else None,
    }
