"""On a model: `Scale(0)`, half doses and `Swap` are no second kind beside `Skip`."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

import layerroles as lr
from layerroles.results import mechanisms


@pytest.mark.matrix
def test_scale_0_half_doses_and_swap_are_no_second_kind(tmp_path: Path) -> None:
    @lr.ablation("scaled")
    @dataclass(frozen=True)
    class Scaled(lr.Ablation):
        factor: float = 0.5

        def edit(self, write, ctx):
            return self.factor * write

    made = lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(5,), inert=())
    other = lr.planted(n_layers=6, retrieval=(1, 2), reasoning=(5,), inert=(), seed=1)
    skips = lr.each_layer(made.model, lr.Skip())
    reference = lr.Reference(made.tasks[0], limit=16)
    # With likelihoods, by which means and deletion differ where their answers do not.
    options = {"limit": 100, "noise_floor": False}
    lr.Sweep(made.model, made.tasks, skips, **options).run(tmp_path / "skips")
    decided = {}
    for name, second in {
        "scale 0": Scaled(0.0),
        "half": Scaled(0.5),
        "swap": lr.Swap(other.model),
        "mean": lr.Mean(reference),
    }.items():
        conditions = [*skips, *lr.each_layer(made.model, second)]
        # What is answered without a layer is the same for each second kind, and asked once.
        folder = shutil.copytree(tmp_path / "skips", tmp_path / name)
        result = lr.Sweep(made.model, made.tasks, conditions, **options).run(folder)
        statuses = lr.localize(result, ablation="skip").claims["status"]
        decided[name] = int(statuses.isin(["supported", "contradicted"]).sum())
        if name == "scale 0":
            assert mechanisms(result) == {"skip": "deletion", "scaled": "deletion"}
    assert decided.pop("mean") >= 1
    assert set(decided.values()) == {0}, decided
