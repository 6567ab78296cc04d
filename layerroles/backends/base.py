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
from layerroles.protocols import Text, coherence, texts_of


@dataclass(frozen=True)
class Job:
    """Requests that are answered together and stored together.

    Attributes:
        name: shown to users: the task, or another word.
        asked: a list of encoded requests for each cell.
        conditions: under which all of them are asked.
        apart: whether results do not depend on which conditions share a batch, so that conditions
            may be returned one by one.
        coherence: whether the intact model scores the generated texts; if so, all conditions are
            returned together.
    """

    name: str
    asked: tuple[Requests, ...]
    conditions: tuple[Condition, ...]
    apart: bool = True
    coherence: bool = False

    def __str__(self) -> str:
        names = [condition.name for condition in self.conditions]
        what = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]}"
        return f"{self.name} under {what} ({len(self.asked[0])} requests)"


@dataclass(frozen=True)
class Part:
    """Answers under some of a job's conditions, all cells of each, with time and memory used.

    Attributes:
        found: scores or writings, by the indices of the condition and of the cell.
        coherence: nats per token of what was written, if that was asked for.
        seconds: that it took to answer.
        executors: that answered.
        halved: how often what is computed together has been halved, since memory gave out.
        peak_memory: the most bytes that were held at once.
    """

    found: Mapping[tuple[int, int], list[Any]]
    coherence: Mapping[Text, float] = field(default_factory=dict)
    seconds: float = 0.0
    executors: tuple[str, ...] = ()
    halved: int = 0
    peak_memory: int = 0


@dataclass(frozen=True)
class Workers:
    """The workers of a run, as its manifest describes them.

    Attributes:
        model: what they hold, as `Provenance` describes it.
        machine: in words.
    """

    model: Mapping[str, Any]
    machine: str


class Answering(ABC):
    """The workers of an open backend."""

    @property
    @abstractmethod
    def workers(self) -> Workers:
        """Their description."""

    @abstractmethod
    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Part]]:
        """Yield job indices with parts, in any order; jobs are taken from the iterable as needed.

        Raises:
            InputError: a job cannot be answered.
        """


class Backend(ABC):
    """A way to have jobs answered; frozen, so that it can be used for many sweeps."""

    @abstractmethod
    def check(self, engine: Engine) -> None:
        """Check that the backend can use a sweep's engine, before anything is computed.

        Raises:
            InputError: its model cannot be run on this backend.
        """

    @abstractmethod
    def opened(self, engine: Engine) -> AbstractContextManager[Answering]:
        """Within the context, jobs are answered.

        Args:
            engine: of the sweep: its model, and how it answers.

        Raises:
            InputError: no worker can answer.
        """


def work(engine: Engine, job: Job) -> Iterator[Part]:
    """Answer a job; yields parts as conditions are ready, all cells of each."""
    began = time.monotonic()
    answered: dict[int, dict[int, list[Any]]] = {}  # by the places of conditions and cells
    whole: set[int] = set()
    # Generated texts are scored only when nothing else is held in memory.
    at_once = job.apart and not job.coherence
    for which, place, found in engine.answer_each(job.asked, job.conditions):
        mine = answered.setdefault(place, {})
        mine[which] = found
        if len(mine) == len(job.asked):
            whole.add(place)
        if whole and at_once:
            yield _part(engine, job, {place: answered.pop(place) for place in whole}, began)
            whole.clear()
            began = time.monotonic()
    if whole:
        yield _part(engine, job, {place: answered[place] for place in sorted(whole)}, began)


def _part(
    engine: Engine, job: Job, answered: Mapping[int, Mapping[int, list[Any]]], began: float
) -> Part:
    """A part of the answers since `began`; generated texts are scored if the job asks for it."""
    ready = {
        (place, which): each
        for place, mine in answered.items()
        for which, each in sorted(mine.items())
    }
    known: dict[Text, float] = {}
    if job.coherence:
        texts = (
            text for (_, which), each in ready.items() for text in texts_of(job.asked[which], each)
        )
        known = coherence(engine, texts)
    return Part(
        ready,
        known,
        time.monotonic() - began,
        tuple(sorted(engine.used)),
        engine.halved,
        engine.peak(),
    )


def workers_of(engine: Engine) -> Workers:
    """This process as a worker."""
    model = provenance(engine.model).to_dict()
    machine = f"{platform.machine()}, {os.cpu_count()} CPUs, {model['device']}"
    return Workers(model, machine)
