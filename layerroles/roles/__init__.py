"""Which layers a family needs: harm over depth, and what may be claimed of it.

`localize` takes the conditions of one ablation that each ablate one whole layer and, for every
family and protocol, calls a layer

- critical: the interval of its harm lies above 0.2, and it is no sink;
- sink: critical under `at="all"`, not critical under `at="after_first"`, and harm is shown to go
  away when the first token's write is kept: the paired difference of the two harms is more than
  half of the harm and above 0 by its own interval. (Without the last two, a layer that needs
  nothing of the sink is called one in a fifth of all draws at 32 examples; with them in 2-3%.)
- spare: the interval lies within -0.1 and 0.1;
- undecided: else. More examples decide more layers.
- not measured: no harm of it is known. It was not asked, had no finite score, or no position to
  act at.

A layer is general when it is critical for every measured family, the copying control (family
language) among them, and specific when it is critical for one family and spare for all others.
Depth is summed up by the mean harm of the first third of layers minus that of the last third; its
interval resamples examples jointly over layers and protocols. Families are compared only within a
protocol. Several tasks of a family count equally; each is resampled within itself.
"""

from layerroles.roles.locate import localize as localize
from layerroles.roles.pairing import probe_agreement as probe_agreement
from layerroles.roles.search import FoundHeads as FoundHeads
from layerroles.roles.search import HeadSearch as HeadSearch
from layerroles.roles.stability import rank_stability as rank_stability
from layerroles.roles.table import Roles as Roles

__all__ = ["FoundHeads", "HeadSearch", "Roles", "localize", "probe_agreement", "rank_stability"]
