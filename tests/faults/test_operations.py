"""Every stage with its n-th operation on files failing, and killed at random moments (faults 41, 43
and 45). A third of the campaign; `MORPHOMIL_FAULTS=full` is all of it, `exhaustive` every operation
with every error."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from imported_run import Imported
from modelled_run import Modelled
from stages import KINDS

HERE = Path(__file__).parent
DEPTH = os.environ.get("MORPHOMIL_FAULTS", "sample")
EVERY = {"sample": 3, "full": 1, "exhaustive": 0}[DEPTH]
"""Of every so many kinds of operations one fails; 0: all fail with every error."""
KILLS = {"imported": 100, "segmented": 40, "modelled": 60}
if DEPTH == "sample":  # those of modelled runs take minutes
    KILLS = {"imported": 33, "segmented": 13}


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Callable[[str], Path]:
    """The folder of a run of a kind."""

    def folder(kind: str) -> Path:
        made: Imported | Modelled = request.getfixturevalue(
            "modelled" if kind == "modelled" else "imported"
        )
        return made.folder

    return folder


def report(program: str, *words: str | Path, **environment: str) -> list[dict[str, object]]:
    """What a program of this folder prints, a line of JSON each."""
    paths = os.pathsep.join(map(str, (HERE.parent, HERE)))
    done = subprocess.run(
        [sys.executable, HERE / program, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KINDS)
def test_every_failing_operation_leaves_a_run_that_goes_on(
    kind: str, shim: Path, place: Callable[[str], Path]
) -> None:
    found = report("operations.py", kind, place(kind), str(EVERY), LD_PRELOAD=str(shim))
    assert [stage["stage"] for stage in found] == list(KINDS[kind].stages)
    for stage in found:
        assert int(str(stage["operations"])) > 20, stage
        print(*(f"{name} {stage[name]}" for name in ("stage", "operations", "kinds", "tried")))
    assert {str(stage["stage"]): stage["problems"] for stage in found if stage["problems"]} == {}


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KILLS)
def test_killed_at_random_moments_and_two_at_once(kind: str, place: Callable[[str], Path]) -> None:
    (found,) = report("kills.py", kind, place(kind), str(KILLS[kind]))
    assert found["kills"] == KILLS[kind]
    assert found["problems"] == []
