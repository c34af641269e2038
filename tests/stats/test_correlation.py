"""Correlation of features: kin stand together, against scipy, and the tree that orders them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr

from morphomil.stats.correlation import CORNERS, correlate_features


@pytest.fixture
def values() -> pd.DataFrame:
    rng = np.random.default_rng(2)
    kin = rng.normal(size=50)
    return pd.DataFrame(
        {"a": kin, "b": rng.normal(size=50), "c": -kin + 0.1 * rng.normal(size=50), "d": 1.0}
    )


def test_correlated_features_stand_together(values: pd.DataFrame) -> None:
    rho = correlate_features(values).rho
    assert abs(list(rho).index("a") - list(rho).index("c")) == 1
    assert rho.loc["a", "c"] == pytest.approx(spearmanr(values["a"], values["c"]).statistic)
    assert list(rho.index) == list(rho)
    assert rho["d"].isna().all()
    assert list(correlate_features(values[["a", "b"]]).rho) == ["a", "b"]


def test_the_tree_has_a_merge_at_each_distance_of_average_linkage(values: pd.DataFrame) -> None:
    rho, merges = correlate_features(values)
    distance = 1 - rho.abs().fillna(0).to_numpy()
    np.fill_diagonal(distance, 0)
    heights = cophenet(linkage(squareform(distance, checks=False), "average"))
    np.testing.assert_allclose(sorted(set(merges["y2"].round(9))), sorted(set(heights.round(9))))
    assert (merges["y2"] == merges["y3"]).all()
    leaves = merges[["x1", "x4"]].to_numpy()[merges[["y1", "y4"]].to_numpy() == 0]
    assert sorted(leaves) == [0, 1, 2, 3]


def test_neighbors_are_as_alike_as_the_tree_allows() -> None:
    """Two pairs of kin, whose inner ends go together more than their outer ones."""
    base = np.random.default_rng(0).normal(size=(400, 4))
    first, second = base[:, 0], 0.9 * base[:, 0] + 0.5 * base[:, 1]
    third = 0.4 * second + base[:, 2]
    fourth = 0.9 * third + 0.6 * base[:, 3]
    table = pd.DataFrame({"second": second, "first": first, "fourth": fourth, "third": third})
    order = list(correlate_features(table).rho)
    assert order in (expected := ["first", "second", "third", "fourth"], expected[::-1])


def test_one_feature_has_no_tree(values: pd.DataFrame) -> None:
    rho, merges = correlate_features(values[["a"]])
    assert rho.loc["a", "a"] == 1
    assert merges.empty and tuple(merges) == CORNERS
