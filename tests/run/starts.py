"""Run as a program: processes that start together on one run directory.

    python starts.py FOLDER ROUNDS PROCESSES

In every round the parts of a new run start at the same time, each of which stores the cohort and
logs itself; then as many processes count to one number under one lock, some of them being killed.
Prints JSON: what went wrong, and how often the last lock was held to its end.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from morphomil.run import Part, Run
from morphomil.types import Cohort, ImageSource, Slide

COHORT = Cohort(
    tuple(Slide(f"s{i}", f"p{i}", "0", (ImageSource(Path(f"/{i}")),)) for i in range(9))
)
KILLED = 3
"""So many of the counting processes are killed."""


def together(tasks: list[Callable[[], None]], *, kill: int = 0) -> list[int]:
    """The exit statuses of processes that begin at the same moment."""
    ready, go = os.pipe()
    children = []
    for task in tasks:
        if child := os.fork():
            children.append(child)
            continue
        os.close(go)
        os.read(ready, 1)  # ends when the parent closes the other end
        try:
            task()
        except BaseException as error:  # noqa: BLE001 - a child says it and ends
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            os._exit(1)
        os._exit(0)
    os.close(ready)
    os.close(go)
    for child in random.Random(1).sample(children, kill):
        time.sleep(0.02)
        os.kill(child, signal.SIGKILL)
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def start(path: Path, index: int, count: int) -> None:
    run = Run.create(path)
    with run.lock(Part("segment", index, count)):
        run.save_cohort(COHORT)
        run.record("segment", {"part": index}, seconds=0)


def count(run: Run) -> None:
    number = run.path / "number.txt"
    with run.lock(wait=300):
        found = int(number.read_text())
        time.sleep(0.005)
        number.write_text(f"{found + 1:09d}")  # of one length: a killed writer tears nothing


def examine(folder: Path, rounds: int, processes: int) -> dict[str, object]:
    problems, ends = [], 0
    for turn in range(rounds):
        path = folder / f"run{turn}"
        parts = [partial(start, path, number + 1, processes) for number in range(processes)]
        if any(statuses := together(parts)):
            problems.append(f"start {turn}: {statuses}")
        run = Run.open(path)
        logged = sorted(entry["settings"]["part"] for entry in run.log.entries())
        if run.cohort != COHORT or logged != list(range(1, processes + 1)):
            problems.append(f"start {turn}: logged {logged}")
        (path / "number.txt").write_text("0" * 9)
        statuses = together([partial(count, run)] * processes, kill=KILLED)
        done, found = statuses.count(0), int((path / "number.txt").read_text())
        if not done <= found <= done + KILLED or set(statuses) - {0, -signal.SIGKILL}:
            problems.append(f"count {turn}: {found} of {done} ({statuses})")
        ends += done
    return {"problems": problems, "ends": ends}


if __name__ == "__main__":
    print(json.dumps(examine(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))
