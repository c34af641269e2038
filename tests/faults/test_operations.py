"""Every stage with its n-th operation on files failing, and killed at random moments (faults 41, 43
and 45). `MORPHOMIL_FAULTS=full` tries them all."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from imported_run import Imported

HERE = Path(__file__).parent
FULL = os.environ.get("MORPHOMIL_FAULTS") == "full"
STEP = 1 if FULL else 24
"""Every so many operations one fails."""
KILLS = 200 if FULL else 8


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes operations fail."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("no C compiler, or no Linux")
    library = tmp_path_factory.mktemp("shim") / "shim.so"
    words = [compiler, "-O2", "-shared", "-fPIC", "-o", library, HERE / "shim.c", "-ldl"]
    subprocess.run(words, check=True)
    return library


@pytest.mark.timeout(7200)
def test_every_failing_operation_leaves_a_run_that_goes_on(shim: Path, imported: Imported) -> None:
    words = [sys.executable, HERE / "operations.py", imported.folder, str(STEP)]
    environment = os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [stage["stage"] for stage in found] == ["import-nuclei", "featurize", "embed", "export"]
    for stage in found:
        assert stage["operations"] > 20, stage
        assert stage["tried"] >= stage["operations"] // STEP
    assert [problem for stage in found for problem in stage["problems"]] == []


@pytest.mark.timeout(7200)
def test_killed_at_random_moments_and_two_at_once(imported: Imported) -> None:
    words = [sys.executable, HERE / "kills.py", imported.folder, str(KILLS)]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent)}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["kills"] == KILLS
    assert found["problems"] == []
