"""On one accelerator and on two, answers are the processor's; a decode step waits once.

The accelerators are simulated (see `tests.support.simulated_device`), which changes a process for
good: all groups of cases run in one other process.
"""

import json
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import pytest

from tests.support.simulated_cases import (
    ARCHITECTURES,
    BETWEEN_DEVICES,
    CONDITIONS,
    EXECUTORS,
    run_case,
)
from tests.support.tiers import mark_rest

Outcome = Callable[..., dict[str, Any]]
TOLERANCE = 1e-5  # nats
each_architecture = pytest.mark.parametrize(
    "architecture", mark_rest("devices", ARCHITECTURES, first=["llama"])
)

# Decode steps: of which model, and whether its texts share a beginning.
STEPS = [
    f"{model}, {text}" for model in ("llama", "llama_5_layers") for text in ("no trunk", "trunk")
]


@pytest.fixture(scope="module")
def outcome() -> Iterator[Outcome]:
    """Return what a case of `tests.support.simulated_cases` gives; each is run once."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        yield cache(lambda *case: json.loads(process.submit(run_case, *case).result()))


def check_answers(found: dict[str, Any], conditions: Iterable[str]) -> None:
    assert "error" not in found, found["error"]
    assert list(found["apart"]) == list(conditions)
    assert max(found["apart"].values()) <= TOLERANCE
    assert not found["differ"]  # texts, or what is said to have changed


@each_architecture
def test_one_device_gives_the_processors_answers(architecture: str, outcome: Outcome) -> None:
    found = outcome("one_device", architecture)
    for executor in EXECUTORS:
        check_answers(found[executor], [*CONDITIONS, "swap"])
        assert found[executor]["used"] == ["fused" if executor == "auto" else executor]


@each_architecture
@pytest.mark.devices
def test_two_devices_give_the_processors_answers(architecture: str, outcome: Outcome) -> None:
    found = outcome("two_devices", architecture)
    for executor in EXECUTORS:
        check_answers(found[executor], BETWEEN_DEVICES)
        # The fused executor does not run models on several devices.
        assert found[executor]["used"] == ["hooked" if executor == "auto" else executor]


def test_probes_give_the_processors_numbers_on_two_devices(outcome: Outcome) -> None:
    for name, apart in outcome("probes_on_two_devices").items():
        assert apart == pytest.approx(0, abs=1e-4), name


@pytest.mark.devices
def test_two_devices_that_run_out_of_memory_answer_with_less_at_once_or_say_so(
    outcome: Outcome,
) -> None:
    found = outcome("out_of_memory")
    some, next_to_none = found.values()
    check_answers(some, BETWEEN_DEVICES)
    assert some["halved"] > 0
    assert "memory gave out" in next_to_none["error"]
    assert "\n" not in next_to_none["error"]


@pytest.mark.devices
def test_a_device_without_float64_gives_the_processors_answers(outcome: Outcome) -> None:
    found = outcome("without_float64")
    for executor in EXECUTORS:
        check_answers(found[executor], CONDITIONS)
    assert found["auto"]["used"] == ["fused"]
    # Rounding moves a similarity less than this; head scores are shares.
    assert found["heads"] <= 1e-6
    assert found["similarity"] <= 1e-6


@pytest.mark.parametrize("step", STEPS)
def test_a_steady_decode_step_waits_once_and_is_shared_by_conditions(
    step: str, outcome: Outcome
) -> None:
    """In a loop over conditions, one for each layer would launch as many steps as layers."""
    found = outcome("decoding")
    intact, each = (found[f"{step}, {asked}"] for asked in ("intact", "each layer"))
    for one in (intact, each):
        assert one["launches"]
        for waits in one["waits"]:
            assert [what for what, _ in waits] == ["copy to the CPU"]
            assert waits[0][1].startswith("engine/greedy_decoding.py")
    assert max(each["launches"]) < 1.6 * max(intact["launches"])


@pytest.mark.parametrize("step", STEPS)
def test_the_plan_counts_the_launches_of_a_decode_step(step: str, outcome: Outcome) -> None:
    found = outcome("decoding")[f"{step}, each layer"]
    assert found["expected"] == pytest.approx(max(found["launches"]), rel=0.1)
