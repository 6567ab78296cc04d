"""Find critical heads in two stages: a cheap score for all heads, then the harm of the best.

Measuring a head's harm under generation takes a run per head and many examples. `HeadSearch` starts
from a screen, which gives all heads a cheap score: how much zeroing the head lowers the answer's
log-probability on a few examples, or what a probe measured. The best by this score are confirmed:
their harm is measured. The rest are screened out, and a random sample of them is audited: their
harm is measured too. The share of heads in the sample that turn out to matter, times the number of
heads screened out, estimates how many the screen missed; the interval is exact
(`stats.sampled_total`).

Example:
    cheap = Sweep(model, tasks, each_head(model, Zero()), protocols=["answer_logprob"], limit=8)
    effects = cheap.run("runs/screen").effects()
    search = HeadSearch(-effects.set_index(["layer", "head"])["effect"], confirm=30, audit=20)
    found = search.judge(Sweep(model, tasks, search.conditions(), limit=64).run("runs/confirm"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.errors import InputError
from layerroles.notebook_display import as_html, as_text
from layerroles.results import CRITICAL, SweepResult
from layerroles.roles.critical_heads import heads_of
from layerroles.sites import Site

if TYPE_CHECKING:
    from layerroles.ablations import Ablation, Condition

CONFIRMED, AUDITED, SCREENED_OUT = "confirmed", "audited", "screened out"
_JUDGED = ["n", "harm", "harm_low", "harm_high", "p", "p_adjusted", "verdict"]
_PLACE = ["layer", "head"]


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

    def conditions(self, ablation: "Ablation | None" = None) -> "list[Condition]":
        """Return a condition for each head to confirm or audit; `ablation` is `Zero()` if None.

        Raises:
            InputError: an ablation that heads do not take (`Skip`).
        """
        from layerroles.ablations import (  # imports PyTorch, which judging does not need
            Condition,
            Zero,
        )

        edit = Zero() if ablation is None else ablation
        return [Condition({site: edit}) for site in (*self.confirmed, *self.audited)]

    def judge(self, result: SweepResult, *, top: int = 10) -> "FoundHeads":
        """Decide which heads are critical, and estimate how many of them the screen missed.

        The screen is the first, cheap ranking of all heads.

        Args:
            result: a sweep that holds the conditions of `conditions()`; others are ignored.
            top: misses are estimated for the critical heads, and also for this number of heads with
                the largest harm.

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
                "no skill is measurable: the intact model is not shown to be above chance; use "
                "more examples or a task that it can do"
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
            or the "top 10" by harm). The other columns are numbers of heads: found (wanted and
            confirmed), screened_out (not confirmed), audited, hits (wanted and audited), and
            missed, missed_low, missed_high (the estimated number of wanted heads among all that
            were screened out, with its 95% interval; NaN if none was audited). An audited head
            counts as critical by its verdict, and for `missed_high` also if its interval reaches
            above 0.2. It counts as a top head if its harm exceeds the smallest harm of the
            confirmed top heads.
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
    n_critical = int((audited["verdict"] == "critical").sum())
    n_top = int((audited["harm"].astype(float) > top_harms.min()).sum())
    # For each: found, hits among the audited, and the most hits that their intervals allow.
    wanted = {
        "critical": (
            int((confirmed["verdict"] == "critical").sum()),
            n_critical,
            int((~(audited["harm_high"].astype(float) < CRITICAL)).sum()),
        ),
        f"top {len(top_harms)}": (len(top_harms), n_top, n_top),
    }
    rows = []
    for name, (n_found, n_hits, n_most) in wanted.items():
        missed, interval = stats.sampled_total(n_hits, len(audited), n_screened_out)
        _, most = stats.sampled_total(n_most, len(audited), n_screened_out)
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
                "missed_high": most.high,
            }
        )
    return rows


def _site(place: Sequence[Any]) -> Site:
    layer, head = place
    return Site(int(layer), "head", head=int(head))
