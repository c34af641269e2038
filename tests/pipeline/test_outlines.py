"""Outlines between the pixels: stored by `segment`, measured by `featurize`."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
import shapely
import zarr
from PIL import Image
from scipy import ndimage

from morphomil import pipeline
from morphomil.export import export_run
from morphomil.nuclei.measure import evaluate_features, measure_roots
from morphomil.segment.model import Segmenter
from morphomil.slides.masks import (
    PAD_PX,
    DrawnNuclei,
    MaskFrame,
    RegionMasks,
    RegionOutlines,
    open_masks,
    store_region,
)
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide
from morphomil.viewer import SlideBrowser

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run.directory import Run

FRAME = MaskFrame((256, 256), 0.0, 0.0, 1.0, mpp=0.5, patch_px=128, image=0)
SQUARE = np.array([[80.25, 90], [90.25, 90], [90.25, 98], [80.25, 98]], np.float32)


def stored(path: Path, outlines: RegionOutlines | None) -> RegionMasks:
    labels = np.zeros((256, 256), np.int32)
    labels[90:98, 80:90] = 7
    group = zarr.open_group(path, mode="w")
    drawn = DrawnNuclei(1, [(0, 0, labels)], outlines)
    store_region(group, 0, FRAME, drawn, np.ones((32, 32), bool))
    return open_masks(path)[0]


def test_outlines_are_stored_and_measured(tmp_path: Path) -> None:
    outlines = RegionOutlines(7, SQUARE, np.array([4]))
    masks = stored(tmp_path / "a.zarr", outlines)
    assert masks.outlines is not None
    np.testing.assert_array_equal(masks.outlines.vertices, SQUARE)
    roots = pipeline.measurement._shape_roots(masks)
    row = evaluate_features(roots, mpp=0.5).iloc[0]
    assert row["label"] == 7
    assert (row["x_px"], row["y_px"]) == pytest.approx((84.75, 93.5))
    assert row["circumference_um"] == pytest.approx(18)
    assert row["rectangularity"] == pytest.approx(1)


def test_without_outlines_the_pixels_are_measured(tmp_path: Path) -> None:
    masks = stored(tmp_path / "a.zarr", None)
    assert masks.outlines is None
    row = pipeline.measurement._shape_roots(masks).iloc[0]
    expected = measure_roots(masks.labels[:], mpp=0.5).iloc[0]
    assert row.to_dict() == pytest.approx(expected.to_dict())


def test_no_nuclei_are_no_outlines(tmp_path: Path) -> None:
    nothing = RegionOutlines(1, np.empty((0, 2), np.float32), np.empty(0, np.int64))
    masks = stored(tmp_path / "a.zarr", nothing)
    assert len(pipeline.measurement._shape_roots(masks)) == 0


def _see_dark(pixels: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
    """A network that takes what is dark for nuclei; its edge is at half the darkness."""
    from stardist.geometry import star_dist

    darkness = (230 / 255 - pixels[0, ..., 0]) / (150 / 255)
    labels, _ = ndimage.label(darkness > 0.5)
    depth = ndimage.distance_transform_edt(labels > 0)
    peak = ndimage.maximum(depth, labels, np.arange(labels.max() + 1))[labels]
    probability = np.where((labels > 0) & (depth > 0.6 * peak), 0.9, 0)
    logit = 8 * (darkness - 0.5)
    rays = star_dist(labels.astype(np.int32), 32, grid=(2, 2))
    parts = ((probability[::2, ::2, None], margin // 2), (rays, margin // 2), (logit, margin))
    return tuple(part[rim:-rim, rim:-rim][None].astype(np.float32) for part, rim in parts)


def test_a_slide_is_measured_between_its_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ellipses painted at a sixth of a pixel's size: their tables have their closed forms."""
    rng = np.random.default_rng(0)
    fine, truth = np.zeros((512 * 6, 512 * 6), np.float32), []
    y, x = (np.mgrid[-150:150, -150:150] + 0.5) / 6
    for row in range(60, 480, 60):
        for column in range(60, 480, 60):
            a, b, turn = *rng.uniform(7, 12, 2), rng.uniform(0, np.pi)
            top, left = (round(6 * (place + rng.uniform(0, 5))) for place in (row, column))
            along = x * np.cos(turn) + y * np.sin(turn)
            across = y * np.cos(turn) - x * np.sin(turn)
            inside = np.hypot(along / a, across / b) < 1
            fine[top - 150 : top + 150, left - 150 : left + 150] += inside
            truth.append((left / 6, top / 6, np.pi * a * b / 4, max(a, b), min(a, b)))
    share = fine.reshape(512, 6, 512, 6).mean(axis=(1, 3))
    share = ndimage.gaussian_filter(share, 0.7)
    rgb = np.stack([230 - 150 * share, 180 - 120 * share, 200 - 60 * share], axis=-1)
    Image.fromarray(rgb.round().astype(np.uint8)).save(tmp_path / "slide.png")
    segmenter = Segmenter("s", _see_dark, 2, 16, 0.5, 0.3, (0.5,), "unit", maps=True)
    monkeypatch.setattr("morphomil.segment.model.load_segmenter", lambda settings: segmenter)
    cohort = Cohort((Slide("slide", "p", "1", (ImageSource(tmp_path / "slide.png", mpp=0.5),)),))
    run, _ = pipeline.segment(cohort, tmp_path / "run", settings=PatchSettings(regions="whole"))
    pipeline.featurize(run)
    table = run.nuclei("slide")
    assert len(table) == len(truth)
    for x0, y0, area, major, minor in truth:
        off = np.hypot(table["x_px"] - x0, table["y_px"] - y0)
        own = table.loc[off.idxmin()]
        assert off.min() < 0.05
        assert own["area_um2"] == pytest.approx(area, rel=0.03)
        assert own["major_axis_um"] == pytest.approx(major, rel=0.02)
        assert own["minor_axis_um"] == pytest.approx(minor, rel=0.02)
        assert own["rectangularity"] == pytest.approx(np.pi / 4, rel=0.03)
        labels = run.masks("slide")[0].labels[:]
        drawn = labels[round(y0) + PAD_PX, round(x0) + PAD_PX]
        assert drawn == own["label"]
    _check_exported(run, tmp_path / "qupath")


def _check_exported(run: Run, out: Path) -> None:
    """QuPath's outlines and the viewer's are the ones that were measured."""
    (path,) = export_run(run, "qupath", out=out)
    features = json.loads(gzip.decompress(path.read_bytes()))["features"]
    nuclei = run.nuclei("slide").set_index("label")
    detections = [f for f in features if f["properties"]["objectType"] == "detection"]
    assert len(detections) == len(nuclei)
    for feature in detections:
        outline = shapely.geometry.shape(feature["geometry"])
        row = nuclei.loc[feature["properties"]["measurements"]["Label"]]
        assert outline.is_valid
        assert outline.area * 0.5**2 == pytest.approx(row["area_um2"], rel=2e-3)
        assert outline.length * 0.5 == pytest.approx(row["circumference_um"], rel=2e-3)
        center = outline.centroid
        assert (center.x, center.y) == pytest.approx((row["x_px"], row["y_px"]), abs=0.01)
    browser = SlideBrowser(run)
    for label, row in nuclei.iterrows():
        (ring,) = browser.nucleus(0, int(label))["rings"]
        shown = shapely.Polygon(np.array(ring).reshape(-1, 2))
        assert shown.area * 0.5**2 == pytest.approx(row["area_um2"], rel=0.02)
