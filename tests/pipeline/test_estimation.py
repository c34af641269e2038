"""The estimate of a cohort, before it is segmented."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from morphomil.cli.app import app
from morphomil.pace import Cost
from morphomil.pipeline import estimation
from morphomil.pipeline.estimation import estimate_segment
from morphomil.run.directory import Run
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide


def test_the_estimate_of_the_demo_is_what_it_took(demo: Path) -> None:
    run = Run.open(demo / "run")
    found = estimate_segment(run.cohort, demo / "other")
    assert found.slides == 24
    assert found.patches == pytest.approx(len(all_patches(run)), rel=0.15)
    assert found.kept == pytest.approx(run.figures("segment")["patches_kept"].sum(), rel=0.3)
    assert 0 < found.seconds < 600
    measured = sum(len(run.nuclei(slide.slide_id)) for slide in run.cohort.slides)
    assert found.nuclei == pytest.approx(measured, rel=0.5)
    stored = sum(path.stat().st_size for path in (run.path / "slides").rglob("*") if path.is_file())
    assert stored / 2 < found.disk_bytes < 5 * stored
    assert not (demo / "other").exists()
    half = estimate_segment(Cohort(run.cohort.slides[:12]), demo / "other")
    assert half.patches == pytest.approx(found.patches / 2, rel=0.15)
    fine = estimate_segment(run.cohort, demo / "other", settings=PatchSettings(patch_px=128))
    assert fine.patches > 3 * found.patches


def test_segment_takes_what_is_done_once_and_an_overview_of_each_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside what grows with the tissue: networks are compiled, one where there is one block at
    most, overviews drawn side by side."""
    for name, side in (("one", 64), ("large", 900)):
        Image.fromarray(np.full((64, side, 3), 200, np.uint8)).save(tmp_path / f"{name}.png")

    def told(name: str = "one", *, compiling: float, pace: float, slides: int = 1) -> Cost:
        probe = estimation._Probe(0.0, 0.0, compiling)
        monkeypatch.setattr(estimation, "_try_area", lambda *_: probe)
        monkeypatch.setattr(estimation, "machine_pace", lambda: pace)
        cohort = Cohort(
            tuple(
                Slide(f"s{k}", f"s{k}", "0", (ImageSource(tmp_path / f"{name}.png", mpp=0.5),))
                for k in range(slides)
            )
        )
        whole = PatchSettings(regions="whole")
        return estimate_segment(cohort, tmp_path / "run", settings=whole).costs["segment"]

    told(compiling=0, pace=0)  # loads what is loaded once
    small, large = (told(name, compiling=100, pace=0) for name in ("one", "large"))
    assert small.seconds == pytest.approx(100, abs=5)
    assert large.seconds == pytest.approx(300, abs=5)
    assert small.memory_bytes < 0.7 * large.memory_bytes
    drawn = told(compiling=0, pace=100, slides=4).seconds
    assert drawn == pytest.approx(300 / estimation.CORES, abs=5)


def all_patches(run: Run) -> list[int]:
    return [
        patch for slide in run.cohort.slides for patch in run.patches(slide.slide_id)["patch_id"]
    ]


def test_a_slide_that_cannot_be_read_is_named_and_left_out(demo: Path, tmp_path: Path) -> None:
    good = Run.open(demo / "run").cohort.slides[0]
    torn = tmp_path / "torn.tif"
    torn.write_bytes(good.images[0].path.read_bytes()[:3000])
    found = estimate_segment(
        Cohort((good, Slide("torn", "p", "1", (ImageSource(torn, mpp=0.5),)))), tmp_path
    )
    assert list(found.problems) == ["torn"]
    alone = estimate_segment(Cohort((good,)), tmp_path)
    assert found.patches == pytest.approx(2 * alone.patches, abs=1)


def test_a_dry_run_writes_nothing(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["segment", str(demo / "cohort" / "cohort.csv"), "--out", str(out), "--dry-run"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0
    assert re.search(
        r"24 slides, about \d+ patches with enough tissue and [\d,]+ nuclei", result.stdout
    )
    for stage in ("segment", "featurize", "embed", "train", "rank --quick", "rank"):
        assert re.search(
            rf"^{stage}: about \d+ (s|min) on this machine alone, \d", result.stdout, re.M
        )
    assert not out.exists()
