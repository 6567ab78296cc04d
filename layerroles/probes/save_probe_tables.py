"""Store probe tables (frames) in a run folder, so that a report can be drawn without the model."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from layerroles.ablations import INTACT, Condition, as_condition
from layerroles.errors import InputError
from layerroles.models import Provenance, first_difference, provenance
from layerroles.probes.base import Probe
from layerroles.probes.read_probe_tables import SAVED_IN, read_table
from layerroles.tasks import Task, as_tasks


def measure_into(
    run: str | Path,
    probe: Probe,
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    limit: int = 32,
    seed: int = 0,
    condition: Condition | None = None,
) -> pd.DataFrame:
    """Measure a probe and store the frame in a run folder, or return the frame stored there.

    A folder holds one frame for each probe name and condition. The stored frame is returned only if
    it was measured by the same probe on the same model (weights, dtype, configuration) and the same
    examples; else it is replaced. The arguments other than `run` and `probe` are those of
    `Probe.measure`.

    Raises:
        InputError: `Probe.measure` raises it, the folder cannot be written, or it holds a run of a
            model with other weights or another configuration.

    Example:
        lens = lr.probes.measure_into("runs/first", lr.probes.LogitLens(), model, tasks, limit=8)
    """
    model_provenance, tasks = provenance(model), as_tasks(tasks)
    is_run = _refuse_other_model(Path(run), model_provenance)
    condition = INTACT if condition is None else as_condition(condition)
    request = {
        "probe": repr(probe),
        "weights": model_provenance.weights,
        "dtype": model_provenance.dtype,
        "condition": [condition.name, condition.hash],
        "tasks": {task.label: task.fingerprint(limit, seed) for task in tasks},
    }
    if not is_run:  # else the configuration was compared with that in the run's manifest
        request["config"] = model_provenance.config
    digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    suffix = "" if condition.is_intact else f".{condition.hash}"
    table = Path(run) / SAVED_IN / f"{probe.name}{suffix}.csv"
    digest_file = table.with_suffix(".sha256")
    if table.is_file() and digest_file.is_file() and digest_file.read_text() == digest:
        return read_table(table)
    frame = probe.measure(model, tasks, limit=limit, seed=seed, condition=condition)
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        # Delete the digest first and write it last, so that an incomplete table is never returned.
        digest_file.unlink(missing_ok=True)
        frame.to_csv(table, index=False)
        digest_file.write_text(digest)
    except OSError as error:
        raise InputError(f"{str(table)!r} cannot be written: {error.strerror}") from error
    return frame


def _refuse_other_model(run: Path, known: Provenance) -> bool:
    """Check that a folder does not hold a run of another model; return whether it holds a run."""
    try:
        saved_model = json.loads((run / "manifest.json").read_text(encoding="utf-8"))["model"]
        weights, name = saved_model["weights"], saved_model["name"]
    except (OSError, ValueError, LookupError, TypeError):  # no run, or no weights in its manifest
        return False
    if weights != known.weights:
        raise InputError(
            f"run folder {str(run)!r} is of another model: its weights are {weights!r} (model "
            f"{name!r}), and those of {known.name!r} are {known.weights!r}; use another folder"
        )
    if (differing := first_difference(saved_model.get("config", {}), known.config)) is not None:
        raise InputError(
            f"run folder {str(run)!r} is of a model with another configuration: {differing!r} of "
            f"{name!r} differs from that of {known.name!r}; use another folder"
        )
    return True
