"""When memory runs out, batches are halved and the answers stay the same."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import layerroles as lr
from layerroles.engine import reference_executor
from layerroles.engine.fused.transformers_twin import Twin
from layerroles.engine.hooked import replay_executor as hooked
from layerroles.engine.planning.memory import out_of_memory
from layerroles.engine.requests import encode_written
from tests.support.random_models import random_model
from tests.support.tiers import mark_rest

ERRORS = {
    "cpu": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "cuda": torch.OutOfMemoryError("CUDA out of memory"),
    "python": MemoryError(),
}
TEXTS = [f"{n} and {n * n} are" for n in range(24)]
PAIRS = [(text, " numbers") for text in TEXTS]
ASKED: list[tuple[str, dict[str, Any]]] = [(text, {"max_gen_toks": 5}) for text in TEXTS]


def scarce(
    monkeypatch: pytest.MonkeyPatch, executor: str, most: int, error: BaseException
) -> list[int]:
    """Simulate an allocation failure above so many tokens at once; returns what was refused."""
    refused: list[int] = []

    def within(run: Callable[..., Any], size: Callable[..., int]) -> Callable[..., Any]:
        def limited(*args: Any, **kwargs: Any) -> Any:
            if size(*args) > most:
                refused.append(size(*args))
                raise error
            return run(*args, **kwargs)

        return limited

    if executor == "fused":
        monkeypatch.setattr(Twin, "run", within(Twin.run, lambda twin, tokens, *_: len(tokens)))
    elif executor == "hooked":
        record = within(hooked.record, lambda model, stage, *_: stage.tokens.numel())
        monkeypatch.setattr(hooked, "record", record)
    else:
        monkeypatch.setattr(
            reference_executor,
            "forward",
            within(reference_executor.forward, lambda model, tokens, *_: tokens.numel()),
        )
    return refused


@pytest.mark.parametrize("kind", mark_rest("devices", ERRORS, first=["cuda"]))
@pytest.mark.parametrize("executor", ["fused", "hooked", "plain"])
def test_the_answers_are_the_same(
    executor: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_model("llama")
    conditions = [lr.Condition({}), *lr.each_layer(model, lr.Skip())]

    def answers(engine: lr.Engine) -> tuple[torch.Tensor, list[list[str]]]:
        found = engine.loglikelihood(PAIRS, conditions).logprob
        return torch.tensor(found), engine.generate_until(ASKED, conditions)

    settings: dict[str, Any] = {"executor": executor, "memory": "64MB"}
    expected = answers(lr.Engine(model, **settings))
    engine = lr.Engine(model, **settings)
    refused = scarce(monkeypatch, executor, 150, ERRORS[kind])
    found = answers(engine)
    assert refused
    assert engine.halved > 0
    torch.testing.assert_close(found[0], expected[0], atol=1e-4, rtol=0)
    assert found[1] == expected[1]


def test_sweep_records_halvings_and_keeps_its_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    model = random_model("llama")
    tasks = [lr.task("facts", num_fewshot=0)]
    settings: dict[str, Any] = {"protocols": ["continuation"], "noise_floor": False}
    expected = lr.Sweep(model, tasks, lr.each_layer(model, lr.Skip()), limit=8, **settings)
    whole = expected.run(tmp_path / "whole")
    assert whole.manifest["memory_halved"] == 0
    assert whole.manifest["peak_memory"] > 2**20
    scarce(monkeypatch, "fused", 150, ERRORS["cpu"])
    engine = lr.Engine(model, memory="64MB")
    sweep = lr.Sweep(
        model, tasks, lr.each_layer(model, lr.Skip()), limit=8, engine=engine, **settings
    )
    result = sweep.run(tmp_path / "scarce")
    assert result.manifest["memory_halved"] == engine.halved > 0
    assert "half as much is computed together" in caplog.text
    torch.testing.assert_close(
        torch.tensor(result.frame["score"]), torch.tensor(whole.frame["score"])
    )


@pytest.mark.parametrize("executor", ["fused", "plain"])
def test_no_memory_at_all_raises(executor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model("llama")
    engine = lr.Engine(model, executor=executor)  # type: ignore[arg-type]  # a string to the checker
    engine.loglikelihood(PAIRS[:1])
    scarce(monkeypatch, executor, 0, ERRORS["cpu"])
    with pytest.raises(lr.InputError, match="even with next to nothing"):
        engine.loglikelihood(PAIRS)


def test_the_first_time_half_as_many_rows_are_decoded_together() -> None:
    engine = lr.Engine(random_model("llama"), executor="fused", memory="256MB")
    asked = [(text, {"max_gen_toks": 200}) for text in TEXTS]
    noises = [lr.Noise(float(scale)) for scale in range(1, 100)]
    conditions = [lr.Condition({lr.Site(1, "mlp"): noise}) for noise in noises]
    requests = encode_written(engine.model, asked)
    before = engine.planned(requests, conditions)
    assert before.row_bytes > 2**26  # rows fill their share of the budget
    engine._executors.take_less([requests], conditions)
    after = engine.planned(requests, conditions)
    assert after.rows == pytest.approx(before.rows / 2, rel=0.2)


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = lr.Engine(random_model("llama"))
    engine.loglikelihood(PAIRS[:2])
    scarce(monkeypatch, "fused", 0, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        engine.loglikelihood(PAIRS)
    assert engine.halved == 0


@pytest.mark.devices
def test_real_allocation_failure_is_recognized() -> None:
    """In a subprocess with a memory limit, so that the test process is not affected."""
    code = """
import resource, torch
from layerroles.engine.planning.memory import out_of_memory
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, used + 2**28))
try:
    torch.zeros(2**28)
except BaseException as error:
    print(out_of_memory(error))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "True", done.stderr
    assert not out_of_memory(RuntimeError("other"))


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
        "MPS backend out of memory (MPS allocated: 1 GB)",
        "std::bad_alloc",
    ],
)
def test_out_of_memory_messages_are_recognized(words: str) -> None:
    assert out_of_memory(RuntimeError(words))
    assert not out_of_memory(ValueError(words))
