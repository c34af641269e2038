"""How features go together over patients: rank correlations, and the tree that orders them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import dendrogram, linkage
from scipy.spatial.distance import squareform

if TYPE_CHECKING:
    from numpy.typing import NDArray

CORNERS = tuple(f"{axis}{n}" for axis in "xy" for n in range(1, 5))
"""A merge of the tree is a bracket with four corners, which these columns hold."""


class FeatureCorrelation(NamedTuple):
    """`rho`: features x features, in the order of the tree; `merges`: the tree, one row per merge
    (`x1..x4, y1..y4`), x counting features (the first at 0), y the distance 1 - |rho|."""

    rho: pd.DataFrame
    merges: pd.DataFrame


def correlate_features(values: pd.DataFrame) -> FeatureCorrelation:
    """Spearman's correlation of the columns over the rows (patients), so ordered that kin stand
    together.

    Average linkage on `1 - |rho|`, its branches turned so that neighbors are as alike as the tree
    allows (Bar-Joseph et al. 2001). A column without variance has NaN, and stands as if
    uncorrelated. One column has no merges.
    """
    rho = values.corr(method="spearman")
    if len(rho) < 2:
        return FeatureCorrelation(rho, pd.DataFrame(columns=list(CORNERS), dtype=np.float64))
    links = linkage(squareform(_distances(rho)), "average", optimal_ordering=True)
    tree = dendrogram(links, no_plot=True)
    order: list[int] = list(np.asarray(tree["leaves"]))
    across = (np.array(tree["icoord"]) - 5) / 10  # scipy puts the leaves at 5, 15, 25...
    merges = pd.DataFrame(np.hstack([across, np.array(tree["dcoord"])]), columns=list(CORNERS))
    return FeatureCorrelation(rho.iloc[order, order], merges)


def _distances(rho: pd.DataFrame) -> NDArray[np.float64]:
    """1 - |rho|, symmetric to the last bit."""
    distance = np.clip(1 - np.abs(rho.fillna(0).to_numpy()), 0, None)
    distance = (distance + distance.T) / 2
    np.fill_diagonal(distance, 0)
    return np.asarray(distance, dtype=np.float64)
