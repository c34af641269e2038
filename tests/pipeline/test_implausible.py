"""Objects that are no nuclei: left out of masks and tables, counted by slide, drawn in a color of
their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.collections import LineCollection
from PIL import Image
from scipy import ndimage

from morphomil import pipeline
from morphomil.figures.contours import contact_sheet
from morphomil.figures.patch_examples import read_example
from morphomil.figures.report.overviews import draw_overviews
from morphomil.figures.report.tables import slides_table
from morphomil.figures.slides import overview
from morphomil.segment.model import Segmenter
from morphomil.slides.masks import IMPLAUSIBLE, implausible_places
from morphomil.tables.quality import quality_table, read_quality, write_quality
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.run.directory import Run

PIGMENT, DUST = [(70, 90), (230, 390)], [(330, 130)]


def see_dark(pixels: np.ndarray, margin: int) -> tuple[np.ndarray, ...]:
    """A network that takes what is dark for nuclei."""
    from stardist.geometry import star_dist

    labels, _ = ndimage.label(pixels[0, ..., 0] < 0.7)
    depth = ndimage.distance_transform_edt(labels > 0)
    peak = ndimage.maximum(depth, labels, np.arange(labels.max() + 1))[labels]
    probability = np.where((labels > 0) & (depth > 0.6 * peak), 0.9, 0)
    rays = star_dist(labels.astype(np.int32), 32, grid=(2, 2))
    rim = margin // 2
    parts = (probability[::2, ::2, None], rays)
    return tuple(part[rim:-rim, rim:-rim][None].astype(np.float32) for part in parts)


def paint(path: Path) -> int:
    """Nuclei on a grid, two grains of pigment and one of dust between them; how many nuclei."""
    rng = np.random.default_rng(0)
    rgb = np.full((512, 512, 3), (222.0, 165.0, 198.0))
    rows, columns = np.mgrid[:512, :512]
    grid = [(r, c) for r in range(30, 500, 40) for c in range(30, 500, 40)]
    others = [*PIGMENT, *DUST]
    nuclei = [p for p in grid if min(np.hypot(p[0] - r, p[1] - c) for r, c in others) > 22]
    for places, color in (
        (nuclei, (92, 62, 130)),
        (PIGMENT, (110, 70, 36)),
        (DUST, (140, 139, 137)),
    ):
        for row, column in places:
            rgb[np.hypot(rows - row, columns - column) < 8] = color
    texture = 8 * rng.normal(0, 1, (512, 512, 1))
    Image.fromarray((rgb + texture).clip(0, 255).astype(np.uint8)).save(path)
    return len(nuclei)


@pytest.fixture
def segmented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Run, int]:
    nuclei = paint(tmp_path / "slide.png")
    segmenter = Segmenter("s", see_dark, 2, 16, 0.5, 0.3, (0.5,), "unit", judges=True)
    monkeypatch.setattr("morphomil.segment.model.load_segmenter", lambda settings: segmenter)
    cohort = Cohort((Slide("slide", "p", "1", (ImageSource(tmp_path / "slide.png", mpp=0.5),)),))
    run, _ = pipeline.segment(cohort, tmp_path / "run", settings=PatchSettings(regions="whole"))
    return run, nuclei


def test_they_are_left_out_and_counted(segmented: tuple[Run, int]) -> None:
    run, nuclei = segmented
    figures = run.figures("segment").iloc[0]
    assert figures["nuclei_found"] == nuclei
    assert figures["implausible"] == 3
    assert figures["implausible_by_reason"] == [["pigment", 3]]
    masks = run.masks("slide")[0]
    assert len(np.unique(masks.labels[:])) == nuclei + 1
    assert masks.dropped is not None
    assert [IMPLAUSIBLE[number - 1] for number in masks.dropped.reasons] == ["pigment"] * 3
    places = implausible_places(run.masks("slide"), 0)
    for row, column in (*PIGMENT, *DUST):
        assert np.hypot(*(places - (column + 0.5, row + 0.5)).T).min() < 2
    assert len(implausible_places(run.masks("slide"), 1)) == 0


def test_they_stand_in_the_tables(segmented: tuple[Run, int]) -> None:
    run, nuclei = segmented
    pipeline.featurize(run)
    assert len(run.nuclei("slide")) == nuclei
    share = 3 / (3 + nuclei)
    assert quality_table(run)["implausible_share"].tolist() == pytest.approx([share])
    write_quality(run)
    assert read_quality(run)["implausible_share"].tolist() == pytest.approx([share])
    assert slides_table(run)["implausible"].tolist() == [3]


def test_they_are_drawn_as_crosses(segmented: tuple[Run, int]) -> None:
    run, _ = segmented
    assert draw_overviews(run)[0].stat().st_size > 1000
    places = implausible_places(run.masks("slide"), 0)
    rgb = np.asarray(Image.open(run.slide("slide").images[0].path))
    figure = overview(
        rgb, run.patches("slide"), level0_px_per_thumb_px=1, mpp=0.5, implausible=places
    )
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "x"]
    np.testing.assert_allclose(np.array(dots[0].get_data()).T, places)
    masks = run.masks("slide")[0]
    with run.open_image("slide", 0) as image:
        patches = run.patches("slide").to_dict("records")
        examples = [read_example(image, masks, patch, title="") for patch in patches]
    assert sum(len(example.implausible) for example in examples) == 3
    sheet = contact_sheet(examples, mpp=0.5)
    colors = {
        tuple(line.get_color()[0][:3].round(2))
        for axes in sheet.axes
        for line in axes.collections
        if isinstance(line, LineCollection) and len(line.get_segments())
    }
    assert (0.0, 0.62, 0.45) in colors


def test_without_a_nucleus_the_slide_says_why() -> None:
    from morphomil.pipeline.segmentation import describe_emptiness

    figures = {"regions": 1, "patches": 4, "patches_kept": 4, "nuclei_found": 0, "implausible": 12}
    assert "none of 12 objects found is a nucleus" in describe_emptiness(figures)
