"""Three and more classes, and the precision-recall curve."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from morphomil.stats.ordering import Ordering
from morphomil.stats.roc import auc, resampled_auc

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from morphomil.stats.resampling import Vectorized

MulticlassMethod = Literal["ovr", "hand-till"]


def multiclass_auc(
    labels: ArrayLike, probabilities: ArrayLike, *, method: MulticlassMethod = "ovr"
) -> float:
    """AUC of several classes; 0.5 is chance.

    `ovr`: mean over classes of the AUC of a class against all others, classes weighing the same
    (macro). `hand-till`: mean over pairs of classes, each pair seen by both classes' probabilities
    (Hand & Till 2001); it doesn't depend on how common the classes are.

    Args:
        labels: (n,) whole numbers from 0.
        probabilities: (n, classes).
        method: as above.

    Raises:
        ValueError: shapes don't fit, a class has no case, a value is missing, or the method is
            unknown.
    """
    return float(
        np.mean(
            [auc(own, scores) for _, own, scores in _two_class_parts(labels, probabilities, method)]
        )
    )


def resampled_multiclass_auc(
    labels: ArrayLike, probabilities: ArrayLike, *, method: MulticlassMethod = "ovr"
) -> Vectorized:
    """`multiclass_auc` for `bootstrap_by_patient(..., vectorized=True)`: of (draws, n) counts, one
    value per draw.

    NaN where a draw lacks a class.

    Raises:
        ValueError: as `multiclass_auc`.
    """
    parts = [
        (cases, resampled_auc(own, x))
        for cases, own, x in _two_class_parts(labels, probabilities, method)
    ]

    def area(counts: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.asarray(np.mean([of_part(counts[:, cases]) for cases, of_part in parts], axis=0))

    return area


def _two_class_parts(
    labels: ArrayLike, probabilities: ArrayLike, method: str
) -> list[tuple[NDArray[np.intp], NDArray[np.bool_], NDArray[np.float64]]]:
    """The AUCs of two classes that are averaged: of which cases, who is positive among them, and
    their scores."""
    truth, values = _checked(labels, probabilities)
    classes = range(values.shape[1])
    if method == "ovr":
        return [(np.arange(len(truth)), truth == k, values[:, k]) for k in classes]
    if method != "hand-till":
        raise ValueError(f"method must be ovr or hand-till, got {method!r}")
    parts = []
    for one, other in combinations(classes, 2):
        pair = np.flatnonzero((truth == one) | (truth == other))
        parts += [(pair, truth[pair] == k, values[pair, k]) for k in (one, other)]
    return parts


def confusion_table(
    labels: ArrayLike, calls: ArrayLike, *, classes: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Counts of labels (rows) by calls (columns), and for each class `n`, `precision`, `recall`,
    `f1`.

    Precision is NaN for a class that nobody is called, recall for a class without cases.

    Raises:
        ValueError: lengths differ, or a value is no whole number from 0 to classes - 1.
    """
    truth, called = np.asarray(labels), np.asarray(calls)
    if truth.ndim != 1 or truth.shape != called.shape:
        raise ValueError(
            f"labels and calls must be vectors of one length, got {truth.shape} and {called.shape}"
        )
    for values in (truth, called):
        if pd.isna(values).any() or not np.isin(values, np.arange(classes)).all():
            raise ValueError(f"labels and calls must be whole numbers from 0 to {classes - 1}")
    pairs = truth.astype(np.int64) * classes + called.astype(np.int64)
    counts = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    right, have, said = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    with np.errstate(invalid="ignore"):
        scores = {
            "n": have,
            "precision": right / said,
            "recall": right / have,
            "f1": 2 * right / (have + said),
        }
    names = pd.RangeIndex(classes, name="label")
    return pd.DataFrame(
        counts, index=names, columns=pd.RangeIndex(classes, name="call")
    ), pd.DataFrame(scores, names)


def precision_recall_curve(labels: ArrayLike, scores: ArrayLike) -> pd.DataFrame:
    """The precision-recall curve: `cutoff`, `recall`, `precision` of calling `score >= cutoff`
    positive.

    One row per distinct score, from the highest down.

    Raises:
        ValueError: as `roc_curve`.
    """
    cutoffs, true, false = Ordering.of(labels, scores).called_positive()
    return pd.DataFrame(
        {"cutoff": cutoffs, "recall": true / true[-1], "precision": true / (true + false)}
    )


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the precision-recall curve as steps: the sum of precision times the rise of
    recall.

    Its value at chance is the prevalence.

    Raises:
        ValueError: as `roc_curve`.
    """
    curve = precision_recall_curve(labels, scores)
    return float((curve["precision"] * np.diff(curve["recall"], prepend=0)).sum())


def _checked(
    labels: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    truth, values = np.asarray(labels), np.asarray(probabilities, dtype=np.float64)
    if values.ndim != 2 or truth.shape != values.shape[:1] or values.shape[1] < 2:
        raise ValueError(
            f"probabilities must be (n, classes) for n labels, got {values.shape} and {truth.shape}"
        )
    if np.isnan(values).any() or pd.isna(truth).any():
        raise ValueError("labels and probabilities must not be missing")
    classes = np.arange(values.shape[1])
    if not np.isin(truth, classes).all() or not np.isin(classes, truth).all():
        raise ValueError(
            f"labels must be whole numbers from 0 to {classes[-1]}, with cases of each"
        )
    return truth.astype(np.int64), values
