"""Answer the jobs of a sweep in this process, and create a backend by its name.

>>> make_backend("local", {})  # doctest: +ELLIPSIS
<layerroles.backends.local.Local object at ...>
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from layerroles.backends.base import (
    Backend,
    Job,
    JobPart,
    OpenBackend,
    Workers,
    answer_job,
    describe_worker,
)
from layerroles.backends.ray import Ray
from layerroles.engine import Engine
from layerroles.errors import InputError
from layerroles.models import check_weights
from layerroles.registry import describe_unknown


class Local(Backend):
    """Answers jobs with the sweep's own engine, one after the other."""

    def check(self, engine: Engine) -> None:
        """Check that the model has weights.

        Raises:
            InputError: the model was loaded without weights.
        """
        check_weights(engine.model)

    @contextmanager
    def opened(self, engine: Engine) -> Iterator["OpenLocal"]:
        """Yield a backend that answers with the sweep's own engine; no worker is started."""
        engine.used.clear()  # the manifest lists the executors of this run only
        yield OpenLocal(engine)


class OpenLocal(OpenBackend):
    """The open local backend, which answers jobs with an engine of this process."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._workers = describe_worker(engine)

    @property
    def workers(self) -> Workers:
        """The description of this process as a worker."""
        return self._workers

    def answer_jobs(self, jobs: Iterable[Job]) -> Iterator[tuple[int, JobPart]]:
        """Answer the jobs in order; yield (job index, part)."""
        for index, job in enumerate(jobs):
            for part in answer_job(self._engine, job):
                yield index, part


def make_backend(name: str | Backend, options: Mapping[str, object]) -> Backend:
    """Return a backend by its name; an argument that is a backend is returned unchanged.

    Args:
        name: `"local"`, `"ray"`, or a backend.
        options: arguments of `Ray`; those that are None are ignored.

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
    raise InputError(describe_unknown("backend", str(name), ["local", "ray"]))
