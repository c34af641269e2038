"""Run as a program: the stages of a kind, killed at random moments, and two processes at once.

    python kills.py KIND FOLDER COUNT

FOLDER holds a run of a KIND of `stages`. Children that share what this process has loaded work on
it one after the other and are killed, COUNT times; every run is then worked to its end and must
have the bytes of one that was left alone. Prints JSON: the kills, the runs, the problems.
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

from stages import KINDS, Kind, Place, contents

from morphomil.errors import BusyError


def work(kind: Kind, made: Place) -> int:
    """All stages in a child, whose process id is returned; it ends with 0, or 5 if it is told that
    another process works there."""
    child = os.fork()
    if child:
        return child
    try:
        for stage in kind.stages.values():
            stage(made)
    except BusyError:
        os._exit(5)
    except BaseException as error:  # noqa: BLE001 - a child says it and ends
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        os._exit(1)
    os._exit(0)


def wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(kind: Kind, made: Place, expected: dict[str, str], what: str) -> list[str]:
    """Work a run to its end; what is wrong with it."""
    if status := wait(work(kind, made)):
        return [f"{what}: status {status}"]
    found = contents(made.folder / "run")
    return [] if found == expected else [f"{what}: {sorted(found.items() ^ expected.items())[:3]}"]


def examine(kind: Kind, made: Place, count: int) -> dict[str, object]:
    run, before, chance = made.folder / "run", made.folder / "before", random.Random(1)
    run.rename(before)
    problems: list[str] = []

    def begin() -> None:
        shutil.rmtree(run, ignore_errors=True)
        if not kind.begins:
            shutil.copytree(before, run)

    for _ in range(2):  # the first one also compiles
        begin()
        begun = time.monotonic()
        assert wait(work(kind, made)) == 0
        seconds = time.monotonic() - begun
    expected = contents(run)
    begin()
    runs = 0
    for number in range(count):
        child = work(kind, made)
        time.sleep(chance.uniform(0, 1.1) * seconds)
        os.kill(child, signal.SIGKILL)
        ended = wait(child)
        if ended not in (0, -signal.SIGKILL):
            problems.append(f"kill {number}: status {ended}")
        if ended == 0 or number % 4 == 3 or number == count - 1:
            problems += finish(kind, made, expected, f"kill {number}")
            begin()
            runs += 1
    for number in range(max(1, count // 20)):
        first, second = work(kind, made), work(kind, made)
        ends = {wait(first), wait(second)}
        if not ends <= {0, 5}:
            problems.append(f"two at once {number}: {ends}")
        problems += finish(kind, made, expected, f"two at once {number}")
        begin()
    return {"kills": count, "runs": runs, "problems": problems}


if __name__ == "__main__":
    chosen = KINDS[sys.argv[1]]
    place = chosen.place(Path(sys.argv[2]).resolve())
    print(json.dumps(examine(chosen, place, int(sys.argv[3]))))
