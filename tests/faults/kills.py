"""Run as a program: all stages, killed at random moments, and two processes at once.

    python kills.py FOLDER COUNT

FOLDER holds a cohort (`imported_run.Imported`). Children that share what this process has loaded
work on one run after the other and are killed, COUNT times; every run is then worked to its end and
must have the bytes of one that was left alone. Prints JSON: the kills, the runs, the problems.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from imported_run import Imported
from operations import STAGES, contents

from morphomil.errors import BusyError


def work(made: Imported) -> int:
    """All stages in a child, whose process id is returned; it ends with 0, or 5 if it is told that
    another process works there."""
    child = os.fork()
    if child:
        return child
    try:
        for stage in STAGES.values():
            stage(made)
    except BusyError:
        os._exit(5)
    except BaseException as error:  # noqa: BLE001 - a child says it and ends
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(made: Imported, expected: dict[str, str], what: str) -> list[str]:
    """Work a run to its end; what is wrong with it."""
    if status := wait(work(made)):
        return [f"{what}: status {status}"]
    found = contents(made.folder / "run")
    return [] if found == expected else [f"{what}: {sorted(found.items() ^ expected.items())[:3]}"]


def examine(folder: Path, count: int) -> dict[str, object]:
    made, run, chance = Imported(folder), folder / "run", random.Random(1)
    problems: list[str] = []
    for _ in range(2):  # the first one also compiles
        shutil.rmtree(run)
        begun = time.monotonic()
        assert wait(work(made)) == 0
        seconds = time.monotonic() - begun
    expected = contents(run)
    shutil.rmtree(run)
    runs = 0
    for number in range(count):
        child = work(made)
        time.sleep(chance.uniform(0, 1.1) * seconds)
        os.kill(child, signal.SIGKILL)
        ended = wait(child)
        if ended not in (0, -signal.SIGKILL):
            problems.append(f"kill {number}: status {ended}")
        if ended == 0 or number % 4 == 3 or number == count - 1:
            problems += finish(made, expected, f"kill {number}")
            shutil.rmtree(run)
            runs += 1
    for number in range(max(2, count // 20)):
        first, second = work(made), work(made)
        ends = {wait(first), wait(second)}
        if not ends <= {0, 5}:
            problems.append(f"two at once {number}: {ends}")
        problems += finish(made, expected, f"two at once {number}")
        shutil.rmtree(run)
    return {"kills": count, "runs": runs, "problems": problems}


if __name__ == "__main__":
    print(json.dumps(examine(Path(sys.argv[1]).resolve(), int(sys.argv[2]))))
