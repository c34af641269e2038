"""Runs of known nuclei, made in seconds and without a network; the library that makes operations
fail."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from imported_run import Imported
from modelled_run import Modelled
from PIL import Image


@pytest.fixture
def without_waiting() -> Iterator[None]:
    """Fails a test that waits, as for a pipe that nobody writes to."""
    kept = signal.signal(signal.SIGALRM, lambda *_: pytest.fail("it waits without end"))
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, kept)


@pytest.fixture(scope="session")
def _measured(
    tmp_path_factory: pytest.TempPathFactory, draw_nuclei: Callable[..., np.ndarray]
) -> Path:
    folder = tmp_path_factory.mktemp("imported") / "made"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(2):
        pixels = rng.normal(0, 12, (256, 256, 1)) + np.array([200, 130, 180])
        Image.fromarray(np.clip(pixels, 0, 250).astype(np.uint8)).save(folder / f"s{number}.png")
        labels = draw_nuclei((256, 256), seed=number)
        Image.fromarray(labels.astype(np.uint16)).save(folder / f"labels{number}.png")
    made = Imported(folder)
    assert not made.segment().failed
    assert not made.measure().failed
    return folder


@pytest.fixture
def imported(_measured: Path, tmp_path: Path) -> Imported:
    """A copy of the measured run and its slides, at a path of the test's own: their identities
    stay, the cohort is of the new path."""
    folder = Path(shutil.copytree(_measured, tmp_path / "made"))
    made = Imported(folder)
    made.run.save_cohort(made.cohort)
    return made


@pytest.fixture(scope="session")
def _prepared(
    tmp_path_factory: pytest.TempPathFactory, draw_nuclei: Callable[..., np.ndarray]
) -> Path:
    folder = tmp_path_factory.mktemp("modelled") / "made"
    folder.mkdir()
    made = Modelled(folder)
    made.draw(draw_nuclei)
    made.prepare()
    return folder


@pytest.fixture
def modelled(_prepared: Path, tmp_path: Path) -> Modelled:
    """A copy of a run that models can be trained on, at a path of the test's own."""
    made = Modelled(Path(shutil.copytree(_prepared, tmp_path / "modelled")))
    made.run.save_cohort(made.cohort)
    return made


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes operations fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler, or no Linux")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    source = Path(__file__).with_name("shim.c")
    words = [compiler, "-O2", "-shared", "-fPIC", "-o", library, source, "-ldl"]
    subprocess.run(words, check=True)
    return library
