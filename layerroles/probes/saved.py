"""Probe frames kept in a run folder, so that a report can be drawn again without the model."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from layerroles.errors import InputError
from layerroles.models import provenance
from layerroles.probes.base import Probe
from layerroles.tasks import Task

_FOLDER = "probes"


def measure_into(
    run: str | Path,
    probe: Probe,
    model: TransformerBridge,
    tasks: Sequence[Task],
    *,
    limit: int = 32,
    seed: int = 0,
) -> pd.DataFrame:
    """Measure and keep the frame in a run folder; what was measured alike before is read back.

    Raises:
        InputError: as `Probe.measure`, or the folder cannot be written.
    """
    known = provenance(model)
    asked = {
        "probe": repr(probe),
        "weights": known.weights,
        "dtype": known.dtype,
        "tasks": {task.label: task.fingerprint(limit, seed) for task in tasks},
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    table = Path(run) / _FOLDER / f"{probe.name}.csv"
    note = table.with_suffix(".sha256")
    if table.is_file() and note.is_file() and note.read_text() == digest:
        return pd.read_csv(table)
    frame = probe.measure(model, tasks, limit=limit, seed=seed)
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        # The note goes first and comes last: a table that was cut off is never taken for whole.
        note.unlink(missing_ok=True)
        frame.to_csv(table, index=False)
        note.write_text(digest)
    except OSError as error:
        raise InputError(f"{str(table)!r} cannot be written: {error.strerror}") from error
    return frame


def read_saved(run: str | Path) -> list[pd.DataFrame]:
    """The probe frames that a run folder holds; an empty list if there are none."""
    tables = sorted((Path(run) / _FOLDER).glob("*.csv"))
    return [pd.read_csv(table) for table in tables if table.with_suffix(".sha256").is_file()]
