"""Find the heads that a family needs, by ablating heads one at a time or jointly.

Heads get verdicts by the rules for layers: a head is critical if the interval of its harm lies
above 0.2. A sweep may ablate hundreds of heads, so their p values are corrected by Benjamini and
Hochberg (`heads_of`). A single head seldom reaches 0.2, since other heads stand in for it. Heads
that matter jointly are found by ablating them jointly (`carried_by_few`).

Measuring a head's harm under generation takes a run per head and many examples. `HeadSearch` starts
from a screen, which gives all heads a cheap score: how much zeroing the head lowers the answer's
log-probability on a few examples, or what a probe measured. The best by this score are confirmed
(their harm is measured), and a random sample of the rest, the heads that are screened out, is
audited (measured too). The share of heads in the sample that turn out to matter, times the number
of heads screened out, estimates how many the screen missed; the interval is exact
(`stats.sampled_total`).

Example:
    cheap = Sweep(model, tasks, each_head(model, Zero()), protocols=["answer_logprob"], limit=8)
    effects = cheap.run("runs/screen").effects()
    search = HeadSearch(-effects.set_index(["layer", "head"])["effect"], confirm=30, audit=20)
    found = search.judge(Sweep(model, tasks, search.conditions(), limit=64).run("runs/confirm"))
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t as student

from layerroles import stats
from layerroles.ablations import Ablation, Condition, Zero
from layerroles.errors import InputError
from layerroles.notebook_display import as_html, as_text
from layerroles.results import CRITICAL, Cell, SweepResult, cells_of, mechanisms, records
from layerroles.roles.claim_status import Claim, Finding, Number
from layerroles.roles.harms import Harms, positions_swept, single_site_conditions
from layerroles.roles.wording import format_estimate
from layerroles.sites import Site

FEW = "A few heads carry the family"
# Largest share of all heads that counts as few: "under 5%" retrieve (Wu et al., arXiv 2404.15574).
FEW_HEADS = 0.05
# Fewest sets of other heads, all of them harmful, that can contradict the claim on few heads.
_FEWEST_DRAWS = 5
COLUMNS = [
    *("ablation", "at", "family", "protocol", "layer", "head", "n", "n_failed"),
    *("harm", "harm_low", "harm_high", "after_first_harm", "after_first_low", "after_first_high"),
    *("gone", "gone_low", "gone_high", "p", "p_adjusted", "verdict"),
]
CONFIRMED, AUDITED, SCREENED_OUT = "confirmed", "audited", "screened out"
_JUDGED = ["n", "harm", "harm_low", "harm_high", "p", "p_adjusted", "verdict"]
_PLACE = ["layer", "head"]


def heads_of(result: SweepResult, at: str) -> pd.DataFrame:
    """Return the table `Roles.heads`: harm and verdict of each head that was ablated alone.

    Empty if no head was. For an unfinished run, every measured head is undecided, and
    `attrs["interim"]` of the table says how much of the run is done.

    Args:
        result: a sweep.
        at: the ablation positions on which verdicts on layers rest. Those on heads rest on the same
            positions if heads were ablated there, else on `all`, else on the first by name.
    """
    frames = []
    for kind in dict.fromkeys(single_site_conditions(result, "head")["ablation"]):
        positions = positions_swept(result, kind, "head")
        harms = Harms(result, kind, at if at in positions else None, part="head")
        frame = harms.layers().assign(ablation=kind, at=harms.at)
        frames.append(frame.assign(**_p_values(harms, frame)))
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    heads = pd.concat(frames, ignore_index=True)[COLUMNS]
    heads.attrs["interim"] = result.interim  # for the heading of its figure
    return heads


def _p_values(harms: Harms, frame: pd.DataFrame) -> dict[str, "pd.Series[float]"]:
    """Return the columns `p` and `p_adjusted` for a table of heads, with the index of `frame`.

    `p` tests whether a head has an effect on any task of a family; `p_adjusted` is corrected over
    heads.
    """
    effects = harms.effects[harms.effects["at"] == harms.at]
    # By Bonferroni over the tasks of a family; most families have one.
    groups = effects.groupby(["family", "protocol", "layer", "head"])["p"]
    smallest = (groups.min() * groups.count()).clip(upper=1.0).to_dict()
    p = pd.Series(
        [
            smallest.get((r.family, r.protocol, r.layer, r.head), float("nan"))
            for r in records(frame)
        ],
        index=frame.index,
        dtype=float,
    )
    adjusted = p.copy()
    for _, rows in frame.groupby(["family", "protocol"], sort=False):
        adjusted[rows.index] = stats.benjamini_hochberg(p[rows.index].to_numpy())
    return {"p": p, "p_adjusted": adjusted}


class HeadSearch:
    """The heads to ablate after a screen: the best to confirm, and some of the rest to audit.

    A screen is a cheap ranking of all heads. Confirming and auditing both measure a head's harm;
    the audit shows what the screen missed.

    Args:
        scores: a score for every head, indexed by layer and head; larger for heads that may matter
            more. NaN ranks last.
        confirm: number of highest-scoring heads to confirm.
        audit: number of other heads to audit, drawn at random; all of them if there are fewer.
        seed: seed of that draw.

    Raises:
        InputError: no scores, a head that is scored twice, numbers that are not heads, or nothing
            to confirm.

    Example:
        attention = lr.probes.Attention().measure(model, tasks, limit=8)
        scores = attention.groupby(["layer", "head"])["evidence"].mean()
        search = lr.HeadSearch(scores, confirm=2, audit=2)
        asked = lr.Sweep(model, tasks, search.conditions(), protocols=["generation"], limit=8)
        found = search.judge(asked.run("runs/heads"))
    """

    def __init__(
        self, scores: "pd.Series[float]", *, confirm: int = 30, audit: int = 20, seed: int = 0
    ) -> None:
        if scores.index.nlevels != 2 or scores.empty:
            raise InputError("a search of heads needs scores indexed by layer and head")
        if scores.index.has_duplicates:
            twice = scores.index[scores.index.duplicated()][0]
            raise InputError(f"head {_site(twice)} is scored twice")
        if not 1 <= confirm <= len(scores) or audit < 0:
            raise InputError(
                f"confirm={confirm}, audit={audit}: of {len(scores)} heads 1 to {len(scores)} can "
                f"be confirmed, and 0 or more of the others audited"
            )
        # Ties stay in the order of layers and heads.
        ordered = scores.sort_index().sort_values(ascending=False, kind="stable")
        self.scores: pd.Series[float] = ordered.rename("score").rename_axis(_PLACE)
        sites = [_site(place) for place in ordered.index]
        self.confirmed = tuple(sites[:confirm])
        self.screened_out = tuple(sites[confirm:])
        drawn = np.random.default_rng(seed).permutation(len(self.screened_out))[:audit]
        self.audited = tuple(self.screened_out[place] for place in sorted(drawn))

    def __repr__(self) -> str:
        return (
            f"HeadSearch: {len(self.confirmed)} of {len(self.scores)} heads to confirm, "
            f"{len(self.audited)} of the others to audit\nNext: sweep search.conditions(), then "
            f"search.judge(result)."
        )

    def conditions(self, ablation: Ablation | None = None) -> list[Condition]:
        """Return a condition for each head to confirm or audit; `ablation` is `Zero()` if None.

        Raises:
            InputError: an ablation that heads do not take (`Skip`).
        """
        edit = Zero() if ablation is None else ablation
        return [Condition({site: edit}) for site in (*self.confirmed, *self.audited)]

    def judge(self, result: SweepResult, *, top: int = 10) -> "FoundHeads":
        """Decide which heads are critical, and estimate how many of them the screen missed.

        The screen is the first, cheap ranking of all heads, which chose those to ablate.

        Args:
            result: a sweep that holds the conditions of `conditions()`; others are ignored.
            top: the number of heads with the most harm for which misses are estimated, in addition
                to those of the critical heads.

        Raises:
            InputError: the sweep is not finished, lacks a head of `conditions()` or has
                several ablations of heads, or the intact model has no measurable skill.
        """
        if result.interim:
            raise InputError(
                f"the sweep is not finished ({result.interim}), so no head is judged: start it "
                f"again, and it goes on"
            )
        heads = heads_of(result, "all")
        kinds = list(dict.fromkeys(heads["ablation"]))
        if len(kinds) > 1:
            raise InputError(f"heads are ablated by {', '.join(kinds)}: sweep them apart")
        swept = {_site(place) for place in zip(heads["layer"], heads["head"], strict=True)}
        lacking = [site for site in (*self.confirmed, *self.audited) if site not in swept]
        if lacking:
            raise InputError(f"head {lacking[0]} is not in the sweep: sweep search.conditions()")
        heads = heads[heads["harm"].notna()]
        if heads.empty:
            raise InputError(
                "no skill is measurable: the intact model is not above chance; use more examples "
                "or a task that it can do"
            )
        frames = []
        for (family, protocol), rows in heads.groupby(["family", "protocol"], sort=False):
            judged = self._stages().join(rows.set_index(_PLACE)[_JUDGED]).reset_index()
            judged.loc[judged["stage"] == SCREENED_OUT, _JUDGED] = None
            frames.append(judged.assign(family=family, protocol=protocol))
        rows = [row for frame in frames for row in _count_misses(frame, top)]
        frame = pd.concat(frames, ignore_index=True)
        order = ["family", "protocol", *_PLACE, "score", "stage", *_JUDGED]
        return FoundHeads(frame[order], pd.DataFrame(rows))

    def _stages(self) -> pd.DataFrame:
        stages = {site: SCREENED_OUT for site in self.screened_out}
        stages |= dict.fromkeys(self.confirmed, CONFIRMED) | dict.fromkeys(self.audited, AUDITED)
        return self.scores.to_frame().assign(
            stage=[stages[_site(place)] for place in self.scores.index]
        )


@dataclass(frozen=True, eq=False)
class FoundHeads:
    """The result of a head search.

    Attributes:
        frame: a row per family, protocol and head, the largest score first: layer, head, score,
            stage (confirmed, audited or screened out), and for those that were swept n, harm,
            harm_low, harm_high, p, p_adjusted and verdict, as in `Roles.heads`.
        misses: a row per family, protocol and `wanted`, the heads that are looked for ("critical",
            or the "top 10" by harm), with numbers of heads: found (wanted and confirmed),
            screened_out (not confirmed), audited, hits (wanted and audited), and missed,
            missed_low, missed_high (the estimated number of wanted heads among all that were
            screened out, with its 95% interval; NaN if none was audited). An audited head counts as
            a top head if its harm exceeds the smallest harm of the confirmed top heads.
    """

    frame: pd.DataFrame
    misses: pd.DataFrame

    def __repr__(self) -> str:
        return as_text(*self._shown())

    def _repr_html_(self) -> str:
        return as_html(*self._shown())

    def _shown(self) -> tuple[str, pd.DataFrame]:
        n = self.frame[_PLACE].drop_duplicates().shape[0]
        return f"FoundHeads: {n} heads screened (layers and heads are 0-based)", self.misses


def _count_misses(judged: pd.DataFrame, top: int) -> list[dict[str, object]]:
    confirmed = judged[judged["stage"] == CONFIRMED]
    audited = judged[judged["stage"] == AUDITED]
    n_screened_out = len(judged) - len(confirmed)
    top_harms = confirmed["harm"].astype(float).nlargest(top)
    wanted = {
        "critical": (
            int((confirmed["verdict"] == "critical").sum()),
            int((audited["verdict"] == "critical").sum()),
        ),
        f"top {len(top_harms)}": (
            len(top_harms),
            int((audited["harm"].astype(float) > top_harms.min()).sum()),
        ),
    }
    rows = []
    for name, (n_found, n_hits) in wanted.items():
        missed, interval = stats.sampled_total(n_hits, len(audited), n_screened_out)
        rows.append(
            {
                "family": judged["family"].iloc[0],
                "protocol": judged["protocol"].iloc[0],
                "wanted": name,
                "found": n_found,
                "screened_out": n_screened_out,
                "audited": len(audited),
                "hits": n_hits,
                "missed": missed,
                "missed_low": interval.low,
                "missed_high": interval.high,
            }
        )
    return rows


def _site(place: Sequence[Any]) -> Site:
    layer, head = place
    return Site(int(layer), "head", head=int(head))


def carried_by_few(result: SweepResult, at: str = "all") -> Iterator[Claim]:
    """Yield the claim that a few heads carry a family, for each family and protocol.

    The harm of single heads cannot decide the claim, since other heads stand in for them. Of the
    sets of heads that were ablated jointly, those that hold at most 5% of all heads are considered.
    The chosen set is the first that can be compared with two or more other sets. These have as many
    heads in each layer, but share no head with the chosen set (as from
    `random_heads(model, ablation, like=chosen)`). The claim is about the harm of the chosen set and
    its excess over the mean harm of the other sets. Nothing is yielded before the run is finished.
    """
    if result.interim:
        return
    sets = _joint_sets(result, at)
    kinds = dict.fromkeys(head_set.ablation for head_set in sets)
    mechanism_of = mechanisms(result) if sets else {}
    cells: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells_of(result):
        cells.setdefault((cell.family, cell.protocol), []).append(cell)
    for (family, protocol), family_cells in cells.items():
        skilled = [cell for cell in family_cells if cell.has_skill]
        findings: list[Finding] = []
        heads: frozenset[str] = frozenset()
        for kind in kinds if skilled else ():
            candidates = [
                head_set
                for head_set in sets
                if head_set.ablation == kind and _was_asked(head_set, skilled)
            ]
            group = _choose_set(candidates, heads)
            if group:
                heads = group[0].heads
                findings.append(_judge_set(skilled, mechanism_of.get(kind, ""), *group))
        if findings or (kinds and not skilled):
            missing = "" if skilled else "the intact model has no skill above chance"
            yield Claim(FEW, family, protocol, findings, missing, [(family, protocol)])


@dataclass(frozen=True)
class _HeadSet:
    """A condition that ablates several heads, and the names of these heads."""

    condition: str
    ablation: str
    heads: frozenset[str]

    @property
    def layers(self) -> tuple[tuple[str, int], ...]:
        """Pairs of a layer's name and the number of these heads in it, sorted."""
        return tuple(sorted(Counter(head.partition(".")[0] for head in self.heads).items()))


def _joint_sets(result: SweepResult, at: str) -> list[_HeadSet]:
    model = result.manifest.get("model", {})
    most = FEW_HEADS * int(model.get("n_heads", 0)) * int(model.get("n_layers", 0))
    rows = result.frame[["condition", "ablation", "at", "part", "site"]].drop_duplicates()
    rows = rows[(rows["part"] == "head") & rows["site"].str.contains("+", regex=False)]
    ats = set(rows["at"])
    position = at if at in ats else "all" if "all" in ats else next(iter(sorted(ats)), "")
    sets = [
        _HeadSet(row.condition, row.ablation, frozenset(row.site.split("+")))
        for row in records(rows[rows["at"] == position])
    ]
    order = [str(item["name"]) for item in result.manifest.get("conditions", [])]
    place = {name: index for index, name in enumerate(order)}
    sets.sort(key=lambda head_set: place.get(head_set.condition, len(place)))
    return [head_set for head_set in sets if len(head_set.heads) <= most]


def _was_asked(heads: _HeadSet, cells: Sequence[Cell]) -> bool:
    """Return whether a set of heads was ablated in every cell (task under a protocol)."""
    return all(heads.condition in cell.conditions.index for cell in cells)


def _choose_set(
    sets: Sequence[_HeadSet], heads: frozenset[str]
) -> tuple[_HeadSet, list[_HeadSet]] | None:
    """Return the set to test and the sets to compare it with; None if there is no such set.

    `carried_by_few` says which sets can be compared.

    Args:
        sets: sets that one kind of ablation ablated, in the order of the sweep.
        heads: the heads chosen under another kind, to which the set must be equal; empty for any.
    """
    for head_set in sets:
        if heads and head_set.heads != heads:
            continue
        alike = [other for other in sets if other != head_set and other.layers == head_set.layers]
        if len(alike) > 1 and all(not head_set.heads & other.heads for other in alike):
            return head_set, alike
    return None


def _judge_set(
    cells: Sequence[Cell], mechanism: str, chosen: _HeadSet, others: Sequence[_HeadSet]
) -> Finding:
    """Return the finding of one ablation on the claim that the chosen heads carry a family.

    To show the claim, the set's harm has to exceed 0.2, and its excess over the mean harm of other
    sets has to exceed the smallest effect.

    Args:
        cells: the family's cells with skill under one protocol, one per task.
        mechanism: the mechanism of the ablation.
        chosen: the set of heads to test.
        others: the sets to compare it with.
    """
    harm = Number("harm", _mean_harm(cells, {chosen.condition: 1.0}), smallest=CRITICAL)
    excess = Number("more than others", _excess_over_others(cells, chosen, others))
    harms_of_others = [_mean_harm(cells, {other.condition: 1.0}) for other in others]
    mean = _mean_harm(cells, {other.condition: 1 / len(others) for other in others})
    # Unless all other sets are harmful too, a few heads other than the chosen may carry the family.
    all_matter = all(other.interval.low > CRITICAL for other in harms_of_others)
    sign = min(harm.sign, excess.sign)
    if sign < 0 and not (excess.sign < 0 and all_matter and len(others) >= _FEWEST_DRAWS):
        sign = 0
    words = (
        f"{chosen.ablation}: {len(chosen.heads)} heads together cost "
        f"{format_estimate(*harm.measured.numbers)} (to exceed {CRITICAL}), {len(others)} sets "
        f"of as many others of their layers {format_estimate(*mean.numbers)} on average, "
        f"difference {format_estimate(*excess.measured.numbers)}"
    )
    numbers = tuple(
        record for number in (harm, excess) for record in number.records(chosen.ablation)
    )
    return Finding(chosen.ablation, mechanism, sign, words, numbers, excess.needed)


def _mean_harm(cells: Sequence[Cell], weights: Mapping[str, float]) -> stats.Contrast:
    """Return a weighted sum of the harms of conditions, averaged over the tasks of `cells`."""
    return stats.mean_of([cell.harm(weights) for cell in cells])


def _excess_over_others(
    cells: Sequence[Cell], chosen: _HeadSet, others: Sequence[_HeadSet]
) -> stats.Contrast:
    """Return harm of the chosen set minus the mean harm of the others.

    The interval includes the spread between the other sets, which were drawn at random.
    """
    share = {other.condition: -1 / len(others) for other in others}
    difference = _mean_harm(cells, {chosen.condition: 1.0} | share)
    harms_of_others = [_mean_harm(cells, {other.condition: 1.0}).value for other in others]
    n_others = len(harms_of_others)
    reach = float(student.isf((1 - stats.LEVEL) / 2, n_others - 1)) * float(
        np.std(harms_of_others, ddof=1)
    )
    reach /= math.sqrt(n_others)
    value, low, high = difference.numbers
    interval = stats.Interval(
        value - math.hypot(value - low, reach), value + math.hypot(high - value, reach)
    )
    return dataclasses.replace(difference, interval=interval)
