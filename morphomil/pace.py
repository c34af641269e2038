"""What work costs, and how fast this machine is beside the one on which work was timed."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np

PROBE_SECONDS = 0.00139
"""The piece of work of `machine_pace` took so long there."""


class Cost(NamedTuple):
    """Of a command on this machine alone."""

    seconds: float
    memory_bytes: int
    """Resident, at most."""


def machine_pace() -> float:
    """How many times as long as there a fixed piece of work takes here, in processor time of one
    thread, the least of seven tries, so that a busy machine hardly counts.

    It is of the interpreter, of memory and of products, in equal parts, and of nothing that some
    processors have instructions for and others not (a sort is ten times faster on some).
    """
    values, matrix, tries = np.ones(2**20, np.float32), np.ones((48, 48), np.float32), []
    for _ in range(7):
        begun = time.thread_time()
        sum(number * number for number in range(10_000))
        for _ in range(3):
            np.add(values, 1, out=values)
        for _ in range(150):
            matrix @ matrix
        tries.append(time.thread_time() - begun)
    return max(min(tries), 1e-6) / PROBE_SECONDS
