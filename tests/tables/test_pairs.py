"""Patients by two features."""

from __future__ import annotations

import numpy as np
import pandas as pd

from morphomil.tables.pairs import quadrants


def test_quadrants_by_hand():
    values = pd.DataFrame(
        {"a": [1, 2, 3, 4, np.nan, 9], "b": [4.0, 1, 3, 2, 5, np.nan]}, index=list("uvwxyz")
    )
    positive = pd.Series([True, False, True, True, True, True], index=values.index)
    table = quadrants(values, positive, ("a", "b"))
    assert table["a"].tolist() == ["low", "low", "high", "high"]
    assert table["b"].tolist() == ["low", "high", "low", "high"]
    assert table["patients"].tolist() == [1, 1, 1, 1]
    assert table["positive"].tolist() == [0, 1, 1, 1]
    assert table["share"].tolist() == [0, 1, 1, 1]
    flat = quadrants(values.assign(a=1.0), positive, ("a", "b"))
    assert flat["patients"].tolist() == [3, 2, 0, 0]
    assert flat["share"].isna().tolist() == [False, False, True, True]
