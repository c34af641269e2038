"""Agreement of found with annotated nuclei: panoptic quality, F1 and AP by overlap, aggregated
Jaccard index, Dice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IOU_LEVELS = (0.5, 0.6, 0.7, 0.8, 0.9)
"""F1 and AP are reported for pairs whose intersection over union exceeds each of these."""


@dataclass(frozen=True)
class Pairs:
    """Overlapping pairs of annotated and found nuclei: labels, shared pixels, intersection over
    union; and all areas.

    Pairs come in the order of (annotated, found) label. Areas are indexed by label; 0 where a label
    is unused.
    """

    annotated: NDArray[np.intp]
    found: NDArray[np.intp]
    shared: NDArray[np.intp]
    iou: NDArray[np.float64]
    areas_annotated: NDArray[np.intp]
    areas_found: NDArray[np.intp]


@dataclass(frozen=True)
class Agreement:
    """Of one image; every figure is in [0, 1], NaN where neither side has a nucleus."""

    pq: float
    """Panoptic quality at IoU 0.5 (Kirillov et al. 2019) is `dq` times `sq`."""
    dq: float
    """Detection quality is F1 at IoU 0.5."""
    sq: float
    """Segmentation quality is the mean IoU of the matched pairs; NaN without one."""
    aji: float
    """This is the aggregated Jaccard index (Kumar et al. 2017)."""
    dice: float
    """Dice compares the pixels of all nuclei, whichever nucleus they belong to."""
    f1: tuple[float, ...]
    """F1 is 2 TP / (annotated + found) at each of `IOU_LEVELS`."""
    ap: tuple[float, ...]
    """StarDist's average precision is TP / (TP + FP + FN) at each of `IOU_LEVELS`."""
    annotated: int
    found: int


def overlaps(annotated: NDArray[np.integer], found: NDArray[np.integer]) -> Pairs:
    """Every pair of labels that share a pixel, of two label images (H, W) with background 0.

    Raises:
        ValueError: their shapes differ.
    """
    if annotated.shape != found.shape:
        raise ValueError(
            f"label images must have one shape, got {annotated.shape} and {found.shape}"
        )
    flat_a, flat_f = annotated.ravel().astype(np.int64), found.ravel().astype(np.int64)
    areas_a, areas_f = np.bincount(flat_a, minlength=1), np.bincount(flat_f, minlength=1)
    areas_a[0] = areas_f[0] = 0
    both = np.flatnonzero((flat_a > 0) & (flat_f > 0))
    keys, shared = np.unique(flat_a[both] * len(areas_f) + flat_f[both], return_counts=True)
    a, f = np.divmod(keys, len(areas_f))
    return Pairs(a, f, shared, shared / (areas_a[a] + areas_f[f] - shared), areas_a, areas_f)


def agreement(annotated: NDArray[np.integer], found: NDArray[np.integer]) -> Agreement:
    """How well the labels `found` (H, W) match the labels `annotated` (H, W); 0 is background.

    Pairs match when their IoU exceeds 0.5 or more, which makes the match unique. For the AJI each
    annotated nucleus takes the found one of the highest IoU, as in the definition (a found nucleus
    may serve twice).

    Raises:
        ValueError: the shapes differ.
    """
    pairs = overlaps(annotated, found)
    n_a, n_f = int((pairs.areas_annotated > 0).sum()), int((pairs.areas_found > 0).sum())
    if n_a + n_f == 0:
        nothing = (np.nan,) * len(IOU_LEVELS)
        return Agreement(np.nan, np.nan, np.nan, np.nan, np.nan, nothing, nothing, 0, 0)
    matched = np.array([(pairs.iou > level).sum() for level in IOU_LEVELS])
    f1, ap = 2 * matched / (n_a + n_f), matched / (n_a + n_f - matched)
    sq = float(pairs.iou[pairs.iou > 0.5].mean()) if matched[0] else np.nan
    area_a, area_f = int(pairs.areas_annotated.sum()), int(pairs.areas_found.sum())
    return Agreement(
        pq=float(f1[0] * sq) if matched[0] else 0.0,
        dq=float(f1[0]),
        sq=sq,
        aji=_aji(pairs),
        dice=float(2 * pairs.shared.sum() / (area_a + area_f)),
        f1=tuple(map(float, f1)),
        ap=tuple(map(float, ap)),
        annotated=n_a,
        found=n_f,
    )


def _aji(pairs: Pairs) -> float:
    order = np.lexsort((-pairs.iou, pairs.annotated))
    first = np.ones(len(order), bool)
    first[1:] = pairs.annotated[order][1:] != pairs.annotated[order][:-1]
    best = order[first]
    a, f, shared = pairs.annotated[best], pairs.found[best], pairs.shared[best]
    united = pairs.areas_annotated[a].sum() + pairs.areas_found[f].sum() - shared.sum()
    alone = pairs.areas_annotated.sum() - pairs.areas_annotated[a].sum()
    unused = pairs.areas_found.sum() - pairs.areas_found[np.unique(f)].sum()
    return float(shared.sum() / (united + alone + unused))
