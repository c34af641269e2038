"""Objects that are no nuclei: synthetic ones are told with their reason, annotated nuclei are
kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from morphomil.segment import find_outlines, segment_image
from morphomil.segment.annotated import AnnotatedImage
from morphomil.segment.model import Segmenter, load_segmenter
from morphomil.segment.plausible import EVIDENCE, averaged, judge, measure_evidence, parted
from morphomil.slides.masks import IMPLAUSIBLE, MIN_AREA_UM2
from morphomil.types import SegmenterSettings

MPP = 0.5
NUCLEUS, CYTOPLASM = (92.0, 62.0, 130.0), (222.0, 165.0, 198.0)
Circle = tuple[float, float, float]


def field(
    objects: dict[Circle, tuple[float, float, float]], *, noise: float = 6, side: int = 400
) -> tuple[np.ndarray, np.ndarray]:
    """Pink tissue with nuclei of 4 um radius on a grid, and discs (row, column, radius) of a color;
    the image, and the labels of the discs, which come first, and the nuclei that they don't
    touch."""
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:side, :side]
    image, labels = np.empty((side, side, 3)), np.zeros((side, side), np.int32)
    image[:] = CYTOPLASM
    grid = [(r, c, 8.0) for r in range(20, side - 10, 40) for c in range(20, side - 10, 40)]
    clear = [
        (r, c, n)
        for r, c, n in grid
        if all(np.hypot(r - y, c - x) > n + size + 2 for y, x, size in objects)
    ]
    for number, (row, column, radius) in enumerate([*objects, *clear], start=1):
        depth = radius - np.hypot(rows - row, columns - column)
        color = objects.get((row, column, radius), NUCLEUS)
        inside = np.clip(depth + 0.5, 0, 1)[..., None]
        image = image * (1 - inside) + np.array(color) * inside
        labels[depth > 0] = number
    texture = rng.normal(0, 1, (side, side)) * 2 + rng.normal(0, 1, (side, side))
    return _pixels(image + noise * texture[..., None]), labels


def _pixels(image: np.ndarray) -> np.ndarray:
    return image.clip(0, 255).round().astype(np.uint8)


def reasons(rgb: np.ndarray, labels: np.ndarray, *, mpp: float = MPP) -> list[str]:
    """The reason of each label from 1, "" of what may be a nucleus."""
    count = int(labels.max())
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:] * mpp**2
    found = judge(measure_evidence(rgb, labels.astype(np.int32), count, mpp=mpp), areas)
    return [("", *IMPLAUSIBLE)[number] for number in found]


PLACES = [(100.0, 100.0), (100.0, 300.0), (300.0, 100.0), (300.0, 300.0)]


@pytest.mark.parametrize(
    ("color", "radius", "reason"),
    [
        ((238, 236, 239), 20, "hole"),  # a fat vacuole of 314 um2
        ((242, 242, 243), 28, "size"),  # one of 616 um2
        ((206, 72, 84), 7, "eosin"),  # a red cell
        ((120, 78, 40), 6, "pigment"),  # melanin, hemosiderin
        ((30, 28, 30), 5, "pigment"),  # carbon
        ((150, 149, 146), 8, "pigment"),  # dust on the glass
        ((30, 90, 60), 15, "ink"),
        ((35, 60, 150), 15, "ink"),
    ],
)
def test_what_is_no_nucleus_is_told(
    color: tuple[float, float, float], radius: float, reason: str
) -> None:
    rgb, labels = field({(*place, float(radius)): color for place in PLACES})
    told = reasons(rgb, labels)
    assert told[:4] == [reason] * 4
    assert set(told[4:]) == {""}


def test_out_of_focus() -> None:
    """The same nuclei in focus are kept; blurred by 3 um they have no edge."""
    rgb, labels = field({})
    assert set(reasons(rgb, labels)) == {""}
    blurred = _pixels(ndimage.gaussian_filter(rgb.astype(float), (3 / MPP, 3 / MPP, 0)))
    assert set(reasons(blurred, labels)) == {"blur"}


def test_a_fold() -> None:
    """Three layers of tissue in a strip: its surroundings are denser than nuclei are elsewhere."""
    rgb, labels = field({})
    density = -np.log((rgb + 1.0) / 241).clip(max=0)
    thick = density + sum(np.roll(density, shift, (0, 1)) for shift in ((7, 11), (13, 29)))
    thick[:, :, 0] += 0.4
    strip = (abs(np.arange(400) - 200) < 45)[None, :, None]
    folded = _pixels(241 * np.exp(-np.where(strip, 2 * thick, density)) - 1)
    told = np.array(reasons(folded, labels))
    column = np.array(ndimage.center_of_mass(labels > 0, labels, np.arange(1, labels.max() + 1)))
    inside = abs(column[:, 1] - 200) < 35
    assert set(told[inside]) == {"fold"}
    assert set(told[abs(column[:, 1] - 200) > 60]) == {""}


def test_stains_of_any_strength_are_kept() -> None:
    """Pale and dark slides, yellowed and bluish glass: ratios and hues decide, not amounts."""
    rgb, labels = field({})
    density = -np.log((rgb + 1.0) / 241).clip(max=0)
    for strength in (0.4, 0.7, 1.5, 2.0):
        for cast in ((1, 1, 1), (0.97, 0.97, 0.9), (0.93, 0.95, 1)):
            changed = _pixels(241 * np.array(cast) * np.exp(-density * strength) - 1)
            assert set(reasons(changed, labels)) == {""}, (strength, cast)


def test_evidence_is_what_it_says() -> None:
    """Counted by hand on an image of two colors: red of a quarter of the light inside."""
    labels = np.zeros((40, 40), np.int32)
    labels[10:20, 10:20], labels[25:30, 10:20] = 1, 2
    rgb = np.full((40, 40, 3), 240, np.uint8)
    rgb[labels > 0] = 240, 120, 240
    rgb[11, 11] = 20, 90, 20  # one pixel of ink
    row = dict(zip(EVIDENCE, measure_evidence(rgb, labels, 1, mpp=1.0)[0], strict=True))
    densities = -np.log([121 / 241, 91 / 241, 21 / 241])
    assert row["green"] == pytest.approx(0.99 * densities[0] + 0.01 * densities[1], rel=1e-5)
    assert row["red"] == pytest.approx(0.01 * densities[2], rel=1e-5)
    assert row["ink"] == pytest.approx(0.01)
    difference = densities[1] + 2 * densities[2] - densities[0]
    assert row["roughness"] == pytest.approx(4 * difference / 180, rel=1e-5)
    assert row["step"] == pytest.approx(densities[0], rel=1e-5)
    assert row["ring_red"] == row["ring_green"] == row["glass"] == 0
    none = measure_evidence(rgb, labels * 0, 1, mpp=1.0)
    assert np.isnan(none).all()
    assert judge(none, np.array([100.0])).tolist() == [0]


def test_no_object() -> None:
    labels = np.zeros((20, 20), np.int32)
    assert reasons(np.full((20, 20, 3), 230, np.uint8), labels) == []


@pytest.mark.parametrize("data_set", ["tnbc", "monuseg_train", "consep"])
def test_annotated_nuclei_are_kept(shared_data: Path, data_set: str) -> None:
    """Of all annotated nuclei of three sets fewer than 1 in 200 are dropped."""
    folder, told = shared_data / "nuclei" / data_set, []
    for path in sorted((folder / "images").iterdir()):
        with Image.open(path) as file:
            rgb = np.asarray(file.convert("RGB"))
        with Image.open(folder / "labels" / f"{path.stem}.png") as file:
            labels = np.asarray(file).astype(np.int32)
        half = AnnotatedImage(path.name, rgb, labels, 0.25, "").levels()[1]
        large = np.bincount(half.labels.ravel())[1:] * MPP**2 >= MIN_AREA_UM2
        rim = np.concatenate([half.labels[[0, -1]].ravel(), half.labels[:, [0, -1]].ravel()])
        large[np.unique(rim)[np.unique(rim) > 0] - 1] = False
        even = rgb[: half.rgb.shape[0] * 2, : half.rgb.shape[1] * 2]
        told += np.array(reasons(averaged(even, 2), half.labels))[large].tolist()
    assert len(told) > 2000
    assert sum(map(bool, told)) < 0.005 * len(told)


@pytest.fixture(scope="module")
def biopsy(shared_data: Path) -> np.ndarray:
    with Image.open(shared_data / "bcnb" / "regions" / "469387_0.jpg") as file:
        return np.asarray(file.convert("RGB"))[600:1400, 600:1600]


def test_blocks_leave_no_trace(biopsy: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evidence of the same object is the same in another tiling."""
    from morphomil.segment import blocks

    segmenter = load_segmenter(SegmenterSettings(precision="float32"))
    found = {}
    for side in (256, 512):
        monkeypatch.setattr(blocks, "BLOCK_PX", side)
        outlines = find_outlines(biopsy, mpp=MPP, segmenter=segmenter)
        assert outlines.evidence is not None
        keys = map(tuple, outlines.points.round(2).tolist())
        found[side] = dict(zip(keys, outlines.evidence, strict=True))
    both = found[256].keys() & found[512].keys()
    assert len(both) > 0.95 * len(found[256])
    alike = [np.allclose(found[256][key], found[512][key], atol=0.02) for key in both]
    assert np.mean(alike) > 0.97  # a polygon may differ by a pixel


def test_dropped_or_kept(biopsy: np.ndarray) -> None:
    """Ink on tissue: an object there is dropped unless it is asked to be kept."""
    dropping: Segmenter = load_segmenter(SegmenterSettings())
    assert dropping.judges
    found = find_outlines(biopsy, mpp=MPP, segmenter=dropping)
    nuclei, dropped, why = parted(found, mpp=MPP)
    assert len(dropped) == len(why)
    assert 0.98 * len(found) < len(nuclei) <= len(found)
    keeping = load_segmenter(SegmenterSettings(implausible="keep"))
    assert keeping.sha256 != dropping.sha256
    kept = find_outlines(biopsy, mpp=MPP, segmenter=keeping)
    assert kept.evidence is None
    np.testing.assert_array_equal(kept.points, found.points)
    assert parted(kept, mpp=MPP)[0] is kept
    labels = segment_image(biopsy, mpp=MPP, implausible="keep")
    assert labels.max() >= segment_image(biopsy, mpp=MPP).max()
