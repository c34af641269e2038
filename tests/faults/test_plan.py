"""Every row of the plan of faults names tests that exist, and what a slide's file says of a patient
stays there (fault 71)."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from imported_run import WHOLE
from PIL import Image

from morphomil import pipeline
from morphomil.export import export_run
from morphomil.pipeline.importing import import_nuclei
from morphomil.types import Cohort, ImageSource, Slide

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
ROWS = re.findall(r"^\| (\d+) \| (.*) \| (.*) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)


def test_all_rows_are_there() -> None:
    assert [int(number) for number, *_ in ROWS] == list(range(1, 73))


@pytest.mark.parametrize(("number", "tests"), [(row[0], row[3]) for row in ROWS])
def test_the_tests_of_a_row_exist(number: str, tests: str) -> None:
    named = re.findall(r"`([a-z_/]+\.py)(?: ([a-z0-9_]+))?`", tests)
    assert named or tests.startswith("none"), number
    for file, name in named:
        text = (TESTS / file).read_text(encoding="utf-8")
        assert not name or f"def test_{name}(" in text, f"{file} has no test_{name}"


def test_what_a_file_says_of_a_patient_stays_there(
    tmp_path: Path, draw_nuclei: Callable[..., np.ndarray]
) -> None:
    secret = "Roe^Jane 1950-01-01"
    pixels = np.full((256, 256, 3), (200, 130, 180), np.uint8)
    slide, labels = tmp_path / "s.tif", tmp_path / "labels.png"
    tifffile.imwrite(slide, pixels, photometric="rgb", description=f"Patient = {secret}")
    Image.fromarray(draw_nuclei((256, 256)).astype(np.uint16)).save(labels)
    cohort = Cohort((Slide("s", "p", "0", (ImageSource(slide, mpp=0.5),)),))
    run, result = import_nuclei(cohort, {slide: labels}, tmp_path / "run", settings=WHOLE)
    assert result.done == ("s",)
    pipeline.featurize(run)
    for name in ("csv", "qupath"):
        export_run(run, name)
    assert secret.encode() in slide.read_bytes()
    for file in (path for path in run.path.rglob("*") if path.is_file()):
        assert b"Jane" not in file.read_bytes(), file
