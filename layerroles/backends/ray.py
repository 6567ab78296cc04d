"""Workers of a Ray cluster, each with a model of its own; this process hands out and stores.

A job is asked by one worker and its answers come back whole. One whose worker died, was lost with
its node, failed, or took too long is asked again by another, in a fresh process. Ablations travel
by value, so that those of a script or a plugin need not be installed on the workers; models travel
by name and are loaded there once.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Literal

import torch
from transformer_lens.model_bridge import TransformerBridge

from layerroles.backends.base import Backend, Job, Part, Workers, work, workers_of
from layerroles.backends.pool import Pool
from layerroles.engine import Engine
from layerroles.engine.memory import budget
from layerroles.errors import InputError
from layerroles.models import Origin, load, origin, prepared, provenance
from layerroles.progress import duration

log = logging.getLogger(__name__)

_OBJECT_STORE = 256 * 2**20  # bytes, of a cluster that is started here: jobs and answers are small


@dataclass(frozen=True)
class Ray(Backend):
    """Answers on a Ray cluster.

    Args:
        address: of a cluster, as `ray.init` takes it, such as `"auto"`; by default the one that
            this process is connected to, else one is started on this machine for as long as the run
            takes.
        workers: how many processes hold a model; `"auto"` is one for each share of
            `gpus_per_worker`, in a cluster without GPUs one a node.
        gpus_per_worker: by default 1, in a cluster without GPUs 0. Over more than one the model is
            spread, a fraction shares one.
        timeout: seconds that a worker may take to load the model, or to answer one job, before it
            is taken for hung and replaced.
        attempts: how often a job is tried that fails, or whose worker dies.
        make: what a worker makes its engine with, in place of loading the sweep's model.

    Raises:
        InputError: a number that makes no sense.
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
        if gpus is not None and (not 0 <= gpus < math.inf or (gpus > 1 and gpus % 1)):
            raise InputError(f"gpus_per_worker={gpus!r} is neither a whole number nor below 1")
        for name in ("timeout", "attempts"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name}={getattr(self, name)!r} is not a number above 0")

    @contextmanager
    def opened(self, engine: Engine) -> Iterator[Pool]:
        """Start the workers.

        Raises:
            InputError: Ray is not installed, there is no cluster at the address, it has too few
                GPUs, or the model did not come from `load`.
        """
        ray, model = _ray(), None
        source = None if self.make else origin(engine.model)
        if prepared(engine.model).has_weights:
            model = provenance(engine.model).to_dict()
        with _cluster(ray, self.address):
            n, where, share = _shared_out(ray, self.workers, self.gpus_per_worker)
            loads = partial(_loaded, source, engine.options, where.num_gpus, share)
            make = self.make or loads
            about = f"ray, {n} worker{'s' * (n > 1)}"
            ray.util.register_serializer(TransformerBridge, serializer=origin, deserializer=_held)
            log.info("%d workers are starting", n)
            pool = Pool(
                ray,
                partial(_started, ray, make, about, where),
                n,
                model=model,
                timeout=self.timeout,
                attempts=self.attempts,
            )
            try:
                yield pool
            finally:
                pool.close()
                ray.util.deregister_serializer(TransformerBridge)


@dataclass(frozen=True)
class _Where:
    """What a worker takes of its node."""

    num_cpus: float
    num_gpus: float
    n_threads: int


class _Worker:
    """A process that holds an engine."""

    def start(self, make: Callable[[], Engine], about: str, n_threads: int) -> Workers:
        """Make the engine: here, since Ray tells of `__init__` only that it failed."""
        torch.set_num_threads(n_threads)
        self._engine = make()
        found = workers_of(self._engine)
        return Workers(found.model, f"{about} on {found.machine}")

    def answer(self, job: Job) -> list[Part]:
        """Ask a job."""
        return list(work(self._engine, job))


def _started(ray: Any, make: Callable[[], Engine], about: str, where: _Where) -> tuple[Any, Any]:
    """A new worker, and the reference to what it says when it is ready."""
    wanted = {"num_cpus": where.num_cpus, "num_gpus": where.num_gpus, "max_restarts": 0}
    actor = ray.remote(_Worker).options(**wanted).remote()
    return actor, actor.start.remote(make, about, where.n_threads)


def _loaded(source: Origin | None, options: dict[str, Any], n_gpus: float, share: int) -> Engine:
    """An engine for a sweep's model, with a share of what memory is free."""
    assert source is not None
    spread = {"device_map": "auto"} if n_gpus > 1 else {}
    model = load(source.name, dtype=source.dtype, revision=source.revision, **spread)
    if options["memory"] is None and share > 1:
        free = budget(None, next(model.parameters()).device).total
        options = {**options, "memory": max(2**20, free // share)}
    return Engine(model, **options)


@cache
def _held(source: Origin) -> TransformerBridge:
    """A donor, on the worker: one of a name is loaded once."""
    return load(source.name, dtype=source.dtype, revision=source.revision)


def _shared_out(
    ray: Any, workers: int | Literal["auto"], gpus_per_worker: float | None
) -> tuple[int, _Where, int]:
    """How many workers, what each takes, and how many share the memory of one device.

    Raises:
        InputError: there are not as many GPUs.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU")]
    if not nodes:
        raise InputError("the Ray cluster has no node with CPUs for workers")
    n_gpus = sum(node.get("GPU", 0) for node in nodes)
    each = gpus_per_worker if gpus_per_worker is not None else float(n_gpus > 0)
    # One worker does not reach over nodes.
    most = int(sum(node.get("GPU", 0) // each for node in nodes)) if each else len(nodes)
    n = most if workers == "auto" else workers
    if (each and n > most) or not n:
        raise InputError(
            f"workers={workers!r} with gpus_per_worker={each:g}: the cluster has {n_gpus:g} GPUs "
            f"on {len(nodes)} nodes, enough for {most} workers"
        )
    beside = math.ceil(n / len(nodes))
    cpus = min(node["CPU"] for node in nodes) / beside
    threads = max(1, int(cpus))
    num_cpus = float(threads) if cpus >= 1 else math.floor(cpus * 100) / 100
    share = int(1 / each) if 0 < each < 1 else 1 if each else beside
    return n, _Where(num_cpus, each, threads), share


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Within the context, this process is connected to a cluster.

    Raises:
        InputError: there is none at the address.
    """
    if ray.is_initialized() and address is None:
        yield
        return
    own: dict[str, Any] = {"object_store_memory": _OBJECT_STORE, "include_dashboard": False}
    began = time.monotonic()
    try:
        ray.init(
            address=address or "local",
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else own),
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"address={address!r}: no Ray cluster can be used ({reason})") from error
    log.info("connected to Ray after %s", duration(time.monotonic() - began))
    try:
        yield
    finally:
        ray.shutdown()


def _ray() -> Any:
    """Ray itself.

    Raises:
        InputError: it is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers of this run
    try:
        import ray
    except ImportError as error:
        raise InputError(
            "backend='ray' needs the package ray: pip install 'layerroles[ray]'"
        ) from error
    return ray
