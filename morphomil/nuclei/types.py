"""Whose nucleus it is: from probabilities to a type."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.nuclei.registry import FEATURES
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from numpy.typing import NDArray

TYPE_COLORS: dict[str, str] = dict(
    zip(NUCLEUS_TYPES, ("#0072B2", "#D55E00", "#009E73", "#767676"), strict=True)
)
"""The types have these colors in figures, viewer and exports: of Okabe and Ito's, which people with
any common color blindness can tell apart."""


def most_probable(probabilities: NDArray[np.floating]) -> pd.DataFrame:
    """`type` (categories `NUCLEUS_TYPES`) and its `type_probability` of each row of probabilities
    (n, 4); both are missing where the row is NaN. Of equal ones the first in order counts."""
    known = ~np.isnan(probabilities).any(axis=1)
    filled = np.where(known[:, None], probabilities, 0)
    number = np.where(known, filled.argmax(axis=1), -1)
    return pd.DataFrame(
        {
            "type": pd.Categorical.from_codes(number, categories=pd.Index(NUCLEUS_TYPES)),
            "type_probability": np.where(known, filled.max(axis=1), np.nan).astype(np.float64),
        }
    )


def of_type(nuclei: pd.DataFrame, whose: str) -> pd.DataFrame:
    """The nuclei as matrices and values of one type take them: of the others the features are
    missing, but not those of a family, which say in their names whose they are. `whose` is a type,
    or `all`: the nuclei as they are.

    The others stay in the table, since a density counts every nucleus.
    """
    if whose == "all":
        return nuclei
    names = [name for name in nuclei if name in FEATURES and not FEATURES[name].family]
    return nuclei.assign(**{name: nuclei[name].where(nuclei["type"] == whose) for name in names})
