"""Plausibility: what a slide's numbers should be, and the sentences when they aren't."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image

from morphomil import pipeline
from morphomil.figures.quality import draw_quality
from morphomil.pipeline.importing import import_nuclei
from morphomil.run.directory import Run
from morphomil.tables.quality import (
    describe_quality,
    find_deviations,
    quality_table,
    read_quality,
    write_quality,
)
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide


def rows(**changes: list[Any]) -> pd.DataFrame:
    count = max((len(values) for values in changes.values()), default=1)
    plain: dict[str, Any] = {
        "slide_id": [f"s{number}" for number in range(count)],
        "mpp_from": "file",
        "tissue_share": 0.9,
        "analyzed_share": 0.8,
        "nuclei_per_mm2": 4000.0,
        "median_area_um2": 40.0,
        "sharpness": 0.01,
        "upsampling": 1.0,
    }
    return pd.DataFrame(plain | changes, index=range(count))


def test_plausible_slides_get_no_sentence() -> None:
    assert describe_quality(rows()) == ()
    assert describe_quality(rows(tissue_share=[np.nan], upsampling=[np.nan])) == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"median_area_um2": [11.5]}, "median nuclear area of slide s0 (11.5 um2)"),
        ({"median_area_um2": [160.0]}, "outside 15 to 120 um2: the pixel size is probably wrong"),
        ({"nuclei_per_mm2": [40_000.0]}, "outside 100 to 25,000"),
        ({"tissue_share": [0.031]}, "slide s0 (3.1 % tissue) hold little tissue"),
        ({"upsampling": [2.0]}, "slide s0 (2 times) seems enlarged"),
        ({"median_area_um2": [11.5], "mpp_from": ["option"]}, "(of s0 it came from --mpp)"),
        ({"upsampling": [2.0], "mpp_from": ["manifest"]}, "(of s0 it came from the manifest)"),
    ],
)
def test_a_wrong_pixel_size_or_annotation_is_said(changes: dict[str, Any], words: str) -> None:
    (sentence,) = describe_quality(rows(**changes))
    assert words in sentence


def test_many_slides_share_a_sentence() -> None:
    (sentence,) = describe_quality(rows(median_area_um2=[10.0] * 8))
    assert "and 3 more" in sentence


def test_deviations_are_a_factor_of_two_from_the_median() -> None:
    table = rows(median_area_um2=[40.0, 41.0, 39.0, 80.0, 21.0], sharpness=[1, 1, 1, 1, 0.5])
    assert find_deviations(table) == ["", "", "", "median_area_um2", "sharpness"]
    assert find_deviations(table.head(3)) == [""] * 3


@pytest.fixture
def run(tmp_path: Path, draw_nuclei: Callable[..., np.ndarray]) -> Run:
    """Two slides of 512 x 384 pixels: pink tissue, and pink in the left quarter beside glass."""
    rng = np.random.default_rng(1)
    slides, files = [], {}
    for name, width in (("all", 512), ("NA", 128)):
        rgb = np.full((384, 512, 3), 241, np.uint8)
        tissue = rng.normal(0, 12, (384, width, 1)) + np.array([200, 130, 180])
        rgb[:, :width] = np.clip(tissue, 0, 250)
        image, labels = tmp_path / f"{name}.png", tmp_path / f"{name}.tif"
        Image.fromarray(rgb).save(image)
        tifffile.imwrite(labels, draw_nuclei((384, 512)))
        mpp = 0.5 if name == "all" else None
        slides.append(Slide(name, f"p {name}", "0", (ImageSource(image, mpp=mpp),)))
        files[image] = labels
    settings = PatchSettings(patch_px=128, regions="whole")
    made, _ = import_nuclei(
        Cohort(tuple(slides)), files, tmp_path / "run", settings=settings, mpp=0.5
    )
    pipeline.featurize(made)
    return made


def test_the_table_measures_each_slide(run: Run) -> None:
    table = quality_table(run).set_index("slide_id")
    assert table["region_mm2"].tolist() == pytest.approx([512 * 384 * 0.25e-6] * 2)
    assert table["tissue_share"].tolist() == pytest.approx([1, 0.25], abs=0.06)
    assert table["analyzed_share"].tolist() == pytest.approx([1, 1])
    assert table["mpp"].tolist() == [0.5, 0.5]
    assert table["mpp_from"].tolist() == ["manifest", "option"]
    assert (table["upsampling"] == 1).all()
    nuclei = run.nuclei("all")
    assert table.loc["all", "median_area_um2"] == nuclei["area_um2"].median()


def test_the_table_is_written_read_back_and_drawn(run: Run) -> None:
    path, sentences = write_quality(run)
    assert path == run.path / "tables" / "quality.csv"
    read = read_quality(run)
    pd.testing.assert_frame_equal(
        read, quality_table(run).astype(read.dtypes.to_dict()), check_exact=False
    )
    assert read["slide_id"].tolist() == ["all", "NA"]
    drawing = draw_quality(run)
    assert len(drawing.figure.axes) == 5
    assert all(sentence in drawing.caption for sentence in sentences)


def test_a_slide_whose_file_is_gone_keeps_its_row(run: Run) -> None:
    run.slide("all").images[0].path.unlink()
    row = quality_table(run).set_index("slide_id").loc["all"]
    assert np.isnan(row["tissue_share"])
    assert row["median_area_um2"] > 0
