"""The native resolution of a cohort, and what it means for patches and nuclei."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from morphomil import pipeline
from morphomil.cli.app import app
from morphomil.errors import InputError
from morphomil.pipeline.resolution import settle_resolution
from morphomil.segment.model import Segmenter
from morphomil.types import NATIVE, Cohort, ImageSource, PatchSettings, Slide

if TYPE_CHECKING:
    from pathlib import Path


def cohort_of(folder: Path, **sizes: float) -> Cohort:
    """A slide of each name with so many um per pixel: 160 um wide."""
    slides = []
    for name, mpp in sizes.items():
        side = round(160 / mpp)
        rgb = np.full((side, side, 3), (220, 160, 200), np.uint8)
        Image.fromarray(rgb).save(folder / f"{name}.png")
        slides.append(Slide(name, name, "1", (ImageSource(folder / f"{name}.png", mpp=mpp),)))
    return Cohort(tuple(slides))


def test_native_is_the_coarsest_images(tmp_path: Path) -> None:
    native = PatchSettings(working_mpp=NATIVE)
    one = settle_resolution(cohort_of(tmp_path, a=0.25), native, None)
    assert (one.working_mpp, one.patch_px) == (0.25, 512)
    assert one.patch_um == PatchSettings().patch_um
    mixed = settle_resolution(cohort_of(tmp_path, a=0.25, b=0.46), native, None)
    assert (mixed.working_mpp, mixed.patch_px) == (0.46, 280)
    small = settle_resolution(
        cohort_of(tmp_path, a=0.25), PatchSettings(working_mpp=NATIVE, patch_px=64), None
    )
    assert small.patch_um == 32
    given = PatchSettings(working_mpp=0.4)
    assert settle_resolution(cohort_of(tmp_path, a=0.25), given, None) is given


def test_an_image_too_coarse_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.png has 1 um per pixel, too coarse"):
        settle_resolution(
            cohort_of(tmp_path, a=0.25, b=1.0), PatchSettings(working_mpp=NATIVE), None
        )


def test_a_mixed_cohort_is_worked_at_one_resolution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(pixels: np.ndarray, margin: int) -> tuple[np.ndarray, np.ndarray]:
        side = [length // 2 - margin for length in pixels.shape[1:3]]
        return np.zeros((1, *side, 1), np.float32), np.ones((1, *side, 32), np.float32)

    segmenter = Segmenter("s", nothing, 2, 16, 0.5, 0.3, (0.25, 0.5), "unit")
    monkeypatch.setattr("morphomil.segment.model.load_segmenter", lambda settings: segmenter)
    cohort = cohort_of(tmp_path, a=0.25, b=0.4)
    settings = PatchSettings(working_mpp=NATIVE, regions="whole")
    run, _ = pipeline.segment(cohort, tmp_path / "run", settings=settings)
    for name in ("a", "b"):
        frame = run.masks(name)[0].frame
        assert (frame.mpp, frame.patch_px) == (0.4, 320)
        assert set(run.patches(name)["side_px"]) == {128 / (0.25 if name == "a" else 0.4)}
    recorded = run.commands()["segment"]["settings"]
    assert (recorded["working_mpp"], recorded["patch_px"]) == (0.4, 320)


def test_the_option(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("slide,patient,label\n", encoding="utf-8")
    words = ["segment", str(tmp_path / "cohort.csv"), "--out", str(tmp_path / "run")]
    refused = CliRunner().invoke(app, [*words, "--working-mpp", "finest"])
    assert "um per pixel, as in 0.5, or native; got 'finest'" in str(refused.exception)
    text = CliRunner().invoke(app, ["segment", "--help"], terminal_width=200).output
    assert "UM|native" in text
