"""Find the heads that matter among hundreds: screen all cheaply, confirm the best, count misses.

A head's harm under generation takes a run of its own, and many examples before it is known. So all
heads are given a cheap score first: what zeroing costs the answer's likelihood on a few examples,
or what a probe saw. The best by it are confirmed, and with them a random sample of the rest. The
share of that sample that should not have been screened out, times the number screened out, tells
how many the screen missed; the interval is exact (`stats.sampled_total`).

Example:
    cheap = Sweep(model, tasks, each_head(model, Zero()), protocols=["answer_logprob"], limit=8)
    effects = cheap.run("runs/screen").effects()
    search = HeadSearch(-effects.set_index(["layer", "head"])["effect"], confirm=30, audit=20)
    found = search.judge(Sweep(model, tasks, search.conditions(), limit=64).run("runs/confirm"))
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from layerroles import stats
from layerroles.ablations import Ablation, Condition, Zero
from layerroles.errors import InputError
from layerroles.results import SweepResult
from layerroles.results.shown import as_html, as_text
from layerroles.roles.heads import heads_of
from layerroles.sites import Site

CONFIRMED, AUDITED, SCREENED_OUT = "confirmed", "audited", "screened out"
_COLUMNS = ["n", "harm", "harm_low", "harm_high", "p", "p_adjusted", "verdict"]
_PLACE = ["layer", "head"]


@dataclass(frozen=True, eq=False)
class FoundHeads:
    """What a search found.

    Attributes:
        frame: a row per family, protocol and head, the largest score first: layer, head, score,
            stage (confirmed, audited or screened out), and for those that were swept n, harm,
            harm_low, harm_high, p, p_adjusted and verdict, as in `Roles.heads`.
        misses: a row per family, protocol and `wanted` ("critical" heads, or the "top 10" by harm):
            found (among the confirmed), screened_out, audited, hits (audited heads that should not
            have been screened out: critical ones, or those of more harm than the last of the
            confirmed top), missed, missed_low, missed_high: how many that comes to among all that
            were screened out, with its 95% interval; NaN where none was audited.
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


class HeadSearch:
    """Which heads are confirmed, and which are audited for what the screen missed.

    Args:
        scores: of all heads, indexed by layer and head; larger for heads that may matter more. NaN
            comes last.
        confirm: how many of the best are confirmed.
        audit: how many of the others are looked at beside them, drawn at random; all of them if
            there are fewer.
        seed: of that draw.

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
        """One condition for each head that is confirmed or audited, `Zero` by default.

        Raises:
            InputError: an ablation that heads do not take (`Skip`).
        """
        edit = Zero() if ablation is None else ablation
        return [Condition({site: edit}) for site in (*self.confirmed, *self.audited)]

    def judge(self, result: SweepResult, *, top: int = 10) -> FoundHeads:
        """Judge a sweep of `conditions()`.

        Args:
            result: a sweep that holds them; other conditions do not count.
            top: how many heads by harm are sought beside the critical ones.

        Raises:
            InputError: a head is not in the sweep, or several ablations of heads are; or the intact
                model has no measurable skill.
        """
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
        for (family, protocol), own in heads.groupby(["family", "protocol"], sort=False):
            judged = self._stages().join(own.set_index(_PLACE)[_COLUMNS]).reset_index()
            judged.loc[judged["stage"] == SCREENED_OUT, _COLUMNS] = None
            frames.append(judged.assign(family=family, protocol=protocol))
        rows = [row for frame in frames for row in _missed(frame, top)]
        frame = pd.concat(frames, ignore_index=True)
        order = ["family", "protocol", *_PLACE, "score", "stage", *_COLUMNS]
        return FoundHeads(frame[order], pd.DataFrame(rows))

    def _stages(self) -> pd.DataFrame:
        stages = {site: SCREENED_OUT for site in self.screened_out}
        stages |= dict.fromkeys(self.confirmed, CONFIRMED) | dict.fromkeys(self.audited, AUDITED)
        return self.scores.to_frame().assign(
            stage=[stages[_site(place)] for place in self.scores.index]
        )


def _missed(judged: pd.DataFrame, top: int) -> list[dict[str, object]]:
    confirmed = judged[judged["stage"] == CONFIRMED]
    audited = judged[judged["stage"] == AUDITED]
    screened_out = len(judged) - len(confirmed)
    best = confirmed["harm"].astype(float).nlargest(top)
    wanted = {
        "critical": (
            int((confirmed["verdict"] == "critical").sum()),
            int((audited["verdict"] == "critical").sum()),
        ),
        f"top {len(best)}": (len(best), int((audited["harm"].astype(float) > best.min()).sum())),
    }
    rows = []
    for name, (found, hits) in wanted.items():
        missed, interval = stats.sampled_total(hits, len(audited), screened_out)
        rows.append(
            {
                "family": judged["family"].iloc[0],
                "protocol": judged["protocol"].iloc[0],
                "wanted": name,
                "found": found,
                "screened_out": screened_out,
                "audited": len(audited),
                "hits": hits,
                "missed": missed,
                "missed_low": interval.low,
                "missed_high": interval.high,
            }
        )
    return rows


def _site(place: Sequence[Any]) -> Site:
    layer, head = place
    return Site(int(layer), "head", head=int(head))
