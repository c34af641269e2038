"""How features and other columns are named for people, with their units."""

from __future__ import annotations

from dataclasses import dataclass

from morphomil.nuclei.registry import FEATURES


@dataclass(frozen=True)
class Quantity:
    """What is measured, and its unit ("" for a pure number)."""

    name: str
    unit: str

    def __str__(self) -> str:
        """As on an axis: "Area (µm²)"."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


_UNITS = {"1": "", "um": "µm", "um2": "µm²", "mm2": "mm²", "1/mm2": "1/mm²", "deg": "°", "px": "px"}

_DENSITY = Quantity("Density", "nuclei/mm²")
_POLARITY = Quantity("Orientation polarity", "")


def feature_quantity(column: str) -> Quantity:
    """Display name and unit of a nucleus-level column: "area_um2" is Area (µm²).

    The name is the feature's title, else the column's without its unit; the unit is the registry's,
    else the one in the column's name.
    """
    if column == "density_per_mm2":
        return _DENSITY
    entry = FEATURES.get(column.removesuffix("_total"))
    if entry is not None and entry.title:
        return Quantity(entry.title, _UNITS.get(entry.unit, entry.unit))
    name, _, last = column.rpartition("_")
    if not name or last not in _UNITS:
        name, last = column, "1"
    unit = FEATURES[column].unit if column in FEATURES else last
    return Quantity(sentence_case(name), _UNITS.get(unit, unit))


_WHOSE = {
    "all": "all nuclei",
    "epithelial": "epithelial nuclei",
    "lymphocyte": "lymphocytes",
    "stroma": "stromal nuclei",
}


def say_nuclei(whose: str) -> str:
    """The nuclei of `featurize --nuclei` within a sentence."""
    return _WHOSE.get(whose, whose)


def sentence_case(name: str) -> str:
    """A column's name as words: "median_positive" is Median positive."""
    return f"{name[:1].upper()}{name[1:]}".replace("_", " ")


def patient_quantity(column: str) -> Quantity:
    """Display name and unit of a feature's patient value, which for orientation is the polarity, a
    pure number."""
    return _POLARITY if column == "orientation_deg" else feature_quantity(column)


def phrase(feature: str) -> str:
    """The name of a feature's patient value within a sentence: "orientation polarity"."""
    name = patient_quantity(feature).name
    return name[:1].lower() + name[1:]


def nucleus_phrase(feature: str) -> str:
    """The name within a sentence of what histograms hold of a feature: "nuclear area", of an axis
    its deviation from that of the patch."""
    name = feature_quantity(feature).name
    name = f"{name[:1].lower()}{name[1:]}"
    if not (feature in FEATURES and FEATURES[feature].title):
        name = f"nuclear {name}"
    axial = feature in FEATURES and FEATURES[feature].axial
    return f"deviation of {name} from the direction of the patch" if axial else name
