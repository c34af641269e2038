"""Run as a program, with `shim.c` preloaded: every stage, with its n-th operation on files failing.

    LD_PRELOAD=shim.so python operations.py FOLDER STEP

FOLDER holds a measured run (`imported_run.Imported`); every STEP-th operation of each stage fails,
with one error after the other, once and for good. After each: the run opens, what is done is whole,
and the second try completes with the same bytes. Prints one JSON line per stage: its operations,
those that failed, and the problems.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import numpy as np
from imported_run import Imported
from numpy.typing import NDArray

from morphomil import pipeline
from morphomil.errors import MorphomilError
from morphomil.export import export_run
from morphomil.image_model.backbones import LoadedEncoder
from morphomil.run import Run
from morphomil.store import digest
from morphomil.types import EmbedSettings

ERRORS = ("ENOSPC", "EIO", "EDQUOT", "EACCES")
SHIM = ctypes.CDLL(None)


def mean_color(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A backbone that needs no weights."""
    return patches.mean(axis=(1, 2), dtype=np.float32)


ENCODER = LoadedEncoder("color", mean_color, "0" * 64)


def embed(made: Imported) -> object:
    return pipeline.embed(made.run, encoder=ENCODER, settings=EmbedSettings())[1]


STAGES: dict[str, Callable[[Imported], object]] = {
    "import-nuclei": Imported.segment,
    "featurize": Imported.measure,
    "embed": embed,
    "export": lambda made: [export_run(made.run, name) for name in ("csv", "qupath", "trident")],
}


def contents(run: Path) -> dict[str, str]:
    """The digest of every file of a run but the log, which has times, and locks."""
    files = (file for file in run.rglob("*") if file.is_file())
    return {
        str(file.relative_to(run)): digest(file)
        for file in files
        if file.name != "run.json" and not file.name.startswith(".lock")
    }


def attempts(operations: int, step: int) -> Iterator[tuple[int, str, bool]]:
    """Which operation fails, how, and whether all later ones do too."""
    errors = cycle([(name, forever) for name in ERRORS for forever in (False, True)])
    if step == 1:
        yield from (
            (n, name, forever)
            for n in range(1, operations + 1)
            for name in ERRORS
            for forever in (False, True)
        )
        return
    for n in range(1, operations + 1, step):
        yield n, *next(errors)


def try_stage(made: Imported, stage: Callable[[Imported], object]) -> str:
    """What a stage ends with: "" or the sentence that a user reads; what no user should read is
    raised."""
    try:
        result = stage(made)
    except (MorphomilError, OSError) as error:
        return str(error)
    return str(getattr(result, "failed", "") or "")


def examine(folder: Path, name: str, step: int) -> dict[str, object]:
    """What becomes of a stage whose operations fail."""
    stage, made, before = STAGES[name], Imported(folder), folder.parent / "before"
    run = folder / "run"
    if name == "import-nuclei":
        shutil.rmtree(run)
        run.mkdir()
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(run, before)
    SHIM.fault_arm(str(run).encode(), ctypes.c_long(0), 0, 0)
    try_stage(made, stage)
    operations, expected = SHIM.fault_disarm(), contents(run)
    problems, tried = [], 0
    for n, error, forever in attempts(operations, step):
        tried += 1
        shutil.rmtree(run)
        shutil.copytree(before, run)
        SHIM.fault_arm(str(run).encode(), ctypes.c_long(n), getattr(errno, error), int(forever))
        try:
            said = try_stage(made, stage)
        except Exception as wrong:  # noqa: BLE001 - that it is none of ours is the finding
            said = f"{type(wrong).__name__}: {wrong}"
            problems.append([n, error, forever, said])
        finally:
            SHIM.fault_disarm()
        try:
            if (run / "cohort.parquet").exists():
                Run.open(run).figures("segment")
            again = try_stage(made, stage)
            left = [key for key in contents(run) if key.endswith(".tmp")]
            if again or left or contents(run) != expected:
                problems.append([n, error, forever, f"{said} -> {again or left or 'other bytes'}"])
        except Exception as wrong:  # noqa: BLE001 - that it is none of ours is the finding
            problems.append([n, error, forever, f"{said} -> {type(wrong).__name__}: {wrong}"])
    shutil.rmtree(run)
    shutil.copytree(before, run)
    try_stage(made, stage)
    return {"stage": name, "operations": operations, "tried": tried, "problems": problems}


if __name__ == "__main__":
    place = Path(sys.argv[1]).resolve()
    for wanted in STAGES:
        print(json.dumps(examine(place, wanted, int(sys.argv[2]))), flush=True)
    os._exit(0)
