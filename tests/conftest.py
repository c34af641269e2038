"""Fixtures shared by all tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real annotated nuclei, biopsy regions and tables; tests that need it skip where
    it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip("the folder of real data is not beside the project")
    return SHARED_DATA


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo as a user runs it: `cohort/` with phantoms and their truth, `run/` with every
    stage's results."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    program = Path(sys.executable).with_name("morphomil")
    done = subprocess.run(
        [str(program), "demo", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return out
