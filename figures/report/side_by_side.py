"""Pictures drawn by several processes at once: matplotlib's settings are global, so threads can't
draw side by side."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_all_start_methods, get_context
from typing import TYPE_CHECKING, TypeVar

from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

Task = TypeVar("Task")
Result = TypeVar("Result")


def map_in_processes(function: Callable[[Task], Result], tasks: Sequence[Task]) -> Iterator[Result]:
    """The results in the order of the tasks. Processes are forked, so that they know the features
    of the user's own; where that can't be, or there is one core, all is done here."""
    workers = min(CORES, len(tasks))
    if workers < 2 or "fork" not in get_all_start_methods():
        yield from map(function, tasks)
        return
    with ProcessPoolExecutor(workers, get_context("fork")) as pool:
        yield from pool.map(function, tasks)
