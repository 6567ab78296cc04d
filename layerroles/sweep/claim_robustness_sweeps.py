"""Measure one claim in several set-ups: other wordings, shots, kinds of ablation, dtypes.

A set-up has one level of each factor, such as a seed or a kind of ablation. Each set-up is a sweep
of its own, in a folder of its own, and can be resumed. `stats.fractional_factorial` chooses the
combinations of levels to ask; `roles.judge_setups` decides what the numbers show.
"""

import dataclasses
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pandas as pd
from transformer_lens.model_bridge import TransformerBridge

from layerroles import stats
from layerroles.ablations import Ablation, At, Condition, Skip, each_layer
from layerroles.errors import InputError
from layerroles.registry import describe_unknown
from layerroles.results import CRITICAL, SweepResult
from layerroles.roles import SMALLEST, Harms, Robustness, judge_setups, single_site_conditions
from layerroles.sites import Site
from layerroles.sweep.sweep import Sweep
from layerroles.tasks import Task

# A model, or a function that returns the model of a dtype.
Models = TransformerBridge | Callable[[str], TransformerBridge]
# The factors that are not parameters of the task, each with the level that it has if not given.
_SETTINGS: dict[str, object] = {
    "ablation": Skip(),
    "at": "all",
    "dtype": "",
    "protocol": "continuation",
    "seed": 0,
}
# Set-ups that differ in these have different folders, as do those that differ in task or ablation.
_IN_FOLDER = ("dtype", "protocol", "seed")
_MOST_CHARACTERS = 100


def robustness(
    model: Models,
    task: Task,
    factors: Mapping[str, Iterable[object]],
    path: str | Path,
    *,
    claim: str = "early_minus_late",
    limit: int = 32,
) -> Robustness:
    """Measure in how many of at most 16 set-ups a claim holds, and which factors change its number.

    Every set-up asks the same questions, unless the seed is a factor. All combinations of levels
    are measured if there are at most 16, else a balanced fraction of them (see
    `stats.fractional_factorial`). To resume after an interruption, call it again.

    Args:
        model: from `load` or `prepare`; or, if `"dtype"` is a factor, a function that returns the
            model of a dtype, such as `lambda dtype: lr.load("smollm2-135m", dtype=dtype)`. Models
            are loaded one after another.
        task: the task that is asked.
        factors: the levels of each factor, the usual level first. A factor is a parameter of the
            task (such as `"template"`, `"num_fewshot"` or `"shot_order"`), `"ablation"`, `"at"`,
            `"dtype"`, `"protocol"` or `"seed"`. A factor with one level fixes a setting. Settings
            that are not named are `Skip()` at `"all"`, `"continuation"` and seed 0.
        path: a folder; each set-up has a run folder in it.
        claim: `"early_minus_late"`: the mean harm of the first third of layers exceeds that of the
            last third by more than 0.05; `"late_minus_early"`: the reverse; `"mean_harm"`: the mean
            harm over all layers is above 0.05; or a layer, such as `"L18"`: the layer's harm is
            above 0.2. Only layers that the claim is about are ablated.
        limit: the largest number of questions of each set-up.

    Raises:
        InputError: an unknown factor, claim or layer; no factor with two levels; a level that the
            task does not accept, or that is given twice; too many levels for 16 set-ups; or a
            model, instead of a function, if `"dtype"` is a factor (or the reverse).

    Example:
        factors = {"seed": [0, 1], "ablation": [lr.Skip(), lr.Zero()]}
        # For the packaged tasks also: "template": range(4), "shot_order": ["drawn", "reversed"]
        robustness = lr.robustness(model, tasks[0], factors, "runs/robustness", claim="L1", limit=8)
        print(robustness.sentence)
    """
    levels = _check_factors(model, task, factors)
    quantity = _parse_claim(claim)
    design = stats.fractional_factorial([len(given) for given in levels.values()])
    setups = [
        _Setup(task, {name: levels[name][at] for name, at in zip(levels, run, strict=True)})
        for run in design
    ]
    numbers: dict[int, _Number] = {}
    loaded: TransformerBridge | None = None
    dtype: object = None
    # Sorted by dtype, so that the model of each dtype is loaded once.
    for at, setup in sorted(enumerate(setups), key=lambda numbered: str(numbered[1]["dtype"])):
        if loaded is None or setup["dtype"] != dtype:
            loaded, dtype = None, setup["dtype"]  # frees a model before the next one is loaded
            loaded = model if isinstance(model, TransformerBridge) else model(str(dtype))
        result = setup.run(loaded, quantity, Path(path), limit)
        numbers[at] = quantity.measure(result)
    measured = [numbers[at] for at in range(len(setups))]
    rows = [setup.labels | number.row for setup, number in zip(setups, measured, strict=True)]
    return judge_setups(
        pd.DataFrame(rows),
        list(levels),
        claim=quantity.claim.format(family=task.family),
        smallest=quantity.smallest,
        correlation=stats.error_correlations([number.contrast for number in measured]),
    )


@dataclass(frozen=True)
class _Number:
    """The number that a claim is about, such as a layer's harm, measured in one set-up.

    Attributes:
        contrast: the number, with its interval.
        row: columns of the set-up's row: n, intact and chance scores, and number, low and high.
    """

    contrast: stats.Contrast
    row: dict[str, float]


@dataclass(frozen=True)
class _Quantity:
    """Which number a claim is about, such as the harm of one layer, and how to measure it.

    Attributes:
        claim: the claim as text, with the placeholder `{family}`.
        smallest: the smallest effect of interest.
        layer: the layer whose harm is the number; None if the number is over several layers.
        is_mean: whether the number is the mean harm over all layers, instead of the difference
            between the first and the last third of layers.
        sign: 1 if the difference is first minus last third, -1 if it is last minus first.
    """

    claim: str
    smallest: float = SMALLEST
    layer: int | None = None
    is_mean: bool = False
    sign: float = 1.0

    def layers(self, n_layers: int) -> Sequence[int]:
        """Return the layers that the number is about.

        Raises:
            InputError: the model has fewer than three layers, and the number compares thirds.
        """
        if self.layer is not None:
            return [self.layer]
        third = n_layers // 3
        if self.is_mean:
            return range(n_layers)
        if not third:
            raise InputError(f"a model of {n_layers} layers has no thirds to compare")
        return [*range(third), *range(n_layers - third, n_layers)]

    def measure(self, result: SweepResult) -> _Number:
        """Return the number that the claim is about, from the result of one set-up's sweep."""
        (ablation,) = set(single_site_conditions(result)["ablation"])
        harms = Harms(result, ablation)
        ((family, protocol),) = harms.keys
        if self.layer is not None:
            contrast = harms.harm(family, protocol, harms.mean_over([self.layer]))
        elif self.is_mean:
            contrast = harms.mean_harm(family, protocol)
        else:
            depth = harms.early_minus_late(family, protocol)
            contrast = stats.combined([depth], [self.sign])
        cell = harms.intact_rows(family, protocol)
        scores = {"intact": float(cell["score"].mean()), "chance": float(cell["chance"].mean())}
        values = dict(zip(("number", "low", "high"), contrast.numbers, strict=True))
        return _Number(_without_task(contrast), {"n": int(cell["n"].sum())} | scores | values)


@dataclass(frozen=True)
class _Setup:
    """A set-up: the task, and one level of each factor."""

    task: Task
    levels: Mapping[str, object]

    def __getitem__(self, name: str) -> object:
        return self.levels.get(name, _SETTINGS[name])

    @property
    def labels(self) -> dict[str, object]:
        """The set-up's level of each factor, as shown in tables."""
        return {name: _label(level) for name, level in self.levels.items()}

    def run(
        self, model: TransformerBridge, quantity: _Quantity, path: Path, limit: int
    ) -> SweepResult:
        """Compute the answers that the set-up's folder lacks, and return its sweep's result."""
        parameters = {name: level for name, level in self.levels.items() if name not in _SETTINGS}
        task = dataclasses.replace(self.task, **parameters)
        ablation, at = cast(Ablation, self["ablation"]), cast(At, self["at"])
        conditions = each_layer(model, ablation, layers=quantity.layers(model.cfg.n_layers), at=at)
        sweep = Sweep(
            model,
            [task],
            conditions,
            protocols=[cast(str, self["protocol"])],
            limit=limit,
            seed=cast(int, self["seed"]),
            noise_floor=False,
        )
        # Made for layer 0 whichever layers are ablated, so that the folder does not depend on them.
        identity = Condition({Site(0): ablation}, at=at).hash
        content = [task.label, identity, *(str(_label(self[name])) for name in _IN_FOLDER)]
        digest = hashlib.sha256("\n".join(content).encode()).hexdigest()[:8]
        shown = ",".join(f"{name}={label}" for name, label in self.labels.items())
        name = re.sub(r"[^\w.,=-]+", "_", shown)[:_MOST_CHARACTERS]
        return sweep.run(path / f"{name}-{digest}")


def _parse_claim(claim: str) -> _Quantity:
    if claim in _QUANTITIES:
        return _QUANTITIES[claim]
    if match := re.fullmatch(r"L(\d+)", claim):
        layer = int(match[1])
        return _Quantity(f"layer {layer} is critical for {{family}}", CRITICAL, layer)
    raise InputError(f"{describe_unknown('claim', claim, _QUANTITIES)}, or a layer such as L18")


def _check_factors(
    model: Models, task: Task, factors: Mapping[str, Iterable[object]]
) -> dict[str, list[object]]:
    """Check the factors, and return the levels of each.

    Raises:
        InputError: see `robustness`.
    """
    if not isinstance(model, TransformerBridge) and not callable(model):
        raise InputError(f"model={model!r} is not a model, use load(name)")
    if not isinstance(task, Task):
        raise InputError(f"{task!r} is no task: lr.task(...) makes one")
    parameters = [field.name for field in dataclasses.fields(task)]
    levels: dict[str, list[object]] = {}
    for name, given in factors.items():
        if name not in (*_SETTINGS, *parameters):
            raise InputError(describe_unknown("factor", name, {*_SETTINGS, *parameters}))
        if isinstance(given, str) or not isinstance(given, Iterable):
            raise InputError(f"factor {name!r}: {given!r} is one level: write [{given!r}]")
        levels[name] = list(given)
        labels = [str(_label(level)) for level in levels[name]]
        if not labels or len(set(labels)) < len(labels):
            raise InputError(f"factor {name!r} takes different levels, not {', '.join(labels)}")
        for level in levels[name]:
            _check_level(task, name, level)
    if all(len(given) < 2 for given in levels.values()):
        raise InputError("no factor has two levels, so there is nothing to compare")
    if isinstance(model, TransformerBridge) == ("dtype" in levels):
        raise InputError(
            "a function of a dtype that returns a model, and the factor 'dtype', go together: "
            "give both, or a model and no dtype"
        )
    return levels


def _check_level(task: Task, name: str, level: object) -> None:
    if name == "ablation" and not isinstance(level, Ablation):
        raise InputError(f"factor 'ablation': {level!r} is no ablation, such as lr.Skip()")
    if name not in _SETTINGS:
        dataclasses.replace(task, **{name: level})


def _label(level: object) -> object:
    """Return a level as it is shown: ablations and protocols by their label."""
    return getattr(level, "label", level)


def _without_task(contrast: stats.Contrast) -> stats.Contrast:
    """Return a contrast with the task's label removed from the names of questions and clusters.

    The tasks of two set-ups have different labels but the same questions. To be paired, these must
    have the same names.
    """

    def strip(name: object) -> object:
        return str(name).partition("\n")[2] or name

    return dataclasses.replace(
        contrast,
        influence=contrast.influence.rename(strip),
        clusters=contrast.clusters.rename(strip).map(strip),
    )


_QUANTITIES = {
    "early_minus_late": _Quantity("{family} leans on the first third of layers"),
    "late_minus_early": _Quantity("{family} leans on the last third of layers", sign=-1.0),
    "mean_harm": _Quantity("{family} is harmed by ablating a layer, on average", is_mean=True),
}
