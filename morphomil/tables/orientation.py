"""Which way nuclei lie, by group: turns from the mean axis of the other nuclei of their patch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.matrix import MIN_NUCLEI
from morphomil.stats.axial import grouped_polarity, leave_one_out_turn

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from morphomil.run.directory import Run

ANGLE_BINS = 18
"""The half circle of axes is cut into so many bins, of 10 degrees each."""
COLUMNS = ("label", "patients", "polarity", "low", "high", "share")
"""The table of orientation has these columns."""


def orientation_table(run: Run) -> pd.DataFrame:
    """How nuclei turn from the mean axis of the others of their patch, by group: a rose of axes.

    The mean axis and the turn are those of doubled angles, so 179 and 1 degrees are neighbors. A
    slide's own frame means nothing, hence the turn.

    Returns:
        `label, patients, polarity` (median over patients), `low, high` (degrees in [-90, 90)),
        `share` (mean over patients; sums to 1 in a group).
    """
    slides = {slide.slide_id: slide for slide in run.cohort.slides}
    edges = np.linspace(-90, 90, ANGLE_BINS + 1)
    rows = []
    for name in run.done("featurize"):
        nuclei = run.counted_nuclei(name)
        degrees, patch = nuclei["orientation_deg"].to_numpy(float), nuclei["patch_id"].to_numpy()
        patches = grouped_polarity(degrees, patch)
        polarity = patches.polarity[patches.n >= MIN_NUCLEI]
        turns = turns_in_full_patches(degrees, patch)
        shares = np.histogram(turns[np.isfinite(turns)], edges)[0]
        if shares.sum() and len(polarity):
            row = {
                "patient": slides[name].patient,
                "label": str(slides[name].label),
                "polarity": polarity.mean(),
            }
            rows.append(row | dict(enumerate(shares / shares.sum())))
    if not rows:
        return pd.DataFrame(columns=list(COLUMNS))
    grouped = pd.DataFrame(rows).groupby(["label", "patient"])
    patients = grouped.mean().assign(polarity=grouped["polarity"].median()).reset_index("label")
    return pd.concat(
        [_rose(str(label), group, edges) for label, group in patients.groupby("label", sort=True)],
        ignore_index=True,
    )[list(COLUMNS)]


def turns_in_full_patches(degrees: NDArray[np.float64], patch: ArrayLike) -> NDArray[np.float64]:
    """`leave_one_out_turn` inside each patch; NaN where the patch has fewer than 5 oriented nuclei,
    as in the polarity of patients (`matrix.slide_values`)."""
    patches = grouped_polarity(degrees, patch)
    enough = patches.groups[patches.n >= MIN_NUCLEI]
    return np.where(np.isin(patch, enough), leave_one_out_turn(degrees, patch), np.nan)


def _rose(label: str, patients: pd.DataFrame, edges: NDArray[np.float64]) -> pd.DataFrame:
    """One group's bins; `patients`: `polarity` and the shares of the bins 0, 1, ..."""
    return pd.DataFrame(
        {
            "label": label,
            "patients": len(patients),
            "polarity": patients["polarity"].median(),
            "low": edges[:-1],
            "high": edges[1:],
            "share": patients[list(range(ANGLE_BINS))].mean().to_numpy(),
        }
    )
