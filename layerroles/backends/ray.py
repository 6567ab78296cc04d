"""Answer the jobs of a sweep with workers of a Ray cluster, each of which holds the model.

This process hands out the jobs and receives the answers. One worker answers a whole job and returns
all answers together (see `ray_pool` for jobs that fail). Ablations of a script or a plugin are sent
by value, so that they need not be installed on the workers. Models are sent by name, and each
worker loads them once.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.backends.base import Backend, Job, JobPart, Workers, answer_job, describe_worker
from layerroles.backends.ray_pool import Pool
from layerroles.engine import Engine, memory_budget
from layerroles.errors import InputError
from layerroles.models import Origin, load, origin, prepared, provenance
from layerroles.progress import format_duration

log = logging.getLogger(__name__)

_OBJECT_STORE = 256 * 2**20  # bytes, in a cluster started here; jobs and answers are small


@dataclass(frozen=True)
class Ray(Backend):
    """The backend that answers jobs on a Ray cluster.

    Args:
        address: the address, such as `"auto"` or `"HOST:6379"`, of a cluster that this machine is a
            node of. None uses the cluster that this process is connected to; if it is not connected
            to one, a cluster is started on this machine for the run.
        workers: the number of processes that hold a model. `"auto"` starts as many as the GPUs
            allow, each with `gpus_per_worker` of them; or one per node if workers have no GPUs.
        gpus_per_worker: the number of GPUs of each worker; None is 1, or 0 in a cluster without
            GPUs. A worker with several GPUs spreads its model over them; with a fraction, workers
            share a GPU.
        timeout: seconds that a worker may take to load the model, or to answer one job, before it
            is considered hung and replaced.
        attempts: how often a job is tried, in all, if it fails or its worker dies.
        make: a function that makes a worker's engine, instead of loading the sweep's model. Workers
            import the function by name, or get it by value if the running script defines it.

    Raises:
        InputError: an invalid number, or an address of Ray's client (with `://`).
    """

    address: str | None = None
    workers: int | Literal["auto"] = "auto"
    gpus_per_worker: float | None = None
    timeout: float = 3600.0
    attempts: int = 3
    make: Callable[[], Engine] | None = None

    def __post_init__(self) -> None:
        if self.workers != "auto" and (type(self.workers) is not int or self.workers < 1):
            raise InputError(f"workers={self.workers!r} is neither 'auto' nor a number above 0")
        gpus = self.gpus_per_worker
        if gpus is not None and (not _is_number(gpus) or gpus < 0 or (gpus > 1 and gpus % 1)):
            raise InputError(f"gpus_per_worker={gpus!r} is neither a whole number nor below 1")
        if not _is_number(self.timeout) or self.timeout <= 0:
            raise InputError(f"timeout={self.timeout!r} is not a number above 0")
        if type(self.attempts) is not int or self.attempts < 1:
            raise InputError(f"attempts={self.attempts!r} is not a whole number above 0")
        if self.address is not None and "://" in self.address:
            raise InputError(
                f"address={self.address!r}: Ray's client is not used, run the command on a node of "
                f"the cluster with address='auto'"
            )

    def check(self, engine: Engine) -> None:
        """Check that Ray is installed and workers can load the model.

        Raises:
            InputError: Ray is not installed, or the model did not come from `load`.
        """
        _import_ray()
        if self.make is None:
            origin(engine.model)

    @contextmanager
    def opened(self, engine: Engine) -> Iterator[Pool]:
        """Start the workers, which answer jobs inside the `with` block; yield their pool.

        Raises:
            InputError: there is no cluster at the address, or it has too few GPUs or no CPUs.
        """
        ray, model = _import_ray(), None
        source = None if self.make else origin(engine.model)
        if prepared(engine.model).has_weights:
            model = provenance(engine.model).to_dict()
        with _connect_cluster(ray, self.address):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            n_workers, resources = plan_workers(nodes, self.workers, self.gpus_per_worker)
            make = self.make or partial(_load_engine, source, engine.options, resources)
            description = f"ray, {n_workers} worker{'s' * (n_workers > 1)}"
            ray.util.register_serializer(
                TransformerBridge, serializer=origin, deserializer=_load_donor
            )
            pool = Pool(
                ray,
                partial(_start_worker, ray, make, description, resources),
                model=model,
                timeout=self.timeout,
                attempts=self.attempts,
            )
            try:
                pool.start(n_workers)
                yield pool
            finally:
                pool.close()
                ray.util.deregister_serializer(TransformerBridge)


@dataclass(frozen=True)
class WorkerResources:
    """The resources of a worker.

    Attributes:
        cpus: CPUs to request from Ray; 0 for workers with GPUs.
        gpus: GPUs to request from Ray.
        per_node: maximum number of workers that share the processors of a node.
        per_device: maximum number of workers that share the memory of a device.
    """

    cpus: float
    gpus: float
    per_node: int
    per_device: int


def plan_workers(
    nodes: Sequence[dict[str, float]],
    workers: int | Literal["auto"],
    gpus_per_worker: float | None,
) -> tuple[int, WorkerResources]:
    """Return the number of workers to start, and the resources of each.

    Args:
        nodes: the resources of each node, as Ray reports them.
        workers: the number of workers wanted, as for `Ray`.
        gpus_per_worker: the number of GPUs of each worker, as for `Ray`.

    Raises:
        InputError: the cluster has too few GPUs, or no CPUs.
    """
    n_gpus = sum(node.get("GPU", 0) for node in nodes)
    gpus = gpus_per_worker if gpus_per_worker is not None else float(n_gpus > 0)
    if not gpus:
        hosts = [node["CPU"] for node in nodes if node.get("CPU")]
        if not hosts:
            raise InputError("the Ray cluster has no node with CPUs for workers")
        n_workers = len(hosts) if workers == "auto" else workers
        per_node = math.ceil(n_workers / len(hosts))
        cpus = min(hosts) / per_node
        cpus = math.floor(cpus) if cpus >= 1 else math.floor(cpus * 100) / 100
        return n_workers, WorkerResources(float(cpus), 0.0, per_node, per_node)
    # All GPUs of a worker are on one node, and a fraction of a GPU is on one GPU.
    per_gpu = int(1 / gpus + 1e-9) if gpus < 1 else 1
    fitting = [int(node.get("GPU", 0)) * per_gpu // max(1, int(gpus)) for node in nodes]
    n_possible = sum(fitting)
    n_workers = n_possible if workers == "auto" else workers
    if n_workers > n_possible or not n_workers:
        raise InputError(
            f"workers={workers!r} with gpus_per_worker={gpus:g}: the cluster has {n_gpus:g} GPUs "
            f"on {len(nodes)} nodes, enough for {n_possible} workers"
        )
    return n_workers, WorkerResources(0.0, float(gpus), max(fitting), per_gpu)


class _Worker:
    """The Ray actor: a process that holds an engine."""

    def start(
        self, make: Callable[[], Engine], description: str, resources: WorkerResources
    ) -> Workers:
        """Make the engine; return the worker's description.

        This is not done in `__init__`, since Ray does not report errors that are raised there.
        """
        if not resources.gpus:  # hide GPUs: not every version of Ray does
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // resources.per_node))
        self._engine = make()
        workers = describe_worker(self._engine)
        return Workers(workers.model, f"{description} on {workers.machine}")

    def answer(self, job: Job) -> list[JobPart]:
        """Answer a job; return all its parts."""
        return list(answer_job(self._engine, job))


def _start_worker(
    ray: Any, make: Callable[[], Engine], description: str, resources: WorkerResources
) -> tuple[Any, Any]:
    """Start a worker; return the actor and a Ray reference to its `Workers` description."""
    options: dict[str, Any] = {
        "num_cpus": resources.cpus,
        "num_gpus": resources.gpus,
        "max_restarts": 0,
    }
    actor = ray.remote(_Worker).options(**options, scheduling_strategy="SPREAD").remote()
    return actor, actor.start.remote(make, description, resources)


def _load_engine(
    source: Origin | None, options: dict[str, Any], resources: WorkerResources
) -> Engine:
    """Load a sweep's model on a worker; return an engine with the worker's share of memory."""
    assert source is not None
    spread = {"device_map": "auto"} if resources.gpus > 1 else {}
    model = load(source.name, dtype=source.dtype, revision=source.revision, **spread)
    if options["memory"] is None and resources.per_device > 1:
        free = memory_budget(None, next(model.parameters()).device).total
        options = {**options, "memory": max(2**20, free // resources.per_device)}
    return Engine(model, **options)


@cache
def _load_donor(source: Origin) -> TransformerBridge:
    """Load the donor model of a `Swap` on the worker, once for each name, dtype and revision.

    The donor's blocks or sublayers run in place of the model's own.
    """
    return load(source.name, dtype=source.dtype, revision=source.revision)


@contextmanager
def _connect_cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Connect this process to a Ray cluster inside the `with` block; see `Ray` for the address.

    Raises:
        InputError: there is no cluster at the address, or an address other than "auto" is given
            while the process is connected to a cluster.
    """
    if ray.is_initialized():
        if address not in (None, "auto"):
            raise InputError(
                f"address={address!r}: this process is connected to a Ray cluster already, leave "
                f"the address out"
            )
        yield
        return
    options: dict[str, Any] = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    began = time.monotonic()
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else options),
        )
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"address={address!r}: no Ray cluster can be used ({reason})") from error
    log.info("connected to Ray after %s", format_duration(time.monotonic() - began))
    try:
        yield
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    """Import Ray and return the module.

    Raises:
        InputError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports this run to its makers
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "backend='ray' needs the package ray: pip install 'layerroles[ray]'"
        ) from error
    return ray


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
