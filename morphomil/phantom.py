"""Synthetic H&E-like slides and cohorts whose nuclei and group effects are known.

A patient is six traits (`TRAIT_SD`), drawn once and shifted by group; `plan_slide` lays out tissue
and places nuclei with these traits without touching a pixel; `render` paints the plan;
`write_cohort` writes slides, annotations, manifest and truth. Slide `number` of a `seed` is the
same in a cohort of any length.
"""

from __future__ import annotations

import io
import itertools
import math
import struct
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

from morphomil.nuclei import MIN_AXIS_RATIO, local_density
from morphomil.store import atomic_path, write_bytes, write_json, write_parquet, write_table_csv
from morphomil.types import FEATURE_NAMES, InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shapely import Polygon

FloatArray = NDArray[np.float64]
ImageArray = NDArray[np.float32]

NO_EFFECT = "none"
"""Name of the effect of a null cohort."""
TRAIT_SD = {
    "size": 0.12,
    "elongation": 0.015,
    "polarity": 0.5,
    "density": 0.15,
    "lobulation": 0.003,
    "boxiness": 0.015,
}
"""SD between patients: of log area, log axis ratio, log concentration, log density, squared
amplitude, amplitude."""
PLANTED_TRAIT = {
    "area_um2": ("size", 1),
    "major_axis_um": ("size", 1),
    "minor_axis_um": ("size", 1),
    "orientation_deg": ("polarity", 1),
    "circumference_um": ("size", 1),
    "density_per_mm2": ("density", 1),
    "circularity": ("lobulation", -1),
    "rectangularity": ("boxiness", 1),
}
"""The trait, and its direction, that an effect on a feature shifts; area, axes and circumference
stand for size."""
NUCLEUS_CLASSES = ("tumor", "stroma", "lymphocyte")

MIN_SIDE_UM = 150.0
MAX_PIXELS = 50_000_000
MAX_FILLED = 0.25
"""Share of the nests; a patient may have twice as much, and more than half leaves no free place."""
LAYOUT_UM = 4.0
"""Grid on which tissue is laid out."""
TISSUE_UM = 1.0
"""Grid on which all but nuclei is painted."""
TISSUE_MARGIN_UM = 12.0
"""Glass between tissue and the image's edge."""
TUMOR_SHARE = 0.84
"""Extent of the annotated tumor over that of the tissue."""
GAP_UM = 0.6
"""Least distance of two nuclei."""
VERTICES = 64
"""Points of a nucleus's outline."""
PLACEMENT_ROUNDS = 60
"""A nucleus that finds no free place in so many draws is left out."""
STAIN_VECTORS = np.array([[0.65, 0.70, 0.29], [0.15, 0.90, 0.40]])
"""Optical density (natural logarithm) of hematoxylin and eosin in red, green, blue; hematoxylin
after Ruifrok 2001."""
GLASS = np.array([243.0, 242.0, 240.0])
TILE_PX = 256


@dataclass(frozen=True)
class PhantomSettings:
    """What a slide of an average patient looks like, and how much slides differ in stain and
    focus."""

    mpp: float = 0.5
    """um per level-0 pixel."""
    width_px: int = 2048
    height_px: int = 1536
    tumor_per_mm2: float = 4000.0
    """Nuclei per mm2 of tumor nests."""
    stroma_per_mm2: float = 1200.0
    """Nuclei per mm2 of stroma."""
    lymphocyte_share: float = 0.25
    """Of the stroma's nuclei."""
    nest_share: float = 0.65
    """Of the annotated tumor; the rest is stroma."""
    area_um2: float = 42.0
    """Median area of tumor nuclei."""
    area_spread: float = 0.28
    """SD of the logarithm of area within a slide."""
    axis_ratio: float = 1.4
    """Median ratio of the axes of tumor nuclei."""
    axis_ratio_spread: float = 0.14
    """SD of the logarithm of that ratio within a slide."""
    polarity: float = 1.0
    """Von Mises concentration of tumor nuclei's doubled angles about the neighborhood's direction;
    0: no direction."""
    lobulation: float = 0.09
    """Amplitude of the outlines' lobes over the radius; lower is rounder."""
    stain_sd: float = 0.03
    """SD between slides of each component of the stains' unit vectors."""
    intensity_sd: float = 0.12
    """SD between slides of the logarithm of each stain's amount."""
    blur_um: float = 0.3
    """Median over slides of the SD of the blur."""
    noise: float = 1.5
    """SD of the sensor's noise, in gray levels of 255."""
    jpeg_quality: int = 85

    def __post_init__(self) -> None:
        """Refuse what can't be painted."""
        limits = {
            "mpp": (0.1, 1.0),
            "width_px": (256, 100_000),
            "height_px": (256, 100_000),
            "tumor_per_mm2": (500, 8000),
            "stroma_per_mm2": (0, 6000),
            "lymphocyte_share": (0, 1),
            "nest_share": (0.1, 1),
            "area_um2": (15, 100),
            "area_spread": (0, 0.4),
            "axis_ratio": (1, 2.5),
            "axis_ratio_spread": (0, 0.3),
            "polarity": (0, 20),
            "lobulation": (0, 0.15),
            "stain_sd": (0, 0.1),
            "intensity_sd": (0, 0.5),
            "blur_um": (0, 2),
            "noise": (0, 20),
            "jpeg_quality": (30, 100),
        }
        problems = [
            f"phantom setting {name} must be {low:g} to {high:g}, got {getattr(self, name):g}"
            for name, (low, high) in limits.items()
            if not low <= getattr(self, name) <= high
        ]
        filled = self.tumor_per_mm2 * self.area_um2 / 1e6
        if filled > MAX_FILLED:
            problems.append(
                f"nuclei must fill at most {MAX_FILLED:.0%} of the nests, got {filled:.0%}: make "
                "them fewer"
            )
        size = f"{self.width_px} x {self.height_px} px of {self.mpp:g} um"
        if min(self.width_px, self.height_px) * self.mpp < MIN_SIDE_UM:
            problems.append(f"a phantom's sides must be at least {MIN_SIDE_UM:g} um, got {size}")
        if self.width_px * self.height_px > MAX_PIXELS:
            problems.append(
                f"a phantom is painted in memory and may have {MAX_PIXELS:,} pixels, got {size}"
            )
        if problems:
            raise InputError(problems)


@dataclass(frozen=True)
class Effect:
    """The feature that differs by group (or `NO_EFFECT`), and by how many SDs of its trait between
    patients.

    Group 1 minus group 0; each group moves by half of the shift.
    """

    feature: str = NO_EFFECT
    shift: float = 0.0

    def __post_init__(self) -> None:
        """Refuse an unknown feature and a shift beyond what nuclei can show."""
        if self.feature not in (NO_EFFECT, *FEATURE_NAMES):
            raise InputError(
                f"no feature named {self.feature!r} to plant; choose {NO_EFFECT}, "
                f"{', '.join(FEATURE_NAMES)}"
            )
        if not abs(self.shift) <= 6:
            raise InputError(f"the shift between groups must be -6 to 6 SDs, got {self.shift:g}")

    def scores(self, label: int) -> dict[str, float]:
        """What the group adds to a patient's standard scores."""
        if self.feature == NO_EFFECT:
            return {}
        trait, direction = PLANTED_TRAIT[self.feature]
        return {trait: direction * self.shift * (label - 0.5)}


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


@dataclass(frozen=True, eq=False)
class Plan:
    """A slide before it is painted.

    `nuclei` holds, per nucleus, `label`, `nucleus_class`, `in_tumor`, the centroid in level-0
    pixels (a pixel's corners have integer coordinates) and the features of its exact outline;
    density is that among the tumor's nuclei, NaN outside. `outlines` (n, VERTICES, 2) are x, y in
    um about the centroid. `tumor` is in level-0 pixels.
    """

    settings: PhantomSettings
    seed: tuple[int, int]
    traits: dict[str, float]
    tumor: Polygon
    nuclei: pd.DataFrame
    outlines: FloatArray = field(repr=False)
    layout: Layout = field(repr=False)


@dataclass(frozen=True, eq=False)
class Phantom:
    """A painted slide: `rgb` (H, W, 3) uint8, `labels` (H, W) int32 as in the plan's nuclei, 0
    background."""

    plan: Plan
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]


def plan_slide(
    settings: PhantomSettings,
    *,
    seed: int,
    number: int = 0,
    effect: Effect | None = None,
    label: int = 0,
) -> Plan:
    """Lay out the tissue of slide `number` and place its nuclei; `label` is the patient's group, 0
    or 1.

    Each purpose draws from its own stream, so a planted effect leaves tissue, stain and the other
    traits as they are.
    """
    random = partial(_random, (seed, number))
    scores = dict(zip(TRAIT_SD, random("traits").standard_normal(len(TRAIT_SD)), strict=True))
    for name, score in (effect or Effect()).scores(label).items():
        scores[name] += score
    traits = {name: float(scores[name]) * sd for name, sd in TRAIT_SD.items()}
    layout, tumor = _lay_out(settings, random)
    classes = _count_nuclei(layout, settings, traits, random("counts"))
    outlines = _draw_outlines(classes, settings, traits, random)
    turn = _deviations(classes, settings, traits, random("deviations"))
    points, angles, placed = _place(
        classes, outlines, turn, layout=layout, settings=settings, rng=random("places")
    )
    outlines = _turned(outlines[placed], angles[placed])
    nuclei = _truth(
        points[placed], outlines, classes=classes[placed], tumor=tumor, mpp=settings.mpp
    )
    return Plan(settings, (seed, number), traits, tumor, nuclei, outlines, layout)


def render(plan: Plan) -> Phantom:
    """Paint a planned slide."""
    random = partial(_random, plan.seed)
    shape = (plan.settings.height_px, plan.settings.width_px)
    pixels = _rasterize(plan, shape)
    labels = np.zeros(shape, np.int32)
    inside = pixels.cover >= 0.5
    labels.ravel()[pixels.index[inside]] = pixels.owner[inside] + 1
    tissue = _stain_tissue(plan, random("tissue"))
    hematoxylin, eosin = (_enlarge(stain, shape, TISSUE_UM / plan.settings.mpp) for stain in tissue)
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


def write_cohort(
    out: Path,
    *,
    seed: int,
    slides: int = 24,
    effect: str = "density_per_mm2",
    shift: float = 2.0,
    settings: PhantomSettings | None = None,
    on_slide: Callable[[int, int], None] | None = None,
) -> Path:
    """Write a cohort of one slide per patient, groups 0 and 1 in turn, and return its manifest
    (paths relative to it).

    Beside the slides (pyramidal TIFF) lie annotations (GeoJSON) and, in `truth`, each slide's
    nuclei (Parquet) and labels (TIFF), the patients' traits in SDs between patients (the group's
    shift included), and the settings. The same arguments give the same bytes. `on_slide` is called
    with the slides done and their number.

    Raises:
        InputError: fewer than two slides, a negative seed, no such effect, or `out` can't be made.
    """
    settings, planted = settings or PhantomSettings(), Effect(effect, shift)
    if slides < 2 or seed < 0:
        raise InputError(
            f"a cohort needs at least 2 slides and a seed from 0, got {slides} "
            f"slides and seed {seed}"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cohort folder {out} can't be made: {error.strerror}; name another one"
        ) from error
    manifest, truth = [], []
    for number in range(slides):
        phantom = render_slide(settings, seed=seed, number=number, effect=planted, label=number % 2)
        name = f"P{number + 1:03d}"
        _write_phantom(out, name, phantom)
        age = _random((seed, number), "age").normal(55, 11)
        row = {"slide": f"slides/{name}.tif", "patient": name, "label": number % 2}
        row |= {"annotation": f"annotations/{name}.geojson", "site": "AB"[number // 2 % 2]}
        manifest.append(row | {"age": round(float(np.clip(age, 25, 90)))})
        scores = {trait: value / TRAIT_SD[trait] for trait, value in phantom.plan.traits.items()}
        truth.append({"patient": name, "label": number % 2} | scores)
        if on_slide:
            on_slide(number + 1, slides)
    write_table_csv(out / "truth" / "patients.csv", pd.DataFrame(truth))
    about = {
        "seed": seed,
        "slides": slides,
        "effect": effect,
        "shift": shift,
        "settings": asdict(settings),
    }
    write_json(out / "truth" / "phantom.json", about)
    write_table_csv(out / "manifest.csv", pd.DataFrame(manifest))
    return out / "manifest.csv"


# --- chance ---------------------------------------------------------------------------------------


def _random(seed: tuple[int, int], purpose: str) -> np.random.Generator:
    return np.random.default_rng([*seed, *purpose.encode()])


def _smooth_field(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> ImageArray:
    """A random field of mean 0 and SD 1: white noise under a Gaussian of SD `scale` (in cells of
    the grid)."""
    step = max(scale / 1.5, 1.0)
    coarse = tuple(math.ceil(side / step) for side in shape)
    white = rng.standard_normal((coarse[0] + 2, coarse[1] + 2), dtype=np.float32)
    smooth = gaussian_filter(white, scale / step, mode="wrap") * np.float32(
        2 * math.sqrt(math.pi) * scale / step
    )
    return _enlarge(smooth, shape, step)


def _enlarge(grid: NDArray[np.floating[Any]], shape: tuple[int, int], factor: float) -> ImageArray:
    """The top left of a grid at `factor` times its resolution, bicubic."""
    box = (0, 0, min(shape[1] / factor, grid.shape[1]), min(shape[0] / factor, grid.shape[0]))
    image = Image.fromarray(np.ascontiguousarray(grid, np.float32))
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box))


# --- layout ---------------------------------------------------------------------------------------


def _lay_out(
    settings: PhantomSettings, random: Callable[[str], np.random.Generator]
) -> tuple[Layout, Polygon]:
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
    islands = _smooth_field(random("nests"), shape, 28 / LAYOUT_UM)
    islands = islands - np.quantile(islands[tumor < 1], 1 - settings.nest_share)
    nest = np.minimum(islands, (1.03 - tumor) * 12)
    layout = Layout(
        tissue=tissue,
        tumor=tumor,
        nest=nest,
        fiber_um=_fibers(x, y, nest, random("fibers")),
        axis=_axis_field(shape, random("axis")),
        hole_um=_holes(x, y, tissue=tissue, tumor=tumor, nest=nest, rng=random("holes")),
    )
    return layout, polygon


def _blob_radius(angle: FloatArray, *, phases: FloatArray, wobble: float) -> FloatArray:
    """Radius of a rounded, wavy rectangle inscribed in the square of half side 1."""
    rounded = (np.cos(angle) ** 4 + np.sin(angle) ** 4) ** -0.25
    orders = np.arange(2, 2 + len(phases))
    waves = (np.cos(orders * angle[..., None] + phases) / orders).sum(-1) / (1 / orders).sum()
    return np.asarray(rounded * (1 - wobble + wobble * waves))


def _fibers(x: FloatArray, y: FloatArray, nest: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Fibers run across the slide in one direction, waver, and bend around nests."""
    angle = rng.uniform(0, math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    waves = (
        _smooth_field(rng, nest.shape, 60 / LAYOUT_UM) * 45
        + _smooth_field(rng, nest.shape, 14 / LAYOUT_UM) * 4
    )
    return np.asarray(along * 0.7 + waves - np.clip(nest, -2, 1) * 12)


def _axis_field(shape: tuple[int, int], rng: np.random.Generator) -> FloatArray:
    parts = [_smooth_field(rng, shape, 70 / LAYOUT_UM) for _ in range(2)]
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
    fat = (tissue < 0.99) & (tumor > 1.05) & (_smooth_field(rng, nest.shape, 60 / LAYOUT_UM) > 0.2)
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
    return np.asarray(distance + _smooth_field(rng, nest.shape, 8 / LAYOUT_UM) * 0.8)


# --- nuclei ---------------------------------------------------------------------------------------


def _habitats(layout: Layout) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Where tumor cells live, and where the stroma's do."""
    free = (layout.tissue < 0.985) & (layout.hole_um > 3)
    return free & (layout.nest > 0), free & (layout.nest <= 0)


def _count_nuclei(
    layout: Layout, settings: PhantomSettings, traits: dict[str, float], rng: np.random.Generator
) -> NDArray[np.int8]:
    """The class of every nucleus to place, shuffled. Density multiplies all classes, so their
    shares stay."""
    nests, stroma = (
        habitat.sum() * LAYOUT_UM**2 / 1e6 * math.exp(traits["density"])
        for habitat in _habitats(layout)
    )
    lymphocytes = stroma * settings.stroma_per_mm2 * settings.lymphocyte_share
    counts = (
        nests * settings.tumor_per_mm2,
        stroma * settings.stroma_per_mm2 - lymphocytes,
        lymphocytes,
    )
    return rng.permutation(
        np.repeat(np.arange(3, dtype=np.int8), [round(count) for count in counts])
    )


def _draw_outlines(
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
    moments = _moments(outlines)
    outlines = outlines - moments["centroid"][:, None, :]
    return np.asarray(outlines * np.sqrt(area / moments["area"])[:, None, None])


def _deviations(
    classes: NDArray[np.int8],
    settings: PhantomSettings,
    traits: dict[str, float],
    rng: np.random.Generator,
) -> FloatArray:
    """Angle of each nucleus from its neighborhood's direction, radians: von Mises in the doubled
    angle."""
    concentration = np.choose(classes, [settings.polarity * math.exp(traits["polarity"]), 8.0, 0.0])
    return np.asarray(rng.vonmises(0, concentration) / 2)


def _place(
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
    tumor, stroma = _habitats(layout)
    clusters = np.exp(1.3 * _smooth_field(rng, stroma.shape, 25 / LAYOUT_UM)) * stroma
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


def _turned(outlines: FloatArray, angle: FloatArray) -> FloatArray:
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = outlines[..., 0], outlines[..., 1]
    return np.stack([x * cos - y * sin, x * sin + y * cos], 2)


# --- truth ----------------------------------------------------------------------------------------


def _moments(outlines: FloatArray) -> dict[str, FloatArray]:
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


def _truth(
    points: FloatArray,
    outlines: FloatArray,
    *,
    classes: NDArray[np.int8],
    tumor: Polygon,
    mpp: float,
) -> pd.DataFrame:
    x_um, y_um = points.T
    shape = _moments(outlines)
    spread = np.hypot(shape["xx"] - shape["yy"], 2 * shape["xy"])
    major, minor = (np.sqrt(8 * (shape["xx"] + shape["yy"] + sign * spread)) for sign in (1, -1))
    orientation = np.degrees(np.arctan2(2 * shape["xy"], shape["xx"] - shape["yy"]) / 2) % 180
    circumference = np.linalg.norm(outlines - np.roll(outlines, -1, 1), axis=2).sum(1)
    inside = shapely.contains_xy(tumor, x_um / mpp, y_um / mpp)
    density = np.full(len(x_um), np.nan)
    density[inside] = _density_within(x_um[inside], y_um[inside], tumor, mpp)
    return pd.DataFrame(
        {
            "label": np.arange(1, len(x_um) + 1, dtype=np.int32),
            "nucleus_class": np.array(NUCLEUS_CLASSES)[classes],
            "in_tumor": inside,
            "x_px": x_um / mpp,
            "y_px": y_um / mpp,
            "area_um2": shape["area"],
            "major_axis_um": major,
            "minor_axis_um": minor,
            "orientation_deg": np.where(major < MIN_AXIS_RATIO * minor, np.nan, orientation),
            "circumference_um": circumference,
            "density_per_mm2": density,
            "circularity": 4 * math.pi * shape["area"] / circumference**2,
            "rectangularity": shape["area"] / _rectangle_areas(outlines),
        }
    )


def _density_within(x_um: FloatArray, y_um: FloatArray, tumor: Polygon, mpp: float) -> FloatArray:
    cell = LAYOUT_UM / 2
    _, _, right, bottom = np.array(tumor.bounds) * mpp / cell
    rows, columns = np.indices((math.ceil(bottom), math.ceil(right)))
    tissue = shapely.contains_xy(tumor, (columns + 0.5) * cell / mpp, (rows + 0.5) * cell / mpp)
    return local_density(x_um, y_um, tissue=tissue, tissue_mpp=cell)


def _rectangle_areas(outlines: FloatArray) -> FloatArray:
    """Area of the smallest enclosing rectangle among 60 directions; at most 0.5 % above the true
    one for a nucleus."""
    x, y = outlines[..., 0], outlines[..., 1]
    angles = np.arange(120) / 120 * math.pi
    widths = np.array([np.ptp(x * np.cos(angle) + y * np.sin(angle), axis=1) for angle in angles])
    return np.asarray((widths[:60] * widths[60:]).min(axis=0))


# --- paint ----------------------------------------------------------------------------------------


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
    at = partial(_enlarge, shape=shape, factor=factor)
    blotch, cloud = (_smooth_field(rng, shape, scale / TISSUE_UM) for scale in (3.0, 18.0))
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
        _enlarge(plan.layout.nest, (shape[0] // 2, shape[1] // 2), LAYOUT_UM / step) > -0.1
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
    return _enlarge(tone, shape, 2), _enlarge(border, shape, 2)


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
    grain = _smooth_field(rng, hematoxylin.shape, 0.75 / plan.settings.mpp)
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
    shade = 1 + np.float32(0.01) * _smooth_field(rng, hematoxylin.shape, 200 / settings.mpp)
    noise = rng.standard_normal(hematoxylin.shape, dtype=np.float32) * np.float32(
        settings.noise
    ) + np.float32(0.5)
    rgb = np.empty((*hematoxylin.shape, 3), np.uint8)
    for channel, (h, e, glass) in enumerate(zip(*stains, GLASS, strict=True)):
        light = np.exp(hematoxylin * -h - eosin * e) * shade * np.float32(glass) + noise
        rgb[..., channel] = np.clip(light, 0, 255)
    return rgb


# --- files ----------------------------------------------------------------------------------------


def _write_phantom(out: Path, name: str, phantom: Phantom) -> None:
    import tifffile

    settings = phantom.plan.settings
    _write_slide(
        out / "slides" / f"{name}.tif", phantom.rgb, mpp=settings.mpp, quality=settings.jpeg_quality
    )
    write_json(out / "annotations" / f"{name}.geojson", _annotation(phantom.plan.tumor))
    write_parquet(out / "truth" / f"{name}.parquet", phantom.plan.nuclei)
    with atomic_path(out / "truth" / f"{name}_labels.tif") as path:
        tifffile.imwrite(path, phantom.labels, compression="zlib", metadata=None)


def _annotation(tumor: Polygon) -> dict[str, Any]:
    """As QuPath exports it."""
    properties = {
        "objectType": "annotation",
        "classification": {"name": "Tumor", "color": [200, 0, 0]},
    }
    feature = {
        "type": "Feature",
        "geometry": shapely.geometry.mapping(tumor),
        "properties": properties,
    }
    return {"type": "FeatureCollection", "features": [feature]}


def _write_slide(path: Path, rgb: NDArray[np.uint8], *, mpp: float, quality: int) -> None:
    """Pyramid of levels halved down to one tile, each a directory of JPEG tiles that states its
    resolution.

    A classic TIFF 6.0 with the JPEG tiles of TIFF Technical Note 2, assembled here because tifffile
    writes JPEG only with imagecodecs; OpenSlide reads it as generic tiled TIFF.
    """
    content = bytearray(struct.pack("<2sHI", b"II", 42, 0))
    image, factor, link = Image.fromarray(rgb), 1, 4
    while True:
        tiles = _jpeg_tiles(image, quality)
        tags = _level_tags(image.size, reduced=factor > 1, per_cm=1e4 / (mpp * factor))
        tags[324] = ("I", list(itertools.accumulate(map(len, tiles[:-1]), initial=len(content))))
        tags[325] = ("I", [len(tile) for tile in tiles])
        content += b"".join(tiles)
        link = _append_directory(content, tags, link=link)
        if max(image.size) <= TILE_PX:
            return write_bytes(path, bytes(content))
        image, factor = image.reduce(2), factor * 2


def _level_tags(
    size: tuple[int, int], *, reduced: bool, per_cm: float
) -> dict[int, tuple[str, list[int]]]:
    """TIFF tags of a level but for its tiles: number -> (type as in `struct`, values); rationals
    are two integers."""
    resolution = ("R", [round(per_cm * 1000), 1000])
    return {
        254: ("I", [int(reduced)]),
        256: ("I", [size[0]]),
        257: ("I", [size[1]]),
        258: ("H", [8, 8, 8]),
        259: ("H", [7]),  # JPEG
        262: ("H", [6]),  # YCbCr
        277: ("H", [3]),
        282: resolution,
        283: resolution,
        284: ("H", [1]),
        296: ("H", [3]),  # per cm
        322: ("I", [TILE_PX]),
        323: ("I", [TILE_PX]),
        530: ("H", [2, 2]),  # chroma at half resolution
    }


def _append_directory(
    content: bytearray, tags: dict[int, tuple[str, list[int]]], *, link: int
) -> int:
    """Append values and directory, point `link` to the directory; the place of its own link to the
    next one."""
    entries = bytearray()
    for number, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'I' if kind == 'R' else kind}", *values)
        count = len(values) // 2 if kind == "R" else len(values)
        if len(packed) > 4:
            content += b"\0" * (len(content) % 2)
            place, content[len(content) :] = len(content), packed
            packed = struct.pack("<I", place)
        entries += struct.pack("<HHI4s", number, {"H": 3, "I": 4, "R": 5}[kind], count, packed)
    content += b"\0" * (len(content) % 2)
    struct.pack_into("<I", content, link, len(content))
    content += struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return len(content) - 4


def _jpeg_tiles(image: Image.Image, quality: int) -> list[bytes]:
    """Row by row; the edge is repeated where a tile juts out."""
    padding = ((0, -image.height % TILE_PX), (0, -image.width % TILE_PX), (0, 0))
    padded, tiles = np.pad(np.asarray(image), padding, mode="edge"), []
    for top, left in itertools.product(
        range(0, image.height, TILE_PX), range(0, image.width, TILE_PX)
    ):
        stream = io.BytesIO()
        tile = Image.fromarray(padded[top : top + TILE_PX, left : left + TILE_PX])
        tile.save(stream, "JPEG", quality=quality, subsampling="4:2:0")
        tiles.append(stream.getvalue())
    return tiles
