"""What a segmenter meets: blocks of any size, the pipeline, other stains, blur, pens, arrays that
are no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from morphomil import pipeline
from morphomil.errors import InputError, SlideError
from morphomil.phantom.paint import render_slide
from morphomil.phantom.settings import PhantomSettings
from morphomil.segment import blocks, classify_nuclei, detect, segment_image
from morphomil.segment.agreement import agreement, overlaps
from morphomil.segment.annotated import AnnotatedImage, read_annotated
from morphomil.segment.blocks import array_reader, block_rows
from morphomil.segment.model import WEIGHTS, load_segmenter
from morphomil.segment.polygons import join, suppress
from morphomil.slides.masks import PAD_PX
from morphomil.slides.quality import is_colored_ink
from morphomil.slides.stain import (
    REFERENCE,
    REFERENCE_STRENGTH,
    estimate_stains,
    fit_normalizer,
)
from morphomil.types import Cohort, ImageSource, PatchSettings, SegmenterSettings, Slide


def fullest_crop(path: Path) -> np.ndarray:
    """1,300 x 1,400 pixels of a core biopsy at 0.5 um per pixel, with as little white as can be."""
    with Image.open(path) as file:
        rgb = np.asarray(file.convert("RGB"))
    white = (rgb.min(axis=2) == 255)[::50, ::50]
    sums = [
        (white[r : r + 26, c : c + 28].sum(), r, c)
        for r in range(len(white) - 26)
        for c in range(white.shape[1] - 28)
    ]
    _, row, column = min(sums)
    return rgb[row * 50 : row * 50 + 1300, column * 50 : column * 50 + 1400]


UNSEEN = "split == 'val' and group in ('monuseg', 'tnbc')"
"""Images that neither model was trained on."""


@pytest.fixture(scope="module")
def biopsy(shared_data: Path) -> np.ndarray:
    return fullest_crop(shared_data / "bcnb" / "regions" / "351899_1.jpg")


@pytest.fixture(scope="module")
def pale_biopsy(shared_data: Path) -> np.ndarray:
    """Of another patient: pale crowded nuclei, the hardest to find again."""
    return fullest_crop(shared_data / "bcnb" / "regions" / "469387_0.jpg")


@pytest.fixture(scope="module")
def validation(shared_data: Path) -> list[AnnotatedImage]:
    table = pd.read_csv(WEIGHTS / "noncommercial" / "training.csv").query(UNSEEN)
    return read_annotated(table.groupby("group").head(2), shared_data / "nuclei")


def matched_share(one: np.ndarray, other: np.ndarray, iou: float = 0.9) -> float:
    pairs = overlaps(one, other)
    return float(
        2
        * (pairs.iou > iou).sum()
        / ((pairs.areas_annotated > 0).sum() + (pairs.areas_found > 0).sum())
    )


@pytest.mark.parametrize("precision", ["auto", "float32"])
@pytest.mark.parametrize("tissue", ["biopsy", "pale_biopsy"])
def test_one_piece_or_many_the_nuclei_are_the_same(
    tissue: str, precision: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    rgb = request.getfixturevalue(tissue)
    usual = segment_image(rgb, mpp=0.5, precision=precision)
    assert usual.max() > 1000
    for side in (256, 4096):
        monkeypatch.setattr(blocks, "BLOCK_PX", side)
        assert matched_share(usual, segment_image(rgb, mpp=0.5, precision=precision)) >= 0.995


def test_no_nucleus_is_cut_at_a_seam_or_found_twice(
    biopsy: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nuclei that touch the seams of small blocks match those of one block as well as all others
    do."""
    whole = segment_image(biopsy, mpp=0.5)
    monkeypatch.setattr(blocks, "BLOCK_PX", 256)
    cut = segment_image(biopsy, mpp=0.5)
    seams = np.zeros(whole.shape, bool)
    for position in range(256, 1400, 256):
        seams[position - 1 : position + 1] = True
        seams[:, position - 1 : position + 1] = True
    for one, other in ((whole, cut), (cut, whole)):
        at_seams = np.unique(one[seams & (one > 0)])
        pairs = overlaps(one, other)
        partners = pairs.annotated[pairs.iou > 0.75]
        assert len(at_seams) > 100
        assert np.isin(at_seams, partners).mean() > 0.98
    segmenter = load_segmenter()
    rows = block_rows(1300, 1400)
    settled = detect.settled_rows(array_reader(biopsy), rows, mpp=0.5, segmenter=segmenter)
    found = join([part.polygons for row in settled for part in row], rays=32)
    assert len(suppress(found, threshold=segmenter.nms_threshold)) == len(found)


def test_the_pipeline_stores_what_the_image_in_one_piece_gives(
    biopsy: np.ndarray, tmp_path: Path
) -> None:
    rgb = biopsy[:1024, :1280]
    Image.fromarray(rgb).save(tmp_path / "slide.png")
    slide = Slide("slide", "p", "1", (ImageSource(tmp_path / "slide.png", mpp=0.5),))
    run, _ = pipeline.segment(
        Cohort((slide,)), tmp_path / "run", settings=PatchSettings(regions="whole")
    )
    stored = run.masks("slide")[0].labels[PAD_PX:-PAD_PX, PAD_PX:-PAD_PX]
    inside = np.s_[96:-96, 96:-96]  # beyond its edges a file is white, an array is mirrored
    assert matched_share(segment_image(rgb, mpp=0.5)[inside], stored[inside]) > 0.98


def test_stains_within_the_range_of_real_images_cost_little(
    shared_data: Path, validation: list[AnnotatedImage]
) -> None:
    """Each image with the stains of the palest and the darkest of the validation set."""
    table = pd.read_csv(WEIGHTS / "noncommercial" / "training.csv").query(UNSEEN)
    stains = [estimate_stains(image.rgb) for image in read_annotated(table, shared_data / "nuclei")]
    order = np.argsort([amount.sum() for _, amount in stains])
    drops = []
    for image in validation:
        usual = agreement(image.labels, segment_image(image.rgb, mpp=image.mpp)).pq
        for reference in (stains[order[0]], stains[order[-1]]):
            rgb = fit_normalizer(image.rgb, reference=reference)(image.rgb)
            drops.append(usual - agreement(image.labels, segment_image(rgb, mpp=image.mpp)).pq)
    assert np.mean(drops) < 0.05, drops


def test_a_normalized_stain_is_that_of_the_image_normalized_by_hand() -> None:
    """A phantom as pale as the palest slides: keyword, settings and hand agree, and it matters."""
    rgb = render_slide(PhantomSettings(width_px=384, height_px=384), seed=0).rgb
    pale = fit_normalizer(rgb, reference=(REFERENCE, 0.3 * REFERENCE_STRENGTH))(rgb)
    by_hand = segment_image(fit_normalizer(pale)(pale), mpp=0.5)
    assert by_hand.max() > 20
    assert np.array_equal(segment_image(pale, mpp=0.5, normalize_stain="always"), by_hand)
    types = classify_nuclei(fit_normalizer(pale)(pale), by_hand, mpp=0.5)
    pd.testing.assert_frame_equal(
        classify_nuclei(pale, by_hand, mpp=0.5, normalize_stain="always"), types
    )
    assert not classify_nuclei(pale, by_hand, mpp=0.5, normalize_stain="never").equals(types)
    settings = SegmenterSettings(normalize_stain="always")
    assert np.array_equal(segment_image(pale, mpp=0.5, settings=settings), by_hand)
    assert not np.array_equal(segment_image(pale, mpp=0.5, normalize_stain="never"), by_hand)


def test_settings_that_no_segmenter_has_are_refused() -> None:
    rgb = np.full((64, 64, 3), 255, np.uint8)
    with pytest.raises(TypeError, match="normalise_stain"):
        segment_image(rgb, mpp=0.5, normalise_stain=True)
    with pytest.raises(InputError, match="engine is one of openvino, tensorflow, got 'torch'"):
        segment_image(rgb, mpp=0.5, engine="torch")


def test_averaged_mirrorings_are_no_worse(validation: list[AnnotatedImage]) -> None:
    plain, averaged = (
        np.mean(
            [
                agreement(i.labels, segment_image(i.rgb, mpp=i.mpp, accurate=a)).pq
                for i in validation
            ]
        )
        for a in (False, True)
    )
    assert averaged > plain - 0.005


def test_out_of_focus_tissue_has_fewer_nuclei_not_phantoms(biopsy: np.ndarray) -> None:
    sharp = segment_image(biopsy[:512, :512], mpp=0.5)
    blurred = segment_image(gaussian_filter(biopsy[:512, :512], (6, 6, 0)), mpp=0.5)
    assert len(np.unique(blurred)) < 0.7 * len(np.unique(sharp))


def test_a_pen_stroke_costs_only_what_it_covers(biopsy: np.ndarray) -> None:
    rgb = biopsy[:512, :512].copy()
    usual = segment_image(rgb, mpp=0.5)
    rgb[200:300] = (rgb[200:300] * 0.15 + np.array([15, 110, 60]) * 0.85).astype(np.uint8)
    marked = segment_image(rgb, mpp=0.5)
    away = np.r_[0:150, 350:512]
    assert matched_share(usual[away], marked[away]) > 0.95
    covered = is_colored_ink(rgb)
    nuclei = np.bincount(marked[covered], minlength=marked.max() + 1)[1:]
    areas = np.bincount(marked.ravel())[1:]
    assert (nuclei > 0.5 * areas).sum() < 0.2 * len(np.unique(usual[200:300]))


@pytest.mark.parametrize("value", [0, 128, 255])
def test_constant_images_have_no_nuclei(value: int) -> None:
    image = np.full((300, 300, 3), value, np.uint8)
    if value:
        assert not segment_image(image, mpp=0.5).any()
    else:
        with pytest.raises(SlideError, match="H&E doesn't yield"):
            segment_image(image, mpp=0.5)


def test_an_inverted_image_is_refused(biopsy: np.ndarray) -> None:
    with pytest.raises(SlideError, match="is it inverted"):
        segment_image(255 - biopsy, mpp=0.5)


@pytest.mark.parametrize(
    ("array", "advice"),
    [
        (np.zeros((8, 8, 4), np.uint8), "alpha"),
        (np.zeros((8, 8), np.uint8), "gray"),
        (np.zeros((8, 8, 3), np.uint16), "257"),
        (np.full((8, 8, 3), np.nan), "NaN"),
    ],
)
def test_other_arrays_are_refused_with_the_way_out(array: np.ndarray, advice: str) -> None:
    with pytest.raises(ValueError, match=advice):
        segment_image(array, mpp=0.5)
