"""One claim in several set-ups of a planted model, whose harm over depth is known."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import layerroles as lr
from layerroles.plants.planted_model import Plant

FACTORS = {"strength": [1.0, 0.5], "ablation": [lr.Skip(), lr.Mean(lr.Reference(limit=8))]}


@pytest.fixture(scope="module")
def plant() -> Plant:
    return lr.planted(n_layers=6, retrieval=(0, 1), reasoning=(), knowledge=(), inert=())


@pytest.fixture(scope="module")
def found(plant: Plant, tmp_path_factory: pytest.TempPathFactory) -> tuple[lr.Robustness, Path]:
    path = tmp_path_factory.mktemp("setups")
    return lr.robustness(plant.model, plant.tasks[0], FACTORS, path, limit=24), path


def test_each_combination_is_a_set_up_in_a_folder(found: tuple[lr.Robustness, Path]) -> None:
    robustness, path = found
    frame = robustness.frame
    assert list(zip(frame["strength"], frame["ablation"], strict=True)) == [
        *((1.0, "skip"), (1.0, "mean"), (0.5, "skip"), (0.5, "mean")),
    ]
    assert len(list(path.iterdir())) == 4
    assert frame["n"].eq(24).all() and frame["intact"].eq(1.0).all()
    first = lr.read(next(folder for folder in path.iterdir() if "skip" in folder.name))
    assert set(first.frame["layer"].dropna()) == {0, 1, 4, 5}  # the first and the last third


def test_the_planted_strength_is_the_factor_that_matters(
    found: tuple[lr.Robustness, Path],
) -> None:
    robustness, _ = found
    assert robustness.claim == "retrieval leans on the first third of layers"
    assert "holds in 4 of 4 reasonable set-ups" in robustness.sentence
    spread = robustness.spread.set_index("factor")
    # Both layers of the first third take all of the skill, or half of it.
    assert spread.loc["strength", "range"] == pytest.approx(0.5, abs=0.2)
    assert spread.loc["strength", "share"] > 0.5
    assert spread.loc["ablation", "range"] < spread.loc["strength", "range"] / 3


def test_set_ups_with_the_same_questions_share_errors(
    found: tuple[lr.Robustness, Path],
) -> None:
    robustness, _ = found
    widths = robustness.frame["high"] - robustness.frame["low"]
    assert robustness.sampling_sd < 0.8 * (widths / (2 * 1.96)).mean()


def test_a_second_call_reads_what_is_there(
    found: tuple[lr.Robustness, Path], plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    robustness, path = found
    monkeypatch.setattr("layerroles.engine.Engine.loglikelihood", None)
    again = lr.robustness(plant.model, plant.tasks[0], FACTORS, path, limit=24)
    pd.testing.assert_frame_equal(again.frame, robustness.frame)
    assert again.sentence == robustness.sentence


def test_an_interrupted_run_resumes_to_the_same_table(
    found: tuple[lr.Robustness, Path],
    plant: Plant,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    robustness, _ = found
    run, n_runs = lr.Sweep.run, 0

    def interrupted(self: lr.Sweep, *given: Any, **options: Any) -> lr.SweepResult:
        nonlocal n_runs
        n_runs += 1
        if n_runs == 3:
            raise KeyboardInterrupt
        return run(self, *given, **options)

    monkeypatch.setattr(lr.Sweep, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        lr.robustness(plant.model, plant.tasks[0], FACTORS, tmp_path, limit=24)
    again = lr.robustness(plant.model, plant.tasks[0], FACTORS, tmp_path, limit=24)
    pd.testing.assert_frame_equal(again.frame, robustness.frame)


def test_other_claims_take_their_own_layers(plant: Plant, tmp_path: Path) -> None:
    factors = {"strength": [1.0, 0.5]}
    task = plant.tasks[0]
    layer = lr.robustness(plant.model, task, factors, tmp_path, claim="L1", limit=24)
    assert layer.smallest == 0.2
    assert layer.frame["verdict"].iloc[0] == "holds"
    late = lr.robustness(plant.model, task, factors, tmp_path, claim="late_minus_early", limit=24)
    assert late.frame["verdict"].tolist() == ["contradicted"] * 2
    mean = lr.robustness(plant.model, task, factors, tmp_path, claim="mean_harm", limit=24)
    assert mean.frame["number"].tolist() == pytest.approx([2 / 6, 1 / 6], abs=0.1)
    assert len(list(tmp_path.iterdir())) == 2


def test_models_of_several_dtypes_are_loaded_once_each(plant: Plant, tmp_path: Path) -> None:
    loaded: list[str] = []

    def load(dtype: str) -> Any:
        loaded.append(dtype)
        return plant.model

    factors = {"strength": [1.0, 0.5], "dtype": ["float32", "bfloat16"]}
    made = lr.robustness(load, plant.tasks[0], factors, tmp_path, claim="L1", limit=8)
    assert sorted(loaded) == ["bfloat16", "float32"]
    assert made.frame["dtype"].tolist() == ["float32", "bfloat16"] * 2
    assert made.frame["number"].iloc[0] == made.frame["number"].iloc[1]
    assert made.spread.set_index("factor").loc["dtype", "range"] == pytest.approx(0.0)


def _no_model(dtype: str) -> Any:
    raise AssertionError("no model is loaded before the input is checked")


@pytest.mark.parametrize(
    ("factors", "options", "words"),
    [
        ({"tempalte": [0, 1]}, {}, "unknown factor 'tempalte'"),
        ({"strength": [1.0]}, {}, "no factor has two levels"),
        ({}, {}, "no factor has two levels"),
        ({"protocol": "continuation"}, {}, "is one level"),
        ({"strength": [1.0, 1.0]}, {}, "takes different levels"),
        ({"strength": []}, {}, "takes different levels"),
        ({"strength": [1.0, 7.0]}, {}, "strength"),
        ({"ablation": [lr.Skip(), "mean"]}, {}, "'mean' is no ablation"),
        ({"dtype": ["float32", "bfloat16"]}, {}, "go together"),
        ({"strength": [1.0, 0.5]}, {"claim": "early"}, "unknown claim 'early'"),
        ({"strength": [1.0, 0.5]}, {"claim": "L9"}, "layer 9"),
        ({"strength": [1.0, 0.5]}, {"limit": 0}, "limit=0"),
        ({"strength": [1.0, 0.5], "seed": range(9)}, {}, "too many"),
    ],
)
def test_wrong_input_is_answered_in_one_line(
    plant: Plant, tmp_path: Path, factors: Any, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(lr.InputError, match=words) as error:
        lr.robustness(plant.model, plant.tasks[0], factors, tmp_path, **options)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_function_takes_the_factor_dtype(plant: Plant, tmp_path: Path) -> None:
    with pytest.raises(lr.InputError, match="go together"):
        lr.robustness(_no_model, plant.tasks[0], {"strength": [1.0, 0.5]}, tmp_path)
