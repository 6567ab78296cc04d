"""Which layers a family of tasks needs: harm over depth, and what may be claimed about it.

Harm is the share of the skill above chance that an ablation removes. `localize` gives every layer a
verdict under one kind of ablation, from the conditions that each ablate one whole layer. For every
family and protocol, a layer is

- critical: the interval of its harm lies above 0.2, and it is not a sink;
- sink: the interval of its harm under `at="all"` lies above 0.2, but if the layer is not ablated at
  the first token (`at="after_first"`, same questions), more than half of that harm is shown to go
  away, and less than 0.2 to remain. If only the former is shown, the layer stays critical, and
  `Roles.verdict` calls it partly a sink, with both harms;
- spare: the interval lies within -0.1 and 0.1;
- partial: the interval lies between 0 and 0.4;
- helps: the interval lies below 0, so the model does better without the layer;
- undecided: none of these. More questions decide more layers (column `needed` of `Roles.layers`);
- not measured: the harm of the layer is unknown, since in one of the family's tasks the layer was
  not ablated, no score was finite, or the ablation had no position to act at;
- not measurable: the intact model is not shown to be above chance.

A layer is general when it is critical for every measured family, the copying control among them
(family language, whose answers need no skill except writing them). It is specific when it is
critical for one family, and the interval of its harm lies below 0.2 for every other. Harm over
depth is summarized by the mean harm of the first third of layers minus that of the last third. All
intervals include the uncertainty of the intact score; all comparisons are paired by question.
Families are compared only within a protocol. Several tasks of a family count equally.

Before a run is finished (`SweepResult.interim`) there are estimates and intervals, but no verdicts:
every measured layer is undecided.
"""

from layerroles.results import CRITICAL as CRITICAL
from layerroles.results import UNDECIDED as UNDECIDED
from layerroles.results import count_needed as count_needed
from layerroles.results import judge_interval as judge_interval
from layerroles.roles.agreement_with_probes import probe_agreement as probe_agreement
from layerroles.roles.agreement_with_probes import rank_stability as rank_stability
from layerroles.roles.all_claims import CONTROL as CONTROL
from layerroles.roles.all_claims import claims_on_layers as claims_on_layers
from layerroles.roles.all_claims import describe_decided as describe_decided
from layerroles.roles.claim_findings import SMALLEST as SMALLEST
from layerroles.roles.claim_findings import Finding as Finding
from layerroles.roles.claim_robustness import Robustness as Robustness
from layerroles.roles.claim_robustness import judge_setups as judge_setups
from layerroles.roles.claim_status import Claim as Claim
from layerroles.roles.critical_heads import carried_by_few as carried_by_few
from layerroles.roles.critical_heads import heads_of as heads_of
from layerroles.roles.harms import Harms as Harms
from layerroles.roles.harms import single_site_conditions as single_site_conditions
from layerroles.roles.head_screening import FoundHeads as FoundHeads
from layerroles.roles.head_screening import HeadSearch as HeadSearch
from layerroles.roles.probe_summary import summarize_probes as summarize_probes
from layerroles.roles.result import Roles as Roles
from layerroles.roles.roles_from_sweep import localize as localize
from layerroles.roles.sentence_parts import describe_needed as describe_needed
from layerroles.roles.sentence_parts import format_layers as format_layers
from layerroles.roles.sentence_parts import round_up as round_up
from layerroles.roles.verdict_sentences import interim_sentence as interim_sentence
from layerroles.roles.verdict_sentences import probe_sentences as probe_sentences
