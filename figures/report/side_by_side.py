"""Pictures drawn by several processes at once: matplotlib's settings are global, so threads can't
draw side by side."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_all_start_methods, get_context, parent_process
from typing import TYPE_CHECKING, TypeVar

from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    """The results in the order of the tasks. Processes are forked, so that they know the features
    of the user's own; where that can't be (no semaphores without /dev/shm), or there is one core,
    all is done here, and so is the rest where a process was killed, as for its memory."""
    workers, known = min(CORES, len(tasks)), 0
    pool = _open_pool(workers) if workers > 1 and "fork" in get_all_start_methods() else None
    if pool is not None:
        with pool:
            try:
                for result in pool.map(function, tasks):
                    known += 1
                    yield result
            except BrokenProcessPool:
                pass
    yield from map(function, tasks[known:])


def _open_pool(workers: int) -> ProcessPoolExecutor | None:
    try:
        return ProcessPoolExecutor(workers, get_context("fork"), _begin)
    except (OSError, ImportError):
        return None


def _begin() -> None:
    """The process that waits for these says that a signal came; when it is killed, they end too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Else they would wait for tasks for ever, as each holds the others' pipes open."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
