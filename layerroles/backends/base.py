"""The jobs of a sweep, their answers, and the interface of the workers that compute them."""

import os
import platform
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from layerroles.ablations import Condition
from layerroles.engine import Engine, Requests
from layerroles.models import provenance
from layerroles.protocols import WrittenText, find_written_texts, score_coherence


@dataclass(frozen=True)
class Job:
    """A part of a sweep: requests that one worker answers, under the same conditions.

    The answers are stored together, or, if `apart`, those of some conditions at a time.

    Attributes:
        name: the name shown to users: the task's label, or `noise floor`.
        requests: a list of encoded requests for each cell (a task under a protocol).
        conditions: the conditions under which all requests are asked.
        apart: whether results are independent of which conditions share a batch, so that the
            answers under each condition may be returned separately.
        coherence: whether the intact model scores the generated texts; if so, the answers under all
            conditions are returned together.
    """

    name: str
    requests: tuple[Requests, ...]
    conditions: tuple[Condition, ...]
    apart: bool = True
    coherence: bool = False

    def __str__(self) -> str:
        names = [condition.name for condition in self.conditions]
        what = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        return f"{self.name} under {what} ({len(self.requests[0])} requests)"


@dataclass(frozen=True)
class JobPart:
    """Answers to all of a job's requests under some of its conditions, with time and memory used.

    Attributes:
        answers: maps (condition index, cell index) to a list of `Score` or `Writing` values.
        coherence: the log-likelihood of each generated text (empty and non-finite ones left out)
            under the intact model, in nats per token; empty unless the job asks for it.
        seconds: seconds taken for these answers.
        executors: the names of the engine's executors, such as `fused`, that have answered so far.
        times_halved: how often batches were halved so far because memory ran out.
        peak_memory: the peak memory so far, in bytes.
    """

    answers: Mapping[tuple[int, int], list[Any]]
    coherence: Mapping[WrittenText, float] = field(default_factory=dict)
    seconds: float = 0.0
    executors: tuple[str, ...] = ()
    times_halved: int = 0
    peak_memory: int = 0


@dataclass(frozen=True)
class Workers:
    """The description of a run's workers in its manifest.

    Attributes:
        model: the model that they hold, as returned by `Provenance.to_dict`.
        machine: the machine's architecture, number of CPUs and device, as text.
    """

    model: Mapping[str, Any]
    machine: str


class OpenBackend(ABC):
    """Base class of open backends: their workers are started and can answer jobs."""

    @property
    @abstractmethod
    def workers(self) -> Workers:
        """The description of the workers for the run's manifest; may wait until one has started.

        Raises:
            InputError: no worker can be started.
        """

    @abstractmethod
    def answer_jobs(self, jobs: Iterable[Job]) -> Iterator[tuple[int, JobPart]]:
        """Answer jobs; yield pairs of a job's index and a part of its answers, in any order.

        A job is taken from the iterable only when a worker can start on it.

        Raises:
            InputError: a job cannot be answered.
        """


class Backend(ABC):
    """Base class of backends: ways to answer jobs, such as in this process or on a Ray cluster.

    A backend holds no state, so that several sweeps can use it.
    """

    @abstractmethod
    def check(self, engine: Engine) -> None:
        """Check that the backend can use a sweep's engine, before anything is computed.

        Raises:
            InputError: the engine's model cannot be run on this backend.
        """

    @abstractmethod
    def opened(self, engine: Engine) -> AbstractContextManager[OpenBackend]:
        """Return a context manager that yields the open backend, with workers for its `with` block.

        Args:
            engine: the engine of the sweep, with its model and options.

        Raises:
            InputError: no worker can answer.
        """


def answer_job(engine: Engine, job: Job) -> Iterator[JobPart]:
    """Answer a job; yield its answers in parts.

    If the job allows it (`apart`, without `coherence`), there is one part for each condition, as
    soon as all cells have answers under it. Otherwise one part holds all conditions.
    """
    began = time.monotonic()
    unfinished: dict[int, dict[int, list[Any]]] = {}  # answers by condition and cell
    finished: dict[int, dict[int, list[Any]]] = {}
    # With `coherence`, texts are scored at the end, when the engine holds nothing else in memory.
    one_by_one = job.apart and not job.coherence
    for cell, condition, answers in engine.answer_each(job.requests, job.conditions):
        by_cell = unfinished.setdefault(condition, {})
        by_cell[cell] = answers
        if len(by_cell) == len(job.requests):
            finished[condition] = unfinished.pop(condition)
        if finished and one_by_one:
            yield _make_part(engine, job, finished, began)
            finished = {}
            began = time.monotonic()
    if finished:
        yield _make_part(engine, job, finished, began)


def _make_part(
    engine: Engine, job: Job, by_condition: Mapping[int, Mapping[int, list[Any]]], began: float
) -> JobPart:
    """Return a part with these answers, and with the coherence of texts if the job asks for it.

    Args:
        engine: the engine that answered; it also scores the coherence.
        job: the job that the answers belong to.
        by_condition: the answers by condition index and cell index.
        began: the value of `time.monotonic()` when work on the part began.
    """
    part = {
        (condition, cell): answers
        for condition, by_cell in sorted(by_condition.items())
        for cell, answers in sorted(by_cell.items())
    }
    nats_per_token: dict[WrittenText, float] = {}
    if job.coherence:
        texts = (
            text
            for (_, cell), answers in part.items()
            for text in find_written_texts(job.requests[cell], answers)
        )
        nats_per_token = score_coherence(engine, texts)
    return JobPart(
        answers=part,
        coherence=nats_per_token,
        seconds=time.monotonic() - began,
        executors=tuple(sorted(engine.used)),
        times_halved=engine.halved,
        peak_memory=engine.peak(),
    )


def describe_worker(engine: Engine) -> Workers:
    """Return the description of this process as a worker."""
    model = provenance(engine.model).to_dict()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {model['device']}"
    return Workers(model, machine)
