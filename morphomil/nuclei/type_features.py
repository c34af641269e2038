"""Family `type`: which types of nuclei lie where, and how they are mixed.

The counts around a nucleus are the paper's density, type by type. Lymphocytes in three places, by
their neighbors: inside nests, at their edge, away from them (after Yuan 2015, J R Soc Interface 12,
20141153, who parts them by the density of cancer cells). Distance to the nearest nucleus of a type:
Barua et al. 2018, Lung Cancer 117, 73. Unlike neighbors against chance: join counts (Cliff & Ord
1981, Spatial Processes). Lymphocytes in the stroma and the share of it that they cover: the
guidelines for tumor-infiltrating lymphocytes (Salgado et al. 2015, Ann Oncol 26, 259).
"""

from __future__ import annotations

import numpy as np

from morphomil.nuclei.features import density
from morphomil.nuclei.neighborhood import NEAREST, REACH_UM
from morphomil.nuclei.registry import FEATURES, FloatArray, feature

_COUNTED = {
    "epithelial": ("epithelial nuclei", "other epithelial nuclei"),
    "lymphocyte": ("lymphocytes", "other lymphocytes"),
    "stroma": ("stromal nuclei", "other stromal nuclei"),
    "inside": ("lymphocytes inside nests", "other lymphocytes whose nest share is 1"),
    "edge": (
        "lymphocytes at edges of nests",
        "other lymphocytes whose nest share is between 0 and 1",
    ),
}
for _name, (_title, _meaning) in _COUNTED.items():
    feature(
        f"type_{_name}_per_mm2",
        of=(f"nearby_{_name}", "nearby_tissue_um2", "radius_um"),
        unit="1/mm2",
        low=0,
        high=30000,
        meaning=f"{_meaning} within 50 um per mm2 of tissue there",
        family="type",
        pool=(_name, "tissue_mm2"),
        step=FEATURES["density_per_mm2"].step,
        title=f"Density of {_title}",
    )(density)


LEAST_SHARE = 0.1
"""A density within stroma or nests is missing where they have less than this share of the disc."""


@feature(
    "type_stroma_lymphocyte_per_mm2",
    of=("nearby_stroma_lymphocyte", "nearby_stroma_um2", "radius_um"),
    unit="1/mm2",
    low=0,
    high=30000,
    meaning="other lymphocytes in the stroma within 50 um per mm2 of stroma there",
    family="type",
    pool=("stroma_lymphocyte", "stroma_mm2"),
    title="Density of lymphocytes in the stroma",
)
@feature(
    "type_nest_lymphocyte_per_mm2",
    of=("nearby_nest_lymphocyte", "nearby_nest_um2", "radius_um"),
    unit="1/mm2",
    low=0,
    high=30000,
    meaning="other lymphocytes in nests within 50 um per mm2 of nests there",
    family="type",
    pool=("nest_lymphocyte", "nest_mm2"),
    title="Density of lymphocytes in nests",
)
def density_in_part(count: FloatArray, part_um2: FloatArray, radius_um: float) -> FloatArray:
    """Nuclei per mm2 of a part of the tissue; NaN where it has less than a tenth of the disc."""
    return 1e6 * _per_part(count, part_um2, radius_um)


@feature(
    "type_stroma_cover",
    of=("nearby_covered_um2", "nearby_stroma_um2", "radius_um"),
    unit="1",
    low=0,
    high=1,
    meaning="area of the lymphocytes in the stroma within 50 um per area of stroma there",
    family="type",
    pool=("covered_mm2", "stroma_mm2"),
    title="Share of stroma that lymphocytes cover",
)
def cover(covered_um2: FloatArray, stroma_um2: FloatArray, radius_um: float) -> FloatArray:
    """Area of lymphocytes' nuclei per area of stroma; NaN where it has less than a tenth of the
    disc."""
    return _per_part(covered_um2, stroma_um2, radius_um)


def _per_part(amount: FloatArray, part_um2: FloatArray, radius_um: float) -> FloatArray:
    shares = np.full(len(amount), np.nan)
    enough = part_um2 >= LEAST_SHARE * np.pi * radius_um**2
    np.divide(amount, part_um2, out=shares, where=enough)
    return shares


@feature(
    "type_lymphocyte_share",
    of=("nearby_lymphocyte", "nearby_typed"),
    unit="1",
    low=0,
    high=1,
    meaning="share of lymphocytes among the other nuclei within 50 um",
    family="type",
    pool=("lymphocyte", "typed"),
    title="Share of lymphocytes",
)
def lymphocyte_share(lymphocytes: FloatArray, typed: FloatArray) -> FloatArray:
    """Lymphocytes per nucleus of known type; NaN where there is none."""
    return lymphocytes / np.where(typed > 0, typed, np.nan)


@feature(
    "type_to_lymphocyte_um",
    of=("to_lymphocyte_um",),
    unit="um",
    low=0,
    high=REACH_UM,
    meaning="from an epithelial nucleus to the nearest lymphocyte, centroids; 200 where none is "
    "nearer",
    family="type",
    title="Distance from epithelium to lymphocytes",
)
@feature(
    "type_to_stroma_um",
    of=("to_stroma_um",),
    unit="um",
    low=0,
    high=REACH_UM,
    meaning="from an epithelial nucleus to the nearest stromal nucleus, centroids; 200 where none "
    "is nearer",
    family="type",
    title="Distance from epithelium to stroma",
)
@feature(
    "type_nest_share",
    of=("nest_share",),
    unit="1",
    low=0,
    high=1,
    meaning="of a lymphocyte: the epithelial share of the 6 nearest epithelial and stromal nuclei, "
    "within 50 um",
    family="type",
    pool="mean",
    step=1 / NEAREST,
    title="Nest share around lymphocytes",
)
def as_found(value: FloatArray) -> FloatArray:
    """The root itself."""
    return value


@feature(
    "type_mixing",
    of=("unlike_share", "unlike_expected"),
    unit="1",
    low=-1,
    high=1,
    meaning="share of another type among the 6 nearest nuclei within 50 um, minus the share that "
    "shuffled types would have: 0 at random, below where types lie apart",
    family="type",
    pool="mean",
    title="Mixing of types",
)
def mixing(observed: FloatArray, expected: FloatArray) -> FloatArray:
    """Observed minus expected share of unlike neighbors."""
    return observed - expected
