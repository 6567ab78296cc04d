"""The worker pool against a stand-in for Ray: failing, hanging and differing workers."""

import itertools
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import layerroles as lr
from layerroles.backends.base import Job, JobPart, Workers
from layerroles.backends.ray import WorkerResources, plan_workers
from layerroles.backends.ray_pool import Pool

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


def workers(weights: str = "w", dtype: str = "float32", torch: str = "2.6") -> Workers:
    versions = {"torch": torch, "python": "3.11"}
    model = {"name": "m", "weights": weights, "dtype": dtype, "versions": versions}
    return Workers(model, "a machine")


def pool(
    ray: FakeRay,
    answer: Callable[[int, Job], Any],
    starts: Iterator[Any] | None = None,
    n: int = 2,
    model: dict[str, Any] | None = None,
    attempts: int = 3,
    timeout: float = 60.0,
) -> Pool:
    """Workers numbered in the order of their start; `answer` gives the outcome of each job."""
    ready, numbers = starts or itertools.repeat(workers()), itertools.count()

    def start() -> tuple[Any, Any]:
        number = next(numbers)

        def asked(job: Job) -> Ref:
            found = answer(number, job)
            return found if isinstance(found, Ref) else Ref(found)

        remote = types.SimpleNamespace(remote=asked)
        return types.SimpleNamespace(answer=remote, number=number), Ref(next(ready))

    made = Pool(ray, start, model=model, timeout=timeout, attempts=attempts)
    made.start(n)
    return made


def jobs(n: int) -> list[Job]:
    return [Job(f"job {i}", ([],), (lr.Condition({}),)) for i in range(n)]


def finished_jobs(found: Iterator[tuple[int, JobPart]]) -> list[int]:
    return [place for place, _ in found]


def done(_: int, job: Job) -> list[JobPart]:
    return [JobPart({(0, 0): [job.name]})]


def test_every_job_is_answered_once_and_taken_when_needed() -> None:
    ray, taken = FakeRay(), list[int]()

    def coming() -> Iterator[Job]:
        for place, job in enumerate(jobs(10)):
            taken.append(place)
            yield job

    found = pool(ray, done).answer_jobs(coming())
    first, part = next(found)
    assert part.answers == {(0, 0): [f"job {first}"]}
    assert len(taken) <= 4
    assert sorted([first, *finished_jobs(found)]) == list(range(10))
    assert not ray.killed


@pytest.mark.parametrize("failure", [GONE, HANGS])
def test_a_worker_that_is_of_no_use_is_replaced(failure: Any) -> None:
    ray, tried = FakeRay(), list[str]()

    def answer(number: int, job: Job) -> Any:
        tried.append(job.name)
        return failure if tried.count(job.name) < 3 and job.name == "job 1" else done(number, job)

    timeout = 0.0 if failure is HANGS else 60.0
    found = finished_jobs(pool(ray, answer, timeout=timeout).answer_jobs(jobs(4)))
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

    found = finished_jobs(pool(ray, answer, n=1).answer_jobs(jobs(4)))
    assert sorted(found) == list(range(4))
    assert answered_by == {"job 0": 0, "job 1": 1, "job 2": 1, "job 3": 1}
    assert [actor.number for actor in ray.killed] == [0]  # type: ignore[attr-defined]


def test_a_failure_now_and_then_costs_no_process() -> None:
    ray, tried = FakeRay(), list[str]()

    def answer(number: int, job: Job) -> Any:
        tried.append(job.name)
        return RuntimeError("now") if len(tried) % 3 == 2 else done(number, job)

    assert sorted(finished_jobs(pool(ray, answer, n=1).answer_jobs(jobs(9)))) == list(range(9))
    assert not ray.killed


def test_what_fails_always_is_reported_when_all_else_is_done() -> None:
    def answer(number: int, job: Job) -> Any:
        return RuntimeError("bad\nand more") if job.name == "job 2" else done(number, job)

    found = pool(FakeRay(), answer).answer_jobs(jobs(5))
    places = []
    with pytest.raises(lr.InputError, match=r"job 2 .*\(attempts: 3\): RuntimeError: bad; 1 of"):
        for place, _ in found:
            places.append(place)
    assert sorted(places) == [0, 1, 3, 4]


def test_where_nothing_succeeds_it_is_reported_soon() -> None:
    tried = list[str]()

    def answer(_: int, job: Job) -> Any:
        tried.append(job.name)
        return RuntimeError("bad")

    with pytest.raises(lr.InputError, match="RuntimeError: bad"):
        finished_jobs(pool(FakeRay(), answer, n=2).answer_jobs(jobs(100)))
    assert 6 <= len(tried) < 20


def test_a_job_that_fails_at_once_does_not_stop_those_that_take_long() -> None:
    """All its attempts are over before any other job is done."""
    slow = dict[str, Ref]()

    def answer(number: int, job: Job) -> Any:
        if job.name == "job 0":
            return RuntimeError("bad")
        slow[job.name] = ref = Ref(HANGS)
        return ref

    one = pool(FakeRay(), answer, n=3)
    found = one.answer_jobs(jobs(4))
    wait = FakeRay.wait

    def patient(self: FakeRay, refs: list[Any], num_returns: int, timeout: float) -> Any:
        if all(ref.outcome is HANGS for ref in refs):
            for name, ref in slow.items():
                ref.outcome = done(0, Job(name, ([],), ()))
        return wait(self, refs, num_returns, timeout)

    FakeRay.wait = patient  # type: ignore[method-assign]
    try:
        places = []
        with pytest.raises(lr.InputError, match=r"job 0 .*RuntimeError: bad"):
            for place, _ in found:
                places.append(place)
    finally:
        FakeRay.wait = wait  # type: ignore[method-assign]
    assert sorted(places) == [1, 2, 3]


def test_another_worker_tries_what_one_failed_at() -> None:
    tried: list[int] = []

    def answer(number: int, job: Job) -> Any:
        if job.name == "job 0":
            tried.append(number)
            return RuntimeError("bad") if len(tried) < 3 else done(number, job)
        return done(number, job)

    assert sorted(finished_jobs(pool(FakeRay(), answer, n=2).answer_jobs(jobs(8)))) == list(
        range(8)
    )
    assert all(one != two for one, two in itertools.pairwise(tried))


def test_a_mistake_in_what_is_asked_is_reported_as_it_is_and_nothing_is_lost() -> None:
    def answer(_: int, job: Job) -> Any:
        return lr.InputError("no such layer") if job.name == "job 0" else done(0, job)

    places = []
    with pytest.raises(lr.InputError, match=r"^no such layer$"):
        for place, _ in pool(FakeRay(), answer, n=3).answer_jobs(jobs(9)):
            places.append(place)
    assert sorted(places) == [1, 2]  # answered in the same moment


def test_a_mistake_that_shows_while_it_is_unpickled_is_reported_as_it_is() -> None:
    wrapped = RuntimeError("System error")
    wrapped.client_exc = lr.InputError("another one here")  # type: ignore[attr-defined]
    with pytest.raises(lr.InputError, match=r"^another one here$"):
        finished_jobs(pool(FakeRay(), lambda *_: wrapped).answer_jobs(jobs(3)))


def test_what_cannot_be_sent_is_reported_in_short() -> None:
    def answer(_: int, job: Job) -> Any:
        try:
            raise TypeError("cannot pickle '_thread.lock' object")
        except TypeError as error:
            raise TypeError("Could not serialize " + "x" * 10_000) from error

    with pytest.raises(lr.InputError, match=r"cannot be sent to a worker: cannot pickle") as caught:
        finished_jobs(pool(FakeRay(), answer).answer_jobs(jobs(3)))
    assert len(str(caught.value)) < 300


def test_workers_that_cannot_start() -> None:
    starts: list[Any] = [OSError("no disk"), OSError("no disk"), GONE, OSError("no disk")]
    with pytest.raises(lr.InputError, match="no worker can be started: OSError: no disk"):
        _ = pool(FakeRay(), done, iter(starts), n=1, attempts=4).workers
    # One of two does: it answers all.
    mixed = itertools.chain([workers()], itertools.repeat(GONE))
    assert sorted(finished_jobs(pool(FakeRay(), done, mixed, n=2).answer_jobs(jobs(6)))) == list(
        range(6)
    )


def test_a_worker_that_cannot_start_later_on_ends_nothing() -> None:
    """Such as one that finds no room on a GPU that a hung one still holds."""
    starts = itertools.chain(
        [workers(), lr.InputError("does not fit")], itertools.repeat(workers())
    )
    one = pool(FakeRay(), done, starts, n=2)
    assert one.workers.machine == "a machine"
    assert sorted(finished_jobs(one.answer_jobs(jobs(6)))) == list(range(6))
    first = pool(FakeRay(), done, iter([lr.InputError("no such model")] * 2), n=2)
    with pytest.raises(lr.InputError, match=r"^no such model$"):
        _ = first.workers


def test_workers_that_hold_another_model_are_refused() -> None:
    with pytest.raises(lr.InputError, match=r"other weights \(w\) than another process's \(mine\)"):
        _ = pool(FakeRay(), done, model={**workers().model, "weights": "mine"}).workers
    for other in (workers(dtype="bfloat16"), workers(torch="2.7")):
        with pytest.raises(lr.InputError, match=r"other (dtype|versions) \("):
            finished_jobs(pool(FakeRay(), done, iter([workers(), other])).answer_jobs(jobs(3)))


def test_how_a_cluster_is_shared_out() -> None:
    gpus = [{"CPU": 8.0}, {"CPU": 64.0, "GPU": 8.0}, {"CPU": 64.0, "GPU": 1.0}]
    assert plan_workers(gpus, "auto", None) == (9, WorkerResources(0.0, 1.0, 8, 1))
    assert plan_workers(gpus, 3, None)[0] == 3
    assert plan_workers(gpus, "auto", 4.0) == (2, WorkerResources(0.0, 4.0, 2, 1))
    # Fractions do not reach over GPUs.
    assert plan_workers(gpus, "auto", 0.3) == (27, WorkerResources(0.0, 0.3, 24, 3))
    assert plan_workers(gpus, "auto", 0.4)[0] == 18
    assert plan_workers([{"CPU": 4.0, "GPU": 1.0}], "auto", 0.2) == (
        5,
        WorkerResources(0.0, 0.2, 5, 5),
    )
    assert plan_workers(gpus, "auto", 0.0) == (3, WorkerResources(8.0, 0.0, 1, 1))
    cpus = [{"CPU": 2.0}, {"CPU": 64.0}, {"memory": 1.0}]
    assert plan_workers(cpus, "auto", None) == (2, WorkerResources(2.0, 0.0, 1, 1))
    assert plan_workers(cpus[:1], 4, None) == (4, WorkerResources(0.5, 0.0, 4, 4))
    for asked in ((10, None), ("auto", 16.0)):
        with pytest.raises(lr.InputError, match="the cluster has 9 GPUs on 3 nodes, enough for"):
            plan_workers(gpus, *asked)  # type: ignore[arg-type]


def test_close_ends_the_workers() -> None:
    ray = FakeRay()
    one = pool(ray, done, n=3)
    one.close()
    assert len(ray.killed) == 3
