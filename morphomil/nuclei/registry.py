"""Mask -> nuclei table: one row per nucleus, and the registry of features with unit, range and
formula.

A feature is a pure function of roots (what one pass over the mask or the outlines yields, in
pixels) and of features registered before it. To add one, decorate its formula::

    @feature("elongation", of=("major_axis_um", "minor_axis_um"), unit="1", low=1, high=5,
    meaning="axis ratio") def elongation(major, minor):
        return major / minor
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from morphomil.plugins import PythonFile

FloatArray = NDArray[np.float64]
Formula = TypeVar("Formula", bound=Callable[..., Any])
SHAPE_ROOTS = {
    "mpp": "um per pixel",
    "x_px": "centroid, pixel centers at integers",
    "y_px": "centroid, pixel centers at integers",
    "pixels": "area, pixels",
    "var_x_px2": "variance of x over the area (of a mask: over the pixels' centers)",
    "var_y_px2": "variance of y over the area",
    "cov_xy_px2": "covariance of x and y over the area",
    "perimeter_px": "length of the outline (of a mask: Crofton's, 4 directions)",
    "rectangle_px2": "area of the smallest rotated rectangle around the outline (of a mask: around "
    "the pixels' corners)",
}
NEIGHBOR_ROOTS = {
    "neighbors": "other nuclei with centroid within the radius",
    "nearby_tissue_um2": "area of the disc of that radius inside the tissue",
    "radius_um": "radius of the disc",
}
"""`SHAPE_ROOTS` come from the mask or the outlines; `NEIGHBOR_ROOTS` need all nuclei of a
region and its tissue."""
TYPE_ROOTS = {
    "nearby_epithelial": "other epithelial nuclei within the radius",
    "nearby_lymphocyte": "other lymphocytes within the radius",
    "nearby_stroma": "other stromal nuclei within the radius",
    "nearby_typed": "other nuclei of known type within the radius",
    "nearby_inside": "other lymphocytes inside nests within the radius",
    "nearby_edge": "other lymphocytes at the edge of nests within the radius",
    "to_lymphocyte_um": "of an epithelial nucleus, um to the nearest lymphocyte",
    "to_stroma_um": "of an epithelial nucleus, um to the nearest stromal nucleus",
    "nest_share": "of a lymphocyte, share that is epithelial of the nearest epithelial and stromal "
    "nuclei",
    "nearby_stroma_lymphocyte": "other lymphocytes in the stroma within the radius",
    "nearby_nest_lymphocyte": "other lymphocytes in nests within the radius",
    "nearby_stroma_um2": "tissue of the stroma within the radius",
    "nearby_nest_um2": "tissue of nests within the radius",
    "nearby_covered_um2": "area of the lymphocytes in the stroma within the radius",
    "unlike_share": "share of another type among the nearest nuclei of known type",
    "unlike_expected": "that share if the types of the region's nuclei were shuffled",
}
"""These need the types of all nuclei of a region (`neighborhood.type_roots`)."""
Pool = Literal["median", "mean"] | tuple[str, str]
"""The value of a slide or patch: median or mean of its nuclei's, or the ratio of two of its
totals (`totals.count_totals`)."""


@dataclass(frozen=True)
class Feature:
    """A column of the nuclei table: its unit, the range of its histogram and the formula that
    yields it.

    `low` and `high` bound the fixed fine grid of its histograms (values beyond fall in the end
    bins). `of` names the roots and earlier features that `formula` takes. `axial`: a direction
    without head, modulo 180 degrees. `fixed_edges`: histograms always span `low` to `high` instead
    of the training patients' percentiles. `family`: it is measured only where this family is asked
    for, and then of all nuclei, whatever the type whose nuclei are ranked. `pool` makes the value
    of a slide or patch. `title`: how people call it; empty: as the name has it. `step`: most nuclei
    have a whole multiple of it, so pictures bin by it; 0: any value. `source`: the user's file that
    adds it (`feature_files.load_features`).
    """

    name: str
    unit: str
    meaning: str
    low: float
    high: float
    of: tuple[str, ...]
    formula: Callable[..., Any]
    axial: bool = False
    fixed_edges: bool = False
    family: str = ""
    pool: Pool = "median"
    title: str = ""
    step: float = 0.0
    source: PythonFile | None = None

    def __post_init__(self) -> None:
        """Refuse an empty range and arguments that nothing provides."""
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(
                f"feature {self.name} needs finite low < high, got {self.low} and {self.high}"
            )
        known = {**SHAPE_ROOTS, **NEIGHBOR_ROOTS, **TYPE_ROOTS, **FEATURES}
        if unknown := [name for name in self.of if name not in known]:
            raise ValueError(
                f"feature {self.name} asks for {', '.join(unknown)}; there are {', '.join(known)}"
            )

    @property
    def value(self) -> str:
        """The column of its value of a patch, slide or patient: its name, but of a direction, whose
        value is how far nuclei agree in it, `orientation_polarity`, and of what is a ratio of
        totals there, `type_lymphocyte_share_total`."""
        if self.axial:
            return f"{self.name.removesuffix('_deg')}_polarity"
        return f"{self.name}_total" if isinstance(self.pool, tuple) else self.name

    @property
    def needs_neighbors(self) -> bool:
        """Whether it rests on the other nuclei and the tissue: itself, or by a feature that it
        takes."""
        return any(
            name in {**NEIGHBOR_ROOTS, **TYPE_ROOTS}
            or (name in FEATURES and FEATURES[name].needs_neighbors)
            for name in self.of
        )

    @property
    def needs_types(self) -> bool:
        """Whether it rests on the types of nuclei: itself, or by a feature that it takes."""
        return any(
            name in TYPE_ROOTS or (name in FEATURES and FEATURES[name].needs_types)
            for name in self.of
        )


FEATURES: dict[str, Feature] = {}
"""Every feature stands here by name, in the order of the table's columns."""


def features_of(families: Sequence[str] = ()) -> tuple[str, ...]:
    """The names of the features that are measured: those without a family, and of these
    families."""
    return tuple(
        name
        for name, entry in FEATURES.items()
        if entry.family in ("", *families) and ("type" in families or not entry.needs_types)
    )


def evaluate(
    roots: Mapping[str, Any], features: Iterable[Feature]
) -> dict[str, NDArray[np.float64]]:
    """The values of features, one per nucleus, from roots; a formula takes roots and features
    before it.

    Raises:
        KeyError: a formula takes what neither `roots` nor a feature before it provides.
    """
    values = dict(roots)
    results = {}
    with np.errstate(divide="ignore", invalid="ignore"):  # lines of pixels have a short axis of 0
        for entry in features:
            result = entry.formula(*(values[name] for name in entry.of))
            values[entry.name] = results[entry.name] = np.asarray(result, dtype=np.float64)
    return results


def feature(
    name: str,
    *,
    of: tuple[str, ...],
    unit: str,
    low: float,
    high: float,
    meaning: str,
    axial: bool = False,
    fixed_edges: bool = False,
    family: str = "",
    pool: Pool = "median",
    title: str = "",
    step: float = 0.0,
) -> Callable[[Formula], Formula]:
    """Register the decorated formula as a feature; see `Feature` for the arguments.

    The formula takes the arrays that `of` names (`mpp` and `radius_um` are numbers) and returns one
    value per nucleus.

    Raises:
        ValueError: the name is taken, `of` asks for something unknown, or the range is empty.
    """

    def register(formula: Formula) -> Formula:
        if name in {**SHAPE_ROOTS, **NEIGHBOR_ROOTS, **TYPE_ROOTS, **FEATURES, "label": None}:
            raise ValueError(f"the name {name} is taken")
        FEATURES[name] = Feature(
            name,
            unit,
            meaning,
            low,
            high,
            of,
            formula,
            axial=axial,
            fixed_edges=fixed_edges,
            family=family,
            pool=pool,
            title=title,
            step=step,
        )
        return formula

    return register
