"""Effects of conditions on scores and format, the smallest detectable drop, and the noise floor.

An effect is a mean paired difference, ablated minus intact: negative means that the ablation hurts.
A row of the table is one condition in one cell (a task under a protocol). If a run has one ablation
with several settings, labels such as `clip[length=0.25]` distinguish them. The noise floor is how
often the intact model's answers change with the batch shape.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from layerroles import stats
from layerroles.errors import InputError
from layerroles.results.condition_verdicts import count_deferred, verdict_levels
from layerroles.results.task_protocol_cells import CELL, CONDITION, FAMILY, INTACT, Cell

NUMBERS = [
    *("n", "intact", "chance", "score", "score_low", "score_high"),
    *("effect", "ci_low", "ci_high", "harm", "harm_low", "harm_high", "p", "p_adjusted"),
    *("n_failed", "n_changed", "detectable"),
    *("format_intact", "format", "format_effect", "format_low", "format_high", "format_p"),
    *("noise", "unit"),
]
NOISE_FLOOR = [
    *("task", "protocol", "n", "n_changed", "changed", "changed_low", "changed_high"),
    *("intact", "score", "effect", "unit"),
]
# Parts of which a model has hundreds.
_MANY = ("head", "kv_group")


def tabulate_effects(cells: Sequence[Cell], manifest: Mapping[str, Any]) -> pd.DataFrame:
    """Return the table of `SweepResult.effects`."""
    levels = verdict_levels(manifest)
    rows = [
        _row(cell, about, levels.get(str(about["condition"]), stats.LEVEL))
        for cell in cells
        for about in cell.conditions.to_dict("records")
    ]
    # The last columns are only needed to compute `detectable`.
    frame = pd.DataFrame(
        rows, columns=[*CONDITION, *CELL, *NUMBERS, "gained", "sd", "design", "looks"]
    )
    frame = frame.astype(
        {"layer": "Int64", "head": "Int64", "n": int, "n_failed": int, "n_changed": int}
    )
    frame[["p_adjusted", "detectable"]] = np.nan
    asked = {(cell.task, cell.protocol): set(cell.conditions.index) for cell in cells}
    for (ablation, at, part, *cell_key), family in frame.groupby(FAMILY, sort=False):
        n_more = count_deferred(manifest, (ablation, at, part), asked[tuple(cell_key)])
        frame.loc[family.index, "p_adjusted"] = adjust_p(family["p"], part, n_more)
        frame.loc[family.index, "detectable"] = _find_detectable_drops(family, n_more)
    return frame[[*CONDITION, *CELL, *NUMBERS]]


def _row(cell: Cell, about: dict[Any, Any], harm_level: float) -> dict[str, Any]:
    """Return the row of one condition in the table of effects.

    Args:
        cell: the task and protocol of the row.
        about: the condition's row of `Cell.conditions`.
        harm_level: the level of the interval of harm.
    """
    name = str(about["condition"])
    intact, score, clusters = cell.answered_by_both(name)
    rng, n_asked = cell.rng(name), cell.n_asked([name])
    level = cell.looks.level(n_asked)
    interval = score_interval(score, clusters, cell.unit, rng, level=level)
    effect = estimate_paired_effect(intact, score, clusters, cell.unit, rng, level=level)
    harm, harm_low, harm_high = cell.harm({name: 1.0}, level=harm_level).numbers
    binary = cell.unit == "accuracy" and stats.is_binary(intact, score)
    change = score - intact
    return {
        **about,
        "task": cell.task,
        "family": cell.family,
        "protocol": cell.protocol,
        "n": effect.n,
        "intact": mean_or_nan(intact),
        "chance": cell.chance,
        "score": mean_or_nan(score),
        "score_low": interval.low,
        "score_high": interval.high,
        "effect": effect.effect,
        "ci_low": effect.interval.low,
        "ci_high": effect.interval.high,
        "harm": harm,
        "harm_low": harm_low,
        "harm_high": harm_high,
        "p": cell.looks.adjust_p(effect.p, n_asked),
        "n_failed": n_asked - effect.n,
        "n_changed": int(cell.n_changed[name]),
        **_format_columns(cell, name),
        "noise": cell.noise,
        "unit": cell.unit,
        "gained": int((change > 0).sum()) if binary else None,
        "sd": None if binary else standard_deviation(change),
        "design": measure_design_effect(change, clusters),
        "looks": count_looks_as_tests(cell, n_asked),
    }


def _format_columns(cell: Cell, name: str) -> dict[str, float]:
    """Return a condition's `format` columns: the share of answers in the shots' format.

    Shots are the worked examples in the prompt. The columns are the share of the intact model, that
    under the condition, and their difference (ablated minus intact) with its interval and p value.
    """
    intact, form, clusters = cell.answered_by_both(name, of="form")
    n_asked = cell.n_asked([name])
    level = cell.looks.level(n_asked)
    effect = estimate_paired_effect(intact, form, clusters, "accuracy", cell.rng(name), level=level)
    return {
        "format_intact": mean_or_nan(intact),
        "format": mean_or_nan(form),
        "format_effect": effect.effect,
        "format_low": effect.interval.low,
        "format_high": effect.interval.high,
        "format_p": cell.looks.adjust_p(effect.p, n_asked),
    }


def _find_detectable_drops(family: pd.DataFrame, n_more: int) -> list[float]:
    binary = family[family["gained"].notna()]
    pairs = int(binary["n"].sum())
    background = float(binary["gained"].sum()) / pairs if pairs else 0.0
    return find_detectable(family, background, n_more)


def tabulate_intact(cells: Sequence[Cell]) -> pd.DataFrame:
    """Return the table of `SweepResult.intact`."""
    rows = []
    for cell in cells:
        answered, form = (table.loc[INTACT].dropna() for table in (cell.scores, cell.form))
        scores, clusters = answered.to_numpy(), cell.clusters_of(list(answered.index))
        level, rng = cell.looks.level(cell.n_asked([])), cell.rng
        interval = score_interval(scores, clusters, cell.unit, rng(INTACT), level=level)
        of_form = score_interval(
            form.to_numpy(),
            cell.clusters_of(list(form.index)),
            "accuracy",
            rng(INTACT),
            level=level,
        )
        rows.append(
            {
                "task": cell.task,
                "family": cell.family,
                "protocol": cell.protocol,
                "n": len(scores),
                "score": mean_or_nan(scores),
                "score_low": interval.low,
                "score_high": interval.high,
                "chance": cell.chance,
                "chance_shuffled": cell.shuffled,
                "above_chance": cell.has_skill,
                "unit": cell.unit,
                "n_failed": cell.n_asked([]) - len(scores),
                "format": mean_or_nan(form.to_numpy()),
                "format_low": of_form.low,
                "format_high": of_form.high,
                "noise": cell.noise,
            }
        )
    return pd.DataFrame(rows)


def tabulate_noise(manifest: Mapping[str, Any], tasks: set[str]) -> pd.DataFrame:
    """Return the table of `SweepResult.noise_floor`, limited to the given tasks."""
    cells = {(cell["task"], cell["protocol"]): cell for cell in manifest.get("cells", [])}
    rows = []
    for line in manifest.get("noise_floor") or []:
        if line["task"] not in tasks:
            continue
        n, n_changed = int(line["n"]), int(line["n_changed"])
        share = stats.wilson(n_changed, n)
        intact, score = (
            float("nan") if line[name] is None else float(line[name])
            for name in ("intact", "score")
        )
        rows.append(
            {
                "task": line["task"],
                "protocol": line["protocol"],
                "n": n,
                "n_changed": n_changed,
                "changed": n_changed / n if n else float("nan"),
                "changed_low": share.low,
                "changed_high": share.high,
                "intact": intact,
                "score": score,
                "effect": score - intact,
                "unit": cells.get((line["task"], line["protocol"]), {}).get("unit", "accuracy"),
            }
        )
    return pd.DataFrame(rows, columns=NOISE_FLOOR)


def adjust_p(p: "pd.Series[float]", part: str, n_more: int = 0) -> Float[np.ndarray, " condition"]:
    """Return p values corrected for multiple testing; NaN stays NaN.

    The method is that of Benjamini and Hochberg for heads and key/value groups, else that of Holm.

    Args:
        p: the p values of tests that are reported together.
        part: the part that was ablated, such as `"block"` or `"head"`.
        n_more: the number of planned tests of the same family without a p value in `p`, such as
            those of layers that were not ablated `after_first`; each counts as p = 1.
    """
    correct = stats.benjamini_hochberg if part in _MANY else stats.holm
    padded = np.concatenate([p.to_numpy(float), np.ones(n_more)])
    return correct(padded)[: len(p)]


def estimate_paired_effect(
    intact: Float[np.ndarray, " example"],
    score: Float[np.ndarray, " example"],
    clusters: stats.Clusters,
    unit: str,
    rng: np.random.Generator,
    *,
    level: float = stats.LEVEL,
) -> stats.PairedEffect:
    """Return the effect, the mean of `score - intact`, with its interval and p value.

    For 0/1 scores Tango's interval and McNemar's test are used, for others the bootstrap and a
    sign-flip test. Both account for clusters.
    """
    bounds = None
    if unit == "accuracy" and stats.is_binary(intact, score):
        effect, bounds = stats.paired_binary(intact, score, level=level), (-1.0, 1.0)
    else:
        effect = stats.paired_continuous(intact, score, rng, level=level)
    change = score - intact
    return replace(
        effect,
        interval=stats.clustered(effect.interval, change, clusters, bounds, level=level),
        p=clustered_p(effect.p, change, clusters, bounds),
    )


def clustered_p(
    p: float,
    change: Float[np.ndarray, " example"],
    clusters: stats.Clusters,
    bounds: tuple[float, float] | None,
) -> float:
    """Return the larger of `p`, which assumes independent examples, and `stats.cluster_p`."""
    if not stats.are_clusters(clusters):
        return p
    of_clusters = stats.cluster_p(change, clusters, bounds)
    return p if np.isnan(of_clusters) else max(p, of_clusters)


def score_interval(
    scores: Float[np.ndarray, " example"],
    clusters: stats.Clusters,
    unit: str,
    rng: np.random.Generator,
    *,
    level: float = stats.LEVEL,
) -> stats.Interval:
    """Return the interval of a mean score: Wilson's for 0/1 scores, else a bootstrap interval.

    It accounts for clusters (examples that are not independent).
    """
    if unit != "accuracy" or not stats.is_binary(scores):
        interval = stats.mean_interval(scores, rng, level=level)
        return stats.clustered(interval, scores, clusters, None, level=level)
    interval = stats.wilson(int(scores.sum()), len(scores), level=level)
    return stats.clustered(interval, scores, clusters, (0.0, 1.0), level=level)


def count_looks_as_tests(cell: Cell, n_asked: int) -> float:
    """Return the factor by which repeated looks raise a p value from `n_asked` questions.

    A look is one of several times at which a sweep judges its results; the factor is 1 without
    looks. A test at a look is as strict as a single test that is corrected for a number of tests
    equal to this factor (`Looks.adjust_p`).
    """
    small_p = 1e-9
    return cell.looks.adjust_p(small_p, n_asked) / small_p


def find_detectable(family: pd.DataFrame, background: float, n_more: int = 0) -> list[float]:
    """Return, for each row, the smallest drop that its test finds with 80% power.

    Args:
        family: rows whose p values are corrected together, with the columns `p`, `n`, `design` (the
            design effect; `n` is divided by its mean), `sd` (of the paired differences; NaN for
            0/1 scores) and `looks` (from `count_looks_as_tests`).
        background: the share of answers that become right by chance (see
            `stats.minimum_detectable`); raised to `stats.LEAST_BACKGROUND` if it is lower.
        n_more: as in `adjust_p`.

    Returns:
        Drops in the unit of the score; NaN where no drop would be found.
    """
    tests = int(family["p"].notna().sum()) + n_more
    counts = np.ceil((tests * family["looks"]).round(6)).astype(int)
    background = max(stats.LEAST_BACKGROUND, background)
    deff = float(family["design"].mean())
    return [
        stats.minimum_detectable(int(n / deff), count, background)
        if np.isnan(sd)
        else stats.minimum_detectable_mean(int(n / deff), sd, count)
        for (n, sd), count in zip(family[["n", "sd"]].to_numpy(float).tolist(), counts, strict=True)
    ]


def measure_design_effect(
    changes: Float[np.ndarray, " example"], clusters: stats.Clusters
) -> float:
    """Return the factor, at least 1, by which clusters raise the variance of a mean change."""
    if not stats.are_clusters(clusters):
        return 1.0
    return stats.design_effect(changes - changes.mean(), clusters)


def standard_deviation(changes: Float[np.ndarray, " example"]) -> float:
    """Return the sample standard deviation of differences; 0 for fewer than two."""
    return float(changes.std(ddof=1)) if len(changes) > 1 else 0.0


def mean_or_nan(values: Float[np.ndarray, " example"]) -> float:
    """Return the mean; NaN if there are no values."""
    return float(values.mean()) if len(values) else float("nan")


def label_conditions(frame: pd.DataFrame) -> "pd.Series[str]":
    """Return each row's label: its condition's name without the site and positions at the end.

    The label of `clip[length=0.25] L0 after_first` is `clip[length=0.25]`. It is "" if the name
    does not end in the site and positions (`at`), as a name given by the user may not.
    """
    sites = frame[["condition", "site", "at"]].drop_duplicates()
    label_of = {
        name: _find_label(str(name), str(site), str(at)) for name, site, at in sites.to_numpy()
    }
    return frame["condition"].map(label_of)


def _find_label(name: str, site: str, at: str) -> str:
    site_in_name = site.replace("+", ",")
    suffix = f" {site_in_name}" if at == "all" else f" {site_in_name} {at}"
    return name.removesuffix(suffix) if site and name.endswith(suffix) else ""


def check_unambiguous(rows: pd.DataFrame) -> None:
    """Check that no two rows share layer, head, `at`, task and protocol.

    Args:
        rows: rows of effects, or of conditions by cell.

    Raises:
        InputError: two rows do, for example those of one ablation with two settings.
    """
    duplicates = ambiguous_rows(rows)
    if duplicates.empty:
        return
    first = duplicates.iloc[0]
    same_place = duplicates[
        (duplicates["site"] == first["site"]) & (duplicates["at"] == first["at"])
    ]
    place = f"layer {first['layer']}" if pd.isna(first["head"]) else f"head {first['site']}"
    label = next(filter(None, label_conditions(same_place)), None)
    advice = (
        f'choose one setting, as in result["{label}"]'
        if label
        else "sweep them into separate results"
    )
    raise InputError(
        f"{place} is ablated more than once alike "
        f"({', '.join(dict.fromkeys(same_place['condition']))}): {advice}"
    )


def ambiguous_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that share layer, head, `at`, task and protocol with another row."""
    columns = ["layer", "head", "at", "task", "protocol"]
    return rows[rows.duplicated(columns, keep=False)]
