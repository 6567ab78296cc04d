"""Which layers a family needs: harm over depth, and what may be claimed of it.

`localize` takes the conditions of one ablation that each ablate one whole layer and, for every
family and protocol, calls a layer

- critical: the interval of its harm lies above 0.2, and it is no sink;
- sink: critical under `at="all"`; more than half of that harm is shown to go away when the first
  token's write is kept (`at="after_first"`, paired by question); and what is left is shown to be
  below 0.2. A critical layer of which only the first is shown is partly a sink, with both numbers;
- spare: the interval lies within -0.1 and 0.1;
- undecided: else. More examples decide more layers.
- not measured: no harm of it is known. It was not asked, had no finite score, or no position to
  act at.

A layer is general when it is critical for every measured family, the copying control (family
language) among them, and specific when it is critical for one family and, by its interval, below
0.2 for every other. Depth is summed up by the mean harm of the first third of layers minus that of
the last third. All intervals hold how sure the intact score is; all comparisons are paired by
question. Families are compared only within a protocol. Several tasks of a family count equally.
"""

from layerroles.roles.harms import CRITICAL as CRITICAL
from layerroles.roles.harms import SPARE as SPARE
from layerroles.roles.heads import FoundHeads as FoundHeads
from layerroles.roles.heads import HeadSearch as HeadSearch
from layerroles.roles.heads import carried_by_few as carried_by_few
from layerroles.roles.heads import heads_of as heads_of
from layerroles.roles.localization import localize as localize
from layerroles.roles.probe_summary import summarize_probes as summarize_probes
from layerroles.roles.rank_agreement import probe_agreement as probe_agreement
from layerroles.roles.rank_agreement import rank_stability as rank_stability
from layerroles.roles.roles import Roles as Roles
from layerroles.roles.verdict import probe_sentences as probe_sentences
from layerroles.roles.wording import format_layers as format_layers

__all__ = [
    "CRITICAL",
    "SPARE",
    "FoundHeads",
    "HeadSearch",
    "Roles",
    "carried_by_few",
    "format_layers",
    "heads_of",
    "localize",
    "probe_agreement",
    "probe_sentences",
    "rank_stability",
    "summarize_probes",
]
