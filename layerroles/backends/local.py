"""This process answers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from layerroles.backends.base import Answering, Backend, Job, Part, Workers, work, workers_of
from layerroles.engine import Engine
from layerroles.models import check_weights


class Local(Backend):
    """The sweep's own engine answers, one job after the other."""

    def check(self, engine: Engine) -> None:
        """It takes weights."""
        check_weights(engine.model)

    @contextmanager
    def opened(self, engine: Engine) -> Iterator["OneByOne"]:
        """Nothing has to be opened."""
        engine.used.clear()  # the manifest tells what answered here
        yield OneByOne(engine)


class OneByOne(Answering):
    """An engine of this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._workers = workers_of(engine)

    @property
    def workers(self) -> Workers:
        """This process."""
        return self._workers

    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Part]]:
        """In order."""
        for place, job in enumerate(jobs):
            for part in work(self._engine, job):
                yield place, part
