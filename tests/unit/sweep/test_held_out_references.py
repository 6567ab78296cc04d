"""A reference without texts: each task of a sweep is asked with one of its own held-out prompts."""

import json
import logging
import pickle
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pytest
from torch import Tensor

import layerroles as lr
from layerroles.backends import Backend, Job, JobPart, OpenBackend, Workers
from layerroles.backends.base import answer_job, describe_worker
from tests.support.random_models import random_model
from tests.support.tiers import mark_rest

SITE = lr.Site(1)
PROTOCOLS = ["continuation", "generation"]


@lr.ablation("test-half-way-to-the-mean")
class HalfWay(lr.Ablation):
    """An ablation that is no dataclass."""

    def __init__(self, reference: lr.Reference) -> None:
        self.reference = reference

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HalfWay) and self.reference == other.reference

    def __hash__(self) -> int:
        return hash(self.reference)

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return (write + ctx.reference.rest.to(write)) / 2


EDITS = {
    "mean": lr.Mean,
    "resample": lr.Resample,
    "noise": lambda reference: lr.Noise(0.5, reference),
    "half way": HalfWay,
}


def conditions(reference: lr.Reference) -> list[lr.Condition]:
    made = [lr.Condition({SITE: edit(reference)}, name=name) for name, edit in EDITS.items()]
    return [*made, lr.Condition({SITE: lr.Skip()}), lr.Condition({lr.Site(2, "mlp"): lr.Zero()})]


def questions(folder: Path, letters: str, n: int = 40) -> lr.Task:
    """Questions of one kind, each with its own answer, the kinds with prompts of other lengths."""
    file = folder / f"{letters}.jsonl"
    rows = [
        {
            "prompt": f"{letters} {i} {letters * (i % 3)}?",
            "answer": f"{letters[i % 3]}{i}",
            "choices": [f"{letters[i % 3]}{i}", f"no {i}"],
            "family": "knowledge",
        }
        for i in range(n)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return lr.task(f"local:{file}", max_gen_toks=4, num_fewshot=1)


@pytest.fixture
def tasks(tmp_path: Path) -> list[lr.Task]:
    return [questions(tmp_path, letters) for letters in ("abc", "uvwxyz")]


def sweep(
    tasks: list[lr.Task], asked: list[lr.Condition], limit: int = 4, seed: int = 0
) -> lr.Sweep:
    options = {"protocols": PROTOCOLS, "limit": limit, "seed": seed, "noise_floor": False}
    return lr.Sweep(random_model("llama"), tasks, asked, **options)


def rows(result: lr.SweepResult, task: str) -> pd.DataFrame:
    frame = result.frame[result.frame["task"] == task]
    return frame.sort_values(["condition", "protocol", "example"], ignore_index=True)


@pytest.mark.parametrize("seed", mark_rest("matrix", [0, 2], first=[0]))
def test_each_task_is_asked_as_with_its_own_held_out_prompts(
    tasks: list[lr.Task], seed: int, tmp_path: Path
) -> None:
    both = sweep(tasks, conditions(lr.Reference()), seed=seed).run(tmp_path / "both")
    apart = []
    for n, task in enumerate(tasks):
        reference = lr.Reference(task.held_out(64, seed))
        alone = sweep([task], conditions(reference), seed=seed).run(tmp_path / f"alone {n}")
        apart.append(alone)
        pd.testing.assert_frame_equal(rows(both, task.label), rows(alone, task.label))
        for cell in both.manifest["cells"]:
            if cell["task"] == task.label:
                assert cell["references"] == {lr.Reference().digest: reference.digest}
        assert all("references" not in cell for cell in alone.manifest["cells"])
    # With the other task's prompts, something else comes out.
    others = conditions(lr.Reference(tasks[1].held_out(64, seed)))
    other = sweep(tasks[:1], others, seed=seed).run(tmp_path / "other")
    details = [rows(run, tasks[0].label).set_index("condition")["details"] for run in (both, other)]
    for name in EDITS:
        assert (details[0][name] != details[1][name]).any(), name
    assert (details[0]["skip L1"] == details[1]["skip L1"]).all()


def test_the_hash_holds_how_prompts_are_chosen_and_not_the_prompts(tasks: list[lr.Task]) -> None:
    def hashed(*given: object, **options: object) -> str:
        return lr.Condition({SITE: lr.Mean(lr.Reference(*given, **options))}).hash

    alike = [sweep([task], conditions(lr.Reference())) for task in tasks]
    assert [c.hash for c in alike[0].conditions] == [c.hash for c in alike[1].conditions]
    different = [
        *(hashed(), hashed(limit=8), hashed(seed=0), hashed(seed=1)),
        *(hashed(tasks[0]), hashed(tasks[1])),
    ]
    assert len(set(different)) == len(different)
    condition = lr.Condition({SITE: lr.Mean(lr.Reference())})
    sent = pickle.loads(pickle.dumps(condition))
    assert (sent, sent.name, sent.hash) == (condition, condition.name, condition.hash)
    assert condition.edits[SITE].parameters()["reference"] == (
        "the asked task's own, limit 64, the sweep's seed"
    )


def test_limit_and_seed_are_those_of_the_reference(tasks: list[lr.Task]) -> None:
    task = tasks[0]
    for reference, prompts in (
        (lr.Reference(limit=3), task.held_out(3, seed=2)),
        (lr.Reference(limit=64, seed=2), task.held_out(64, seed=2)),
        (lr.Reference(), task.held_out(64, seed=2)),
    ):
        asked = sweep([task], [lr.Condition({SITE: lr.Mean(reference)})], seed=2)
        (_, condition) = asked.references.conditions(task.label)
        ((made, _),) = condition.references.items()
        assert made.prompts == prompts
        assert condition.name == "mean L1"
    # Under another seed other questions are reserved.
    with pytest.raises(lr.InputError, match="its reference holds prompts that the sweep asks"):
        sweep([task], [lr.Condition({SITE: lr.Mean(lr.Reference(seed=0))})], limit=32, seed=2)


def test_run_resumes_and_is_extended(tasks: list[lr.Task], tmp_path: Path) -> None:
    asked = conditions(lr.Reference())
    whole = sweep(tasks, asked).run(tmp_path / "whole")
    sweep(tasks[:1], asked[:1], limit=2).run(tmp_path / "parts")
    sweep(tasks, asked[4:]).run(tmp_path / "parts")
    parts = sweep(tasks, asked[1:], limit=2).run(tmp_path / "parts")
    known = {tuple(cell[k] for k in ("task", "protocol")): cell for cell in parts.manifest["cells"]}
    for cell in whole.manifest["cells"]:
        assert known[cell["task"], cell["protocol"]]["references"] == cell["references"]
    parts = sweep(tasks, asked).run(tmp_path / "parts")
    for task in tasks:
        # What is computed together differs, and with it the last bits.
        one, two = (rows(run, task.label) for run in (whole, parts))
        columns = ["condition", "protocol", "example", "score", "response", "status", "changed"]
        pd.testing.assert_frame_equal(one[columns], two[columns])
        for first, second in zip(one["details"], two["details"], strict=True):
            numbers = (json.loads(each).get("logprobs", []) for each in (first, second))
            assert next(numbers) == pytest.approx(next(numbers), rel=1e-5)
    again = sweep(tasks, asked).run(tmp_path / "parts")
    assert again.frame.equals(parts.frame)


def test_folder_without_task_references_is_read_and_extended(
    tasks: list[lr.Task], tmp_path: Path
) -> None:
    asked = conditions(lr.Reference(tasks[0].held_out(64, 0)))
    before = sweep(tasks, asked, limit=2).run(tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert all("references" not in cell for cell in manifest["cells"])
    assert lr.read(tmp_path / "run").frame.equals(before.frame)
    own = lr.Condition({SITE: lr.Mean(lr.Reference())}, name="own")
    after = sweep(tasks, [*asked, own], limit=3).run(tmp_path / "run")
    assert all(cell["references"] for cell in after.manifest["cells"])
    assert len(after.frame) == len(before.frame) // 2 * 3 + 3 * 2 * len(PROTOCOLS)


def test_other_prompts_under_the_same_words_are_refused(tmp_path: Path) -> None:
    asked = [lr.Condition({SITE: lr.Mean(lr.Reference())})]
    sweep([questions(tmp_path, "abc")], asked, limit=1).run(tmp_path / "run")
    file = tmp_path / "abc.jsonl"
    lines = file.read_text().splitlines()
    reserved = lr.task(f"local:{file}").held_out(1, seed=0)
    (place,) = (n for n, line in enumerate(lines) if json.loads(line)["prompt"] == reserved[0])
    lines[place] = json.dumps(json.loads(lines[place]) | {"prompt": "Changed?"})
    file.write_text("\n".join(lines))
    task = lr.task(f"local:{file}", max_gen_toks=4, num_fewshot=1)
    with pytest.raises(lr.InputError, match="with a reference of other prompts"):
        sweep([task], asked, limit=1).run(tmp_path / "run")


def test_equal_prompts_under_two_names_are_asked_side_by_side(
    tasks: list[lr.Task], tmp_path: Path
) -> None:
    own = lr.Condition({SITE: lr.Mean(lr.Reference())}, name="own")
    given = lr.Condition({SITE: lr.Mean(lr.Reference(tasks[0].held_out(64, 0)))}, name="given")
    frame = sweep(tasks[:1], [own, given]).run(tmp_path / "run").frame
    found = [frame[frame["condition"] == name].reset_index(drop=True) for name in ("own", "given")]
    assert len(found[0]) == 4 * len(PROTOCOLS)
    columns = ["protocol", "example", "score", "response", "changed"]
    pd.testing.assert_frame_equal(found[0][columns], found[1][columns])


@dataclass(frozen=True)
class Sending(Backend):
    """Sends every job to another process and back, or as good as that."""

    def check(self, engine: lr.Engine) -> None: ...

    @contextmanager
    def opened(self, engine: lr.Engine) -> Iterator[OpenBackend]:
        yield Sent(engine)


class Sent(OpenBackend):
    def __init__(self, engine: lr.Engine) -> None:
        self.engine = engine

    @property
    def workers(self) -> Workers:
        return describe_worker(self.engine)

    def answer_jobs(self, jobs: Iterable[Job]) -> Iterator[tuple[int, JobPart]]:
        for place, job in enumerate(jobs):
            for part in answer_job(self.engine, pickle.loads(pickle.dumps(job))):
                yield place, part


def test_jobs_that_are_sent_hold_the_prompts(tasks: list[lr.Task], tmp_path: Path) -> None:
    asked = [
        lr.Condition({SITE: lr.Mean(lr.Reference())}),
        *lr.each_layer(random_model("llama"), lr.Skip()),
    ]
    here = sweep(tasks, asked).run(tmp_path / "here")
    sent = sweep(tasks, asked).run(tmp_path / "sent", backend=Sending())
    for task in tasks:
        pd.testing.assert_frame_equal(rows(here, task.label), rows(sent, task.label))


def test_without_an_asked_task_it_is_refused(tasks: list[lr.Task]) -> None:
    model, condition = random_model("llama"), lr.Condition({SITE: lr.Mean(lr.Reference())})
    engine = lr.Engine(model)
    for asking in (
        lambda: lr.ablated(model, condition).__enter__(),
        lambda: engine.loglikelihood([("a", "b")], [condition]),
        lambda: engine.generate_until([("a", {"max_gen_toks": 2})], [condition]),
        lambda: lr.AblatedLM(model, condition),
        lambda: lr.probes.LogitLens().measure(model, tasks, limit=1, condition=condition),
        lambda: lr.Reference().prompts,
    ):
        with pytest.raises(lr.InputError) as caught:
            asking()
        line = str(caught.value)
        assert "a reference without texts is made of the asked task's questions: use it in" in line
        assert "\n" not in line


def test_task_without_enough_reserved_questions_raises(tmp_path: Path) -> None:
    few, two = questions(tmp_path, "abc", n=4), questions(tmp_path, "uvw", n=9)
    mean, resample = (
        [lr.Condition({SITE: edit(lr.Reference())})] for edit in (lr.Mean, lr.Resample)
    )
    with pytest.raises(lr.InputError, match=r"abc.jsonl.*: no question is kept apart to make a"):
        sweep([few], mean)
    sweep([two], mean)
    with pytest.raises(lr.InputError, match=r"uvw.jsonl.*: resample: a donor is another prompt"):
        sweep([two], resample)


def test_it_is_estimated(tasks: list[lr.Task]) -> None:
    found = lr.estimate(
        sweep(tasks, [lr.Condition({SITE: lr.Mean(lr.Reference())})]), device="h100"
    )
    n_prompts = sum(len(task.held_out(64, seed=0)) for task in tasks)
    (part,) = (part for part in found.parts if part.name == "references")
    assert part.passes == n_prompts == 16


def test_too_large_limit_warns_once_per_task(
    tasks: list[lr.Task], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        sweep(tasks, [], limit=32)
        assert not caplog.records
        sweep(tasks, [], limit=33)
    assert [record.getMessage() for record in caplog.records] == [
        f"task {task.label!r}: 32 questions are asked, not 33: it has no more, except 8 that are "
        f"reserved for references and never asked"
        for task in tasks
    ]
