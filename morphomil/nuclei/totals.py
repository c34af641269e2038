"""How many nuclei of which type: what values of slides and patches are ratios of."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.nuclei.neighborhood import in_nests
from morphomil.nuclei.registry import FEATURES
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable


def count_totals(nuclei: pd.DataFrame) -> pd.DataFrame:
    """Numbers of nuclei by patch: one row for each `patch_id` that has some; `nuclei` of any type,
    and if the table knows types, those of known type (`typed`) and of each one; lymphocytes
    `inside` nests and at their `edge`, and `nest_lymphocyte`, `stroma_lymphocyte`, where most of
    the neighbors are epithelial and where not, if the table has `type_nest_share`."""
    marks: dict[str, pd.Series[bool]] = {"nuclei": nuclei["patch_id"].notna()}
    if "type" in nuclei:
        marks["typed"] = nuclei["type"].notna()
        marks |= {name: nuclei["type"] == name for name in NUCLEUS_TYPES}
    if "type_nest_share" in nuclei:
        share = nuclei["type_nest_share"]
        marks |= {"inside": share == 1, "edge": (share > 0) & (share < 1)}
        within = pd.Series(in_nests(share.to_numpy(np.float64)), share.index)
        marks["nest_lymphocyte"] = marks["lymphocyte"] & within
        marks["stroma_lymphocyte"] = marks["lymphocyte"] & ~within
    return pd.DataFrame(marks).groupby(nuclei["patch_id"]).sum().astype("int64")


AREAS = ("tissue_mm2", "nest_mm2", "stroma_mm2", "covered_mm2")
"""Totals that a table of patches may have."""


def areas(patches: pd.DataFrame) -> pd.DataFrame:
    """Those of `AREAS` that a table of patches has, by row."""
    return patches[[name for name in AREAS if name in patches]]


def has_ratios(features: Iterable[str]) -> bool:
    """Whether the value of a slide or patch is a ratio of its totals for one of the features."""
    return any(isinstance(FEATURES[name].pool, tuple) for name in features)


def ratios(totals: pd.DataFrame, features: Iterable[str]) -> pd.DataFrame:
    """Those of the features whose value of a slide or patch is a ratio of its totals, by row;
    `totals` are those of `count_totals` and perhaps `AREAS`. NaN where the ratio is one to
    nothing; a ratio of what the totals lack is left out."""
    table = pd.DataFrame(index=totals.index)
    for name in features:
        pool = FEATURES[name].pool
        if isinstance(pool, tuple) and set(pool) <= set(totals):
            over, under = (totals[part] for part in pool)
            table[name] = (over / under.where(under > 0)).astype("float64")
    return table
