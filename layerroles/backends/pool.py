"""Hand jobs to Ray actors, one at a time each, so that every job is answered once.

What fails is asked again, by another worker if there is one. A worker that dies, takes too long, or
fails twice in a row (an error of a GPU spoils what comes after it in that process) is replaced by a
fresh process.
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
from layerroles.backends.base import Answering, Job, Part, Workers
from layerroles.errors import InputError

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0
# Seconds without a worker after which a warning says what the cluster has free.
_PATIENCE = 60.0
# Where the packages of an environment lie.
_INSTALLED = ("purelib", "platlib", "stdlib")


@dataclass(eq=False)
class _Slot:
    """A worker and what it does: a job, or its start (then `place` is None)."""

    actor: Any
    ref: Any
    began: float
    place: int | None = None
    ready: bool = False
    failed: int = 0  # times in a row


@dataclass(frozen=True)
class _Failed:
    """Why something failed, and whether its process can no longer be used."""

    reason: str
    gone: bool = False


class Pool(Answering):
    """Workers, from `start` until `close`.

    Args:
        ray: the module.
        start_one: starts a worker; returns its actor, and the reference to its description.
        model: that they have to hold, if it is known.
        timeout: seconds that a worker may take for a job, or for its start.
        attempts: how often a job, or a start, is tried.
    """

    def __init__(
        self,
        ray: Any,
        start_one: Callable[[], tuple[Any, Any]],
        *,
        model: dict[str, Any] | None,
        timeout: float,
        attempts: int,
    ) -> None:
        self._ray, self._start_one = ray, start_one
        self._model, self._timeout, self._attempts = model, timeout, attempts
        self._by_value: set[str] = set()
        self._first: Workers | None = None
        self._slots: list[_Slot] = []
        self._wrong: InputError | None = None  # raised after the other outcomes are handled
        # Of the current run: unanswered jobs, the worker that failed last at each, and whether all
        # jobs have been taken.
        self._asked: dict[int, Job] = {}
        self._again: dict[int, Any] = {}
        self._taken = False

    def start(self, n: int) -> None:
        """Start `n` workers, without waiting for them.

        Raises:
            InputError: what makes an engine there cannot be sent.
        """
        log.info("%d workers are starting", n)
        for _ in range(n):
            actor, ref = self._sent(self._start_one, "what workers start with")
            self._slots.append(_Slot(actor, ref, time.monotonic()))

    def close(self) -> None:
        """End the workers."""
        for slot in self._slots:
            with suppress(Exception):  # the cluster may be gone; the other workers are still ended
                self._ray.kill(slot.actor)
        self._slots.clear()
        for name in self._by_value:
            self._ray.cloudpickle.unregister_pickle_by_value(sys.modules[name])
        self._by_value.clear()

    @property
    def workers(self) -> Workers:
        """The description given by the first worker that is ready; waits for it if necessary.

        Raises:
            InputError: none can be started.
        """
        began, warned = time.monotonic(), False
        while self._first is None:
            self._look()
            self._raise_wrong()
            if not warned and time.monotonic() - began > _PATIENCE:
                warned = True
                free = self._ray.available_resources()
                log.warning(
                    "no worker is ready yet; free in the cluster are %g CPUs and %g GPUs",
                    free.get("CPU", 0),
                    free.get("GPU", 0),
                )
        return self._first

    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Part]]:
        """Yield parts as they arrive; jobs that failed too often are reported after all others.

        Raises:
            InputError: a job that cannot be answered, or no worker is left.
        """
        coming, n_done = enumerate(jobs), 0
        tried, failed = Counter[int](), list[str]()
        self._asked.clear()
        self._again.clear()
        self._taken = False
        while self._hand_out(coming):
            for actor, place, outcome in self._look():
                if not isinstance(outcome, _Failed):
                    del self._asked[place]
                    n_done += 1
                    yield from ((place, part) for part in outcome)
                    continue
                tried[place] += 1
                job = self._asked[place]
                log.warning("%s: %s (attempt %d)", job, outcome.reason, tried[place])
                if tried[place] < self._attempts:
                    self._again[place] = actor
                    continue
                del self._asked[place]
                failed.append(f"{job} failed (attempts: {tried[place]}): {outcome.reason}")
            self._raise_wrong(*failed[:1])
            if not n_done and len(failed) >= len(self._slots):  # so will the others
                raise InputError(failed[0])
        if failed:
            raise InputError(
                f"{failed[0]}; {len(failed)} of the jobs failed, what all others came to is stored"
            )

    def _raise_wrong(self, *before: str) -> None:
        """Raise the first error of the input or of the workers, if there was one."""
        if self._wrong is not None:
            wrong, self._wrong = self._wrong, None
            raise InputError("; ".join([*before, str(wrong)])) from wrong

    def _hand_out(self, coming: Iterator[tuple[int, Job]]) -> bool:
        """Give jobs to idle workers; returns whether any job is unanswered."""
        for slot in self._idle():  # first by others than those that failed
            again = (place for place, by in self._again.items() if by is not slot.actor)
            place = next(again, None)
            if place is None and (one := next(coming, None)) is not None:
                place, self._asked[place] = one[0], one[1]
            if place is None:
                self._taken = True
                continue
            self._send(slot, place)
        for slot in self._idle():
            if self._again:
                self._send(slot, next(iter(self._again)))
        return bool(self._asked) or not self._taken

    def _idle(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.ready and slot.ref is None]

    def _send(self, slot: _Slot, place: int) -> None:
        job = self._asked[place]
        self._again.pop(place, None)
        for name in _own_modules(job.conditions) - self._by_value:
            self._ray.cloudpickle.register_pickle_by_value(sys.modules[name])
            self._by_value.add(name)
        slot.ref = self._sent(lambda: slot.actor.answer.remote(job), str(job))
        slot.place, slot.began = place, time.monotonic()

    def _sent(self, send: Callable[[], Any], what: str) -> Any:
        """Call `send`, which pickles something for a worker, and return its result.

        Raises:
            InputError: it cannot be sent.
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

    def _look(self) -> list[tuple[Any, int, "list[Part] | _Failed"]]:
        """Wait briefly for the workers; returns the ended jobs, with their workers and outcomes."""
        busy = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        ready, _ = self._ray.wait(list(busy), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
        more, _ = self._ray.wait(list(busy), num_returns=len(busy), timeout=0)
        outcomes: list[tuple[Any, int, list[Part] | _Failed]] = []
        for ref, slot in busy.items():
            outcome: Any = None
            if ref in ready or ref in more:
                outcome = self._outcome(ref)
            elif time.monotonic() - slot.began > self._timeout:
                took = f"it took longer than {self._timeout:g} s, raise the timeout if it should"
                outcome = _Failed(took, gone=True)
            if outcome is None:
                continue
            place, slot.ref, slot.place = slot.place, None, None
            try:
                if place is None:
                    outcome = self._begun(outcome)
                    slot.ready = isinstance(outcome, Workers)
                elif isinstance(outcome, InputError):
                    raise outcome
                else:
                    outcomes.append((slot.actor, place, outcome))
                slot.failed = slot.failed + 1 if isinstance(outcome, _Failed) else 0
                if slot.failed and (outcome.gone or slot.failed > 1 or not slot.ready):
                    self._replace(slot, outcome.reason)
            except InputError as error:
                self._wrong = self._wrong or error
        return outcomes

    def _begun(self, outcome: Any) -> Any:
        """The outcome of a worker's start.

        Raises:
            InputError: the first worker cannot be started as asked, or it holds another model.
        """
        if isinstance(outcome, InputError):
            if self._first is None:
                raise outcome
            return _Failed(str(outcome))
        if isinstance(outcome, Workers):
            self._check(outcome)
            self._first = self._first or outcome
        return outcome

    def _outcome(self, ref: Any) -> Any:
        """A worker's outcome: answers, its description, an input error, or a failure."""
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            # What fails while it is unpickled there is wrapped once more.
            cause = getattr(error.cause, "client_exc", error.cause)
            if isinstance(cause, InputError):
                return cause
            reason = str(cause).strip().split("\n")[0]
            return _Failed(f"{type(cause).__name__}: {reason}")
        except self._ray.exceptions.RayError as error:
            return _Failed(f"its worker is gone ({type(error).__name__})", gone=True)

    def _replace(self, slot: _Slot, reason: str) -> None:
        with suppress(self._ray.exceptions.RayError):
            self._ray.kill(slot.actor)
        if slot.ready:
            slot.ready, slot.failed = False, 0
        if slot.failed < self._attempts:
            slot.actor, slot.ref = self._sent(self._start_one, "what workers start with")
            slot.began = time.monotonic()
            return
        log.warning("a worker could not be started (attempts: %d): %s", slot.failed, reason)
        self._slots.remove(slot)
        if not self._slots:
            raise InputError(f"no worker can be started: {reason}")

    def _check(self, found: Workers) -> None:
        """Check that a worker holds the same model as the others and the sweep.

        Raises:
            InputError: it does not.
        """
        known = self._first.model if self._first else self._model
        for name in ("weights", "dtype", "versions"):
            one, two = (_compared(each, name) for each in (known or found.model, found.model))
            if one != two:
                raise InputError(
                    f"a worker's model {found.model['name']!r} has other {name} ({two}) than "
                    f"another process's ({one}): let all of them load the same files, with the "
                    f"same packages"
                )


def _compared(model: Any, name: str) -> Any:
    """What has to be alike; of Python's own version no number depends."""
    if name == "versions":
        return {key: value for key, value in model[name].items() if key != "python"}
    return model[name]


def _own_modules(conditions: Iterable[Condition]) -> set[str]:
    """Modules of users' ablations and functions that are not installed: workers may lack them."""
    used = {type(edit).__module__ for one in conditions for edit in one.edits.values()}
    used |= {one.at.__module__ for one in conditions if callable(one.at)}
    # What `__main__` defines is sent by value anyway.
    return {
        name
        for name in used
        if name.partition(".")[0] not in ("__main__", "layerroles") and not _is_installed(name)
    }


def _is_installed(name: str) -> bool:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:  # built in, or not there to be sent
        return True
    return any(Path(file).is_relative_to(sysconfig.get_path(kind)) for kind in _INSTALLED)
