"""Statistics for paired scores: intervals, p values, corrections for many tests, and power.

All tests and intervals are two-sided, since an ablation may also help. Comparisons are paired: the
intact model and the model under each condition (a set of ablations) answer the same examples.

    >>> from layerroles import stats
    >>> stats.tango(7, 4, 60)
    Interval(low=-0.066..., high=0.170...)
    >>> stats.minimum_detectable(64, tests=30)
    0.236
"""

from layerroles.stats.clusters import (
    Clusters,
    are_clusters,
    cluster_p,
    cluster_totals,
    design_effect,
    widest,
)
from layerroles.stats.contrast import (
    NO_CONTRAST,
    Contrast,
    combined,
    difference_of,
    error_correlations,
    mean_of,
    ratio_contrast,
    spanning,
)
from layerroles.stats.corrections import benjamini_hochberg, holm
from layerroles.stats.factor_level_combinations import fractional_factorial
from layerroles.stats.heterogeneity import between_sd, factor_spread
from layerroles.stats.interim_looks import Looks
from layerroles.stats.intervals import (
    LEVEL,
    UNKNOWN,
    Interval,
    IntervalEstimate,
    correlation,
    difference,
    mean_interval,
    percentile_interval,
    pooled,
    resampled_counts,
    sampled_total,
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
from layerroles.stats.profile_test import profiles_differ_p
from layerroles.stats.ranks import profile_agreement, rank_stability, resampled_means, spearman
from layerroles.stats.ratio import clustered, harm_interval, is_above, possible_losses, ratio

__all__ = [
    "LEAST_BACKGROUND",
    "LEVEL",
    "NO_CONTRAST",
    "NO_PAIRS",
    "UNKNOWN",
    "Clusters",
    "Contrast",
    "Interval",
    "IntervalEstimate",
    "Looks",
    "PairedEffect",
    "are_clusters",
    "benjamini_hochberg",
    "between_sd",
    "cluster_p",
    "cluster_totals",
    "clustered",
    "combined",
    "correlation",
    "design_effect",
    "difference",
    "difference_of",
    "error_correlations",
    "factor_spread",
    "fractional_factorial",
    "harm_interval",
    "holm",
    "is_above",
    "is_binary",
    "mcnemar_p",
    "mean_interval",
    "mean_of",
    "minimum_detectable",
    "minimum_detectable_mean",
    "paired_binary",
    "paired_continuous",
    "percentile_interval",
    "pooled",
    "possible_losses",
    "profile_agreement",
    "profiles_differ_p",
    "rank_stability",
    "ratio",
    "ratio_contrast",
    "resampled_counts",
    "resampled_means",
    "sampled_total",
    "sign_flip_p",
    "spanning",
    "spearman",
    "tango",
    "widest",
    "wilson",
]
