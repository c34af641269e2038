"""The order of labels."""

from __future__ import annotations

import pandas as pd
import pytest

from morphomil.cohort.labels import order_classes
from morphomil.errors import InputError, RefusedError


def test_classes_in_order():
    assert order_classes(pd.Series(["1", "0"]), None) == ("0", "1")
    assert order_classes(pd.Series(["10", "2", "1"]), None) == ("1", "2", "10")
    assert order_classes(pd.Series(["N+", "N0"]), "N+") == ("N0", "N+")
    assert order_classes(pd.Series(["N+(>2)", "N0", "N+(1-2)"]), "N+(>2)") == (
        "N0",
        "N+(1-2)",
        "N+(>2)",
    )
    assert order_classes(pd.Series(["grade 10", "grade 9", "b"]), "b") == (
        "grade 9",
        "grade 10",
        "b",
    )
    with pytest.raises(InputError, match="--positive"):
        order_classes(pd.Series(["N+", "N0"]), None)
    with pytest.raises(RefusedError, match="every patient has the label 0"):
        order_classes(pd.Series(["0", "0"]), None)
