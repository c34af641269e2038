"""Run as a program, with `shim.c` preloaded: a stage, with its n-th operation on files failing.

    LD_PRELOAD=shim.so python operations.py KIND STAGE FOLDER DEPTH

FOLDER holds a run of a KIND of `stages`; those before STAGE are worked first. Which operations
fail, one at a time, DEPTH says (`DEPTHS`; `every:2/6` is the second of its six parts): once or for
good. After each the run opens, what is done is whole, and the second try completes with the same
bytes. Prints a line of JSON: the stage's operations, their kinds, those that failed, and the
problems.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import cycle, islice, product, takewhile
from pathlib import Path

from stages import KINDS, Place, contents, load_network_once

from morphomil.errors import MorphomilError
from morphomil.run import Run

FAILURES = tuple(product(("ENOSPC", "EIO", "EDQUOT", "EACCES"), (False, True)))
"""How an operation fails, and whether all later ones do too."""
DEPTHS = ("sample", "full", "every", "exhaustive")
"""A kind of operations is what is done to which file. One of every third kind fails, the first or,
by turns, the last; one of each kind; every operation, the failures taking turns; every operation
with every failure."""
SHIM = ctypes.CDLL(None)
NUMBERED = re.compile(r"[0-9a-f]{8,}|\d+")
"""Names of files of one kind differ in this: of slides, patches, folds, keys, temporaries."""


def kinds_of(listed: str) -> dict[str, list[int]]:
    """Numbers of operations by their kind: name, and path without what is numbered."""
    kinds: dict[str, list[int]] = {}
    for line in listed.splitlines():
        number, _, what = line.partition("\t")
        kinds.setdefault(NUMBERED.sub("#", what), []).append(int(number))
    return kinds


def attempts(
    operations: int, kinds: dict[str, list[int]], depth: str
) -> Iterator[tuple[int, str, bool]]:
    """Which operation fails, and how."""
    depth, _, part = depth.partition(":")
    numbers = list(range(1, operations + 1))
    if depth in ("sample", "full"):
        chosen = list(kinds.values())[:: {"sample": 3, "full": 1}[depth]]
        numbers = sorted({of_kind[-(k % 2)] for k, of_kind in enumerate(chosen)})
    tried = (
        product(numbers, FAILURES)
        if depth == "exhaustive"
        else zip(numbers, cycle(FAILURES), strict=False)
    )
    first, parts = map(int, part.split("/")) if part else (1, 1)
    for n, how in islice(tried, first - 1, None, parts):
        yield n, *how


def try_stage(made: Place, stage: Callable[[Place], object]) -> str:
    """What a stage ends with: "" or the sentence that a user reads; what no user should read is
    raised."""
    try:
        result = stage(made)
    except (MorphomilError, OSError) as error:
        return str(error)
    return str(getattr(result, "failed", "") or "")


def examine(made: Place, stage: Callable[[Place], object], depth: str) -> dict[str, object]:
    """What becomes of a stage whose operations fail."""
    run, before = made.folder / "run", made.folder.parent / f"{made.folder.name}-before"
    shutil.rmtree(before, ignore_errors=True)
    shutil.copytree(run, before)
    try_stage(made, stage)  # loads what is loaded once
    shutil.rmtree(run)
    shutil.copytree(before, run)
    with tempfile.TemporaryFile("w+") as listed:
        SHIM.fault_arm(str(run).encode(), ctypes.c_long(0), 0, 0, listed.fileno())
        wrong = try_stage(made, stage)
        operations, expected = SHIM.fault_disarm(), contents(run)
        listed.seek(0)
        kinds = kinds_of(listed.read())
    problems: list[object] = [wrong] if wrong else []
    tried = 0
    for n, error, forever in attempts(operations, kinds, depth):
        tried += 1
        shutil.rmtree(run)
        shutil.copytree(before, run)
        how = getattr(errno, error), int(forever), -1
        SHIM.fault_arm(str(run).encode(), ctypes.c_long(n), *how)
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
    counts = {"operations": operations, "kinds": len(kinds), "tried": tried}
    return counts | {"problems": problems}


if __name__ == "__main__":
    load_network_once()
    kind, failing = KINDS[sys.argv[1]], sys.argv[2]
    place = kind.place(Path(sys.argv[3]).resolve())
    if kind.begins:
        shutil.rmtree(place.folder / "run")
        (place.folder / "run").mkdir()
    for name in takewhile(lambda name: name != failing, kind.stages):
        kind.stages[name](place)
    print(json.dumps(examine(place, kind.stages[failing], sys.argv[4])), flush=True)
    os._exit(0)
