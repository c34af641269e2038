"""Names and units of features, as people write them."""

from __future__ import annotations

import pytest

from morphomil.nuclei.quantities import feature_quantity, patient_quantity, phrase


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("area_um2", "Area (µm²)"),
        ("major_axis_um", "Major axis (µm)"),
        ("minor_axis_um", "Minor axis (µm)"),
        ("orientation_deg", "Orientation (°)"),
        ("circumference_um", "Circumference (µm)"),
        ("density_per_mm2", "Density (nuclei/mm²)"),
        ("circularity", "Circularity"),
        ("rectangularity", "Rectangularity"),
    ],
)
def test_features_have_names_and_units(column: str, text: str) -> None:
    assert str(feature_quantity(column)) == text


def test_other_columns_are_read_from_their_names() -> None:
    assert str(feature_quantity("tissue_mm2")) == "Tissue (mm²)"
    assert str(feature_quantity("chromatin_mean")) == "Chromatin mean"
    assert str(feature_quantity("patients")) == "Patients"


def test_the_patient_value_of_orientation_is_a_polarity() -> None:
    assert str(patient_quantity("orientation_deg")) == "Orientation polarity"
    assert patient_quantity("area_um2") == feature_quantity("area_um2")


def test_within_a_sentence_names_begin_small() -> None:
    assert phrase("area_um2") == "area"
    assert phrase("orientation_deg") == "orientation polarity"
