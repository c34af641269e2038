"""Agreement of found with annotated nuclei: panoptic quality, aggregated Jaccard index, F1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Agreement:
    """Of one image; every figure is in [0, 1], NaN where neither side has a nucleus."""

    pq: float
    """Panoptic quality at IoU 0.5 (Kirillov et al. 2019): `f1` times the mean IoU of the matched pairs."""
    aji: float
    """Aggregated Jaccard index (Kumar et al. 2017)."""
    f1: float
    """At IoU 0.5 (detection quality)."""
    annotated: int
    found: int


def agreement(annotated: NDArray[np.integer], found: NDArray[np.integer]) -> Agreement:
    """How well the labels `found` (H, W) match the labels `annotated` (H, W); 0 is background.

    Pairs match when their IoU exceeds 0.5, which makes the match unique. For the AJI each annotated nucleus takes the
    found one of the highest IoU, as in the definition (a found nucleus may serve twice).
    """
    pairs, areas_a, areas_f = _overlaps(annotated, found)
    n_a, n_f = len(areas_a), len(areas_f)
    if n_a + n_f == 0:
        return Agreement(np.nan, np.nan, np.nan, 0, 0)
    if not pairs.nnz:
        return Agreement(0.0, 0.0, 0.0, n_a, n_f)
    union = areas_a[pairs.row] + areas_f[pairs.col] - pairs.data
    iou = pairs.data / union
    matched = iou > 0.5
    f1 = 2 * matched.sum() / (n_a + n_f)
    quality = iou[matched].mean() if matched.any() else 0.0
    order = np.lexsort((-iou, pairs.row))
    first = np.ones(len(order), bool)
    first[1:] = pairs.row[order][1:] != pairs.row[order][:-1]
    best = order[first]
    alone = areas_a.sum() - areas_a[pairs.row[best]].sum()
    unused = areas_f.sum() - areas_f[np.unique(pairs.col[best])].sum()
    aji = pairs.data[best].sum() / (union[best].sum() + alone + unused)
    return Agreement(float(f1 * quality), float(aji), float(f1), n_a, n_f)


def _overlaps(
    annotated: NDArray[np.integer], found: NDArray[np.integer]
) -> tuple[coo_array, NDArray[np.int64], NDArray[np.int64]]:
    """Shared pixels of each pair as a sparse array (annotated, found), and the areas of both."""
    if annotated.shape != found.shape:
        raise ValueError(f"label images must have one shape, got {annotated.shape} and {found.shape}")
    ids_a, flat_a = np.unique(annotated, return_inverse=True)
    ids_f, flat_f = np.unique(found, return_inverse=True)
    joint = np.bincount(flat_a.ravel() * len(ids_f) + flat_f.ravel(), minlength=len(ids_a) * len(ids_f))
    joint = joint.reshape(len(ids_a), len(ids_f))
    real_a, real_f = ids_a != 0, ids_f != 0
    return coo_array(joint[np.ix_(real_a, real_f)]), joint[real_a].sum(axis=1), joint[:, real_f].sum(axis=0)
