"""Workers of a Ray cluster, each with a model of its own; this process hands out and stores.

A job is asked by one worker and its answers come back whole (see `pool` for what becomes of those
that fail). Ablations travel by value, so that those of a script or a plugin need not be installed
on the workers; models travel by name and are loaded there once.
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

from layerroles.backends.base import Backend, Job, Part, Workers, work, workers_of
from layerroles.backends.pool import Pool
from layerroles.engine import Engine, budget
from layerroles.errors import InputError
from layerroles.models import Origin, load, origin, prepared, provenance
from layerroles.progress import duration

log = logging.getLogger(__name__)

_OBJECT_STORE = 256 * 2**20  # bytes, of a cluster that is started here: jobs and answers are small


@dataclass(frozen=True)
class Ray(Backend):
    """Answers on a Ray cluster.

    Args:
        address: of a cluster whose node this is, such as `"auto"` or `"HOST:6379"`; by default the
            one that this process is connected to, else one is started on this machine for as long
            as the run takes.
        workers: how many processes hold a model; `"auto"` is one for each share of
            `gpus_per_worker`, in a cluster without GPUs one a node.
        gpus_per_worker: by default 1, in a cluster without GPUs 0. Over more than one the model is
            spread, a fraction shares one.
        timeout: seconds that a worker may take to load the model, or to answer one job, before it
            is taken for hung and replaced.
        attempts: how often a job is tried that fails, or whose worker dies.
        make: what a worker makes its engine with, in place of loading the sweep's model; it is
            imported there, or sent if the script itself defines it.

    Raises:
        InputError: a number that makes no sense, or an address of another kind.
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
        """It takes Ray, and a model that workers can load."""
        _ray()
        if self.make is None:
            origin(engine.model)

    @contextmanager
    def opened(self, engine: Engine) -> Iterator[Pool]:
        """Start the workers.

        Raises:
            InputError: there is no cluster at the address, or it has too few GPUs.
        """
        ray, model = _ray(), None
        source = None if self.make else origin(engine.model)
        if prepared(engine.model).has_weights:
            model = provenance(engine.model).to_dict()
        with _cluster(ray, self.address):
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            n, where = shared_out(nodes, self.workers, self.gpus_per_worker)
            make = self.make or partial(_loaded, source, engine.options, where)
            about = f"ray, {n} worker{'s' * (n > 1)}"
            ray.util.register_serializer(TransformerBridge, serializer=origin, deserializer=_held)
            pool = Pool(
                ray,
                partial(_started, ray, make, about, where),
                model=model,
                timeout=self.timeout,
                attempts=self.attempts,
            )
            try:
                pool.start(n)
                yield pool
            finally:
                pool.close()
                ray.util.deregister_serializer(TransformerBridge)


@dataclass(frozen=True)
class Where:
    """What a worker takes of its node.

    Attributes:
        cpus: that it asks for, if there are no GPUs; where there are, these decide.
        gpus: that it asks for.
        beside: workers that share the processors of a node, at the most.
        sharing: workers that share the memory of one device.
    """

    cpus: float
    gpus: float
    beside: int
    sharing: int


def shared_out(
    nodes: Sequence[dict[str, float]],
    workers: int | Literal["auto"],
    gpus_per_worker: float | None,
) -> tuple[int, Where]:
    """How many workers there are to be, and what each takes.

    Args:
        nodes: the resources of each node, as Ray tells them.
        workers: how many are wanted.
        gpus_per_worker: as for `Ray`.

    Raises:
        InputError: there are not as many GPUs, or no processors.
    """
    n_gpus = sum(node.get("GPU", 0) for node in nodes)
    each = gpus_per_worker if gpus_per_worker is not None else float(n_gpus > 0)
    if not each:
        hosts = [node["CPU"] for node in nodes if node.get("CPU")]
        if not hosts:
            raise InputError("the Ray cluster has no node with CPUs for workers")
        n = len(hosts) if workers == "auto" else workers
        beside = math.ceil(n / len(hosts))
        cpus = min(hosts) / beside
        cpus = math.floor(cpus) if cpus >= 1 else math.floor(cpus * 100) / 100
        return n, Where(float(cpus), 0.0, beside, beside)
    # A worker does not reach over nodes, nor a fraction over GPUs.
    per_gpu = int(1 / each + 1e-9) if each < 1 else 1
    fit = [int(node.get("GPU", 0)) * per_gpu // max(1, int(each)) for node in nodes]
    most = sum(fit)
    n = most if workers == "auto" else workers
    if n > most or not n:
        raise InputError(
            f"workers={workers!r} with gpus_per_worker={each:g}: the cluster has {n_gpus:g} GPUs "
            f"on {len(nodes)} nodes, enough for {most} workers"
        )
    return n, Where(0.0, float(each), max(fit), per_gpu)


class _Worker:
    """A process that holds an engine."""

    def start(self, make: Callable[[], Engine], about: str, where: Where) -> Workers:
        """Make the engine: here, since Ray tells of `__init__` only that it failed."""
        if not where.gpus:  # not every version of Ray hides them
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // where.beside))
        self._engine = make()
        found = workers_of(self._engine)
        return Workers(found.model, f"{about} on {found.machine}")

    def answer(self, job: Job) -> list[Part]:
        """Ask a job."""
        return list(work(self._engine, job))


def _started(ray: Any, make: Callable[[], Engine], about: str, where: Where) -> tuple[Any, Any]:
    """A new worker, and the reference to what it says when it is ready."""
    wanted: dict[str, Any] = {"num_cpus": where.cpus, "num_gpus": where.gpus, "max_restarts": 0}
    actor = ray.remote(_Worker).options(**wanted, scheduling_strategy="SPREAD").remote()
    return actor, actor.start.remote(make, about, where)


def _loaded(source: Origin | None, options: dict[str, Any], where: Where) -> Engine:
    """An engine for a sweep's model, with a share of what memory is free."""
    assert source is not None
    spread = {"device_map": "auto"} if where.gpus > 1 else {}
    model = load(source.name, dtype=source.dtype, revision=source.revision, **spread)
    if options["memory"] is None and where.sharing > 1:
        free = budget(None, next(model.parameters()).device).total
        options = {**options, "memory": max(2**20, free // where.sharing)}
    return Engine(model, **options)


@cache
def _held(source: Origin) -> TransformerBridge:
    """A donor, on the worker: one of a name is loaded once."""
    return load(source.name, dtype=source.dtype, revision=source.revision)


@contextmanager
def _cluster(ray: Any, address: str | None) -> Iterator[None]:
    """Within the context, this process is connected to a cluster.

    Raises:
        InputError: there is none at the address, or it is connected to another.
    """
    if ray.is_initialized():
        if address not in (None, "auto"):
            raise InputError(
                f"address={address!r}: this process is connected to a Ray cluster already, leave "
                f"the address out"
            )
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
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
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


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
