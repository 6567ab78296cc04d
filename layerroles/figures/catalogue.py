"""List and draw the figures that a run has data for, as the report and `layerroles figures` do.

>>> list(every(result, only=["harm_map"]))  # doctest: +SKIP
['harm_map']
"""

import functools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from layerroles.errors import InputError, check_several
from layerroles.figures import select
from layerroles.figures.answers_spent import answers_spent
from layerroles.figures.attention_to_evidence import attention_map
from layerroles.figures.decision_margin import decision_margin
from layerroles.figures.depth_contrasts import depth_contrasts
from layerroles.figures.depth_profile import depth_profile
from layerroles.figures.direct_against_total import direct_against_total, intact_rows
from layerroles.figures.harm_and_probes import role_map
from layerroles.figures.harm_map import harm_map
from layerroles.figures.head_harms import head_harms
from layerroles.figures.head_map import head_map
from layerroles.figures.lens import lens_trajectories
from layerroles.figures.outcome_profile import outcome_profile
from layerroles.figures.pair_excess import pair_excess
from layerroles.figures.protocols import likelihood_hides
from layerroles.figures.similarity import influence_profile, similarity_triangle
from layerroles.probes import group_by_probe, select_one_condition
from layerroles.registry import describe_unknown
from layerroles.results import SweepResult, cells_of
from layerroles.roles import Roles, heads_of, localize

# The figures that `every` draws if the run has data for them, in reading order.
KINDS = (
    *("role_map", "answers_spent", "harm_map", "depth_contrasts", "head_harms"),
    *("pair_excess", "depth_profile"),
    *("likelihood_hides", "outcome_profile", "lens_trajectories", "decision_margin"),
    *("attention_map", "head_map", "influence_profile", "similarity_triangle"),
    "direct_against_total",
)
# The columns of the probes of heads that are drawn, each as a map of its own.
_HEAD_COLUMNS = {
    "retrieval_score": ("score",),
    "head_scores": ("previous", "duplicate", "induction"),
}


@dataclass(frozen=True)
class Drawing:
    """A figure that is not drawn yet.

    Attributes:
        section: the id of the report section that shows the figure.
        of: names that distinguish the figure from others of this kind, such as ablation and task.
        draw: the public function that draws the figure, with its arguments.
    """

    section: str
    of: tuple[str, ...]
    draw: functools.partial[go.Figure]

    @property
    def kind(self) -> str:
        """The name of the public function that draws the figure."""
        return self.draw.func.__name__


def every(
    result: SweepResult, probes: Sequence[pd.DataFrame] = (), *, only: Sequence[str] = ()
) -> dict[str, go.Figure]:
    """Draw every figure that a run has data for, as its report does, and return them by name.

    A name is that of the drawing function, with what distinguishes its figures if it drew several.

    Args:
        result: a sweep.
        probes: probe frames of the same model and tasks, as `probes.read_saved` returns them.
        only: names of drawing functions, such as `depth_profile`; empty for all.

    Raises:
        InputError: an unknown function, one for which the run has no data, no data for any, or a
            single name instead of several.

    Example:
        figures = lr.figures.every(result, only=["role_map", "depth_profile"])
        list(figures)
    """
    check_several("only", only)
    for name in only:
        if name not in KINDS:
            raise InputError(describe_unknown("figure", name, list(KINDS)))
    probe_frames = group_by_probe(probes, condition=None)
    kinds = select.ablation_kinds(result)

    @functools.cache
    def roles() -> list[Roles]:
        if only and not {"depth_contrasts", "pair_excess"} & set(only):
            return []  # roles take seconds, and only these figures use them
        return localize_all(result, probes)

    heads = heads_of(result, "all")
    drawings = [
        drawing
        for drawing in iter_drawings(result, probe_frames, kinds, roles, heads)
        if not only or drawing.kind in only
    ]
    drawn = {name: drawing.draw() for name, drawing in _name_drawings(drawings).items()}
    missing = set(only) - {drawing.kind for drawing in drawings}
    if missing or not drawn:
        names = [name for name in only if name in missing]
        which = f" for {names[0]}" if names else ": it ablates no single layer and has no probes"
        raise InputError(f"the run has no data{which}; layerroles figures RUN draws what it allows")
    return drawn


def localize_all(result: SweepResult, probes: Sequence[pd.DataFrame] = ()) -> list[Roles]:
    """Return the roles for each kind of ablation and each set of positions (`at`).

    There are none for `at="after_first"` if the sweep also has `at="all"`, whose roles include the
    harms under `after_first`.
    """
    judged = [
        (kind, at)
        for kind in select.ablation_kinds(result)
        for at in _judged_positions(result, kind)
    ]
    return [localize(result, probes, ablation=kind, at=at) for kind, at in judged]


def _judged_positions(result: SweepResult, kind: str) -> list[str]:
    """Return the sets of positions (`at`) of an ablation for which `localize_all` returns roles."""
    ats = select.positions_of(select.layer_effects(result, ablation=kind))
    return [at for at in ats if at != "after_first" or "all" not in ats]


def iter_drawings(
    result: SweepResult,
    probe_frames: Mapping[str, pd.DataFrame],
    kinds: Sequence[str],
    roles: Callable[[], Sequence[Roles]],
    heads: pd.DataFrame,
) -> Iterator[Drawing]:
    """Yield a `Drawing` for each figure that a run has data for, in reading order.

    Args:
        result: a sweep.
        probe_frames: probe frames by the probe's name. If a frame has several conditions, figures
            with a line per condition draw all of them, other figures only the intact model's rows.
        kinds: the kinds of ablation to draw.
        roles: function that returns the run's roles, as `localize_all` does.
        heads: verdicts on heads ablated alone, as in `Roles.heads`.
    """
    single = {
        name: rows
        for name, frame in probe_frames.items()
        if len(rows := select_one_condition(frame))
    }
    lens, attention = single.get("logit_lens"), single.get("attention")
    if attention is not None and attention["evidence"].isna().all():
        attention = None
    for kind in kinds:
        draw = functools.partial(role_map, result, lens, attention, ablation=kind)
        yield Drawing("roles", (kind,), draw)
    yield from _drawings_of_harm(result, kinds)
    for found_roles in roles():
        if found_roles.frame[["early_minus_late", "effective"]].notna().any(axis=None):
            draw = functools.partial(depth_contrasts, found_roles)
            yield Drawing("contrasts", (found_roles.ablation, found_roles.at), draw)
    for kind in dict.fromkeys(heads.dropna(subset="harm")["ablation"]):
        draw = functools.partial(head_harms, heads, ablation=kind)
        yield Drawing("heads", (kind,), draw)
    for found_roles in roles():
        if found_roles.pairs["excess"].notna().any():
            draw = functools.partial(pair_excess, found_roles)
            yield Drawing("pairs", (found_roles.ablation, found_roles.at), draw)
    yield from _drawings_over_layers(result, kinds)
    by_condition = {name: probe_frames[name] for name in _BY_CONDITION if name in probe_frames}
    yield from _drawings_of_probes(result, single | by_condition, kinds)


def _drawings_of_harm(result: SweepResult, kinds: Sequence[str]) -> Iterator[Drawing]:
    has_verdicts = bool(result.manifest.get("until")) and not result.interim
    if has_verdicts and any(cell.has_skill for cell in cells_of(result)):
        for kind in kinds:
            draw = functools.partial(answers_spent, result, ablation=kind)
            yield Drawing("roles", (kind,), draw)
    for kind in kinds:
        draw = functools.partial(harm_map, result, ablation=kind)
        yield Drawing("harm", (kind,), draw)


def _drawings_over_layers(result: SweepResult, kinds: Sequence[str]) -> Iterator[Drawing]:
    single = {kind: select.layer_effects(result, ablation=kind) for kind in kinds}
    for kind in kinds:
        for task in dict.fromkeys(single[kind]["task"]):
            draw = functools.partial(depth_profile, result, task=task, ablation=kind)
            yield Drawing("depth", (kind, task), draw)
    written = [
        (kind, protocol)
        for kind in kinds
        for protocol in select.written_protocols(single[kind]["protocol"])
    ]
    for kind, protocol in written:
        for likelihood, at in _asked_both_ways(result, kind, protocol):
            draw = functools.partial(
                likelihood_hides, result, likelihood=likelihood, generation=protocol, ablation=kind,
                at=at,
            )  # fmt: skip
            yield Drawing("protocols", (kind, likelihood, protocol), draw)
    for kind, protocol in written:
        draw = functools.partial(outcome_profile, result, ablation=kind, protocol=protocol)
        yield Drawing("outcomes", (kind, protocol), draw)


def _asked_both_ways(result: SweepResult, kind: str, protocol: str) -> Iterator[tuple[str, str]]:
    """Yield (other protocol, `at`) for each protocol that asks the same questions as `protocol`.

    Only effects of ablating single layers by the ablation `kind` are considered. If there are
    several sets of positions (`at`), only the first is used.
    """
    differences = result.differences()
    differences = differences[
        (differences["ablation"] == kind) & (differences["protocol_b"] == protocol)
    ]
    differences = differences[differences["layer"].notna() & (differences["part"] == "block")]
    differences = differences[differences["protocol_a"] != protocol]
    protocols = dict.fromkeys(zip(differences["protocol_a"], differences["at"], strict=True))
    yield from ((likelihood, at) for likelihood, at in protocols if at == differences["at"].iloc[0])


def _drawings_of_probes(
    result: SweepResult, probe_frames: Mapping[str, pd.DataFrame], kinds: Sequence[str]
) -> Iterator[Drawing]:
    """Yield a `Drawing` for each figure of each measured probe."""
    frames = {name: probe_frames[name] for name in PROBES_DRAWN if name in probe_frames}
    for probe, frame in frames.items():
        for of, draw in _drawings_of_probe(probe, frame):
            yield Drawing(probe.replace("_", "-"), of, draw)
    if "attribution" in probe_frames:
        direct = intact_rows(probe_frames["attribution"])
        direct = direct[direct["task"].isin(set(result.frame["task"]))]
        for kind in kinds if len(direct) else ():
            draw = functools.partial(direct_against_total, direct, result, ablation=kind)
            yield Drawing("direct", (kind,), draw)


# The probes that have figures of their own, in reading order.
PROBES_DRAWN = (
    *("logit_lens", "tuned_lens", "decision", "attention"),
    *("retrieval_score", "head_scores", "similarity"),
)


# Probes whose figures have a line for each condition.
_BY_CONDITION = ("logit_lens", "tuned_lens", "decision")


def _drawings_of_probe(
    probe: str, frame: pd.DataFrame
) -> Iterator[tuple[tuple[str, ...], functools.partial[go.Figure]]]:
    """Yield (`of`, `draw`) of each figure of a probe; see `Drawing`."""
    of = (probe,)
    if probe in ("logit_lens", "tuned_lens"):
        yield of, functools.partial(lens_trajectories, frame)
    elif probe == "decision":
        yield of, functools.partial(decision_margin, frame)
    elif probe == "attention":
        if frame["evidence"].notna().any():
            yield of, functools.partial(attention_map, frame)
    elif probe in _HEAD_COLUMNS:
        for value in _HEAD_COLUMNS[probe]:
            if frame[value].notna().any():
                name = (value if probe == "head_scores" else probe,)
                yield name, functools.partial(head_map, frame, value=value)
    else:
        yield of, functools.partial(influence_profile, frame)
        yield of, functools.partial(similarity_triangle, frame)


def _name_drawings(drawings: Sequence[Drawing]) -> dict[str, Drawing]:
    """Return drawings by name, for use as file names without suffix.

    A name is the drawing's kind, followed by those parts of its `of` in which the drawings of that
    kind differ.
    """
    by_name: dict[str, Drawing] = {}
    for drawing in drawings:
        alike = [other.of for other in drawings if other.kind == drawing.kind]
        distinguishing = [
            part for place, part in enumerate(drawing.of) if len({of[place] for of in alike}) > 1
        ]
        name = re.sub(r"[^A-Za-z0-9]+", "_", "_".join([drawing.kind, *distinguishing])).strip("_")
        while name in by_name:
            name += "_"
        by_name[name] = drawing
    return by_name
