"""Statistics as pure functions: arrays in, numbers or tables out; rows are patients unless stated."""

from __future__ import annotations

from morphomil.stats.axial import (
    axial_deviation,
    axial_mean,
    axial_polarity,
    axial_resultant,
    grouped_polarity,
    leave_one_out_deviation,
)
from morphomil.stats.groups import benjamini_hochberg, compare_groups, holm, mann_whitney
from morphomil.stats.roc import (
    auc,
    auc_interval,
    binomial_auc_interval,
    delong_test,
    delong_test_unpaired,
    roc_curve,
    within_fold_auc,
    within_fold_auc_interval,
    youden_cutoff,
)

__all__ = [
    "auc",
    "auc_interval",
    "axial_deviation",
    "axial_mean",
    "axial_polarity",
    "axial_resultant",
    "benjamini_hochberg",
    "binomial_auc_interval",
    "compare_groups",
    "delong_test",
    "delong_test_unpaired",
    "grouped_polarity",
    "holm",
    "leave_one_out_deviation",
    "mann_whitney",
    "roc_curve",
    "within_fold_auc",
    "within_fold_auc_interval",
    "youden_cutoff",
]
