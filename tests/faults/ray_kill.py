"""Kill workers of a Ray cluster, and the process that hands out, at random moments of sweeps.

Whatever is killed, a run comes to the rows of one that was answered by this process alone, bit for
bit, and none is stored twice.

    python -m tests.faults.ray_kill --kills 10 --drivers 3
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

import layerroles as lr
from layerroles import Engine
from layerroles.backends import Ray
from tests.faults.kill import KEY
from tests.support.random_models import model_path

_WORKER = "ray::_Worker"


@lr.ablation("slow")
@dataclass(frozen=True)
class Slow(lr.Ablation):
    """Skips, and takes its time, so that there is a time to be killed in."""

    seconds: float = 0.02

    def edit(self, write: torch.Tensor, ctx: lr.EditContext) -> torch.Tensor:
        time.sleep(self.seconds)
        return torch.zeros_like(write)


class Small(lr.Sweep):
    """A sweep of many small jobs."""

    rows_at_once = 4


def sweep(device: str | None = None) -> lr.Sweep:
    """Some 16 jobs, each of about a second."""
    model = lr.load(model_path("llama"), device=device)
    conditions = lr.each_layer(model, Slow())
    task = lr.task("facts", num_fewshot=0)
    return Small(model, [task], conditions, limit=16, noise_floor=False)


def unplaced_sweep() -> lr.Sweep:
    """The same, whose model is loaded by the workers alone."""
    return sweep("meta")


def planted_engine() -> Engine:
    """The model of `looking_sweep`, as a worker makes it."""
    return Engine(lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,)).model)


def looking_sweep() -> lr.Sweep:
    """A sweep of small jobs that looks at 32, 48, 64 and 96 questions, until all is decided."""
    planted = lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,))
    tasks = [task for task in planted.tasks if task.family == "retrieval"]
    conditions = lr.each_layer(planted.model, Slow(0.01))
    return Small(
        planted.model,
        tasks,
        conditions,
        protocols=["generation"],
        until="decided",
        limit=96,
        noise_floor=False,
    )


def workers(of: int) -> list[int]:
    """Numbers of the processes that are workers, of a cluster that a process has started."""
    parents, named = dict[int, int](), list[int]()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                parents[int(entry.name)] = int(stat[1])
                if (entry / "cmdline").read_bytes().startswith(_WORKER.encode()):
                    named.append(int(entry.name))
            except OSError:  # it ended meanwhile
                continue

    def descends(one: int) -> bool:
        return one == of or (one in parents and descends(parents[one]))

    return [one for one in named if descends(one)]


def check_same(one: lr.SweepResult, two: lr.SweepResult) -> None:
    """Every row is the same to the last bit, and there is one of each."""
    frames = [each.frame.set_index(KEY).sort_index() for each in (one, two)]
    assert not frames[1].index.has_duplicates
    assert frames[0].equals(frames[1]), frames[0].compare(frames[1])


class Killer(threading.Thread):
    """Kills a worker now and then, until it is told to stop or has killed enough."""

    def __init__(self, chance: random.Random, most: int) -> None:
        super().__init__()
        self.killed = 0
        self._chance, self._most, self._stop_it = chance, most, threading.Event()

    def run(self) -> None:
        while self.killed < self._most and not self._stop_it.wait(self._chance.uniform(4, 12)):
            if there := workers(os.getpid()):
                os.kill(self._chance.choice(there), signal.SIGKILL)
                self.killed += 1

    def stop(self) -> None:
        self._stop_it.set()
        self.join()


def killed_workers(
    expected: lr.SweepResult,
    folder: Path,
    kills: int,
    seed: int = 0,
    asked: Callable[[], lr.Sweep] = unplaced_sweep,
    make: Callable[[], Engine] | None = None,
) -> int:
    """Run sweeps until so many workers have been killed in them; returns how many sweeps."""
    chance, done, runs = random.Random(seed), 0, 0
    while done < kills:
        killer = Killer(chance, kills - done)
        killer.start()
        try:
            # A job, or a start, that is hit again and again is no failure of its own.
            backend = Ray(workers=2, attempts=100, make=make)
            found = asked().run(folder / f"run {runs}", backend=backend)
        finally:
            killer.stop()
        check_same(expected, found)
        done += killer.killed
        runs += 1
        print(f"run {runs}: {killer.killed} workers killed, the same rows", flush=True)
    return runs


def killed_drivers(expected: lr.SweepResult, run: Path, kills: int, seed: int = 0) -> None:
    """Kill the process that hands out, once it has stored something; go on in a new one."""
    chance = random.Random(seed)
    for _ in range(kills):
        command = [sys.executable, "-m", "tests.faults.ray_kill", "--child", str(run)]
        child, before = subprocess.Popen(command), _stored(run)
        while _stored(run) <= before and child.poll() is None:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2))
        left = workers(child.pid)
        child.kill()
        assert child.wait() == -signal.SIGKILL, "the process ended before it was killed"
        assert before < _stored(run) < len(expected.frame), "it was not killed at work"
        patience = time.monotonic() + 60
        while any(Path(f"/proc/{one}").exists() for one in left):
            assert time.monotonic() < patience, "workers outlive the process that handed out"
            time.sleep(0.2)
        print(f"driver killed with {_stored(run)} of {len(expected.frame)} rows", flush=True)
    check_same(expected, unplaced_sweep().run(run, backend="ray", workers=2))


def _stored(run: Path) -> int:
    try:
        return len(lr.read(run).frame)
    except lr.InputError:  # not begun yet
        return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--drivers", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=Path)
    args = parser.parse_args()
    if args.child:
        unplaced_sweep().run(args.child, backend="ray", workers=2)
    else:
        with tempfile.TemporaryDirectory() as scratch:
            alone = sweep().run(Path(scratch) / "alone")
            killed_workers(alone, Path(scratch), args.kills, args.seed)
            killed_drivers(alone, Path(scratch) / "drivers", args.drivers, args.seed)
            alone = looking_sweep().run(Path(scratch) / "looking")
            killed_workers(
                alone, Path(scratch) / "looks", args.kills, args.seed, looking_sweep, planted_engine
            )
