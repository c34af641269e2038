"""Where the nuclei of a phantom lie, and how they are shaped."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from morphomil.phantom.chance import smooth_field
from morphomil.phantom.layout import LAYOUT_UM, Layout, find_habitats

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from morphomil.phantom.settings import FloatArray, PhantomSettings

GAP_UM = 0.6
"""Two nuclei are at least this far apart."""
VERTICES = 64
"""An outline of a nucleus has this many points."""
PLACEMENT_ROUNDS = 60
"""A nucleus that finds no free place in so many draws is left out."""


def count_nuclei(
    layout: Layout, settings: PhantomSettings, traits: dict[str, float], rng: np.random.Generator
) -> NDArray[np.int8]:
    """The class of every nucleus to place, shuffled. Density multiplies all classes, so their
    shares stay; a planted density of lymphocytes multiplies these alone."""
    nests, stroma = (
        habitat.sum() * LAYOUT_UM**2 / 1e6 * math.exp(traits["density"])
        for habitat in find_habitats(layout)
    )
    lymphocytes = stroma * settings.stroma_per_mm2 * settings.lymphocyte_share
    counts = (
        nests * settings.tumor_per_mm2,
        stroma * settings.stroma_per_mm2 - lymphocytes,
        lymphocytes * math.exp(traits.get("lymphocytes", 0.0)),
    )
    return rng.permutation(
        np.repeat(np.arange(3, dtype=np.int8), [round(count) for count in counts])
    )


def draw_outlines(
    classes: NDArray[np.int8],
    settings: PhantomSettings,
    traits: dict[str, float],
    random: Callable[[str], np.random.Generator],
) -> FloatArray:
    """Outlines (n, VERTICES, 2) in um, long axis along x, centroid at the origin, of exactly the
    drawn area.

    An ellipse whose radius is modulated in its own frame: orders 3 and 5 at random phases are
    lobes, order 4 in phase with the axes is boxiness. Lobes widen the enclosing rectangle; 5.7 is
    what boxiness makes up for, so that the lobulation of a patient leaves rectangularity as it is
    (lines of equal median rectangularity of 3,000 outlines).
    """
    area_z, ratio_z, lobe_z, box_z = np.clip(
        random("shapes").standard_normal((4, len(classes))), -3, 3
    )
    area = np.choose(classes, [settings.area_um2 * math.exp(traits["size"]), 26.0, 19.0])
    area = area * np.exp(area_z * np.choose(classes, [settings.area_spread, 0.22, 0.12]))
    ratio = np.choose(classes, [settings.axis_ratio * math.exp(traits["elongation"]), 2.6, 1.1])
    ratio = np.maximum(
        ratio * np.exp(ratio_z * np.choose(classes, [settings.axis_ratio_spread, 0.22, 0.05])), 1
    )
    lobulation = np.choose(
        classes, [math.sqrt(max(settings.lobulation**2 + traits["lobulation"], 0)), 0.03, 0.02]
    )
    lobulation = lobulation * np.exp(0.25 * np.minimum(lobe_z, 2))
    boxiness = (
        np.choose(classes, [0.033 + traits["boxiness"] + 5.7 * traits["lobulation"], 0.0, 0.0])
        + 0.02 * box_z
    )
    angle = np.arange(VERTICES) * 2 * math.pi / VERTICES
    phases = random("phases").uniform(0, 2 * math.pi, (2, len(classes), 1))
    lobes = np.cos(3 * angle + phases[0]) + 0.35 * np.cos(5 * angle + phases[1])
    radius = 1 + lobulation[:, None] * lobes - boxiness[:, None] * np.cos(4 * angle)
    stretch = np.sqrt(ratio)[:, None]
    outlines = np.stack([radius * np.cos(angle) * stretch, radius * np.sin(angle) / stretch], 2)
    moments = outline_moments(outlines)
    outlines = outlines - moments["centroid"][:, None, :]
    return np.asarray(outlines * np.sqrt(area / moments["area"])[:, None, None])


def draw_deviations(
    classes: NDArray[np.int8],
    settings: PhantomSettings,
    traits: dict[str, float],
    rng: np.random.Generator,
) -> FloatArray:
    """Angle of each nucleus from its neighborhood's direction, radians: von Mises in the doubled
    angle."""
    concentration = np.choose(classes, [settings.polarity * math.exp(traits["polarity"]), 8.0, 0.0])
    return np.asarray(rng.vonmises(0, concentration) / 2)


def place_nuclei(
    classes: NDArray[np.int8],
    outlines: FloatArray,
    deviations: FloatArray,
    *,
    layout: Layout,
    settings: PhantomSettings,
    rng: np.random.Generator,
) -> tuple[FloatArray, FloatArray, NDArray[np.bool_]]:
    """Centers (n, 2) in um, angles, and whether a free place was found.

    A nucleus that hits another one is thrown again with its size and shape, so crowding doesn't
    favor small nuclei.
    """
    tumor, stroma = find_habitats(layout)
    clusters = np.exp(1.3 * smooth_field(rng, stroma.shape, 25 / LAYOUT_UM)) * stroma
    chances = [np.cumsum(habitat, dtype=float) for habitat in (tumor, stroma, clusters)]
    down, right = np.gradient(layout.fiber_um)
    directions = np.stack([layout.axis, np.arctan2(right, -down), layout.axis])
    semi_axes = _enclosing_semi_axes(outlines)
    low = semi_axes.max(axis=1)[:, None] + settings.mpp
    high = np.array([settings.width_px, settings.height_px]) * settings.mpp - low
    points, angles = np.zeros((len(classes), 2)), np.zeros(len(classes))
    placed = np.zeros(len(classes), bool)
    for _ in range(PLACEMENT_ROUNDS):
        waiting = np.flatnonzero(~placed)
        if not len(waiting):
            break
        row, column, points[waiting] = _throw(classes[waiting], chances, stroma.shape, rng)
        angles[waiting] = directions[classes[waiting], row, column] + deviations[waiting]
        order = np.concatenate([np.flatnonzero(placed), waiting])
        clear = _first_come(
            points[order], angles[order], semi_axes[order], settled=int(placed.sum())
        )
        placed[order[clear]] = True
        placed &= ((points >= low) & (points <= high)).all(axis=1)
    return points, angles, placed


def _throw(
    classes: NDArray[np.int8],
    chances: list[FloatArray],
    shape: tuple[int, ...],
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]:
    """Row and column of the layout's cell, and the point in um, where each nucleus lands in its
    class's habitat."""
    cells = np.zeros(len(classes), np.int64)
    throws = rng.random((3, len(classes)))
    for kind, chance in enumerate(chances):
        mine = classes == kind
        cells[mine] = np.searchsorted(chance, throws[0, mine] * chance[-1], side="right")
    row, column = np.divmod(cells, shape[1])
    return row, column, np.stack([column + throws[1], row + throws[2]], 1) * LAYOUT_UM


def _enclosing_semi_axes(outlines: FloatArray) -> FloatArray:
    """Semi-axes (n, 2), along x and y, of an ellipse that holds the outline."""
    half = np.abs(outlines).max(axis=1)
    return np.asarray(
        half * np.linalg.norm(outlines / half[:, None, :], axis=2).max(axis=1)[:, None]
    )


def _first_come(
    points: FloatArray, angles: FloatArray, semi_axes: FloatArray, *, settled: int
) -> NDArray[np.bool_]:
    """Which ellipses keep `GAP_UM` from all that come before them; the first `settled` are known
    to.

    Two of them are apart where their half widths along the line of their centers add up to less
    than its length.
    """
    pairs = cKDTree(points).query_pairs(2 * semi_axes.max() + GAP_UM, output_type="ndarray")
    first, second = pairs.min(axis=1), pairs.max(axis=1)
    fresh = second >= settled
    first, second = first[fresh], second[fresh]
    line = points[second] - points[first]
    distance = np.hypot(line[:, 0], line[:, 1])
    direction = np.arctan2(line[:, 1], line[:, 0])
    needed = np.full(len(first), GAP_UM)
    for one in (first, second):
        turn = direction - angles[one]
        needed += np.hypot(semi_axes[one, 0] * np.cos(turn), semi_axes[one, 1] * np.sin(turn))
    clear = np.ones(len(points), bool)
    clear[second[distance < needed]] = False
    return clear


def turn_outlines(outlines: FloatArray, angle: FloatArray) -> FloatArray:
    """Outlines turned by an angle each."""
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = outlines[..., 0], outlines[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], 2)


def outline_moments(outlines: FloatArray) -> dict[str, FloatArray]:
    """Area, centroid and second central moments over the area of polygons (n, vertices, 2), by
    Green's theorem."""
    x, y = outlines[..., 0], outlines[..., 1]
    x1, y1 = np.roll(x, -1, 1), np.roll(y, -1, 1)
    cross = x * y1 - x1 * y
    area = cross.sum(1) / 2
    cx, cy = (((p + q) * cross).sum(1) / (6 * area) for p, q in ((x, x1), (y, y1)))
    xx = ((x * x + x * x1 + x1 * x1) * cross).sum(1) / (12 * area) - cx**2
    yy = ((y * y + y * y1 + y1 * y1) * cross).sum(1) / (12 * area) - cy**2
    xy = ((x * y1 + 2 * x * y + 2 * x1 * y1 + x1 * y) * cross).sum(1) / (24 * area) - cx * cy
    return {"area": area, "centroid": np.stack([cx, cy], 1), "xx": xx, "yy": yy, "xy": xy}
