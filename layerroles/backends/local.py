"""Answer the jobs of a sweep in this process."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from layerroles.backends.base import Answering, Backend, Job, Part, Workers, work, workers_of
from layerroles.engine import Engine
from layerroles.models import check_weights


class Local(Backend):
    """Answers jobs with the sweep's own engine, one after the other."""

    def check(self, engine: Engine) -> None:
        """Check that the model has weights."""
        check_weights(engine.model)

    @contextmanager
    def opened(self, engine: Engine) -> Iterator["OneByOne"]:
        """Answer with the engine itself; nothing has to be started."""
        engine.used.clear()  # the manifest lists the executors of this run
        yield OneByOne(engine)


class OneByOne(Answering):
    """Answers jobs with an engine of this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._workers = workers_of(engine)

    @property
    def workers(self) -> Workers:
        """This process."""
        return self._workers

    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Part]]:
        """Answer the jobs in order."""
        for place, job in enumerate(jobs):
            for part in work(self._engine, job):
                yield place, part
