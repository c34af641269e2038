"""How well types agree with annotated ones: nuclei matched by their centers, F1 of each type,
calibration of the probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment, minimize
from scipy.spatial.distance import cdist
from scipy.special import log_softmax

from morphomil.nuclei.polygons import outline_roots
from morphomil.segment import find_outlines, large_enough
from morphomil.segment.model import TypeCalibration
from morphomil.segment.plausible import parted
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from morphomil.segment.annotated import AnnotatedImage
    from morphomil.segment.model import Segmenter

REACH_UM = 3.0
"""A found nucleus is an annotated one when their centers are this near (12 pixels at 40x, as in
HoVer-Net's evaluation)."""
PROBABILITIES = tuple(f"p_{name}" for name in NUCLEUS_TYPES)
BOOTSTRAPS = 2000
"""Intervals rest on so many resamples of the images."""
BINS = 10
"""Calibration is compared in so many bins of probability."""


def match_centers(
    annotated: NDArray[np.float64], found: NDArray[np.float64], *, reach: float
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Pairs (i, j) of points (n, 2) and (m, 2) within `reach`, each in one pair at most: as many as
    possible, and of those the nearest (assignment problem)."""
    if not len(annotated) or not len(found):
        return np.empty(0, np.intp), np.empty(0, np.intp)
    distance = cdist(annotated, found)
    far = reach * (min(distance.shape) + 1)  # one pair more outweighs all distances
    rows, columns = linear_sum_assignment(np.where(distance <= reach, distance, far))
    near = distance[rows, columns] <= reach
    return rows[near], columns[near]


def typed_pairs(images: Sequence[AnnotatedImage], segmenter: Segmenter) -> pd.DataFrame:
    """What is annotated and what is found, of the images with typed nuclei, each at its own and at
    half resolution.

    Returns:
        One row per nucleus of either side: `image`, `group`, `mpp`, `annotated` and `found`, the
        types ("" where the other side has no such nucleus), and the probabilities `p_TYPE` of what
        is found.
    """
    parts = []
    for image in (level for whole in images for level in whole.levels()):
        if image.typed is None or segmenter.types is None:
            continue
        nuclei = parted(find_outlines(image.rgb, mpp=image.mpp, segmenter=segmenter), mpp=image.mpp)
        found = large_enough(nuclei[0], mpp=image.mpp, segmenter=segmenter)[0]
        roots = outline_roots(found.vertices[:, ::-1], found.ends)
        centers = roots[["x_px", "y_px"]].to_numpy() + 0.5
        one, other = match_centers(image.typed.centers, centers, reach=REACH_UM / image.mpp)
        own = pd.DataFrame({"annotated": np.array(NUCLEUS_TYPES)[image.typed.types]})
        own["nucleus"] = -1
        own.loc[one, "nucleus"] = other
        shares = np.zeros((0, len(NUCLEUS_TYPES))) if found.types is None else found.types
        said = pd.DataFrame(shares, columns=list(PROBABILITIES))
        said["found"] = np.array(NUCLEUS_TYPES)[shares.argmax(axis=1)]
        both = own.merge(said, left_on="nucleus", right_index=True, how="outer")
        key: dict[str, Any] = {"image": image.name, "group": image.group, "mpp": image.mpp}
        parts.append(both.drop(columns="nucleus").assign(**key))
    table = pd.concat(parts, ignore_index=True)
    names = ["annotated", "found"]
    return table.fillna(dict.fromkeys(names, ""))[["image", "group", "mpp", *names, *PROBABILITIES]]


def type_scores(pairs: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """F1 of the detection and of each type, by group and resolution.

    Args:
        pairs: of `typed_pairs`.
        seed: of the bootstrap over images.

    Returns:
        `group, mpp, type` ("detection", a type, or "mean" of the types that are annotated),
        `annotated`, `found`, `precision`, `recall`, `f1` with `f1_low` and `f1_high` (95 %
        percentile interval over images), and `f_hovernet`: F_d of the detection and F_c of a type
        as HoVer-Net's authors compute them (Graham et al. 2019; `compute_stats.py` of their code):
        nuclei of the type alone, 2 TP / (2 TP + 2 FP_c + 2 FN_c + FP_d + FN_d), so that a type
        mistaken counts twice what a nucleus missed, or too many, does. Nuclei of other types don't
        count as right.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for (group, mpp), own in pairs.groupby(["group", "mpp"]):
        counts = _counts(own)
        types = [k for k, name in enumerate(NUCLEUS_TYPES) if (own["annotated"] == name).any()]
        draws = rng.integers(len(counts), size=(BOOTSTRAPS, len(counts)))
        whole, resampled = counts.sum(axis=0), counts[draws].sum(axis=1)
        for name, figures in _figures(whole, types).items():
            again = _figures(resampled, types)[name]["f1"] if len(counts) > 2 else np.nan
            low, high = np.nanquantile(again, (0.025, 0.975)) if len(counts) > 2 else (np.nan,) * 2
            key: dict[str, Any] = {"group": group, "mpp": mpp, "type": name}
            rows.append(key | figures | {"f1_low": low, "f1_high": high})
    return pd.DataFrame(rows)


def confusion(pairs: pd.DataFrame) -> pd.DataFrame:
    """How many nuclei annotated as one type are found as another: rows annotated, columns found, by
    group; "" is what only the other side has."""
    table = pairs.groupby(["group", "annotated", "found"]).size().unstack(fill_value=0)
    return table.reindex(columns=[*NUCLEUS_TYPES, ""], fill_value=0).reset_index()


def calibrate_types(pairs: pd.DataFrame) -> TypeCalibration:
    """The temperature and bias of the least log-loss on matched nuclei (`typed_pairs` of a
    segmenter that has none: `TypeCalibration()`). Groups of images weigh the same.

    Types that are never annotated keep their bias.
    """
    matched = pairs[(pairs["annotated"] != "") & (pairs["found"] != "")]
    logits = np.log(np.maximum(matched[list(PROBABILITIES)].to_numpy(np.float64), 1e-9))
    truth = matched["annotated"].map(NUCLEUS_TYPES.index).to_numpy(np.intp)
    weights = 1 / matched.groupby("group")["found"].transform("size").to_numpy(np.float64)
    known = np.isin(np.arange(len(NUCLEUS_TYPES)), truth)
    if known.sum() < 2:
        return TypeCalibration()

    def parts(values: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        bias = np.zeros(len(NUCLEUS_TYPES))
        bias[known] = values[1:] - values[1:].mean()
        return float(np.exp(values[0])), bias

    def loss(values: NDArray[np.float64]) -> float:
        temperature, bias = parts(values)
        shares = log_softmax(logits / temperature + bias, axis=1)
        return float(-np.average(shares[np.arange(len(truth)), truth], weights=weights))

    temperature, bias = parts(minimize(loss, np.zeros(1 + known.sum()), method="BFGS").x)
    return TypeCalibration(round(temperature, 4), tuple(bias.round(4).tolist()))


def calibration_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """How often the type is right, by what its probability says: `group`, `low`, `high`, `nuclei`,
    `probability` and `right` (means), of matched nuclei."""
    matched = pairs[(pairs["annotated"] != "") & (pairs["found"] != "")]
    said = matched[list(PROBABILITIES)].max(axis=1).to_numpy()
    edges = np.linspace(0, 1, BINS + 1)
    place = np.clip(np.digitize(said, edges) - 1, 0, BINS - 1)
    table = pd.DataFrame(
        {
            "group": matched["group"].to_numpy(),
            "low": edges[place],
            "high": edges[place + 1],
            "probability": said,
            "right": (matched["annotated"] == matched["found"]).to_numpy(float),
        }
    )
    by_bin = table.groupby(["group", "low", "high"])
    counts = by_bin.size().rename("nuclei")
    return pd.concat([counts, by_bin[["probability", "right"]].mean()], axis=1).reset_index()


def _counts(pairs: pd.DataFrame) -> NDArray[np.int64]:
    """Of each image how many nuclei are annotated as one type and found as another (images, 5, 5);
    the last row and column are nuclei of one side only."""
    names = [*NUCLEUS_TYPES, ""]
    images = pairs["image"].astype("category").cat.codes.to_numpy()
    counts = np.zeros((images.max() + 1, len(names), len(names)), np.int64)
    sides = (pairs[side].map(names.index).to_numpy() for side in ("annotated", "found"))
    np.add.at(counts, (images, *sides), 1)
    return counts


def _figures(counts: NDArray[np.int64], types: list[int]) -> dict[str, dict[str, Any]]:
    """Scores by name of counts (..., 5, 5)."""
    annotated, found = counts[..., :-1, :].sum(axis=-1), counts[..., :-1].sum(axis=-2)
    matched = counts[..., :-1, :-1].sum(axis=(-2, -1))
    scores = {"detection": _f1(matched, annotated.sum(axis=-1), found.sum(axis=-1))}
    scores["detection"]["f_hovernet"] = scores["detection"]["f1"]
    for k in types:
        right = counts[..., k, k]
        own = _f1(right, annotated[..., k], found[..., k])
        mistaken = counts[..., :-1, k].sum(axis=-1) + counts[..., k, :-1].sum(axis=-1) - 2 * right
        alone = counts[..., -1, k] + counts[..., k, -1]
        own["f_hovernet"] = 2 * right / np.maximum(2 * right + 2 * mistaken + alone, 1)
        scores[NUCLEUS_TYPES[k]] = own
    f1 = [scores[NUCLEUS_TYPES[k]]["f1"] for k in types]
    nothing = dict.fromkeys(("annotated", "found", "precision", "recall", "f_hovernet"), np.nan)
    scores["mean"] = nothing | {"f1": np.mean(f1, axis=0)}
    return scores


def _f1(both: Any, annotated: Any, found: Any) -> dict[str, Any]:
    return {
        "annotated": annotated,
        "found": found,
        "precision": both / np.maximum(found, 1),
        "recall": both / np.maximum(annotated, 1),
        "f1": 2 * both / np.maximum(annotated + found, 1),
    }
