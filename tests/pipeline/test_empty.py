"""Slides without region, patch or nucleus: they say why, stay what they are, and count as lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from morphomil import pipeline
from morphomil.errors import InputError
from morphomil.pipeline.importing import import_nuclei
from morphomil.pipeline.segmentation import describe_emptiness
from morphomil.run.directory import Run
from morphomil.store import write_json
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide

AUTO, WHOLE = PatchSettings(patch_px=128), PatchSettings(patch_px=128, regions="whole")
COLORS = {"good": (200, 130, 180), "glass": (241, 241, 241), "white": (255, 255, 255)}


@pytest.fixture
def make_slide(
    tmp_path: Path, draw_nuclei: Callable[..., np.ndarray]
) -> Callable[..., tuple[Slide, dict[Path, Path]]]:
    """A slide of one color and its file of nuclei."""

    def make(name: str, *, nuclei: bool = True) -> tuple[Slide, dict[Path, Path]]:
        rng = np.random.default_rng(1)
        pixels = rng.normal(0, 12, (384, 512, 1)) if name == "good" else np.zeros((384, 512, 1))
        rgb = np.clip(pixels + np.array(COLORS[name]), 0, 255).astype(np.uint8)
        image, labels = tmp_path / f"{name}.png", tmp_path / f"{name}.tif"
        Image.fromarray(rgb).save(image)
        drawn = draw_nuclei((384, 512)) if nuclei else np.zeros((384, 512), np.int32)
        tifffile.imwrite(labels, drawn)
        slide = Slide(name, f"patient of {name}", "1", (ImageSource(image, mpp=0.5),))
        return slide, {image: labels}

    return make


def together(*made: tuple[Slide, dict[Path, Path]]) -> tuple[Cohort, dict[Path, Path]]:
    files: dict[Path, Path] = {}
    for _, of_slide in made:
        files |= of_slide
    return Cohort(tuple(slide for slide, _ in made)), files


@pytest.mark.parametrize(
    ("name", "nuclei", "settings", "reason", "counts"),
    [
        ("glass", True, AUTO, "no region", "(0 regions, 0 patches, 0 kept, 0 nuclei)"),
        ("white", True, WHOLE, "no patch is kept", "(1 regions, 12 patches, 0 kept, 0 nuclei)"),
        (
            "good",
            False,
            WHOLE,
            "no nucleus was found",
            "(1 regions, 12 patches, 12 kept, 0 nuclei)",
        ),
    ],
)
def test_an_empty_slide_says_why_and_stays_so_until_its_key_changes(
    make_slide: Callable[..., tuple[Slide, dict[Path, Path]]],
    tmp_path: Path,
    name: str,
    nuclei: bool,
    settings: PatchSettings,
    reason: str,
    counts: str,
) -> None:
    cohort, files = together(make_slide(name, nuclei=nuclei))
    run, result = import_nuclei(cohort, files, tmp_path / "run", settings=settings)
    assert result.done == ()
    assert reason in result.empty[name]
    assert counts in result.empty[name]
    assert run.done("segment") == []
    masks = run.slide_folder(name) / "masks.zarr" / "zarr.json"
    made = masks.stat().st_mtime_ns
    assert import_nuclei(cohort, files, run.path, settings=settings)[1] == result
    assert masks.stat().st_mtime_ns == made
    with pytest.raises(InputError, match=rf"no segmented slides with nuclei(.|\n)*{reason}"):
        pipeline.featurize(run)
    other = PatchSettings(patch_px=64, regions="whole")
    changed = import_nuclei(cohort, files, run.path, settings=other)[1]
    assert masks.stat().st_mtime_ns > made
    assert (changed.done == (name,)) == (name == "glass")


def test_segment_says_it_too(
    make_slide: Callable[..., tuple[Slide, dict[Path, Path]]], tmp_path: Path
) -> None:
    cohort, _ = together(make_slide("glass"))
    run, result = pipeline.segment(cohort, tmp_path / "run")
    assert "no region" in result.empty["glass"]
    assert run.figures("segment")["state"].tolist() == ["empty"]


def test_nuclei_beside_the_regions_are_counted() -> None:
    figures = {"regions": 1, "patches": 9, "patches_kept": 4, "patches_with_ink": 0}
    figures |= {"nuclei_found": 0, "nuclei_outside_regions": 1234}
    assert "none of 1,234 nuclei lies in a region" in describe_emptiness(figures)
    assert describe_emptiness(figures | {"nuclei_found": 1}) == ""


def test_an_empty_slide_is_left_out_and_stands_in_the_report(
    make_slide: Callable[..., tuple[Slide, dict[Path, Path]]], tmp_path: Path
) -> None:
    from morphomil.export import export_run
    from morphomil.figures.report.overviews import draw_overviews
    from morphomil.figures.report.tables import slides_table
    from morphomil.figures.sentences import say_extent
    from morphomil.tables.flow import flow_table
    from morphomil.tables.slides import describe_lost_slides

    cohort, files = together(make_slide("glass"), make_slide("good"))
    run, result = import_nuclei(cohort, files, tmp_path / "run", settings=AUTO)
    assert (result.done, list(result.empty)) == (("good",), ["glass"])
    assert pipeline.featurize(run).done == ("good",)
    with pytest.raises(InputError, match="no region"):
        run.nuclei("glass")
    row = slides_table(run).set_index("slide_id").loc["glass"]
    assert row["state"] == "empty"
    assert row["cause"].startswith("no region")
    assert row[["patches_kept", "nuclei"]].tolist() == [0, 0]
    assert "1 of 2 slides gave no result" in say_extent(slides_table(run))[1]
    assert flow_table(run)["slides"].tolist()[:4] == [2, 2, 1, 1]
    (sentence,) = describe_lost_slides(run, "featurize")
    assert sentence.startswith("1 slides without nuclei are left out (1 with label 1)")
    assert run.slide_folder("glass") / "overview.png" in draw_overviews(run)
    assert not any("glass" in path.name for path in export_run(run, "csv"))


def test_a_slide_that_becomes_empty_is_forgotten_by_later_stages(
    make_slide: Callable[..., tuple[Slide, dict[Path, Path]]], tmp_path: Path
) -> None:
    cohort, files = together(make_slide("good"))
    run, _ = import_nuclei(cohort, files, tmp_path / "run", settings=AUTO)
    pipeline.featurize(run)
    before = run.measured_key()
    make_slide("good", nuclei=False)
    assert list(import_nuclei(cohort, files, run.path, settings=AUTO)[1].empty) == ["good"]
    assert list(run.ledger.status("good")) == ["segment"]
    assert run.done("featurize") == []
    assert run.measured_key() != before


def test_results_of_an_earlier_version_without_nuclei_become_empty(
    make_slide: Callable[..., tuple[Slide, dict[Path, Path]]], tmp_path: Path
) -> None:
    cohort, files = together(make_slide("glass"))
    run, result = import_nuclei(cohort, files, tmp_path / "run", settings=AUTO)
    status = run.ledger.status("glass")
    stored = {name: value for name, value in status["segment"].items() if name != "empty"}
    write_json(run.ledger.entries_path("glass"), {"segment": stored, "featurize": stored})
    assert Run(run.path).done("segment") == ["glass"]
    assert import_nuclei(cohort, files, run.path, settings=AUTO)[1].empty == result.empty
    assert run.ledger.status("glass") == status
