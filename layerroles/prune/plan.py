"""Pruning plans: the layers to drop, and how they were chosen."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from layerroles.ablations import Condition, Skip
from layerroles.notebook_display import as_html, as_text
from layerroles.sites import Site
from layerroles.stats import UNKNOWN, Interval

# The score of each method, in words; the layers with the smallest score are dropped.
METHODS = {
    "role_aware": "mean harm of the kept families",
    "likelihood": "mean harm of the kept families",
    "block_influence": "block influence, 1 - cos(in, out)",
    "angular": "angular distance over the run, arccos(cos(in, out)) / pi",
    "random": "chance",
}
_SHOWN = 3  # the number of candidates shown of each step
COLUMNS = [
    *("method", "step", "layers", "score", "low", "high", "influence", "n", "n_failed"),
    "chosen",
]


@dataclass(frozen=True)
class Candidate:
    """Layers that one step of a plan could drop, and their score.

    Attributes:
        layers: one layer, or for `angular` a run of consecutive layers.
        score: depends on the method; smaller is better. It is the harm of skipping the layers
            together with those that earlier steps chose, or how much the layers change the residual
            stream (see `METHODS`); NaN if not scored.
        interval: the 95% interval of the score; NaN if unknown.
        influence: the mean block influence of the layers, `1 - cos(in, out)`; NaN if not measured.
        n: the number of examples, summed over tasks and protocols.
        n_failed: the number of further examples, left out since a score was not finite; candidates
            with such examples are sorted last.
    """

    layers: tuple[int, ...]
    score: float
    interval: Interval = UNKNOWN
    influence: float = float("nan")
    n: int = 0
    n_failed: int = 0

    @property
    def order(self) -> tuple[bool, float, float, tuple[int, ...]]:
        """The sort key: failed or unscored candidates last, then score, influence and layers."""
        failed = self.n_failed > 0 or self.score != self.score
        influence = float("inf") if self.influence != self.influence else self.influence
        # Rounded, so that scores that differ only by rounding errors are equal.
        return failed, float("inf") if failed else round(self.score, 9), influence, self.layers


@dataclass(frozen=True)
class Step:
    """One step of a plan: it chooses one layer, or for `angular` all layers at once.

    Attributes:
        dropped: the layers that earlier steps chose. `role_aware` and `likelihood` skip them
            together with each candidate.
        candidates: the candidates, best first.
        chosen: the layers that this step adds.
    """

    dropped: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    chosen: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """Layers to drop so that the kept families lose least, and how they were chosen.

    Attributes:
        model: the model's name.
        n_layers: the number of layers of the whole model.
        method: one of `METHODS`.
        layers: the layers to drop (0-based), in the order in which they were chosen.
        steps: the steps, each with its candidates and their scores.
        keep: the families to keep, which are to lose least.
        tasks: labels of the tasks that represent these families, except those of `without_skill`.
        without_skill: labels of tasks that were asked but do not count, since the intact model is
            not above chance on them.
        protocols: the protocols under which tasks were asked; empty if the method scores no
            answers.
        limit: the number of examples of each task.
        seed: the seed of the examples.

    Example:
        plan = lr.plan_pruning(model, drop=1, keep=["retrieval"], tasks=tasks, limit=8)
        plan.layers, plan.frame
        with lr.ablated(model, plan.condition):
            logits = model("silver fence")
    """

    model: str
    n_layers: int
    method: str
    layers: tuple[int, ...]
    steps: tuple[Step, ...]
    keep: tuple[str, ...]
    tasks: tuple[str, ...]
    without_skill: tuple[str, ...]
    protocols: tuple[str, ...]
    limit: int
    seed: int

    @property
    def condition(self) -> Condition:
        """The condition that skips all layers of the plan, for a sweep on other examples."""
        return skip_layers(self.layers)

    @property
    def frame(self) -> pd.DataFrame:
        """A row per step and candidate, the best first.

        Columns: method, step (from 1), layers (`L3`, or `L3:6` for a run), score with low and high
        (see `METHODS`), influence, n, n_failed, chosen.
        """
        rows = [
            {
                "method": self.method,
                "step": number,
                "layers": label_layers(candidate.layers),
                "score": candidate.score,
                "low": candidate.interval.low,
                "high": candidate.interval.high,
                "influence": candidate.influence,
                "n": candidate.n,
                "n_failed": candidate.n_failed,
                "chosen": candidate.layers == step.chosen,
            }
            for number, step in enumerate(self.steps, start=1)
            for candidate in step.candidates
        ]
        return pd.DataFrame(rows, columns=COLUMNS)

    def __repr__(self) -> str:
        return as_text(self._headline(), self._short_frame(), *self._closing_lines())

    def _repr_html_(self) -> str:
        return as_html(self._headline(), self._short_frame(), *self._closing_lines())

    def _headline(self) -> str:
        layers = ", ".join(map(str, self.layers))
        line = (
            f"PruningPlan of {self.model}: drop {len(self.layers)} of {self.n_layers} layers "
            f"(0-based): {layers}; {self.method}, by {METHODS[self.method]}"
        )
        if self.protocols:
            line += f" ({', '.join(self.keep)}) under {', '.join(self.protocols)}"
        if self.method != "random":
            line += f"; {self.limit} examples of each of {', '.join(self.tasks)}"
        return f"{line}, seed {self.seed}; the best candidates of each step:"

    def _short_frame(self) -> pd.DataFrame:
        shown = self.frame.groupby("step", sort=False).head(_SHOWN)
        return shown.drop(columns="method")

    def _closing_lines(self) -> list[str]:
        export = "Next: lr.export(model, drop=plan.layers, path=FOLDER) writes the pruned model."
        if not self.protocols:
            return [export]
        lines = []
        if self.without_skill:
            lines.append(
                f"Not counted, since the intact model is not shown to be above chance: "
                f"{', '.join(self.without_skill)}."
            )
        return [
            *lines,
            "The harm of what was chosen is the least of several noisy ones, and so too hopeful: "
            "ask other examples for it (sweep plan.condition under another seed).",
            export,
        ]


def skip_layers(layers: Iterable[int]) -> Condition:
    """Return the condition that skips all of these layers."""
    return Condition({Site(layer): Skip() for layer in layers})


def label_layers(layers: tuple[int, ...]) -> str:
    """Return layers as text: `L3`, consecutive ones as the half-open `L3:6`, others as `L3,L7`."""
    ordered = sorted(layers)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"L{ordered[0]}:{ordered[-1] + 1}"
    return ",".join(f"L{layer}" for layer in ordered)


def sort_candidates(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Return the candidates in the order of `Candidate.order`, the best first."""
    return tuple(sorted(candidates, key=lambda candidate: candidate.order))
