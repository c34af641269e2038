"""How QuPath writes the names of measurements: whose first, unit last, exponents with a caret."""

from __future__ import annotations

from morphomil.nuclei.quantities import feature_quantity, patient_quantity, sentence_case
from morphomil.nuclei.registry import FEATURES

_CONTRIBUTION = "contribution_"


def nucleus_measurement(column: str) -> str:
    """The name of a column of the nuclei table: "area_um2" is "Nucleus: Area µm^2"."""
    if column in FEATURES:
        return f"Nucleus: {_with_unit(column)}"
    if column.startswith(_CONTRIBUTION):
        feature = column.removeprefix(_CONTRIBUTION)
        return f"Contribution: {feature_quantity(feature).name}"
    return _with_unit(column)


def patch_measurement(column: str) -> str:
    """The name of a value of a patch: the median of "area_um2" is "Nucleus: Area µm^2: Median"."""
    entry = FEATURES.get(column)
    if entry is not None and entry.axial:
        return patient_quantity(column).name
    if entry is None or isinstance(entry.pool, tuple):
        return _with_unit(column)
    return f"Nucleus: {_with_unit(column)}: {sentence_case(entry.pool)}"


def _with_unit(column: str) -> str:
    quantity = feature_quantity(column)
    if column in FEATURES and FEATURES[column].unit == "1/mm2":
        return f"{quantity.name} per mm^2"
    unit = quantity.unit.replace("²", "^2")
    return f"{quantity.name} {unit}".strip()
