"""Where a value stands in the cohort: the range of each quantity over nuclei and over patches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from morphomil.matrix import features_in, patch_values
from morphomil.nuclei.registry import FEATURES
from morphomil.store import read_parquet
from morphomil.types import PATCHES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.run.directory import Run

SHARES = np.linspace(0, 100, 201)
"""A slide's values are known by these percentiles."""
SHOWN = (2.0, 98.0)
"""Colors span these percentiles of the cohort."""
MOST_SLIDES = 100
"""Ranges of a larger cohort rest on so many of its slides, evenly over its order."""


@dataclass(frozen=True)
class Ranges:
    """Percentiles of quantities in slides, each slide counting alike."""

    slides: dict[str, list[NDArray[np.float64]]] = field(default_factory=dict)
    """By quantity, the percentiles `SHARES` of each slide that has values."""

    def add(self, values: Mapping[str, NDArray[np.floating]]) -> None:
        """Take in a slide's values by quantity; NaN is left out."""
        for name, own in values.items():
            known = own[np.isfinite(own)]
            if len(known):
                self.slides.setdefault(name, []).append(np.percentile(known, SHARES))

    def limits(self, name: str) -> tuple[float, float] | None:
        """The percentiles `SHOWN` of a quantity; None where no slide has one. What nuclei or
        patches contribute has limits as far below 0 as above."""
        if name not in self.slides:
            return None
        together = np.concatenate(self.slides[name])
        if name.startswith("contribution"):
            reach = float(np.percentile(np.abs(together), SHOWN[1]))
            return -reach, reach
        low, high = np.percentile(together, SHOWN)
        return float(low), float(high)

    def percentile(self, name: str, value: float) -> float | None:
        """Which share of the values is smaller, in percent, of equal ones half; None of a
        direction, which has no order, and where nothing is known."""
        axial = name in FEATURES and FEATURES[name].axial
        if name not in self.slides or axial or not np.isfinite(value):
            return None
        return float(np.mean([_place(of_slide, value) for of_slide in self.slides[name]]))


def _place(percentiles: NDArray[np.float64], value: float) -> float:
    below, upto = (np.searchsorted(percentiles, value, side) for side in ("left", "right"))
    if upto > below:
        return float(SHARES[below:upto].mean())
    return float(np.interp(value, percentiles, SHARES))


def ranged_slides(measured: Sequence[str]) -> list[str]:
    """The slides that ranges rest on."""
    if len(measured) <= MOST_SLIDES:
        return list(measured)
    chosen = np.linspace(0, len(measured) - 1, MOST_SLIDES).round().astype(int)
    return [measured[at] for at in chosen]


def nucleus_quantities(run: Run, slide_id: str) -> dict[str, NDArray[np.float64]]:
    """The features of a slide's nuclei, and what these contribute (percentage points) where the
    ranking has stored it."""
    nuclei = run.nuclei(slide_id)
    found = {name: nuclei[name].to_numpy(np.float64) for name in features_in(nuclei)}
    path = run.contributions_path(slide_id)
    if path.is_file():
        shares = read_parquet(path)
        own = [str(name) for name in shares if str(name).startswith("contribution")]
        found |= {name: 100 * shares[name].to_numpy(np.float64) for name in own}
    return found


def patch_quantities(run: Run, slide_id: str) -> pd.DataFrame:
    """A slide's patches (schema `PATCHES`) with the values of those that are kept: of each feature
    by its name as a value, what their nuclei contribute together (percentage points), and the mean
    attention over the folds of each image model, `attention MODEL`."""
    patches = run.patches(slide_id)
    if run.ledger.state(slide_id, "featurize") == "done":
        values = patch_values(run.counted_nuclei(slide_id), patches)
        further = [name for name in values if name not in PATCHES.names]
        patches = patches.merge(values[["patch_id", *further]], on="patch_id", how="left")
    path = run.contributions_path(slide_id)
    if path.is_file():
        shares = read_parquet(path)
        total = 100 * shares.groupby("patch_id")["contribution"].sum(min_count=1)
        patches["contribution"] = patches["patch_id"].map(total)
    attention = run.attention(slide_id).dropna(subset=["patch_id"])
    for model, own in attention.groupby("model"):
        mean = own.groupby("patch_id")["attention"].mean()
        patches[f"attention {model}"] = patches["patch_id"].map(mean.to_dict())
    return patches


def patch_columns(patches: pd.DataFrame) -> list[str]:
    """Which columns of `patch_quantities` are values."""
    return [str(name) for name in patches if name not in PATCHES.names]
