"""Plan -> pixels that look like H&E under a scanner."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from morphomil.phantom.chance import enlarge, random_for, smooth_field
from morphomil.phantom.layout import LAYOUT_UM, TISSUE_UM
from morphomil.phantom.plan import Plan, plan_slide
from morphomil.phantom.settings import (
    NUCLEUS_CLASSES,
    Effect,
    FloatArray,
    ImageArray,
    PhantomSettings,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

STAIN_VECTORS = np.array([[0.65, 0.70, 0.29], [0.15, 0.90, 0.40]])
"""Hematoxylin and eosin have this optical density (natural logarithm) in red, green, blue;
hematoxylin after Ruifrok 2001."""
GLASS = np.array([243.0, 242.0, 240.0])
"""Glass has this red, green and blue."""


@dataclass(frozen=True, eq=False)
class Phantom:
    """A painted slide: `rgb` (H, W, 3) uint8, `labels` (H, W) int32 as in the plan's nuclei, 0
    background."""

    plan: Plan
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]


def render(plan: Plan) -> Phantom:
    """Paint a planned slide."""
    random = partial(random_for, plan.seed)
    shape = (plan.settings.height_px, plan.settings.width_px)
    pixels = _rasterize(plan, shape)
    labels = np.zeros(shape, np.int32)
    inside = pixels.cover >= 0.5
    labels.ravel()[pixels.index[inside]] = pixels.owner[inside] + 1
    tissue = _stain_tissue(plan, random("tissue"))
    hematoxylin, eosin = (enlarge(stain, shape, TISSUE_UM / plan.settings.mpp) for stain in tissue)
    hematoxylin, eosin = _stain_nuclei(
        hematoxylin, eosin, pixels, plan=plan, rng=random("chromatin")
    )
    return Phantom(plan, _photograph(hematoxylin, eosin, plan.settings, random("camera")), labels)


def render_slide(
    settings: PhantomSettings,
    *,
    seed: int,
    number: int = 0,
    effect: Effect | None = None,
    label: int = 0,
) -> Phantom:
    """Plan and paint slide `number` of a seed."""
    return render(plan_slide(settings, seed=seed, number=number, effect=effect, label=label))


@dataclass(frozen=True, eq=False)
class _Pixels:
    """The pixels that nuclei touch, flat.

    Position in the image, row of the nucleus, covered share, um inward of the outline, and x, y in
    um from the center.
    """

    index: NDArray[np.int64]
    owner: NDArray[np.int64]
    cover: ImageArray
    depth_um: ImageArray
    offset_um: ImageArray


def _rasterize(plan: Plan, shape: tuple[int, int]) -> _Pixels:
    """Each nucleus in the window around it; its radius is looked up at the pixel's angle."""
    mpp, radii = plan.settings.mpp, np.hypot(plan.outlines[..., 0], plan.outlines[..., 1])
    angles = np.arctan2(plan.outlines[..., 1], plan.outlines[..., 0])
    table = _radius_table(angles, radii)
    center = plan.nuclei[["x_px", "y_px"]].to_numpy()
    reach = radii.max(axis=1) / mpp + 1
    low = np.floor(center - reach[:, None]).astype(np.int64)
    side = np.ceil(2 * reach).astype(np.int64) + 2
    owner = np.repeat(np.arange(len(side)), side**2)
    step = np.arange(len(owner)) - np.repeat(np.cumsum(side**2) - side**2, side**2)
    row, column = np.divmod(step, side[owner])
    row, column = row + low[owner, 1], column + low[owner, 0]
    dx = ((column + 0.5 - center[owner, 0]) * mpp).astype(np.float32)
    dy = ((row + 0.5 - center[owner, 1]) * mpp).astype(np.float32)
    distance = np.hypot(dx, dy)
    near = distance < reach[owner] * mpp
    owner, row, column, dx, dy, distance = (a[near] for a in (owner, row, column, dx, dy, distance))
    place = (np.arctan2(dy, dx) / (2 * math.pi) % 1 * table.shape[1]).astype(
        np.int64
    ) % table.shape[1]
    depth = table[owner, place] - distance
    cover = np.clip(depth / mpp + 0.5, 0, 1).astype(np.float32)
    seen = cover > 0
    index = row[seen] * shape[1] + column[seen]
    return _Pixels(index, owner[seen], cover[seen], depth[seen], np.stack([dx[seen], dy[seen]], 1))


def _radius_table(angles: FloatArray, radii: FloatArray) -> ImageArray:
    """Radius of each star-shaped outline at 256 equal steps of the angle, each at the middle of its
    step."""
    places = (np.arange(256) + 0.5) / 256 * 2 * math.pi
    return np.array(
        [np.interp(places, a, r, period=2 * math.pi) for a, r in zip(angles, radii, strict=True)],
        np.float32,
    )


def _stain_tissue(plan: Plan, rng: np.random.Generator) -> tuple[ImageArray, ImageArray]:
    """Amounts of hematoxylin and eosin without nuclei, on the grid of `TISSUE_UM`: fibers,
    cytoplasm, clefts, holes."""
    layout = plan.layout
    factor = round(LAYOUT_UM / TISSUE_UM)
    shape = (layout.nest.shape[0] * factor, layout.nest.shape[1] * factor)
    at = partial(enlarge, shape=shape, factor=factor)
    blotch, cloud = (smooth_field(rng, shape, scale / TISSUE_UM) for scale in (3.0, 18.0))
    position = at(layout.fiber_um) + 0.9 * blotch
    strand, bundle = _strands(position, 0.9, rng), _strands(position, 4.0, rng)
    cytoplasm, border = _cells(plan, shape, rng)
    nested = _ramp((at(layout.nest) + 0.06 * blotch) / 0.06)
    eosin = (0.46 + 0.08 * strand + 0.08 * bundle + 0.07 * cloud) * (1 - nested)
    eosin += (0.36 + 0.06 * cytoplasm + 0.03 * cloud + 0.08 * border) * nested + 0.04 * blotch
    hematoxylin = (0.08 + 0.02 * strand) * (1 - nested) + (
        0.22 + 0.05 * cytoplasm + 0.05 * border
    ) * nested
    cleft = _ramp((bundle + 0.6 * cloud - 2.2) / 0.3) * (1 - nested)
    hole = at(layout.hole_um)
    present = (
        _ramp((1 - at(layout.tissue) + 0.002 * blotch) / 0.003)
        * _ramp(hole / 0.7)
        * (1 - 0.85 * cleft)
    )
    eosin += 0.25 * np.exp(-np.square(hole - 1)) * (hole > -2)
    return np.maximum(hematoxylin, 0) * present, np.maximum(eosin, 0.03) * present


def _cells(
    plan: Plan, shape: tuple[int, int], rng: np.random.Generator
) -> tuple[ImageArray, ImageArray]:
    """Tumor cells as the Voronoi cells of their nuclei: each one's own tone (SD 1), and the border
    (1) between two."""
    step = 2 * TISSUE_UM
    rows, columns = np.nonzero(
        enlarge(plan.layout.nest, (shape[0] // 2, shape[1] // 2), LAYOUT_UM / step) > -0.1
    )
    tone, border = np.zeros((2, shape[0] // 2, shape[1] // 2), np.float32)
    centers = (
        plan.nuclei.loc[plan.nuclei["nucleus_class"] == "tumor", ["x_px", "y_px"]].to_numpy()
        * plan.settings.mpp
    )
    if len(centers) > 1:
        distance, nearest = map(
            np.asarray, cKDTree(centers).query((np.stack([columns, rows], 1) + 0.5) * step, k=2)
        )
        tone[rows, columns] = rng.standard_normal(len(centers))[nearest[:, 0]]
        border[rows, columns] = np.exp(-np.square((distance[:, 1] - distance[:, 0]) / 2.0))
    return enlarge(tone, shape, 2), enlarge(border, shape, 2)


def _strands(position: FloatArray, width_um: float, rng: np.random.Generator) -> ImageArray:
    """Stripes of random strength, mean 0 and SD 1, along the lines of equal position."""
    fine = width_um / 4
    cells = ((position - position.min()) / fine).astype(np.int64)
    stripes = gaussian_filter(rng.standard_normal(int(cells.max()) + 1), 4.0, mode="wrap")
    return np.asarray((stripes / stripes.std()).astype(np.float32)[cells])


def _ramp(value: NDArray[np.floating[Any]]) -> ImageArray:
    """From 0 to 1 as value goes from -1 to 1."""
    return np.asarray(np.clip(value * np.float32(0.5) + np.float32(0.5), 0, 1), np.float32)


def _stain_nuclei(
    hematoxylin: ImageArray,
    eosin: ImageArray,
    pixels: _Pixels,
    *,
    plan: Plan,
    rng: np.random.Generator,
) -> tuple[ImageArray, ImageArray]:
    """Lay the nuclei on the tissue: rim, blotchy chromatin and some nucleoli; lymphocytes dense,
    tumor cells pale."""
    kinds = pd.Index(NUCLEUS_CLASSES).get_indexer(pd.Index(plan.nuclei["nucleus_class"]))
    amount = np.array([0.95, 1.25, 1.5])[kinds] * np.exp(0.14 * rng.standard_normal(len(kinds)))
    vesicular = np.array([1.0, 0.4, 0.5])[kinds]
    grain = smooth_field(rng, hematoxylin.shape, 0.75 / plan.settings.mpp)
    rim = np.exp(-np.square(pixels.depth_um / np.float32(0.8)))
    spots = rng.normal(0, 1.3, (len(kinds), 2)).astype(np.float32)
    to_spot = np.square(pixels.offset_um - spots[pixels.owner]).sum(axis=1)
    nucleolus = np.exp(-to_spot / np.float32(0.8)) * (rng.random(len(kinds)) < 0.5)[pixels.owner]
    clumps = 0.16 * grain.ravel()[pixels.index]
    texture = 0.9 + vesicular[pixels.owner] * (clumps + 0.35 * rim - 0.1 + 0.45 * nucleolus)
    chromatin = (amount[pixels.owner] * np.maximum(texture, 0.3)).astype(np.float32)
    painted = []
    for stain, dense in ((hematoxylin, chromatin), (eosin, np.float32(0.25))):
        flat = (stain * (1 + np.float32(0.08) * grain)).ravel()
        flat[pixels.index] += pixels.cover * (dense - flat[pixels.index])
        painted.append(flat.reshape(stain.shape))
    return painted[0], painted[1]


def _photograph(
    hematoxylin: ImageArray, eosin: ImageArray, settings: PhantomSettings, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Blur, Lambert-Beer's law with the slide's own stains, uneven light and noise."""
    stains = STAIN_VECTORS + settings.stain_sd * rng.standard_normal((2, 3))
    stains = stains / np.linalg.norm(stains, axis=1, keepdims=True)
    stains *= np.exp(settings.intensity_sd * rng.standard_normal((2, 1)))
    stains = np.maximum(stains, 0.01).astype(np.float32)
    blur = settings.blur_um / settings.mpp * math.exp(0.2 * rng.standard_normal())
    hematoxylin, eosin = (
        gaussian_filter(stain, blur, truncate=3) for stain in (hematoxylin, eosin)
    )
    shade = 1 + np.float32(0.01) * smooth_field(rng, hematoxylin.shape, 200 / settings.mpp)
    noise = rng.standard_normal(hematoxylin.shape, dtype=np.float32) * np.float32(
        settings.noise
    ) + np.float32(0.5)
    rgb = np.empty((*hematoxylin.shape, 3), np.uint8)
    for channel, (h, e, glass) in enumerate(zip(*stains, GLASS, strict=True)):
        light = np.exp(hematoxylin * -h - eosin * e) * shade * np.float32(glass) + noise
        rgb[..., channel] = np.clip(light, 0, 255)
    return rgb
