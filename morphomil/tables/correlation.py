"""The correlation of features that a figure draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.stats.correlation import FeatureCorrelation, correlate_features

if TYPE_CHECKING:
    import pandas as pd


def correlation_tables(patient_values: pd.DataFrame) -> FeatureCorrelation:
    """`correlate_features` of patients' values, as the ranking writes it to `correlation.csv`.

    Raises:
        ValueError: fewer than two features vary, or fewer than three patients.
    """
    varying = int((patient_values.nunique() > 1).sum())
    if varying < 2 or len(patient_values) < 3:
        raise ValueError(
            "a correlation needs two features and three patients, got "
            f"{(varying, len(patient_values))}"
        )
    return correlate_features(patient_values)
