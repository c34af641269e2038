"""Every stage with its n-th operation on files failing, and killed at random moments (faults 41, 43
and 45). A third of the campaign, unless `MORPHOMIL_FAULTS` names another of `operations.DEPTHS`:
`full` is all of it."""

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
STAGES = [(kind, stage) for kind in KINDS for stage in KINDS[kind].stages]
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


def report(program: str, *words: str | Path, **environment: str) -> dict[str, object]:
    """What a program of this folder prints, a line of JSON."""
    paths = os.pathsep.join(map(str, (HERE.parent, HERE)))
    done = subprocess.run(
        [sys.executable, HERE / program, *words],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"} | environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.timeout(14400)
@pytest.mark.parametrize(("kind", "stage"), STAGES)
def test_every_failing_operation_leaves_a_run_that_goes_on(
    kind: str, stage: str, shim: Path, place: Callable[[str], Path]
) -> None:
    found = report("operations.py", kind, stage, place(kind), DEPTH, LD_PRELOAD=str(shim))
    assert int(str(found["operations"])) > 20
    print(stage, *(f"{name} {found[name]}" for name in ("operations", "kinds", "tried")))
    assert found["problems"] == []


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", KILLS)
def test_killed_at_random_moments_and_two_at_once(kind: str, place: Callable[[str], Path]) -> None:
    found = report("kills.py", kind, place(kind), str(KILLS[kind]))
    assert found["kills"] == KILLS[kind]
    assert found["problems"] == []
