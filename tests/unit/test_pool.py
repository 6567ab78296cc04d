"""The pool of workers against a stand-in for Ray: who fails, hangs or differs, and what becomes."""

import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import layerroles as lr
from layerroles.backends.base import Job, Part, Workers
from layerroles.backends.pool import Pool

GONE, HANGS = "gone", "hangs"


class RayError(Exception):
    pass


class RayTaskError(RayError):
    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class FakeRay:
    """Answers at once, by a script: what each call of each worker comes to."""

    exceptions = types.SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    cloudpickle = types.SimpleNamespace(register_pickle_by_value=lambda module: None)

    def __init__(self) -> None:
        self.killed: list[object] = []

    def wait(
        self, refs: list[Any], num_returns: int, timeout: float
    ) -> tuple[list[Any], list[Any]]:
        return [ref for ref in refs if ref.outcome is not HANGS][:num_returns], []

    def get(self, ref: Any) -> Any:
        if ref.outcome is GONE:
            raise RayError
        if isinstance(ref.outcome, BaseException):
            raise RayTaskError(ref.outcome)
        return ref.outcome

    def kill(self, actor: object) -> None:
        self.killed.append(actor)


class Ref:
    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome


def workers(weights: str = "w", dtype: str = "float32") -> Workers:
    return Workers({"name": "m", "weights": weights, "dtype": dtype}, "a machine")


def pool(
    ray: FakeRay,
    answer: Callable[[int, Job], Any],
    starts: Iterator[Any] | None = None,
    n: int = 2,
    model: dict[str, Any] | None = None,
    attempts: int = 3,
    timeout: float = 60.0,
) -> Pool:
    """Workers that are numbered as they are started; `answer` tells what each comes to."""
    ready, numbers = starts or itertools.repeat(workers()), itertools.count()

    def start() -> tuple[Any, Any]:
        number = next(numbers)
        remote = types.SimpleNamespace(remote=lambda job: Ref(answer(number, job)))
        return types.SimpleNamespace(answer=remote, number=number), Ref(next(ready))

    return Pool(ray, start, n, model=model, timeout=timeout, attempts=attempts)


def jobs(n: int) -> list[Job]:
    return [Job(f"job {i}", ([],), (lr.Condition({}),)) for i in range(n)]


def told(found: Iterator[tuple[int, Part]]) -> list[int]:
    return [place for place, _ in found]


def done(_: int, job: Job) -> list[Part]:
    return [Part({(0, 0): [job.name]})]


def test_every_job_is_answered_once_and_taken_when_needed() -> None:
    ray, taken = FakeRay(), list[int]()

    def coming() -> Iterator[Job]:
        for place, job in enumerate(jobs(10)):
            taken.append(place)
            yield job

    found = pool(ray, done).answers(coming())
    first, part = next(found)
    assert part.found == {(0, 0): [f"job {first}"]}
    assert len(taken) <= 4
    assert sorted([first, *told(found)]) == list(range(10))
    assert not ray.killed


@pytest.mark.parametrize("failure", [GONE, HANGS])
def test_a_worker_that_is_of_no_use_is_replaced(failure: Any) -> None:
    ray, tried = FakeRay(), list[str]()

    def answer(number: int, job: Job) -> Any:
        tried.append(job.name)
        return failure if tried.count(job.name) < 3 and job.name == "job 1" else done(number, job)

    timeout = 0.0 if failure is HANGS else 60.0
    found = told(pool(ray, answer, timeout=timeout).answers(jobs(4)))
    assert sorted(found) == list(range(4))
    assert tried.count("job 1") == 3
    assert len(ray.killed) == 2


def test_a_worker_that_fails_twice_in_a_row_is_replaced() -> None:
    ray, answered_by = FakeRay(), dict[str, int]()

    def answer(number: int, job: Job) -> Any:
        if number == 0 and job.name != "job 0":  # spoilt by its first job
            return RuntimeError("CUDA error")
        answered_by[job.name] = number
        return done(number, job)

    found = told(pool(ray, answer, n=1).answers(jobs(4)))
    assert sorted(found) == list(range(4))
    assert answered_by == {"job 0": 0, "job 1": 1, "job 2": 1, "job 3": 1}
    assert [actor.number for actor in ray.killed] == [0]  # type: ignore[attr-defined]


def test_a_failure_now_and_then_costs_no_process() -> None:
    ray, tried = FakeRay(), list[str]()

    def answer(number: int, job: Job) -> Any:
        tried.append(job.name)
        return RuntimeError("now") if len(tried) % 3 == 2 else done(number, job)

    assert sorted(told(pool(ray, answer, n=1).answers(jobs(9)))) == list(range(9))
    assert not ray.killed


def test_what_fails_always_is_told_when_all_else_is_done() -> None:
    def answer(number: int, job: Job) -> Any:
        return RuntimeError("bad\nand more") if job.name == "job 2" else done(number, job)

    found = pool(FakeRay(), answer).answers(jobs(5))
    places = []
    with pytest.raises(lr.InputError, match=r"job 2 .*\(attempts: 3\): RuntimeError: bad; 1 of"):
        for place, _ in found:
            places.append(place)
    assert sorted(places) == [0, 1, 3, 4]


def test_where_nothing_succeeds_it_is_told_at_once() -> None:
    tried = list[str]()

    def answer(_: int, job: Job) -> Any:
        tried.append(job.name)
        return RuntimeError("bad")

    with pytest.raises(lr.InputError, match="RuntimeError: bad"):
        told(pool(FakeRay(), answer, n=1).answers(jobs(100)))
    assert len(tried) < 10


def test_a_mistake_in_what_is_asked_is_told_as_it_is() -> None:
    def answer(_: int, job: Job) -> Any:
        return lr.InputError("no such layer")

    with pytest.raises(lr.InputError, match=r"^no such layer$"):
        told(pool(FakeRay(), answer).answers(jobs(3)))


def test_workers_that_cannot_start() -> None:
    starts: list[Any] = [OSError("no disk"), OSError("no disk"), GONE, OSError("no disk")]
    with pytest.raises(lr.InputError, match="no worker can be started: OSError: no disk"):
        _ = pool(FakeRay(), done, iter(starts), n=1, attempts=4).workers
    # One of two does: it answers all.
    mixed = itertools.chain([workers()], itertools.repeat(GONE))
    assert sorted(told(pool(FakeRay(), done, mixed, n=2).answers(jobs(6)))) == list(range(6))


def test_workers_that_hold_another_model_are_refused() -> None:
    with pytest.raises(lr.InputError, match=r"other weights \(w\) than another process's \(mine\)"):
        _ = pool(FakeRay(), done, model={"weights": "mine", "dtype": "float32"}).workers
    starts = iter([workers(), workers(dtype="bfloat16")])
    with pytest.raises(lr.InputError, match=r"other dtype \(bfloat16\)"):
        told(pool(FakeRay(), done, starts).answers(jobs(3)))


def test_close_ends_the_workers() -> None:
    ray = FakeRay()
    one = pool(ray, done, n=3)
    one.close()
    assert len(ray.killed) == 3
