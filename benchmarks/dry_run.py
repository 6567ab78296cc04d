"""A large sweep through the real Ray backend and store, with a stand-in for the model.

What a worker would compute is made up at once, so that all of the time is what handing out,
judging and storing take. Some jobs fail, and some workers die. Each answer says of which condition
and request it is, so that a row that is lost, doubled or put elsewhere is found.

    python benchmarks/dry_run.py --units 10000 --workers 2
"""

import argparse
import json
import logging
import os
import random
import sqlite3
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import layerroles as lr
from layerroles.ablations import Condition
from layerroles.backends import Ray
from layerroles.engine import Engine, Writing

MODEL = "smollm2-135m"
CONDITIONS = 61  # every layer of it at all positions, after the first, and the intact model


class StandIn(Engine):
    """Answers immediately, and fails at the configured rate."""

    chance: random.Random
    failing: float
    dying: float

    def answer_each(
        self, asked: Sequence[Any], conditions: Sequence[Condition]
    ) -> Iterator[tuple[int, int, list[Any]]]:
        """What `said` says, for each request."""
        drawn = self.chance.random()
        if drawn < self.dying:
            os._exit(1)
        if drawn < self.dying + self.failing:
            raise RuntimeError("injected")
        for place, condition in enumerate(conditions):
            for which, requests in enumerate(asked):
                texts = (said(condition.hash, one.context) for one in requests)
                yield which, place, [Writing(text, 8, True, True, True) for text in texts]


def said(condition: str, context: Sequence[int]) -> str:
    """A text by which a condition and a request are known again."""
    return f"{condition} {zlib.crc32(repr(tuple(context)).encode()):08x}"


def stand_in(failing: float, dying: float) -> Engine:
    """What a worker holds."""
    found = StandIn(lr.load(MODEL, dtype="float32"))
    found.chance, found.failing, found.dying = random.Random(os.getpid()), failing, dying
    return found


class Attempts(logging.Handler):
    """Counts what the pool tells of jobs that failed, and of workers that died."""

    def __init__(self) -> None:
        super().__init__()
        self.failed = self.died = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.failed += "injected" in record.getMessage()
        self.died += "is gone" in record.getMessage()


def measured(n_units: int, per_unit: int, out: Path, backend: Ray) -> dict[str, Any]:
    """Run so many units of so many examples; what was found, and what it took."""

    class Sized(lr.Sweep):
        rows_at_once: ClassVar[int] = per_unit * CONDITIONS

    model = lr.load(MODEL, device="meta")
    tasks = [lr.task("kv_retrieval", pairs=pairs) for pairs in (4, 6, 8, 10)]
    conditions = [
        *lr.each_layer(model, lr.Skip()),
        *lr.each_layer(model, lr.Skip(), at="after_first"),
    ]
    limit = max(1, n_units * per_unit // len(tasks))
    sweep = Sized(
        model, tasks, conditions, protocols=["generation"], limit=limit, noise_floor=False
    )
    units = list(sweep.calls())
    expected = {
        (condition.hash, call.name, said(condition.hash, request.context))
        for call in units
        for request in call.requests[0]
        for condition in call.conditions
    }
    counted = Attempts()
    logging.getLogger("layerroles.backends.ray_pool").addHandler(counted)
    began, worked = time.monotonic(), time.process_time()
    sweep.run(out, backend=backend)
    seconds, worked = time.monotonic() - began, time.process_time() - worked
    with sqlite3.connect(out / "rows.sqlite") as db:
        rows = db.execute("SELECT condition, task, response FROM rows").fetchall()
    told = json.loads((out / "progress.json").read_text())
    return {
        "units": len(units),
        "rows": len(rows),
        "lost": len(expected - set(rows)),
        "doubled": len(rows) - len(set(rows)),
        "misplaced": len(set(rows) - expected),
        "jobs that failed": counted.failed,
        "workers that died": counted.died,
        "seconds": seconds,
        "seconds, handing out": told["seconds"],
        "driver's processor seconds": worked,
    }


def main() -> None:
    """Measure small units, then units as they are; print what each took."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--units", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--failing", type=float, default=0.05)
    parser.add_argument("--dying", type=float, default=0.002)
    args = parser.parse_args()
    make = partial(stand_in, args.failing, args.dying)
    backend = Ray(workers=args.workers, make=make, attempts=20)
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        for n_units, per_unit in ((args.units, 1), (args.units // 16, 16)):
            out = Path(scratch) / str(per_unit)
            found.append(measured(n_units, per_unit, out, backend))
            print(json.dumps(found[-1], indent=1), flush=True)
    # Two sizes of units, two unknowns: what a unit costs, and what a row does.
    each = [(one["units"], one["rows"], one["driver's processor seconds"]) for one in found]
    (u, r, t), (v, s, w) = each
    per_unit = (t * s - w * r) / (u * s - v * r)
    per_row = (t - per_unit * u) / r
    print(f"driver: {1e3 * per_unit:.2f} ms a unit, {1e6 * per_row:.0f} us a row")


if __name__ == "__main__":
    main()
