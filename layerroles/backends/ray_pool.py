"""Distribute a sweep's jobs over Ray actors (the workers); each answers one job at a time.

A failed job is tried again, on another worker if one is idle. A worker that dies, takes too long,
or fails twice in a row is replaced by a new process, since after a GPU error everything else that a
process does fails too.
"""

import logging
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerroles.ablations import Condition
from layerroles.backends.base import Job, JobPart, OpenBackend, Workers
from layerroles.errors import InputError

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0
# Seconds without a worker after which a warning reports the free resources of the cluster.
_PATIENCE = 60.0
# Names of the folders (in `sysconfig`) that hold an environment's packages.
_INSTALLED = ("purelib", "platlib", "stdlib")


@dataclass(eq=False)
class _Slot:
    """A worker and its call in progress (`ref`; None if it is idle).

    The call is to answer a job, or to start the worker (`job_index` is None).
    """

    actor: Any
    ref: Any
    began: float
    job_index: int | None = None
    ready: bool = False
    n_failed: int = 0  # number of failed calls in a row


@dataclass(frozen=True)
class _Failure:
    """Why a job or a worker's start failed; `gone` if the worker's process is dead or hangs."""

    reason: str
    gone: bool = False


class Pool(OpenBackend):
    """The open Ray backend: a pool of workers, from `start` until `close`.

    Args:
        ray: the module `ray`.
        start_worker: a function that starts a worker and returns the actor and a Ray reference to
            its `Workers` description.
        model: the description of the model that workers must hold; None if unknown.
        timeout: seconds that a worker may take for a job, or for its start.
        attempts: how often a job, or a start, is tried.
    """

    def __init__(
        self,
        ray: Any,
        start_worker: Callable[[], tuple[Any, Any]],
        *,
        model: dict[str, Any] | None,
        timeout: float,
        attempts: int,
    ) -> None:
        self._ray, self._start_worker = ray, start_worker
        self._model, self._timeout, self._attempts = model, timeout, attempts
        self._pickled_by_value: set[str] = set()
        self._description: Workers | None = None
        self._slots: list[_Slot] = []
        self._first_error: InputError | None = None  # raised after the other outcomes are handled
        # Of the current `answer_jobs`: the jobs taken and not yet answered, by index; for each job
        # that waits to be tried again, the actor that failed at it; whether all jobs are taken.
        self._unanswered: dict[int, Job] = {}
        self._failed_by: dict[int, Any] = {}
        self._all_taken = False

    def start(self, n: int) -> None:
        """Start `n` workers, without waiting for them.

        Raises:
            InputError: the function that makes a worker's engine cannot be sent to the worker.
        """
        log.info("%d workers are starting", n)
        for _ in range(n):
            actor, ref = self._try_send(self._start_worker, "what workers start with")
            self._slots.append(_Slot(actor, ref, time.monotonic()))

    def close(self) -> None:
        """End the workers."""
        for slot in self._slots:
            with suppress(Exception):  # the cluster may be gone; the other workers are still ended
                self._ray.kill(slot.actor)
        self._slots.clear()
        for name in self._pickled_by_value:
            self._ray.cloudpickle.unregister_pickle_by_value(sys.modules[name])
        self._pickled_by_value.clear()

    @property
    def workers(self) -> Workers:
        """The description of the first worker that is ready; waits for one if necessary.

        Raises:
            InputError: no worker can be started.
        """
        began, warned = time.monotonic(), False
        while self._description is None:
            self._collect_outcomes()
            self._raise_first_error()
            if not warned and time.monotonic() - began > _PATIENCE:
                warned = True
                free = self._ray.available_resources()
                log.warning(
                    "no worker is ready yet; free in the cluster are %g CPUs and %g GPUs",
                    free.get("CPU", 0),
                    free.get("GPU", 0),
                )
        return self._description

    def answer_jobs(self, jobs: Iterable[Job]) -> Iterator[tuple[int, JobPart]]:
        """Answer jobs on the workers; yield (job index, part), all parts of a job when it is done.

        A failed job is tried again, up to `attempts` times in all. Jobs that fail every time are
        reported after the others are done, or at once if there are as many of them as workers and
        no job has succeeded.

        Raises:
            InputError: a job failed every time or cannot be sent to a worker, a worker reported an
                input error or holds another model, or no worker is left.
        """
        remaining_jobs, n_done = enumerate(jobs), 0
        n_attempts, failures = Counter[int](), list[str]()
        self._unanswered.clear()
        self._failed_by.clear()
        self._all_taken = False
        while self._assign_jobs(remaining_jobs):
            for actor, index, outcome in self._collect_outcomes():
                if not isinstance(outcome, _Failure):
                    del self._unanswered[index]
                    n_done += 1
                    yield from ((index, part) for part in outcome)
                    continue
                n_attempts[index] += 1
                job = self._unanswered[index]
                log.warning("%s: %s (attempt %d)", job, outcome.reason, n_attempts[index])
                if n_attempts[index] < self._attempts:
                    self._failed_by[index] = actor
                    continue
                del self._unanswered[index]
                failures.append(f"{job} failed (attempts: {n_attempts[index]}): {outcome.reason}")
            self._raise_first_error(*failures[:1])
            if not n_done and len(failures) >= len(self._slots):  # the other jobs would fail too
                raise InputError(failures[0])
        if failures:
            raise InputError(
                f"{failures[0]}; {len(failures)} of the jobs failed, what all others came to is "
                f"stored"
            )

    def _raise_first_error(self, *failures: str) -> None:
        """Raise the first input error of a worker, if any, with `failures` before its message."""
        if self._first_error is not None:
            error, self._first_error = self._first_error, None
            raise InputError("; ".join([*failures, str(error)])) from error

    def _assign_jobs(self, remaining_jobs: Iterator[tuple[int, Job]]) -> bool:
        """Give jobs to idle workers; return whether any job is unanswered."""
        for slot in self._idle_slots():  # failed jobs go to other workers first
            failed_elsewhere = (
                index for index, by in self._failed_by.items() if by is not slot.actor
            )
            index = next(failed_elsewhere, None)
            if index is None and (indexed_job := next(remaining_jobs, None)) is not None:
                index, self._unanswered[index] = indexed_job[0], indexed_job[1]
            if index is None:
                self._all_taken = True
                continue
            self._give_job(slot, index)
        for slot in self._idle_slots():
            if self._failed_by:
                self._give_job(slot, next(iter(self._failed_by)))
        return bool(self._unanswered) or not self._all_taken

    def _idle_slots(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.ready and slot.ref is None]

    def _give_job(self, slot: _Slot, index: int) -> None:
        job = self._unanswered[index]
        self._failed_by.pop(index, None)
        for name in _uninstalled_modules(job.conditions) - self._pickled_by_value:
            self._ray.cloudpickle.register_pickle_by_value(sys.modules[name])
            self._pickled_by_value.add(name)
        slot.ref = self._try_send(lambda: slot.actor.answer.remote(job), str(job))
        slot.job_index, slot.began = index, time.monotonic()

    def _try_send(self, send: Callable[[], Any], what: str) -> Any:
        """Call `send`, which pickles an object for a worker, and return its result.

        Args:
            send: the function to call.
            what: the name of the object, for the error.

        Raises:
            InputError: the object cannot be sent.
        """
        try:
            return send()
        except Exception as error:  # pickling may raise anything
            cause = error.__cause__ or error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            if isinstance(cause, InputError):
                raise cause from None
            reason = str(cause).strip().split("\n")[0][:200]
            raise InputError(f"{what} cannot be sent to a worker: {reason}") from error

    def _collect_outcomes(self) -> list[tuple[Any, int, "list[JobPart] | _Failure"]]:
        """Wait briefly; return (actor, job index, parts or failure) for each job that ended.

        Also marks workers that have started as ready, and replaces those that died, took too long,
        could not start, or failed twice in a row.
        """
        busy = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        first_done, _ = self._ray.wait(list(busy), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
        done, _ = self._ray.wait(list(busy), num_returns=len(busy), timeout=0)
        outcomes: list[tuple[Any, int, list[JobPart] | _Failure]] = []
        for ref, slot in busy.items():
            outcome: Any = None
            if ref in first_done or ref in done:
                outcome = self._read_outcome(ref)
            elif time.monotonic() - slot.began > self._timeout:
                reason = f"it took longer than {self._timeout:g} s, raise the timeout if it should"
                outcome = _Failure(reason, gone=True)
            if outcome is None:
                continue
            index, slot.ref, slot.job_index = slot.job_index, None, None
            try:
                if index is None:
                    outcome = self._check_start(outcome)
                    slot.ready = isinstance(outcome, Workers)
                elif isinstance(outcome, InputError):
                    raise outcome
                else:
                    outcomes.append((slot.actor, index, outcome))
                slot.n_failed = slot.n_failed + 1 if isinstance(outcome, _Failure) else 0
                if slot.n_failed and (outcome.gone or slot.n_failed > 1 or not slot.ready):
                    self._replace(slot, outcome.reason)
            except InputError as error:
                self._first_error = self._first_error or error
        return outcomes

    def _check_start(self, outcome: Any) -> Any:
        """Return the description of a worker that started correctly, otherwise a failure.

        Args:
            outcome: the outcome of the call that started the worker, from `_read_outcome`.

        Raises:
            InputError: the start failed with an input error before any worker was ready, or the
                worker holds another model than the others and the sweep.
        """
        if isinstance(outcome, InputError):
            if self._description is None:
                raise outcome
            return _Failure(str(outcome))
        if isinstance(outcome, Workers):
            self._check_same_model(outcome)
            self._description = self._description or outcome
        return outcome

    def _read_outcome(self, ref: Any) -> Any:
        """Return a call's outcome: parts, a worker's description, an input error or a failure."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            # An error while unpickling on the worker is wrapped once more.
            cause = getattr(error.cause, "client_exc", error.cause)
            if isinstance(cause, InputError):
                return cause
            reason = str(cause).strip().split("\n")[0]
            return _Failure(f"{type(cause).__name__}: {reason}")
        except self._ray.exceptions.RayError as error:
            return _Failure(f"its worker is gone ({type(error).__name__})", gone=True)

    def _replace(self, slot: _Slot, reason: str) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(slot.actor)
        if slot.ready:
            slot.ready, slot.n_failed = False, 0
        if slot.n_failed < self._attempts:
            slot.actor, slot.ref = self._try_send(self._start_worker, "what workers start with")
            slot.began = time.monotonic()
            return
        log.warning("a worker could not be started (attempts: %d): %s", slot.n_failed, reason)
        self._slots.remove(slot)
        if not self._slots:
            raise InputError(f"no worker can be started: {reason}")

    def _check_same_model(self, workers: Workers) -> None:
        """Check that a worker holds the same model as the others and the sweep.

        Raises:
            InputError: the worker's model differs.
        """
        expected = self._description.model if self._description else self._model
        for name in ("weights", "dtype", "versions"):
            expected_value, value = (
                _comparable(model, name) for model in (expected or workers.model, workers.model)
            )
            if expected_value != value:
                raise InputError(
                    f"a worker's model {workers.model['name']!r} has other {name} ({value}) than "
                    f"another process's ({expected_value}): let all of them load the same files, "
                    f"with the same packages"
                )


def _comparable(model: Any, name: str) -> Any:
    """Return a field of a model's description for comparison; `versions` without that of Python."""
    if name == "versions":
        return {key: value for key, value in model[name].items() if key != "python"}
    return model[name]


def _uninstalled_modules(conditions: Iterable[Condition]) -> set[str]:
    """Return the names of modules that are not installed and define code of the conditions.

    This is the code of the conditions' ablations, and of functions given as `at`.
    """
    modules = {
        type(edit).__module__ for condition in conditions for edit in condition.edits.values()
    }
    modules |= {condition.at.__module__ for condition in conditions if callable(condition.at)}
    # Objects defined in `__main__` are sent by value anyway.
    return {
        name
        for name in modules
        if name.partition(".")[0] not in ("__main__", "layerroles") and not _is_installed(name)
    }


def _is_installed(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:  # built in, or without a file to send
        return True
    return any(Path(file).is_relative_to(sysconfig.get_path(kind)) for kind in _INSTALLED)
