"""Focus and ink: what blurring, staining, pens and inversion do to the measures; what the pipeline
makes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace

from morphomil import pipeline
from morphomil.run.directory import Run
from morphomil.slides.quality import BLURRED_BELOW, ink_share, sharpness
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide


def tissue_like(side: int = 256, seed: int = 0) -> np.ndarray:
    """Violet spots on pink, with fine texture."""
    rng = np.random.default_rng(seed)
    spots = gaussian_filter(rng.normal(size=(side, side)), 4) > 0.03
    rgb = np.where(spots[..., None], [100, 60, 140], [225, 170, 200]) + rng.normal(
        0, 6, (side, side, 1)
    )
    return gaussian_filter(rgb, (0.7, 0.7, 0)).clip(0, 255).astype(np.uint8)


def test_sharpness_is_the_ratio_that_it_says() -> None:
    rgb = tissue_like()
    gray = rgb.mean(axis=2)
    expected = laplace(gray)[1:-1, 1:-1].var() / (20 * gray[1:-1, 1:-1].var())
    assert sharpness(rgb) == pytest.approx(expected, rel=1e-4)
    noise = (
        np.random.default_rng(0).integers(0, 256, (300, 300, 1)).astype(np.uint8).repeat(3, axis=2)
    )
    assert sharpness(noise) == pytest.approx(1, rel=0.02)
    assert sharpness(np.full((9, 9, 3), 7, np.uint8)) == 0
    assert np.isnan(sharpness(rgb, np.zeros(rgb.shape[:2], bool)))


def test_blur_lowers_sharpness_and_staining_hardly_changes_it() -> None:
    rgb = tissue_like()
    values = [sharpness(gaussian_filter(rgb, (sd, sd, 0))) for sd in (0.1, 1, 2, 4)]
    assert values == sorted(values, reverse=True)
    assert values[-1] < BLURRED_BELOW < values[0]
    pale = (255 - (255 - rgb.astype(float)) * 0.5).astype(np.uint8)
    assert sharpness(pale) == pytest.approx(sharpness(rgb), rel=0.1)


def test_blank_parts_do_not_count() -> None:
    rgb, tissue = tissue_like(), np.ones((256, 256), bool)
    tissue[:, 128:] = False
    cut = rgb.copy()
    cut[:, 128:] = 255
    assert sharpness(cut, tissue) == pytest.approx(sharpness(rgb, tissue))


def test_finer_images_are_judged_at_the_same_scale() -> None:
    rgb = tissue_like(128)
    fine = rgb.repeat(2, axis=0).repeat(2, axis=1)
    assert sharpness(fine, mpp=0.25) == pytest.approx(sharpness(rgb))


@settings(deadline=None)  # the first one compiles
@given(st.floats(0, 2.5), st.floats(0, 2.5))
def test_hematoxylin_and_eosin_are_no_ink(hematoxylin: float, eosin: float) -> None:
    """Any mixture by Ruifrok and Johnston's vectors that isn't black."""
    density = hematoxylin * np.array([0.65, 0.70, 0.29]) + eosin * np.array([0.07, 0.99, 0.11])
    rgb = (255 * 10 ** (-density * 0.6)).astype(np.uint8)[None, None]
    assert ink_share(rgb) == 0 or rgb.max() < 45


@pytest.mark.parametrize("color", [(20, 120, 60), (30, 60, 160), (15, 15, 18), (0, 90, 140)])
def test_pens_are_ink(color: tuple[int, int, int]) -> None:
    assert ink_share(np.array([[color]], np.uint8)) == 1
    assert ink_share(255 - tissue_like()) > 0.9


def test_ink_is_a_share_of_the_tissue() -> None:
    rgb = np.full((6, 8, 3), (230, 190, 210), np.uint8)
    rgb[:3] = (20, 120, 60)
    assert ink_share(rgb) == 0.5
    assert ink_share(rgb, np.arange(6)[:, None] + np.zeros(8) >= 2) == 0.25
    assert np.isnan(ink_share(rgb, np.zeros((6, 8), bool)))


def test_real_biopsies_have_no_ink(shared_data: Path) -> None:
    for path in sorted((shared_data / "bcnb" / "regions").glob("*.jpg")):
        assert ink_share(np.asarray(Image.open(path).convert("RGB").reduce(2))) < 0.002


def segment_one(
    folder: Path, rgb: np.ndarray, **settings: float
) -> tuple[Run, pipeline.StageResult]:
    Image.fromarray(rgb).save(folder / "slide.png")
    slide = Slide("slide", "p", "1", (ImageSource(folder / "slide.png", mpp=0.5),))
    return pipeline.segment(
        Cohort((slide,)), folder / "run", settings=PatchSettings(regions="whole", **settings)
    )  # type: ignore[arg-type]


def test_ink_is_dropped_and_blur_is_counted(tmp_path: Path) -> None:
    rgb = np.concatenate([tissue_like(seed=seed) for seed in range(4)], axis=1)
    rgb[:, :256][20:120] = (20, 120, 60)
    rgb[:, 768:] = gaussian_filter(rgb[:, 768:], (5, 5, 0))
    run, result = segment_one(tmp_path, rgb)
    assert result.done == ("slide",)
    patches = run.patches("slide")
    assert patches["kept"].tolist() == [False, True, True, True]
    assert patches["ink_fraction"].iloc[0] == pytest.approx(100 / 256, abs=0.01)
    figures = run.figures("segment").iloc[0]
    assert (figures["patches_with_ink"], figures["patches_blurred"]) == (1, 1)


def test_an_inverted_image_is_refused_with_its_reason(tmp_path: Path) -> None:
    _, result = segment_one(tmp_path, 255 - tissue_like())
    assert "is the image inverted" in result.failed["slide"]
    run, result = segment_one(tmp_path, 255 - tissue_like(), max_ink=1.0)
    assert result.failed or run.patches("slide")["kept"].all()
