"""Types of imported nuclei by a network that reads them off the colors."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from morphomil import pipeline
from morphomil.errors import InputError
from morphomil.pipeline import classifying
from morphomil.segment import model
from morphomil.segment.model import Segmenter, TypeCalibration
from morphomil.types import (
    NUCLEUS_TYPES,
    Cohort,
    ImageSource,
    PatchSettings,
    SegmenterSettings,
    Slide,
)

SIDE = 640


def read_colors(block: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
    """Logits of the type that red says, 40 for each; the other maps say nothing."""
    inner = slice(margin // 4, -(margin // 4) or None)
    said = np.round(block[0, 2::4, 2::4, 0] * 255 / 40).astype(int) % 4
    logits = 6.0 * np.eye(4)[said][None, inner, inner]
    nothing = np.zeros((*logits.shape[:3], 1))
    return nothing, nothing, logits


SEGMENTER = Segmenter(
    sha256="colors",
    network=read_colors,
    grid=4,
    multiple=16,
    prob_threshold=0.5,
    nms_threshold=0.3,
    resolutions_mpp=(),
    normalize="unit",
    types=TypeCalibration(),
)


@pytest.mark.parametrize("tile_px", [2048, 200])
def test_types_come_from_the_pixels_where_the_file_says_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tile_px: int
) -> None:
    y, x = np.mgrid[:SIDE, :SIDE]
    labels = np.zeros((SIDE, SIDE), np.int32)
    inside = (x % 32 - 16) ** 2 + (y % 32 - 16) ** 2 < 90
    labels[inside] = (1 + x // 32 + y // 32 * (SIDE // 32))[inside]
    rgb = np.full((SIDE, SIDE, 3), (200, 150, 190), np.uint8)
    rgb[inside, 0] = (40 * (labels % 4))[inside]
    Image.fromarray(rgb).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", labels.astype(np.uint16))
    image = tmp_path / "a.png"
    cohort = Cohort((Slide("a", "p", "1", (ImageSource(image, mpp=0.5),)),))
    monkeypatch.setattr(classifying, "TILE_PX", tile_px)
    monkeypatch.setattr(model, "load_segmenter", lambda settings: SEGMENTER)
    run, result = pipeline.import_nuclei(
        cohort,
        {image: tmp_path / "a.tif"},
        tmp_path / "run",
        settings=PatchSettings(regions="whole", patch_px=128, max_ink=1),
        classify=SegmenterSettings(),
    )
    assert result.done == ("a",)
    pipeline.featurize(run, families=["type"])
    nuclei = run.nuclei("a")
    column, row = (nuclei[name].to_numpy() // 32 for name in ("x_px", "y_px"))
    own = (1 + column + row * (SIDE // 32)).astype(int)
    assert len(nuclei) == labels.max()
    assert nuclei["type"].tolist() == [NUCLEUS_TYPES[number % 4] for number in own]
    expected = np.exp(6) / (np.exp(6) + 3)
    np.testing.assert_allclose(nuclei["type_probability"], expected, rtol=1e-5)
    assert run.segmented_with()["classify"]["sha256"] == "colors"


def test_a_model_without_types_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "load_segmenter", lambda settings: replace(SEGMENTER, types=None))
    image = tmp_path / "a.png"
    Image.fromarray(np.full((64, 64, 3), 200, np.uint8)).save(image)
    tifffile.imwrite(tmp_path / "a.tif", np.eye(64, dtype=np.uint16))
    cohort = Cohort((Slide("a", "p", "1", (ImageSource(image, mpp=0.5),)),))
    with pytest.raises(InputError, match="--classify needs a model that tells types, which 'def"):
        pipeline.import_nuclei(
            cohort, {image: tmp_path / "a.tif"}, tmp_path / "run", classify=SegmenterSettings()
        )
