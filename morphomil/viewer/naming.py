"""How the slide browser calls what it colors by."""

from __future__ import annotations

from morphomil.nuclei.quantities import feature_quantity, patient_quantity

SHARE = "contribution"


def nucleus_quantity(column: str) -> str:
    """Name and unit of a column of nuclei."""
    if column == SHARE:
        return "Contribution to the prediction (% points)"
    if column.startswith(f"{SHARE}_"):
        return f"by {feature_quantity(column.removeprefix(f'{SHARE}_')).name.lower()}"
    return str(feature_quantity(column))


def patch_quantity(column: str) -> str:
    """Name and unit of a column of patches."""
    if column == SHARE:
        return "Contribution of the patch's nuclei (% points)"
    if column.startswith("attention "):
        return f"Attention of {column.removeprefix('attention ')} (evidence, no explanation)"
    if column == "nuclei":
        return "Nuclei"
    return str(patient_quantity(column))
