"""Which types of nuclei lie around a nucleus: the roots of the features of family `type`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial import cKDTree

from morphomil.nuclei.density import area_around
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


NEST_CELL_UM = 8.0
"""Tissue is nest or stroma in squares of at most this side: as wide as a nucleus."""


def type_roots(
    points_um: FloatArray,
    types: NDArray[np.integer],
    radius_um: float,
    *,
    areas_um2: FloatArray,
    parts: TissueParts,
) -> dict[str, Any]:
    """`TYPE_ROOTS` of the nuclei of a region.

    Args:
        points_um: centroids (n, 2), um.
        types: (n,) numbers in `NUCLEUS_TYPES`, -1 where unknown; such nuclei count nowhere.
        radius_um: of the disc for counts.
        areas_um2: of the nuclei (n,).
        parts: the region's tissue, as `part_tissue` parts it by these nuclei.
    """
    places = [np.flatnonzero(types == number) for number in range(len(NUCLEUS_TYPES))]
    epithelial, lymphocytes, stroma = (places[n] for n in (EPITHELIAL, LYMPHOCYTE, STROMA))
    typed = np.flatnonzero(types >= 0)
    nest_share = np.full(len(types), np.nan)
    nest_share[lymphocytes] = _nest_share(points_um, types, points_um[lymphocytes], radius_um)
    inside = lymphocytes[nest_share[lymphocytes] == 1]
    edge = lymphocytes[(nest_share[lymphocytes] > 0) & (nest_share[lymphocytes] < 1)]
    in_nest = in_nests(nest_share[lymphocytes])
    sets = {
        "epithelial": epithelial,
        "lymphocyte": lymphocytes,
        "stroma": stroma,
        "typed": typed,
        "inside": inside,
        "edge": edge,
        "stroma_lymphocyte": lymphocytes[~in_nest],
        "nest_lymphocyte": lymphocytes[in_nest],
    }
    roots: dict[str, Any] = {
        f"nearby_{name}": _count_near(points_um, chosen, radius_um) for name, chosen in sets.items()
    }
    for name, others in (("lymphocyte", lymphocytes), ("stroma", stroma)):
        distance = np.full(len(types), np.nan)
        found, _ = _nearest(points_um[others], points_um[epithelial], count=1, reach_um=REACH_UM)
        distance[epithelial] = np.minimum(found[:, 0], REACH_UM)
        roots[f"to_{name}_um"] = distance
    covered = parts.cover(points_um[lymphocytes[~in_nest]], areas_um2[lymphocytes[~in_nest]])
    for name, grid in (("stroma", parts.stroma), ("nest", parts.nest), ("covered", covered)):
        roots[f"nearby_{name}_um2"] = area_around(points_um, grid, parts.cell_um, radius_um)
    return roots | {"nest_share": nest_share} | _mixing(points_um, types, typed, radius_um)


@dataclass(frozen=True)
class TissueParts:
    """A region's tissue in square cells from its corner (rows, columns): the share of each that is
    tissue of the stroma, and of nests."""

    stroma: FloatArray
    nest: FloatArray
    cell_um: float
    """A cell is this many um wide."""

    def cover(self, points_um: FloatArray, areas_um2: FloatArray) -> FloatArray:
        """What nuclei of these centroids (n, 2) and areas (n,) cover, as shares of the cells that
        hold the centroids."""
        rows, columns = (
            np.clip((points_um[:, axis] / self.cell_um).astype(np.intp), 0, side - 1)
            for axis, side in zip((1, 0), self.stroma.shape, strict=True)
        )
        covered = np.zeros(self.stroma.shape)
        np.add.at(covered, (rows, columns), areas_um2 / self.cell_um**2)
        return covered


def part_tissue(
    points_um: FloatArray,
    types: NDArray[np.integer],
    radius_um: float,
    *,
    tissue: NDArray[np.bool_],
    tissue_mpp: float,
) -> TissueParts:
    """Nests and stroma of a region: a cell of its tissue belongs to a nest where most of the
    nearest epithelial and stromal nuclei around its center are epithelial, else to the stroma, also
    where there are none.

    Args:
        points_um: centroids (n, 2), um from the corner of `tissue`.
        types: (n,) numbers in `NUCLEUS_TYPES`, -1 where unknown.
        radius_um: nearest nuclei are looked for within it.
        tissue: (rows, columns).
        tissue_mpp: um per pixel of `tissue`.
    """
    side = _cell_side(tissue.shape, int(NEST_CELL_UM / tissue_mpp))
    cell_um = side * tissue_mpp
    rows, columns = (extent // side for extent in tissue.shape)
    share = tissue.reshape(rows, side, columns, side).mean(axis=(1, 3))
    cells = np.argwhere(share > 0)
    nest = np.zeros(share.shape)
    centers = np.asarray((cells[:, ::-1] + 0.5) * cell_um, np.float64)
    found = in_nests(_nest_share(points_um, types, centers, radius_um))
    nest[tuple(cells[found].T)] = share[tuple(cells[found].T)]
    return TissueParts(share - nest, nest, cell_um)


def in_nests(nest_share: FloatArray) -> NDArray[np.bool_]:
    """Which shares of epithelial neighbors say that a place is in a nest; a missing one doesn't."""
    return np.asarray(nest_share > 0.5)


def _cell_side(shape: tuple[int, ...], widest: int) -> int:
    """The largest side up to `widest` pixels of cells that tile a grid without rest."""
    return max(
        side for side in range(1, max(widest, 1) + 1) if all(extent % side == 0 for extent in shape)
    )


def _nest_share(
    points_um: FloatArray, types: NDArray[np.integer], around_um: FloatArray, reach_um: float
) -> FloatArray:
    """The epithelial share of the nearest epithelial and stromal nuclei of each place (m, 2); NaN
    where there are none."""
    solid = np.concatenate([np.flatnonzero(types == kind) for kind in (EPITHELIAL, STROMA)])
    _, nearest = _nearest(points_um[solid], around_um, reach_um=reach_um)
    of_nest = np.append(types[solid] == EPITHELIAL, False)
    return _share(of_nest[nearest], nearest < len(solid))


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
