"""What a plan is: the layers to drop, and how they were chosen."""

from dataclasses import dataclass

import pandas as pd

from layerroles.ablations import Condition, Skip
from layerroles.display import as_html, as_text
from layerroles.sites import Site
from layerroles.stats import UNKNOWN, Interval

# What each method goes by, in words; the smallest is dropped.
METHODS = {
    "role_aware": "mean harm of the kept families",
    "likelihood": "mean harm of the kept families",
    "block_influence": "block influence, 1 - cos(in, out)",
    "angular": "angular distance over the run, arccos(cos(in, out)) / pi",
    "random": "chance",
}
_SHOWN = 3  # candidates of each step
COLUMNS = [
    *("method", "step", "layers", "score", "low", "high", "influence", "n", "n_failed"),
    "chosen",
]


@dataclass(frozen=True)
class Candidate:
    """Layers that a step could drop, and what that would cost.

    Attributes:
        layers: one, or for `angular` a run of neighbours.
        score: harm when they are skipped together with what was dropped before, or a measure of how
            much they change the stream; NaN where nothing could be scored.
        interval: 95%, of the score.
        influence: mean block influence of the layers.
        n: examples.
        n_failed: answers that were not finite; candidates with any are chosen last.
    """

    layers: tuple[int, ...]
    score: float
    interval: Interval = UNKNOWN
    influence: float = float("nan")
    n: int = 0
    n_failed: int = 0

    @property
    def order(self) -> tuple[bool, float, float, tuple[int, ...]]:
        """By what candidates are sorted: finite, least score, least influence, first layer."""
        failed = self.n_failed > 0 or self.score != self.score
        influence = float("inf") if self.influence != self.influence else self.influence
        # Rounded, so that means which are equal tie.
        return failed, float("inf") if failed else round(self.score, 9), influence, self.layers


@dataclass(frozen=True)
class Step:
    """One choice.

    Attributes:
        dropped: layers that were chosen before; they are skipped with every candidate.
        candidates: the best first.
        chosen: what was added.
    """

    dropped: tuple[int, ...]
    candidates: tuple[Candidate, ...]
    chosen: tuple[int, ...]


@dataclass(frozen=True, repr=False)
class PruningPlan:
    """Layers to drop, such that what is to be kept loses least, and how that was found.

    Attributes:
        model: its name.
        n_layers: of the whole model.
        method: one of `METHODS`.
        layers: to drop (0-based), in the order in which they were chosen.
        steps: the choices, each with its candidates and their scores.
        keep: the families that are to lose least.
        tasks: labels of the tasks that stood for them.
        without_skill: labels of those that were asked and do not count, since the intact model is
            not above chance on them.
        protocols: under which they were asked; empty where nothing was asked.
        limit: examples of each task.
        seed: of the examples.

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
        """All its layers skipped, such as a sweep on other examples takes."""
        return Condition({Site(layer): Skip() for layer in self.layers})

    @property
    def frame(self) -> pd.DataFrame:
        """A row per step and candidate, the best first.

        Columns: method, step (from 1), layers (`L3`, or `L3:6` for a run), score with low and high
        (what `METHODS` says of the method), influence, n, n_failed, chosen.
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
                f"Not counted, since the intact model is not above chance: "
                f"{', '.join(self.without_skill)}."
            )
        return [
            *lines,
            "The harm of what was chosen is the least of several noisy ones, and so too hopeful: "
            "ask other examples for it (sweep plan.condition under another seed).",
            export,
        ]


def label_layers(layers: tuple[int, ...]) -> str:
    """Layers in words: `L3`, a run as `L3:6`, others as `L3,L7`."""
    ordered = sorted(layers)
    if len(ordered) > 1 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"L{ordered[0]}:{ordered[-1] + 1}"
    return ",".join(f"L{layer}" for layer in ordered)


def sort_candidates(candidates: list[Candidate]) -> tuple[Candidate, ...]:
    """Candidates with the best first."""
    return tuple(sorted(candidates, key=lambda candidate: candidate.order))
