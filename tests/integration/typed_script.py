"""What a user writes who has their scripts checked: `make lint` does, strictly, and runs none."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

import layerroles as lr


@lr.ablation("scale")
@dataclass(frozen=True)
class Scale(lr.Ablation):
    """Multiply the site's write by `factor`."""

    factor: float = 0.5

    def edit(self, write: Tensor, ctx: lr.EditContext) -> Tensor:
        return self.factor * write


def run(out: Path) -> lr.SweepResult:
    model = lr.load("smollm2-135m", dtype="bfloat16")
    tasks: list[lr.Task] = [lr.task("kv_retrieval", pairs=10), lr.task("facts")]
    reference = lr.Reference(tasks[0], limit=8)
    conditions = [
        *lr.each_layer(model, lr.Skip(), at="after_first"),
        *lr.each_head(model, lr.Zero(), layers=[3, 4]),
        *lr.each_span(model, lr.Mean(reference), width=4),
        lr.Condition({lr.Site(3, "mlp"): Scale(0.25), lr.Site(4): lr.Noise(0.1, reference)}),
        lr.each_layer(model, lr.Resample(reference))["resample L3"],
    ]
    with lr.ablated(model, conditions[0]):
        model("The capital of France is")
    scores = lr.Engine(model).loglikelihood([("1 + 1 =", " 2")], conditions)
    print(scores.logprob.shape, lr.localize(lr.read(out)).verdict.upper())
    sweep = lr.Sweep(model, tasks, conditions, protocols=["generation"], limit=8)
    print(lr.estimate(sweep, device="h100").seconds / 60)
    result = sweep.run(out)
    lens = lr.probes.LogitLens().measure(model, tasks, limit=8)
    lr.figures.role_map(result, lens)
    page: Path = lr.report(result, probes=[lens], path=out / "report.html")
    comparison: lr.Comparison = lr.compare(result["retrieval"], lr.read(page.parent))
    print(comparison.largest(3), lr.planted().truth["retrieval"][0] + 1)
    plan = lr.plan_pruning(model, tasks=tasks, drop=2)
    lr.export(model, drop=plan.layers, path=out / "pruned")
    return result


def make_mistakes() -> None:
    """What a type checker finds: otherwise its `ignore` would be an error."""
    lr.Site("3")  # type: ignore[arg-type]
    lr.read("run").efects()  # type: ignore[attr-defined]
    lr.Sweeep  # type: ignore[attr-defined]  # noqa: B018


if __name__ == "__main__":
    try:
        run(Path("runs/first"))
    except lr.InputError as error:
        print(error)
