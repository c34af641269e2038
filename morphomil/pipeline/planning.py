"""Which slides make a job on a cluster: parts of about the same time."""

from __future__ import annotations

import heapq
import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.errors import InputError
from morphomil.places import sizes_of
from morphomil.store import read_csv, write_table_csv

if TYPE_CHECKING:
    from pathlib import Path

    from morphomil.types import Cohort


def plan_parts(cohort: Cohort, *, seconds: float, minutes: float) -> pd.DataFrame:
    """Parts of a cohort that take about so many minutes each.

    What all slides take is shared out among them by the size of their files, which grows with
    their tissue; then the longest is given to the part with the least so far, and so on.

    Args:
        cohort: the slides.
        seconds: all of them take so long in a single job (`estimation.estimate_segment`).
        minutes: a part takes about so long; a slide that takes longer is a part of its own.

    Returns:
        One row per slide, in the cohort's order: `slide_id`, `part` (from 1), `seconds`.
    """
    of_files = sizes_of(image.path for slide in cohort.slides for image in slide.images)
    sizes = {
        slide.slide_id: 1 + sum(of_files[image.path] for image in slide.images)
        for slide in cohort.slides
    }
    total = sum(sizes.values())
    shares = {name: seconds * size / total for name, size in sizes.items()}
    count = min(len(shares), max(1, math.ceil(seconds / (60 * minutes))))
    loads = [(0.0, part) for part in range(1, count + 1)]
    parts: dict[str, int] = {}
    for name in sorted(shares, key=lambda name: (-shares[name], name)):
        load, parts[name] = heapq.heappop(loads)
        heapq.heappush(loads, (load + shares[name], parts[name]))
    rows = [(name, parts[name], round(share, 1)) for name, share in shares.items()]
    return pd.DataFrame(rows, columns=["slide_id", "part", "seconds"])


def write_plan(path: Path, plan: pd.DataFrame) -> None:
    """Store a plan (`plan_parts`) as CSV."""
    write_table_csv(path, plan)


def read_plan(path: Path) -> dict[str, int]:
    """The part of each slide, by its id.

    Raises:
        InputError: there is no such plan.
    """
    table = _read(path)
    table["slide_id"] = table["slide_id"].str.replace(r"^'(?=[=+@\-])", "", regex=True)
    return dict(zip(table["slide_id"], table["part"].astype(int), strict=True))


def part_minutes(path: Path) -> dict[int, float]:
    """How long each part of a stored plan takes.

    Raises:
        InputError: there is no such plan.
    """
    seconds = _read(path).groupby("part")["seconds"].sum()
    return {int(str(part)): float(sum_) / 60 for part, sum_ in seconds.items()}


def _read(path: Path) -> pd.DataFrame:
    mend = "make it with: morphomil cluster init"
    table = read_csv(path, mend=mend, dtype={"slide_id": str}, keep_default_na=False)
    numbers = table.reindex(columns=["part", "seconds"]).apply(pd.to_numeric, errors="coerce")
    possible = numbers["part"].between(1, 10**9) & (numbers["part"] % 1 == 0)
    if "slide_id" not in table or not (possible & np.isfinite(numbers["seconds"])).all():
        raise InputError(f"{path} is no plan with slide_id, part (from 1) and seconds; {mend}")
    table[["part", "seconds"]] = numbers
    if twice := table["slide_id"][table["slide_id"].duplicated()].tolist():
        raise InputError(f"{path} gives slide {twice[0]} to two parts")
    return table
