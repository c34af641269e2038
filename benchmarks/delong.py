"""DeLong's paired test on one million cases, timed in argsorts of that length:
`python benchmarks/delong.py`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from morphomil.stats import delong_test

if TYPE_CHECKING:
    from collections.abc import Callable

CASES = 1_000_000


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    rng = np.random.default_rng(0)
    labels = rng.random(CASES) < 0.4
    first = rng.normal(size=CASES) + labels
    samples = {
        "distinct scores": (first, first + rng.normal(size=CASES)),
        "scores of 2 decimals": (np.round(first, 2), np.round(first + rng.normal(size=CASES), 2)),
    }
    for name, (a, b) in samples.items():
        ratios = [
            seconds(lambda a=a, b=b: delong_test(labels, a, b)) / seconds(lambda a=a: np.argsort(a))
            for _ in range(5)
        ]
        print(f"{name}: {np.median(ratios):.1f} argsorts ({min(ratios):.1f} to {max(ratios):.1f})")


if __name__ == "__main__":
    main()
