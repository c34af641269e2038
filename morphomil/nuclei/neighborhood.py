"""Which types of nuclei lie around a nucleus: the roots of the features of family `type`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from morphomil.nuclei.features import ROUNDING
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.nuclei.registry import FloatArray

NEAREST = 6
"""So many nearest nuclei are a nucleus's neighbors: as many as lie around each one in the densest
packing."""
REACH_UM = 200.0
"""The nearest nucleus of a type is looked for up to this distance; where none is found, the
distance is this."""
EPITHELIAL, LYMPHOCYTE, STROMA = (
    NUCLEUS_TYPES.index(name) for name in ("epithelial", "lymphocyte", "stroma")
)


def type_roots(
    points_um: FloatArray, types: NDArray[np.integer], radius_um: float
) -> dict[str, Any]:
    """`TYPE_ROOTS` of the nuclei of a region.

    Args:
        points_um: centroids (n, 2), um.
        types: (n,) numbers in `NUCLEUS_TYPES`, -1 where unknown; such nuclei count nowhere.
        radius_um: of the disc for counts.
    """
    places = [np.flatnonzero(types == number) for number in range(len(NUCLEUS_TYPES))]
    epithelial, lymphocytes, stroma = (places[n] for n in (EPITHELIAL, LYMPHOCYTE, STROMA))
    typed = np.flatnonzero(types >= 0)
    nest_share = np.full(len(types), np.nan)
    solid = np.concatenate([epithelial, stroma])
    _, nearest = _nearest(points_um[solid], points_um[lymphocytes], reach_um=radius_um)
    of_nest = np.append(types[solid] == EPITHELIAL, False)
    nest_share[lymphocytes] = _share(of_nest[nearest], nearest < len(solid))
    inside = lymphocytes[nest_share[lymphocytes] == 1]
    edge = lymphocytes[(nest_share[lymphocytes] > 0) & (nest_share[lymphocytes] < 1)]
    sets = {
        "epithelial": epithelial,
        "lymphocyte": lymphocytes,
        "stroma": stroma,
        "typed": typed,
        "inside": inside,
        "edge": edge,
    }
    roots: dict[str, Any] = {
        f"nearby_{name}": _count_near(points_um, chosen, radius_um) for name, chosen in sets.items()
    }
    for name, others in (("lymphocyte", lymphocytes), ("stroma", stroma)):
        distance = np.full(len(types), np.nan)
        found, _ = _nearest(points_um[others], points_um[epithelial], count=1, reach_um=REACH_UM)
        distance[epithelial] = np.minimum(found[:, 0], REACH_UM)
        roots[f"to_{name}_um"] = distance
    return roots | {"nest_share": nest_share} | _mixing(points_um, types, typed, radius_um)


def _mixing(
    points_um: FloatArray, types: NDArray[np.integer], typed: NDArray[np.intp], radius_um: float
) -> dict[str, Any]:
    """`unlike_share` and `unlike_expected` of the nuclei of known type."""
    unlike, expected = (np.full(len(types), np.nan) for _ in range(2))
    own = types[typed]
    _, nearest = _nearest(points_um[typed], points_um[typed], count=NEAREST + 1, reach_um=radius_um)
    if len(typed) > 1:
        myself = nearest == np.arange(len(typed))[:, None]
        # Where another lies at the same place, a nucleus may not be its own first neighbor.
        myself[~myself.any(axis=1), -1] = True
        others = nearest[~myself].reshape(len(typed), NEAREST)
        padded = np.append(own, -1)
        unlike[typed] = _share(padded[others] != own[:, None], others < len(typed))
        alike = np.bincount(own, minlength=len(NUCLEUS_TYPES))[own]
        expected[typed] = (len(typed) - alike) / (len(typed) - 1)
    return {"unlike_share": unlike, "unlike_expected": expected}


def _count_near(
    points_um: FloatArray, chosen: NDArray[np.intp], radius_um: float
) -> NDArray[np.int64]:
    """How many of the chosen points lie within the radius of each point, without itself."""
    counts = np.zeros(len(points_um), np.int64)
    if len(chosen):
        tree = cKDTree(points_um[chosen])
        reach = radius_um * (1 + ROUNDING)
        counts += tree.query_ball_point(points_um, reach, return_length=True)
        counts[chosen] -= 1
    return counts


def _nearest(
    points_um: FloatArray, around_um: FloatArray, *, reach_um: float, count: int = NEAREST
) -> tuple[FloatArray, NDArray[np.intp]]:
    """Distances and numbers (m, count) of the points nearest to each of m places; infinite, and the
    number of points, where there are fewer within reach."""
    shape = (len(around_um), count)
    if not len(points_um) or not len(around_um):
        return np.full(shape, np.inf), np.full(shape, len(points_um))
    distance, number = cKDTree(points_um).query(
        around_um, k=np.arange(1, count + 1), distance_upper_bound=reach_um * (1 + ROUNDING)
    )
    return np.asarray(distance, np.float64), np.asarray(number, np.intp)


def _share(marked: NDArray[np.bool_], found: NDArray[np.bool_]) -> FloatArray:
    """The share of marked ones among the neighbors (m, count) that were found; NaN where none
    was."""
    shares = np.full(len(found), np.nan)
    total = found.sum(axis=1)
    np.divide((marked & found).sum(axis=1), total, out=shares, where=total > 0)
    return shares
