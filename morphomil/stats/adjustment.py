"""p values adjusted for many tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray
Correction = Literal["holm", "bh", "benjamini-hochberg", "none"]


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted after Holm (1979): family-wise error. NaN stays NaN and doesn't count in
    the family."""
    adjusted, known = _checked_p(p_values)
    family = adjusted[known]
    order = np.argsort(family)
    family[order] = np.minimum(
        np.maximum.accumulate(family[order] * np.arange(len(family), 0, -1)), 1
    )
    adjusted[known] = family
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted after Benjamini and Hochberg (1995): false discovery rate. NaN as in
    `holm`."""
    from scipy.stats import false_discovery_control

    adjusted, known = _checked_p(p_values)
    if known.any():
        adjusted[known] = false_discovery_control(adjusted[known])
    return adjusted


def adjustment(correction: str | None) -> Callable[[ArrayLike], NDArray[np.float64]] | None:
    """The function that adjusts p values in this way."""
    ways: dict[str | None, Callable[[ArrayLike], NDArray[np.float64]] | None] = {
        None: None,
        "holm": holm,
        "bh": benjamini_hochberg,
        "benjamini-hochberg": benjamini_hochberg,
        "none": lambda p_values: np.array(p_values, dtype=np.float64),
    }
    if correction not in ways:
        raise ValueError(
            f"correction must be holm, bh (benjamini-hochberg) or none, got {correction!r}"
        )
    return ways[correction]


def with_adjusted(result: pd.DataFrame, *, of: str = "p_value", stem: str = "p") -> pd.DataFrame:
    """The table with Holm's and Benjamini-Hochberg's p (`STEM_holm`, `STEM_bh`) beside the raw
    one."""
    place = list(result).index(of) + 1
    result.insert(place, f"{stem}_holm", holm(result[of]))
    result.insert(place + 1, f"{stem}_bh", benjamini_hochberg(result[of]))
    return result


def _checked_p(p_values: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """A copy, and which of its values aren't NaN."""
    values = np.array(p_values, dtype=np.float64)
    known = ~np.isnan(values)
    if not ((values[known] >= 0) & (values[known] <= 1)).all():
        raise ValueError(
            f"p-values must be in [0, 1], got {values[known].min()} to {values[known].max()}"
        )
    return values, known
