"""Two features of patients side by side: how often the outcome is positive where both, one or none
is high."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Sequence


def quadrants(
    values: pd.DataFrame, positive: pd.Series[bool], features: Sequence[str]
) -> pd.DataFrame:
    """Patients above and at or below the median of two features.

    Args:
        values: one row per patient, with a column per feature; patients without one of the two
            values are left out.
        positive: of each patient, in the order of the values.
        features: the two.

    Returns:
        Four rows: `FIRST, SECOND` (low or high), `patients`, `positive` (how many), `share`
        (positive among them, NaN without a patient).
    """
    known = values[list(features)].dropna()
    high = (known > known.median()).to_numpy()
    mark = positive[known.index].to_numpy()
    rows = []
    for first in (False, True):
        for second in (False, True):
            inside = (high[:, 0] == first) & (high[:, 1] == second)
            count, marked = int(inside.sum()), int(mark[inside].sum())
            names = ["high" if side else "low" for side in (first, second)]
            rows.append((*names, count, marked, marked / count if count else float("nan")))
    return pd.DataFrame(rows, columns=[*features, "patients", "positive", "share"])
