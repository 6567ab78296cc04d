"""Answer the jobs of a sweep in this process.

A backend by its name.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from layerroles.backends.base import Answering, Backend, Job, Part, Workers, work, workers_of
from layerroles.backends.ray import Ray
from layerroles.engine import Engine
from layerroles.errors import InputError
from layerroles.models import check_weights
from layerroles.registry import unknown


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


def backend(name: str | Backend, options: Mapping[str, object]) -> Backend:
    """The backend of a name.

    Args:
        name: `"local"`, `"ray"`, or a backend.
        options: of `Ray`; those that are None are left out.

    Raises:
        InputError: an unknown name, or an option that the backend does not take.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if name == "ray":
        return Ray(**given)  # type: ignore[arg-type]
    if given:
        what = f"{next(iter(given))} is an option of backend='ray'"
        if isinstance(name, Backend):
            raise InputError(f"{what}: give it to the backend itself")
        raise InputError(f"{what}, not of {name!r}")
    if isinstance(name, Backend):
        return name
    if name == "local":
        return Local()
    raise InputError(unknown("backend", str(name), ["local", "ray"]))
