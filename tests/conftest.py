"""Fixtures shared by all tests."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from morphomil.nuclei import FEATURES, Feature

pytest_plugins = ["measured_run"]

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
    """The demo without the image model, which has tests of its own: `cohort/` with phantoms and
    their truth, `run/` with every other stage's results."""
    out = tmp_path_factory.mktemp("demo") / "demo"
    program = Path(sys.executable).with_name("morphomil")
    words = [str(program), "demo", "--out", str(out), "--no-image-model"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(autouse=True)
def one_framework() -> Iterator[None]:
    """TensorFlow and torch end a process that loads both, sooner or later: the test that loads the
    second fails. The Makefile's list has the tests that load torch."""
    frameworks = {"tensorflow", "torch"}
    had_both = frameworks <= sys.modules.keys()
    yield
    assert had_both or not frameworks <= sys.modules.keys(), "tensorflow and torch in one process"


@pytest.fixture
def registry() -> Iterator[dict[str, Feature]]:
    """The registry of features, to which a test may add: afterwards it is as it was."""
    before = dict(FEATURES)
    yield FEATURES
    FEATURES.clear()
    FEATURES.update(before)
