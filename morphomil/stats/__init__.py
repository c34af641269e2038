"""Statistics as pure functions: arrays in, numbers or tables out; rows are patients unless
stated."""

from __future__ import annotations

from morphomil.stats.adjustment import benjamini_hochberg, holm
from morphomil.stats.axial import (
    axial_deviation,
    axial_mean,
    axial_polarity,
    axial_resultant,
    grouped_polarity,
    leave_one_out_deviation,
    leave_one_out_turn,
    rayleigh_test,
    watson_williams_test,
)
from morphomil.stats.brunner_munzel import brunner_munzel
from morphomil.stats.categories import compare_categories
from morphomil.stats.characteristics import characteristics_table
from morphomil.stats.clustered import compare_clustered
from morphomil.stats.correlation import correlate_features
from morphomil.stats.delong import delong_test, delong_test_unpaired
from morphomil.stats.diagnostic import (
    calibration,
    decision_curve,
    diagnostic_table,
    mcnemar_test,
)
from morphomil.stats.groups import aggregate_to_patients, compare_groups
from morphomil.stats.mann_whitney import mann_whitney
from morphomil.stats.models import (
    LogisticModel,
    adjusted_associations,
    interaction_test,
    likelihood_ratio_test,
    logistic_model,
)
from morphomil.stats.multiclass import (
    average_precision,
    confusion_table,
    multiclass_auc,
    precision_recall_curve,
    resampled_multiclass_auc,
)
from morphomil.stats.multiclass_tables import multiclass_comparison_table, multiclass_table
from morphomil.stats.performance import (
    calibration_curve_table,
    calibration_table,
    comparison_table,
    net_benefit_table,
    performance_table,
)
from morphomil.stats.resampling import bootstrap_by_patient, permutation_test, resampled_mean
from morphomil.stats.roc import (
    auc,
    auc_interval,
    binomial_auc_interval,
    resampled_auc,
    roc_curve,
    within_fold_auc,
    within_fold_auc_interval,
    youden_cutoff,
)
from morphomil.stats.scan import delta_interval, draw_labelings, scan_columns, step_down
from morphomil.stats.shift import hodges_lehmann
from morphomil.stats.subgroups import subgroup_table
from morphomil.stats.van_elteren import van_elteren

__all__ = [
    "LogisticModel",
    "adjusted_associations",
    "aggregate_to_patients",
    "auc",
    "auc_interval",
    "average_precision",
    "axial_deviation",
    "axial_mean",
    "axial_polarity",
    "axial_resultant",
    "benjamini_hochberg",
    "binomial_auc_interval",
    "bootstrap_by_patient",
    "brunner_munzel",
    "calibration",
    "calibration_curve_table",
    "calibration_table",
    "characteristics_table",
    "compare_categories",
    "compare_clustered",
    "compare_groups",
    "comparison_table",
    "confusion_table",
    "correlate_features",
    "decision_curve",
    "delong_test",
    "delong_test_unpaired",
    "delta_interval",
    "diagnostic_table",
    "draw_labelings",
    "grouped_polarity",
    "hodges_lehmann",
    "holm",
    "interaction_test",
    "leave_one_out_deviation",
    "leave_one_out_turn",
    "likelihood_ratio_test",
    "logistic_model",
    "mann_whitney",
    "mcnemar_test",
    "multiclass_auc",
    "multiclass_comparison_table",
    "multiclass_table",
    "net_benefit_table",
    "performance_table",
    "permutation_test",
    "precision_recall_curve",
    "rayleigh_test",
    "resampled_auc",
    "resampled_mean",
    "resampled_multiclass_auc",
    "roc_curve",
    "scan_columns",
    "step_down",
    "subgroup_table",
    "van_elteren",
    "watson_williams_test",
    "within_fold_auc",
    "within_fold_auc_interval",
    "youden_cutoff",
]
