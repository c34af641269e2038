"""Where a phantom's tissue, tumor and fibers lie."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import shapely

from morphomil.phantom.chance import smooth_field

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from shapely import Polygon

    from morphomil.phantom.settings import FloatArray, PhantomSettings

LAYOUT_UM = 4.0
"""Tissue is laid out on a grid of this many um."""
TISSUE_UM = 1.0
"""All but nuclei is painted on a grid of this many um."""
TISSUE_MARGIN_UM = 12.0
"""So many um of glass lie between tissue and the image's edge."""
TUMOR_SHARE = 0.84
"""The annotated tumor has this share of the tissue's width and height."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Where tissue, nests and holes lie: arrays on a grid of `LAYOUT_UM`, row 0 at the top."""

    tissue: FloatArray
    """Below 1 inside tissue."""
    tumor: FloatArray
    """Below 1 inside the annotated tumor."""
    nest: FloatArray
    """Above 0 inside nests of tumor cells."""
    fiber_um: FloatArray
    """Its lines of equal value are the stroma's fibers."""
    axis: FloatArray
    """Preferred direction of tumor nuclei, radians, axial."""
    hole_um: FloatArray
    """Distance to the nearest fat cell or lumen, negative inside."""


def lay_out(
    settings: PhantomSettings, random: Callable[[str], np.random.Generator]
) -> tuple[Layout, Polygon]:
    """Tissue, nests and fibers of a slide on a coarse grid, and the outline of the tumor."""
    extent = np.array([settings.width_px, settings.height_px]) * settings.mpp
    shape = (math.ceil(extent[1] / LAYOUT_UM), math.ceil(extent[0] / LAYOUT_UM))
    y, x = (np.indices(shape) + 0.5) * LAYOUT_UM
    half = extent / 2 - TISSUE_MARGIN_UM
    blob = partial(
        _blob_radius, phases=random("tissue outline").uniform(0, 2 * math.pi, 8), wobble=0.03
    )
    core = partial(
        _blob_radius, phases=random("tumor outline").uniform(0, 2 * math.pi, 8), wobble=0.08
    )
    u, v = (x - extent[0] / 2) / half[0], (y - extent[1] / 2) / half[1]
    turn = np.arctan2(v, u)
    tissue = np.hypot(u, v) / blob(turn)
    tumor = np.hypot(u, v) / (core(turn) * TUMOR_SHARE)
    around = np.arange(180) / 90 * math.pi
    rim = np.stack([np.cos(around), np.sin(around)], 1) * (core(around) * TUMOR_SHARE)[:, None]
    polygon = shapely.Polygon((rim * half + extent / 2) / settings.mpp)
    islands = smooth_field(random("nests"), shape, 28 / LAYOUT_UM)
    islands = islands - np.quantile(islands[tumor < 1], 1 - settings.nest_share)
    nest = np.minimum(islands, (1.03 - tumor) * 12)
    layout = Layout(
        tissue=tissue,
        tumor=tumor,
        nest=nest,
        fiber_um=draw_fibers(x, y, nest, random("fibers")),
        axis=axis_field(shape, random("axis")),
        hole_um=_holes(x, y, tissue=tissue, tumor=tumor, nest=nest, rng=random("holes")),
    )
    return layout, polygon


def _blob_radius(angle: FloatArray, *, phases: FloatArray, wobble: float) -> FloatArray:
    """Radius of a rounded, wavy rectangle inscribed in the square of half side 1."""
    rounded = (np.cos(angle) ** 4 + np.sin(angle) ** 4) ** -0.25
    orders = np.arange(2, 2 + len(phases))
    waves = (np.cos(orders * angle[..., None] + phases) / orders).sum(-1) / (1 / orders).sum()
    return np.asarray(rounded * (1 - wobble + wobble * waves))


def draw_fibers(
    x: FloatArray, y: FloatArray, nest: FloatArray, rng: np.random.Generator
) -> FloatArray:
    """Fibers run across the slide in one direction, waver, and bend around nests."""
    angle = rng.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    waves = (
        smooth_field(rng, nest.shape, 60 / LAYOUT_UM) * 45
        + smooth_field(rng, nest.shape, 14 / LAYOUT_UM) * 4
    )
    return np.asarray(along * 0.7 + waves - np.clip(nest, -2, 1) * 12)


def axis_field(shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    """A smooth field of directions, radians."""
    parts = [smooth_field(rng, shape, 70 / LAYOUT_UM) for _ in range(2)]
    return np.asarray(np.arctan2(*parts) / 2)


def _holes(
    x: FloatArray,
    y: FloatArray,
    *,
    tissue: FloatArray,
    tumor: FloatArray,
    nest: FloatArray,
    rng: np.random.Generator,
) -> FloatArray:
    """Fat cells outside the tumor, in groups, and a few lumens in the middle of nests."""
    fat = (tissue < 0.99) & (tumor > 1.05) & (smooth_field(rng, nest.shape, 60 / LAYOUT_UM) > 0.2)
    lumen = (tumor < 0.95) & (nest > np.quantile(nest, 0.97))
    distance = np.full(x.shape, 1e3)
    for cells, number, low, high in ((fat, 50, 12, 26), (lumen, 4, 5, 11)):
        places = np.flatnonzero(cells)
        for place in (
            rng.choice(places, min(number, len(places)), replace=False) if len(places) else ()
        ):
            radius = rng.uniform(low, high)
            if distance.ravel()[place] > radius * 0.9:
                far = np.hypot(x - x.ravel()[place], y - y.ravel()[place])
                distance = np.minimum(distance, far - min(radius, distance.ravel()[place] - 1.5))
    return np.asarray(distance + smooth_field(rng, nest.shape, 8 / LAYOUT_UM) * 0.8)


def find_habitats(layout: Layout) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where tumor cells live, and where the stroma's do."""
    free = (layout.tissue < 0.985) & (layout.hole_um > 3)
    return free & (layout.nest > 0), free & (layout.nest <= 0)
