"""A run with a cohort of four slides, none of them worked on."""

from __future__ import annotations

from pathlib import Path

import pytest

from morphomil.run import Run
from morphomil.types import Cohort, ImageSource, Slide


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(
        tuple(
            Slide(f"s{i}", f"p{i}", str(i % 2), (ImageSource(tmp_path / f"{i}.tif"),))
            for i in range(4)
        )
    )


@pytest.fixture
def run(tmp_path: Path, cohort: Cohort) -> Run:
    run = Run.create(tmp_path / "run")
    run.save_cohort(cohort)
    return run
