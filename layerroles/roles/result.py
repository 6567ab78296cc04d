"""The result of `localize`, and how it is printed."""

import math
from dataclasses import dataclass

import pandas as pd

from layerroles.invisible_characters import visible
from layerroles.notebook_display import html_block, html_details, html_list, html_paragraph
from layerroles.results import records
from layerroles.roles.sentence_parts import format_estimate, format_layers


@dataclass(frozen=True)
class Sentence:
    """A sentence of the verdict (`Roles.verdict`).

    Attributes:
        text: the sentence, with its numbers.
        about: the topic: `setting` (what was run); `depth` (early against late layers), `layers`
            (their verdicts), `spread` (of harm over layers), `precision`, `pairs` (of layers) or
            `heads`; `protocols` (comparisons between protocols or contexts); `unmeasured`
            (families without skill), `noise` (of rounding), `failures` (scores that are not
            finite); or the name of a probe.
        protocol: the protocol that the sentence is about; empty if it is about several or none.
    """

    text: str
    about: str
    protocol: str = ""

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, eq=False)
class Roles:
    """Verdicts and claims about harm over depth. Layers are 0-based; intervals are 95%.

    Harm is the share of the skill above chance that an ablation removes.

    Attributes:
        frame: a row per family and protocol: family, protocol, n, intact, chance,
            early_minus_late, ci_low, ci_high, lists of layers (critical, spare, partial, helps,
            undecided, general, specific, sink), effective, effective_low, effective_high (over how
            many layers harm is spread, sinks left out), mean_harm, mean_harm_low, mean_harm_high
            (over all layers swept) and claim, a sentence.
        layers: a row per family, protocol and layer: n, n_failed, harm, harm_low, harm_high;
            after_first_harm, after_first_low, after_first_high (harm under `after_first`, NaN if
            not measured); gone, gone_low, gone_high (harm under "all" minus harm under
            "after_first", paired by question); verdict (critical, sink, spare, partial, helps,
            undecided, not measured, or, without skill, not measurable); and needed, how many
            questions would decide an undecided layer if its estimate stayed the same (NaN for
            other verdicts).
        contrasts: differences, a row per quantity, at, protocol, family and against, with
            difference, ci_low and ci_high. The quantity `early_minus_late` is the mean harm of the
            first third of layers minus that of the last third: for a family minus for another
            (`against`); for a family alone (`against` empty) under "after_first"; and for a family
            under "all" minus under "after_first" (`at` "all - after_first"). The quantity
            `mean_harm` is a family's mean harm over all layers, under one protocol minus another.
        claims: a row per claim of the literature, family and protocol (for some claims, per task or
            pair of tasks): status (supported, contradicted, not shown, not measurable, described),
            reason (why it is not shown or not measurable, else empty), smallest (effect of
            interest), evidence (text), and numbers (a list of dicts with the keys ablation,
            quantity, estimate, low, high and n, the number of questions).
        pairs: a row per family, protocol and pair of layers (layer, other) that was ablated
            jointly: n; harm, harm_low, harm_high; explained (the harm that the two single ablations
            explain); excess, excess_low, excess_high (of the harm over that); p, p_adjusted and
            verdict (backup, none, undecided, not measurable).
        heads: a row per ablation, at, family, protocol, layer and head that was ablated alone,
            with the columns of `layers` except needed, and with p and p_adjusted (over heads).
        probes: what the probes measured per family (see `summarize_probes`); empty without probes.
        ablation: the kind of ablation on which the verdicts rest.
        at: the ablation positions on which verdicts and claims rest.
        sentences: the sentences of the verdict.
        interim: how much of the run is done, such as "8 of 32 questions"; "" if it is finished.
            Until then every measured layer, head and pair is undecided, the other lists of layers
            are empty, `claims` has no rows, and `effective` counts sinks, since none is identified.

    Example:
        roles = lr.localize(result)
        print(roles.verdict)
        roles.layers.query("verdict == 'critical'")[["family", "protocol", "layer", "harm"]]
    """

    frame: pd.DataFrame
    layers: pd.DataFrame
    contrasts: pd.DataFrame
    claims: pd.DataFrame
    pairs: pd.DataFrame
    heads: pd.DataFrame
    probes: pd.DataFrame
    ablation: str
    at: str
    sentences: tuple[Sentence, ...] = ()
    interim: str = ""

    @property
    def verdict(self) -> str:
        """All sentences of the verdict, one per line."""
        return "\n".join(map(str, self.sentences))

    def to_markdown(self) -> str:
        """Return Markdown text with the verdict as a list and the frame as a table."""
        lines = [f"- {sentence}" for sentence in self.sentences]
        table = self._table()
        rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
        body = [
            "| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows
        ]
        return "\n".join([*lines, "", *body, ""])

    def __str__(self) -> str:
        return visible(f"{self._table().to_string(index=False)}\n\n{self.verdict}")

    def __repr__(self) -> str:
        table = self._table().to_string(index=False)
        return visible(
            f"{self._headline()}\n{table}\nNext: print(roles.verdict) {self._next_steps()}"
        )

    def _repr_html_(self) -> str:
        table = self._table().to_html(index=False, border=0)
        below = f"Next: roles.verdict {self._next_steps()}"
        sentences = html_details("What may be claimed", html_list(map(str, self.sentences)))
        return html_block(html_paragraph(self._headline()), table, sentences, html_paragraph(below))

    def _headline(self) -> str:
        interim = f", interim ({self.interim})" if self.interim else ""
        return f"Roles under {self.ablation} at {self.at}{interim}; layers are 0-based:"

    def _next_steps(self) -> str:
        n = len(self.sentences)
        return (
            f"says it in {n} sentence{'s' * (n != 1)}, roles.layers has each layer's harm and "
            f"verdict, lr.figures.role_map(result) draws them."
        )

    def _table(self) -> pd.DataFrame:
        """Return the frame with columns selected and formatted for printing."""
        shown = self.frame.copy()
        shown["first - last third"] = [
            format_estimate(row.early_minus_late, row.ci_low, row.ci_high)
            for row in records(self.frame)
        ]
        for name in ("intact", "chance"):
            shown[name] = ["-" if math.isnan(value) else f"{value:.2f}" for value in shown[name]]
        for name in ("critical", "sink", "general", "helps"):
            shown[name] = shown[name].map(format_layers)
        counted = {name: f"{name} (count)" for name in ("spare", "partial", "undecided")}
        for name in counted:
            shown[name] = shown[name].map(len)
        shown["spread"] = [
            "-" if math.isnan(value) else f"{value:.1f}" for value in shown["effective"]
        ]
        columns = ["family", "protocol", "n", "intact", "chance", "first - last third"]
        if self.interim:
            return shown[[*columns, "spread"]]
        shown = shown[[*columns, "critical", "sink", "general", "spread", "helps", *counted]]
        return shown.rename(columns=counted)
