"""How sure a number is: intervals, p values, corrections, power, for scores on the same examples.

Everything is two-sided, since an ablation may also help, and everything is paired: the same
examples are asked of the intact model and under each condition.

    >>> from layerroles import stats
    >>> stats.tango(7, 4, 60)
    Interval(low=-0.066..., high=0.170...)
    >>> stats.minimum_detectable(64, tests=30)
    0.236
"""

from layerroles.stats.combined import correlation, difference, pooled
from layerroles.stats.corrections import benjamini_hochberg, holm
from layerroles.stats.intervals import (
    UNKNOWN,
    Interval,
    mean_interval,
    percentile_interval,
    resampled_counts,
    tango,
    wilson,
)
from layerroles.stats.paired import (
    NO_PAIRS,
    PairedEffect,
    is_binary,
    mcnemar_p,
    paired_binary,
    paired_continuous,
    sign_flip_p,
)
from layerroles.stats.power import LEAST_BACKGROUND, minimum_detectable, minimum_detectable_mean
from layerroles.stats.profiles import profile_agreement, resampled_means, spearman
from layerroles.stats.sampled import sampled_total
from layerroles.stats.stability import rank_stability

__all__ = [
    "LEAST_BACKGROUND",
    "NO_PAIRS",
    "UNKNOWN",
    "Interval",
    "PairedEffect",
    "benjamini_hochberg",
    "correlation",
    "difference",
    "holm",
    "is_binary",
    "mcnemar_p",
    "mean_interval",
    "minimum_detectable",
    "minimum_detectable_mean",
    "paired_binary",
    "paired_continuous",
    "percentile_interval",
    "pooled",
    "profile_agreement",
    "rank_stability",
    "resampled_counts",
    "resampled_means",
    "sampled_total",
    "sign_flip_p",
    "spearman",
    "tango",
    "wilson",
]
