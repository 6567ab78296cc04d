"""Hand jobs to Ray actors, one at a time each, and see that every job is answered once.

What fails is asked again. A worker that dies, takes too long, or fails twice in a row (an error of
a GPU spoils what comes after it in that process) is replaced by a fresh process.
"""

import logging
import sys
import sysconfig
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from layerroles.ablations import Condition
from layerroles.backends.base import Answering, Job, Part, Workers
from layerroles.errors import InputError

log = logging.getLogger(__name__)

_SECONDS_BETWEEN_LOOKS = 1.0
# Where what an environment is made of lies.
_INSTALLED = ("purelib", "platlib", "stdlib")


@dataclass
class _Slot:
    """A worker and what it is at: a job, or making ready (then there is no place)."""

    actor: Any
    ref: Any
    began: float
    place: int | None = None
    ready: bool = False
    failed: int = 0  # times in a row


@dataclass(frozen=True)
class _Failed:
    """Why something failed, and whether its process is of no more use."""

    reason: str
    gone: bool = False


class Pool(Answering):
    """Workers that have been started, until `close`.

    Args:
        ray: the module.
        start: starts a worker; gives its actor, and the reference to what it says when it is ready.
        n: how many there are to be.
        model: what they have to hold, if that is known.
        timeout: seconds that a worker may take for one thing.
        attempts: how often a job, or a start, is tried.
    """

    def __init__(
        self,
        ray: Any,
        start: Callable[[], tuple[Any, Any]],
        n: int,
        *,
        model: dict[str, Any] | None,
        timeout: float,
        attempts: int,
    ) -> None:
        self._ray, self._start = ray, start
        self._model, self._timeout, self._attempts = model, timeout, attempts
        self._by_value: set[str] = set()
        self._first: Workers | None = None
        self._slots = [_Slot(*self._start(), time.monotonic()) for _ in range(n)]

    def close(self) -> None:
        """End the workers."""
        for slot in self._slots:
            self._ray.kill(slot.actor)
        self._slots.clear()
        for name in self._by_value:
            self._ray.cloudpickle.unregister_pickle_by_value(sys.modules[name])

    @property
    def workers(self) -> Workers:
        """What the first says that is ready; waited for if need be.

        Raises:
            InputError: none can be started.
        """
        while self._first is None:
            self._look()
        return self._first

    def answers(self, jobs: Iterable[Job]) -> Iterator[tuple[int, Part]]:
        """As they come; what failed too often is told when all else is done.

        Raises:
            InputError: a job that cannot be answered, or no worker is left.
        """
        coming, again = enumerate(jobs), deque[int]()
        asked: dict[int, Job] = {}  # and not answered yet
        tried, failed, n_done = Counter[int](), list[str](), 0
        while self._hand_out(coming, again, asked):
            for place, outcome in self._look():
                if not isinstance(outcome, _Failed):
                    del asked[place]
                    n_done += 1
                    yield from ((place, part) for part in outcome)
                    continue
                tried[place] += 1
                log.warning("%s: %s (attempt %d)", asked[place], outcome.reason, tried[place])
                if tried[place] < self._attempts:
                    again.append(place)
                    continue
                job = asked.pop(place)
                failed.append(f"{job} failed (attempts: {tried[place]}): {outcome.reason}")
                if not n_done:  # so will the others
                    raise InputError(failed[0])
        if failed:
            raise InputError(
                f"{failed[0]}; {len(failed)} of the jobs failed, what all others came to is stored"
            )

    def _hand_out(
        self, coming: Iterator[tuple[int, Job]], again: deque[int], asked: dict[int, Job]
    ) -> bool:
        """Give idle workers something to do; whether anything is not answered yet."""
        for slot in self._slots:
            if not slot.ready or slot.ref is not None:
                continue
            if again:
                place = again.popleft()
            elif (one := next(coming, None)) is not None:
                place, asked[place] = one[0], one[1]
            else:
                break
            self._send(slot, asked[place])
            slot.place = place
        return bool(asked) or not any(slot.ready for slot in self._slots)

    def _send(self, slot: _Slot, job: Job) -> None:
        for name in _own_modules(job.conditions) - self._by_value:
            self._ray.cloudpickle.register_pickle_by_value(sys.modules[name])
            self._by_value.add(name)
        try:
            slot.ref = slot.actor.answer.remote(job)
        except InputError:
            raise
        except (TypeError, ValueError, AttributeError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{job} cannot be sent to a worker: {reason}") from error
        slot.began = time.monotonic()

    def _look(self) -> list[tuple[int, list[Part] | _Failed]]:
        """Wait a moment for the workers; places of jobs, with their answers or why they failed.

        Raises:
            InputError: what was asked cannot be done, or no worker is left.
        """
        busy = {slot.ref: slot for slot in self._slots if slot.ref is not None}
        ready, _ = self._ray.wait(list(busy), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
        more, _ = self._ray.wait(list(busy), num_returns=len(busy), timeout=0)
        told: list[tuple[int, list[Part] | _Failed]] = []
        for ref, slot in busy.items():
            outcome: Any = None
            if ref in ready or ref in more:
                outcome = self._outcome(ref)
            elif time.monotonic() - slot.began > self._timeout:
                outcome = _Failed(f"it took longer than timeout={self._timeout:g} s", gone=True)
            if outcome is None:
                continue
            if slot.place is not None:
                told.append((slot.place, outcome))
            slot.ref = slot.place = None
            slot.failed = slot.failed + 1 if isinstance(outcome, _Failed) else 0
            if isinstance(outcome, Workers):
                self._check(outcome)
                slot.ready = True
            elif isinstance(outcome, _Failed) and (
                outcome.gone or slot.failed > 1 or not slot.ready
            ):
                self._replace(slot, outcome.reason)
        return told

    def _outcome(self, ref: Any) -> Any:
        """What a worker came to, or that it failed.

        Raises:
            InputError: the worker said so.
        """
        try:
            return self._ray.get(ref)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, InputError):
                raise error.cause from None
            reason = str(error.cause).strip().split("\n")[0]
            return _Failed(f"{type(error.cause).__name__}: {reason}")
        except self._ray.exceptions.RayError as error:
            return _Failed(f"its worker is gone ({type(error).__name__})", gone=True)

    def _replace(self, slot: _Slot, reason: str) -> None:
        self._ray.kill(slot.actor)
        if slot.ready:
            slot.ready, slot.failed = False, 0
        if slot.failed < self._attempts:
            slot.actor, slot.ref = self._start()
            slot.began = time.monotonic()
            return
        log.warning("a worker could not be started (attempts: %d): %s", slot.failed, reason)
        self._slots.remove(slot)
        if not self._slots:
            raise InputError(f"no worker can be started: {reason}")

    def _check(self, found: Workers) -> None:
        """Check that a worker holds what the others do, and the sweep.

        Raises:
            InputError: it does not.
        """
        known = self._first.model if self._first else self._model
        for name in ("weights", "dtype"):
            if known is not None and known[name] != found.model[name]:
                raise InputError(
                    f"a worker's model {found.model['name']!r} has other {name} "
                    f"({found.model[name]}) than another process's ({known[name]}): let all of "
                    f"them load the same files"
                )
        self._first = self._first or found


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
