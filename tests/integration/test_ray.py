"""A cluster of two workers on this machine gives the rows that this process gives, to the bit."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from jaxtyping import Float
from torch import Tensor

import layerroles as lr
from layerroles.backends import Local, Ray
from layerroles.engine import Engine
from tests.faults.ray_kill import (
    check_same,
    killed_drivers,
    killed_workers,
    looking_sweep,
    planted_engine,
    sweep,
)
from tests.support.random_models import model_path

# As the workers have it, so that sums are rounded alike.
pytestmark = pytest.mark.usefixtures("one_thread")


@lr.ablation("halved")
@dataclass(frozen=True)
class Halved(lr.Ablation):
    """An ablation that no worker has: this file is no part of the package."""

    factor: float = 0.5

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: lr.EditContext
    ) -> Float[Tensor, "row pos *site"]:
        return self.factor * write


def even(ctx: lr.EditContext) -> Tensor:
    return ctx.positions % 2 == 0


class Small(lr.Sweep):
    """So that there is something to share out."""

    rows_at_once = 32


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all tests: starting it takes longer than they do."""
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()


def two_tasks() -> list[lr.Task]:
    return [lr.task("facts", num_fewshot=shots) for shots in (0, 1)]


@pytest.mark.usefixtures("cluster")
def test_two_workers_give_the_rows_of_this_process(tmp_path: Path) -> None:
    model = lr.load(model_path("llama"))
    donor = lr.load(model_path("llama", seed=1))
    reference = lr.Reference(["a reference of some words", "and another one"])
    broken = lr.Condition({lr.Site(1): Halved(float("nan"))})
    conditions = [
        broken,
        *lr.each_layer(model, lr.Skip(), at="after_first"),
        *lr.each_head(model, Halved(), layers=[1]),
        lr.Condition({lr.Site(0, "mlp"): lr.Mean(reference), lr.Site(2): Halved(-1.0)}),
        lr.Condition({lr.Site(1): Halved()}, at=even),
        lr.Condition({lr.Site(1): lr.Swap(donor)}),
    ]
    asked = Small(model, two_tasks(), conditions, limit=10, coherence=True)  # in three rounds
    alone = asked.run(tmp_path / "alone")
    shared = asked.run(tmp_path / "shared", backend="ray", workers=2)
    check_same(alone, shared)
    assert alone.frame.details.str.contains("coherence").any()
    assert alone.manifest["noise_floor"] == shared.manifest["noise_floor"]
    assert alone.manifest["executors"] == shared.manifest["executors"]
    assert shared.manifest["machine"].startswith("ray, 2 workers on ")
    assert shared.manifest["seconds"] > 0
    of_broken = shared.frame[shared.frame.condition == broken.name]
    assert set(of_broken.status) == {"not finite"}
    assert of_broken.score.isna().all()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_is_asked_until_it_is_decided_is_the_same(tmp_path: Path) -> None:
    def planted() -> Any:
        return lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(4,), inert=(5,))

    def engine() -> Engine:
        return Engine(planted().model)

    made = planted()
    conditions = lr.each_layer(made.model, lr.Skip())
    asked = lr.Sweep(
        made.model,
        [task for task in made.tasks if task.family == "retrieval"],
        conditions,
        protocols=["generation"],
        until="decided",
        limit=96,
    )
    alone = asked.run(tmp_path / "alone")
    shared = asked.run(tmp_path / "shared", backend=Ray(workers=2, make=engine))
    check_same(alone, shared)
    assert alone.frame.groupby("condition").size().nunique() > 1
    assert (shared.decisions()["verdict"] != "undecided").all()


@lr.ablation("failing")
@dataclass(frozen=True)
class Failing(lr.Ablation):
    """Fails, as a defect of a user's own would."""

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: lr.EditContext
    ) -> Float[Tensor, "row pos *site"]:
        raise ZeroDivisionError("nothing to divide by")


@lr.ablation("holding")
@dataclass(frozen=True)
class Holding(lr.Ablation):
    """Holds what cannot be sent to another process."""

    lock: Any

    def edit(
        self, write: Float[Tensor, "row pos *site"], ctx: lr.EditContext
    ) -> Float[Tensor, "row pos *site"]:
        return write


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_what_cannot_be_answered_is_told_in_a_line(tmp_path: Path) -> None:
    model = lr.load(model_path("llama"), device="meta")
    one = lr.Condition({lr.Site(0): Failing()})
    asked = lr.Sweep(model, two_tasks()[:1], [one], limit=3)
    with pytest.raises(lr.InputError, match=r"failed \(attempts: 1\): ZeroDivisionError: nothing"):
        asked.run(tmp_path / "failing", backend=Ray(workers=1, attempts=1))

    def other_weights() -> Engine:
        return Engine(lr.load(model_path("llama", seed=7)))

    held = lr.Condition({lr.Site(0): Holding(threading.Lock())})
    asked = lr.Sweep(model, two_tasks()[:1], [held], limit=3)
    with pytest.raises(lr.InputError, match=r"cannot be sent to a worker: cannot pickle '_thread"):
        asked.run(tmp_path / "unsendable", backend=Ray(workers=1))

    own = lr.load(model_path("llama"))
    asked = lr.Sweep(own, two_tasks()[:1], lr.each_layer(own, lr.Skip()), limit=3)
    with pytest.raises(lr.InputError, match="has other weights"):
        asked.run(tmp_path / "other", backend=Ray(workers=1, make=other_weights))
    assert not (tmp_path / "other" / "rows.sqlite").exists()
    lost = lr.load(model_path("gpt2"), device="meta")
    moved = lr.Sweep(lost, two_tasks()[:1], lr.each_layer(lost, lr.Skip()), limit=3)
    object.__setattr__(lr.models.prepared(lost).origin, "name", str(tmp_path / "no model"))
    with pytest.raises(lr.InputError, match="no model"):
        moved.run(tmp_path / "lost", backend="ray", workers=1)


@pytest.mark.ray
def test_kills_of_workers_and_of_the_driver_change_nothing(tmp_path: Path) -> None:
    alone = sweep().run(tmp_path / "alone")
    killed_workers(alone, tmp_path, 1, seed=1)
    killed_drivers(alone, tmp_path / "drivers", 1, seed=1)


@pytest.mark.ray
def test_kills_of_workers_during_looks_change_neither_rows_nor_verdicts(tmp_path: Path) -> None:
    alone = looking_sweep().run(tmp_path / "alone")
    assert alone.frame.groupby("condition").size().nunique() > 1  # some were asked more
    killed_workers(alone, tmp_path, 2, 1, looking_sweep, planted_engine)
    shared = lr.read(tmp_path / "run 0")
    assert shared.decisions().equals(alone.decisions())
    assert (shared.decisions()["verdict"] != "undecided").all()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"backend": "rey"}, r"unknown backend 'rey': did you mean 'ray'\?"),
        ({"workers": 2}, "workers is an option of backend='ray', not of 'local'"),
        ({"backend": Local(), "timeout": 3.0}, "timeout is an option of backend='ray': give it"),
        ({"backend": "ray", "workers": 0}, "workers=0 is neither 'auto' nor a number above 0"),
        ({"backend": "ray", "gpus_per_worker": 1.5}, "gpus_per_worker=1.5 is neither a whole"),
        ({"backend": "ray", "gpus_per_worker": -1.0}, "gpus_per_worker=-1.0 is neither a whole"),
        ({"backend": "ray", "timeout": 0.0}, "timeout=0.0 is not a number above 0"),
        ({"backend": "ray", "address": "ray://host:10001"}, "Ray's client is not used"),
    ],
)
def test_wrong_options_are_told_in_a_line(
    options: dict[str, Any], line: str, tmp_path: Path
) -> None:
    model = lr.load(model_path("llama"))
    asked = lr.Sweep(model, two_tasks()[:1], lr.each_layer(model, lr.Skip()), limit=3)
    with pytest.raises(lr.InputError, match=line):
        asked.run(tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


@pytest.mark.ray
@pytest.mark.usefixtures("cluster")
def test_more_gpus_than_there_are(tmp_path: Path) -> None:
    model = lr.load(model_path("llama"))
    asked = lr.Sweep(model, two_tasks()[:1], lr.each_layer(model, lr.Skip()), limit=3)
    with pytest.raises(lr.InputError, match="the cluster has 0 GPUs on 1 nodes, enough for 0"):
        asked.run(tmp_path / "run", backend="ray", gpus_per_worker=1.0)


def test_a_model_without_a_name_cannot_be_sent(tmp_path: Path) -> None:
    made = lr.planted()
    asked = lr.Sweep(made.model, made.tasks, lr.each_layer(made.model, lr.Skip()), limit=3)
    with pytest.raises(lr.InputError, match="was not loaded by name"):
        asked.run(tmp_path / "run", backend="ray")
