"""Compare how probes and ablation rank layers and heads, and how several seeds rank heads.

`probe_agreement` computes, for each task and protocol, Spearman's rank correlation over sites
(layers or heads) between what a probe measured at a site and the cost of ablating the site. The
cost is `intact - ablated`, to which harm is proportional. A probe reads the intact model and an
ablation breaks it, so agreement is evidence that the probe measures what matters. It is not proof:
both may follow depth, so the layer number is correlated with the cost too, as if it were a probe.
Nor does disagreement prove the opposite: a site may matter through later sites, which a probe does
not measure, and other sites may stand in for a site that a probe ranks high. A correlation over 30
layers says nothing about differences within a layer.

`rank_stability` compares the rankings of heads under several seeds: a ranking on which seeds
disagree should not be used.

>>> frames = [probe.measure(model, tasks, seed=seed) for seed in range(3)]  # doctest: +SKIP
>>> rank_stability(frames, value="score")  # doctest: +SKIP
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.probes import group_by_probe
from layerroles.results import INTACT, SweepResult, check_result
from layerroles.roles.harms import Harms, ablations_swept, positions_swept

COLUMNS = [
    *("probe", "measure", "part", "ablation", "at", "task", "family", "protocol"),
    *("n_sites", "n", "spearman", "low", "high"),
]
# Columns of probe frames that are not measures: keys, and properties of examples.
_KEYS = {"probe", "model", "condition", "task", "family", "example", "layer", "head"}
_OF_EXAMPLES = {
    *("uniform", "n", "n_tokens", "n_evidence", "n_written", "recall", "copied"),
    *("with_previous", "with_duplicate", "with_induction"),
}
# Lenses: the column whose gain over the layer before is correlated.
_GAINS = {"logit_lens": "logprob", "tuned_lens": "logprob", "decision": "margin"}
_KEY = ["task", "example"]


def probe_agreement(
    result: SweepResult,
    probes: pd.DataFrame | Sequence[pd.DataFrame],
    *,
    ablation: str | None = None,
    at: str | None = None,
) -> pd.DataFrame:
    """Correlate what probes measured with what ablation costs, over layers and over heads.

    Layers are compared if the sweep ablated whole layers one at a time, heads if it ablated single
    heads. The measure of a layer is

    - for a lens or `decision`, the gain over the layer before (in `logprob` or `margin`);
    - for `similarity`, each numeric column, for the layer's own block (`n` = 1);
    - for `attribution`, the logit that attention and MLP write together;
    - for a probe of heads, each numeric column: in each example, the largest value among the
      layer's heads;
    - for any other probe, each numeric column.

    Rows with probe `depth` correlate the cost with the layer number.

    Args:
        result: a sweep.
        probes: probe frames measured on the same tasks; only rows of the intact model are used.
        ablation: one kind of ablation; every kind by default.
        at: only conditions that act at these positions; by default, each of the sweep's positions.

    Returns:
        A row per probe, measure, part (block or head), ablation, at, task and protocol: n_sites,
        n (examples), spearman (positive if the probe is larger at sites whose ablation costs
        more), low and high (its 95% bootstrap interval; examples are drawn jointly for all sites,
        for the probe and for the ablation; see `stats.profile_agreement`). NaN for fewer than 3
        sites, for equal values at all sites, or if there is a chance level and the intact score is
        not above it.

    Raises:
        InputError: no frame, a frame of an unknown probe, or no single layer or head that was both
            measured and ablated on the same task.

    Example:
        attention = lr.probes.Attention().measure(model, tasks, limit=16)
        table = lr.probe_agreement(result, [attention])
        table[["measure", "task", "protocol", "spearman", "low", "high"]]
    """
    check_result(result)
    probe_frames = [probes] if isinstance(probes, pd.DataFrame) else list(probes)
    frames = group_by_probe(probe_frames).items()
    profiles = [profile for name, frame in frames for profile in _read_profiles(name, frame)]
    if not profiles:
        raise InputError("there is nothing to correlate: give frames that probes measured")
    rows = [
        _correlate(harms, task, protocol, family, profile)
        for harms in _each_harms(result, ablation, at)
        for family, protocol in harms.keys
        for task in harms.intact_rows(family, protocol)["task"]
        for profile in (*_layer_numbers(harms, task, protocol), *profiles)
        if profile.part == harms.part and task in profile.values.index.get_level_values("task")
    ]
    if not rows:
        raise InputError(
            "probes and sweep have nothing in common: measure the tasks that were swept, and "
            "ablate single layers or, for probes of heads, single heads"
        )
    return pd.DataFrame(rows, columns=COLUMNS)


@dataclass(frozen=True, eq=False)
class _Profile:
    """One measure of a probe, for every example at every place (layer, or head of a layer).

    Attributes:
        probe: the probe's name.
        measure: the name of the measure.
        part: `block` if places are whole layers, or `head`.
        values: a table with a row per task and example, and a column per place: (layer, head), or
            (layer, -1) for a whole layer.
    """

    probe: str
    measure: str
    part: str
    values: pd.DataFrame


def _each_harms(result: SweepResult, ablation: str | None, at: str | None) -> Iterator[Harms]:
    """Yield the harms of single layers, then of single heads, for each ablation and `at` swept.

    Args:
        result: a sweep.
        ablation: only this kind of ablation; None for every kind.
        at: only conditions that act at these positions; None for all.
    """
    for part in ("block", "head"):
        for kind in ablations_swept(result, part):
            for where in sorted(positions_swept(result, kind, part)):
                if ablation in (None, kind) and at in (None, where):
                    yield Harms(result, kind, where, part=part)


def _layer_numbers(harms: Harms, task: str, protocol: str) -> Iterator[_Profile]:
    """Yield one profile in which the measure of each place is the number of its layer."""
    examples = harms.cell_of(task, protocol).scores.columns
    index = pd.MultiIndex.from_product([[task], examples], names=_KEY)
    layers = [float(layer) for layer, _ in harms.places]
    table = pd.DataFrame([layers] * len(index), index=index)
    values = table.set_axis(pd.Index(harms.places, tupleize_cols=False), axis=1)
    yield _Profile("depth", "layer", harms.part, values)


def _read_profiles(name: str, frame: pd.DataFrame) -> Iterator[_Profile]:
    """Yield a profile over layers for each measure; for a probe of heads, also one over heads."""
    if name in _GAINS:
        if "part" in frame:
            frame = frame[frame["part"] == "block"]
        by_layer = _pivot(frame, ["layer"], _GAINS[name]).diff(axis=1).iloc[:, 1:]
        yield _Profile(name, f"{_GAINS[name]} gained", "block", _label_places(by_layer))
        return
    if name == "similarity":
        frame = frame[frame["n"] == 1]
    if name == "attribution":
        frame = frame[frame["part"].isin(("attn", "mlp"))]
        written = frame.groupby([*_KEY, "layer"], as_index=False)["logit"].sum()
        frame = written.assign(probe=name)
    for measure in frame.select_dtypes("number").columns.difference([*_KEYS, *_OF_EXAMPLES]):
        if "head" in frame:
            heads = _pivot(frame, ["layer", "head"], measure)
            yield _Profile(name, measure, "head", _label_places(heads))
            by_layer = heads.T.groupby(level="layer").max().T
        else:
            by_layer = _pivot(frame, ["layer"], measure)
        yield _Profile(name, measure, "block", _label_places(by_layer))


def _pivot(frame: pd.DataFrame, places: list[str], measure: str) -> pd.DataFrame:
    means = frame.groupby([*_KEY, *places], observed=True)[measure].mean()
    return means.unstack(places).sort_index(axis=1)


def _label_places(values: pd.DataFrame) -> pd.DataFrame:
    """Return the table with columns renamed to places: (layer, head), or (layer, -1) for layers."""
    places = [
        (int(name[0]), int(name[1])) if isinstance(name, tuple) else (int(name), -1)
        for name in values.columns
    ]
    return values.set_axis(pd.Index(places, tupleize_cols=False), axis=1)


def _correlate(
    harms: Harms, task: str, protocol: str, family: str, profile: _Profile
) -> dict[str, Any]:
    cost, probe_values, clusters = _align(
        harms, task, protocol, profile.values.xs(task, level="task")
    )
    cell = harms.intact_rows(family, protocol).set_index("task").loc[task]
    rho, interval = float("nan"), stats.UNKNOWN
    if cell["above_chance"] or np.isnan(cell["chance"]):
        name = f"{profile.probe} {profile.measure} {harms.ablation} {task}"
        rho, interval = stats.profile_agreement(
            probe_values,
            cost,
            harms.rng(name),
            clusters=clusters,
            level=harms.level_of_sums(task, protocol),
        )
    return {
        "probe": profile.probe,
        "measure": profile.measure,
        "part": harms.part,
        "ablation": harms.ablation,
        "at": harms.at,
        "task": task,
        "family": family,
        "protocol": protocol,
        "n_sites": cost.shape[0],
        "n": cost.shape[1],
        "spearman": rho,
        "low": interval.low,
        "high": interval.high,
    }


def _align(
    harms: Harms, task: str, protocol: str, probe_table: pd.DataFrame
) -> tuple[Float[np.ndarray, "site example"], Float[np.ndarray, "site example"], stats.Clusters]:
    """Return the costs of ablation, the probe values, and the cluster of each example.

    The sites and examples are those that both the sweep and the probe measured. A cost is the
    intact score minus the ablated score. Examples of one cluster (such as a template) are not
    independent.
    """
    cell = harms.cell_of(task, protocol)
    scores = cell.scores
    condition_of = harms.conditions(task, protocol)
    places = [place for place in condition_of if place in probe_table]
    examples = scores.columns[scores.loc[INTACT].notna()].intersection(probe_table.index)
    names = [condition_of[place] for place in places]
    asked = cell.asked_by_all(names)
    examples = examples[[example in asked for example in examples]]
    ablated = scores.loc[names, examples].to_numpy(float)
    cost = scores.loc[INTACT, examples].to_numpy(float) - ablated
    probe_values = probe_table.loc[examples, places].to_numpy(float).T
    in_both = ~np.isnan(cost).all(axis=1) & ~np.isnan(probe_values).all(axis=1)
    clusters = cell.clusters_of(list(examples))
    return cost[in_both], probe_values[in_both], clusters


def rank_stability(
    frames: Sequence[pd.DataFrame], *, value: str = "score", seed: int = 0
) -> pd.DataFrame:
    """Compare how the frames of several seeds rank the heads, task by task.

    Args:
        frames: frames of one probe, one per seed, measured on the same tasks.
        value: the column to rank heads by, averaged over examples.
        seed: seed of the bootstrap.

    Returns:
        A row per task: family, task, seeds (how many), n (of examples, for the seed with the
        fewest), rho (Spearman's correlation, averaged over pairs of seeds), low, high (its 95%
        interval; examples are resampled within each seed). An example that several seeds share is
        used for the first of them only, since shared examples make rankings alike. NaN if this
        leaves a seed without examples.

    Raises:
        InputError: fewer than two frames, a frame without the columns, or frames of different
            tasks or heads.

    Example:
        attention = [
            lr.probes.Attention().measure(model, tasks, limit=8, seed=seed) for seed in (0, 1, 2)
        ]
        lr.rank_stability(attention, value="evidence")
    """
    if len(frames) < 2:
        raise InputError(f"rank stability compares two frames or more, not {len(frames)}")
    needed = ("family", "task", "example", "layer", "head", value)
    for frame in frames:
        missing = [column for column in needed if column not in frame.columns]
        if missing:
            raise InputError(f"a frame has no column {missing[0]!r}: measure a probe of heads")
    tasks = list(dict.fromkeys(zip(frames[0]["family"], frames[0]["task"], strict=True)))
    rng = np.random.default_rng(seed)
    rows = []
    for family, task in tasks:
        tables = [
            frame[frame["task"] == task].pivot(
                index=["layer", "head"], columns="example", values=value
            )
            for frame in frames
        ]
        if any(not table.index.equals(tables[0].index) for table in tables):
            raise InputError(f"the frames of task {task!r} are not of the same heads in all seeds")
        tables = _without_shared_examples(tables)
        rho, bounds = stats.rank_stability([table.to_numpy(float) for table in tables], rng)
        n = min(table.shape[1] for table in tables)
        rows.append((family, task, len(frames), n, rho, bounds.low, bounds.high))
    return pd.DataFrame(rows, columns=["family", "task", "seeds", "n", "rho", "low", "high"])


def _without_shared_examples(tables: list[pd.DataFrame]) -> list[pd.DataFrame]:
    """Return the tables, each without the columns (examples) that an earlier table has."""
    seen: set[str] = set()
    kept = []
    for table in tables:
        kept.append(table.drop(columns=[name for name in table.columns if name in seen]))
        seen.update(table.columns)
    return kept
