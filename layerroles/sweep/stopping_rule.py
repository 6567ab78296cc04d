"""The rule by which a sweep with `until="decided"` or `until="claims"` stops asking.

Such a sweep looks at its results after planned numbers of questions. At each of these *looks* it
computes the verdict on each condition, or the status of each claim. It asks no more questions about
conditions or claims that are decided.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from layerroles import stats
from layerroles.ablations import Condition
from layerroles.errors import InputError
from layerroles.results import AFTER_FIRST
from layerroles.sweep.task_protocol_cells import SweepCell

Goal = Literal["layers", "claims"]
# The goal for each text that `Sweep(until=)` accepts.
_NAMES: dict[str, Goal] = {"decided": "layers", "claims": "claims"}


@dataclass(frozen=True)
class Decided:
    """The rule by which a sweep stops asking questions once its verdicts or claims are decided.

    The sweep looks at its results after 32, 48, 64, 96, 128, ... questions of each task, up to its
    limit. Under a condition whose verdict (such as "critical") is decided, no more questions are
    asked. Intervals are widened to account for the repeated looks (`stats.Looks`), so each verdict
    is wrong with probability `error` at most.

    If the goal is claims, the layers of each claim of the literature (`Roles.claims`) are ablated
    with the first kind of ablation (such as `Skip`), on more and more questions, until the claim or
    its opposite is shown. The next kind is used only for claims that then depend on it. A claim
    needs no more questions when it is supported or contradicted, or when further questions cannot
    decide it, for example because its number is known to lie between 0 and twice the smallest
    effect of interest.

    Attributes:
        error: the probability with which a verdict may be wrong, from 1e-6 to below 0.5.
        first: the number of questions of each task before the first look, at least 8.
        minutes: the time to spend, None for no limit. At every look, the conditions or claims that
            are likely to need the fewest further questions come first. The questions up to the
            first look are asked even if they take longer.
        simultaneous: if true, `error` is the probability that any verdict of a group is wrong,
            instead of the probability for each verdict. A group is the verdicts in one family under
            one protocol on the conditions with one ablation of the same parts at the same
            positions.
        goal: `"layers"`, to decide the verdict on each condition, or `"claims"`. Each claim is
            decided by 95% intervals, so `error` and `simultaneous` are for `"layers"` only.

    Raises:
        InputError: an attribute outside its range.

    Example:
        until = lr.Decided(error=0.01, minutes=30)
        sweep = lr.Sweep(model, tasks, conditions, until=until, limit=1024)
    """

    error: float = 0.05
    first: int = 32
    minutes: float | None = None
    simultaneous: bool = False
    goal: Goal = "layers"

    def __post_init__(self) -> None:
        if not isinstance(self.error, int | float) or not 1e-6 <= self.error < 0.5:
            raise InputError(f"error={self.error!r} is not a probability from 1e-6 to below 0.5")
        if not isinstance(self.first, int) or self.first < 8:
            raise InputError(f"first={self.first!r} is not a whole number of 8 or more")
        if self.minutes is not None and not (
            isinstance(self.minutes, int | float) and self.minutes > 0
        ):
            raise InputError(f"minutes={self.minutes!r} is not a number of minutes above 0")
        if not isinstance(self.simultaneous, bool):
            raise InputError(f"simultaneous={self.simultaneous!r} is neither True nor False")
        if self.goal not in get_args(Goal):
            raise InputError(
                f"goal={self.goal!r} is unknown: known are {', '.join(get_args(Goal))}"
            )
        if self.goal == "claims" and (self.error != Decided.error or self.simultaneous):
            raise InputError(
                "error and simultaneous are about the verdicts on layers: leave them out with "
                "goal='claims', each claim is decided by 95% intervals"
            )

    def to_manifest(self) -> dict[str, Any]:
        """Return the manifest entry: all attributes but `minutes`, which affects no verdict."""
        values = asdict(self)
        del values["minutes"]
        return values


def make_until(given: object, limit: int) -> Decided | None:
    """Return the rule that `Sweep(until=)` names; None if `given` is None.

    Raises:
        InputError: `given` is something other than None, a `Decided`, "decided" or "claims"; or the
            first look is above the limit.
    """
    if given is None:
        return None
    until = Decided(goal=_NAMES[given]) if isinstance(given, str) and given in _NAMES else given
    if not isinstance(until, Decided):
        known = ", ".join(map(repr, _NAMES))
        raise InputError(f"until={given!r} is unknown: use {known} or a Decided(...)")
    if until.first > limit:
        raise InputError(
            f"first={until.first} is above limit={limit}: look first after {limit} questions or "
            f"fewer, or raise the limit"
        )
    return until


def check_chance(cells: Sequence[SweepCell]) -> None:
    """Check that all cells (task x protocol) are scored by accuracy, for which harm is defined.

    Raises:
        InputError: a protocol's scores have another unit, such as nats.
    """
    for cell in cells:
        if cell.protocol.unit != "accuracy":
            raise InputError(
                f"protocol {cell.protocol.label!r} scores in {cell.protocol.unit}, which have no "
                f"chance level, and so no harm to decide about: leave it out, or ask without until"
            )


def check_kinds(conditions: Sequence[Condition], n_layers: int) -> None:
    """Check that claims can be decided: each layer is ablated by at least two kinds of ablation.

    A kind is the name of an ablation, such as `skip`; its mechanism is, for example, "deletion".

    Raises:
        InputError: a condition ablates something other than one whole layer, or acts at positions
            other than `all` or `after_first`; a kind has several settings, or lacks layers; or the
            kinds have fewer than two different mechanisms.
    """
    layers: dict[tuple[str, str], set[int]] = {}  # by kind and position
    settings: dict[str, list[Mapping[str, object]]] = {}
    mechanisms: dict[str, str] = {}
    for condition in conditions:
        sites = list(condition)
        if not sites:  # the intact model
            continue
        kind, at = condition.ablation, condition.at_name
        if len(sites) > 1 or sites[0].part != "block" or at not in ("all", AFTER_FIRST):
            raise InputError(
                f"until='claims' asks about whole layers one at a time, at 'all' and "
                f"{AFTER_FIRST!r}, and {condition.name!r} is not such: ask it in another sweep"
            )
        mechanisms[kind] = condition.mechanism
        layers.setdefault((kind, at), set()).add(sites[0].layer)
        setting = condition.edits[sites[0]].parameters()
        if settings.setdefault(kind, [setting]) != [setting]:
            raise InputError(f"until='claims' takes {kind} at one setting: ask others elsewhere")
    for kind, at in [*layers, *((kind, "all") for kind in mechanisms)]:
        if missing := set(range(n_layers)) - layers.get((kind, at), set()):
            raise InputError(
                f"until='claims' takes all {n_layers} layers, and {kind} at {at!r} lacks layer "
                f"{min(missing)}: use each_layer(model, ...), or --sites all"
            )
    distinct = set(mechanisms.values()) - {""}
    if len(distinct) < 2:
        raise InputError(
            f"until='claims' takes two kinds of ablation, of different mechanisms, and there is "
            f"{', '.join(distinct) or 'none'}: such as each_layer(model, Skip()) and "
            f"each_layer(model, Mean(Reference())), or --ablation skip,mean"
        )


def describe_looks(until: Decided | None, cells: Sequence[SweepCell]) -> dict[str, Any]:
    """Return the manifest entries `until` (the rule) and `looks` (of each task).

    A task's looks are the numbers of its questions after which the sweep judges its results.
    """
    if until is None:
        return {"until": None, "looks": {}}
    n_examples = {cell.task.label: len(cell.examples) for cell in cells}
    looks = {
        task: list(stats.Looks().extended(min(until.first, n), n).sizes)
        for task, n in n_examples.items()
    }
    return {"until": until.to_manifest(), "looks": looks}


def extend_looks(stored: dict[str, Any], manifest: dict[str, Any]) -> dict[str, list[int]]:
    """Return the looks of a resumed run, by task.

    A task's looks are the numbers of its questions after which the run judges its results. The
    stored looks are kept. A higher limit adds looks up to the new limit, even if the resumed sweep
    has no `until`.

    Args:
        stored: the manifest in the run folder.
        manifest: the manifest of the resumed sweep.

    Raises:
        InputError: the number of a task's questions lies between two of its looks, or below the
            first.
    """
    looks = {**manifest["looks"], **stored.get("looks", {})}
    for task, n in {cell["task"]: cell["n"] for cell in manifest["cells"]}.items():
        if task in looks:
            sizes = stats.Looks(tuple(looks[task])).extended(looks[task][0], n).sizes
            if n not in sizes:
                near = ", ".join(map(str, sizes))
                raise InputError(
                    f"the run looks at its results after {near} questions of {task!r}: "
                    f"limit={n} is none of them, so that its answers would not count; take one of "
                    f"them, or more than {sizes[-1]}"
                )
            looks[task] = list(sizes)
    return looks
