"""The labels that a ranking compares: two, or three to six, which may have an order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from morphomil.cohort.labels import sort_labels
from morphomil.errors import InputError, RefusedError
from morphomil.stats import delong_test, within_fold_auc, within_fold_auc_interval
from morphomil.stats.combined_auc import AucDifference, macro_auc_difference, macro_auc_interval

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.stats.roc import AucInterval
    from morphomil.types import RankSettings
MOST_CLASSES = 6
"""A ranking compares at most so many labels."""
Effect = Literal["delta", "epsilon_squared", "somers_d"]


@dataclass(frozen=True)
class Classes:
    """The labels, numbered from 0."""

    names: tuple[str, ...]
    """Of two the positive one is last; of more as `sort_labels` has them, or in their own order."""
    ordered: bool = False
    """The order of the names means something."""

    @classmethod
    def of(cls, labels: pd.Series[str], settings: RankSettings) -> Classes:
        """The labels of a cohort, as the settings want them compared.

        Raises:
            RefusedError: there is one label.
            InputError: there are too many, `positive` or `ordered` don't fit them, or which of two
                is positive isn't known.
        """
        names, order = sort_labels(labels), settings.label_order
        if len(names) == 1:
            raise RefusedError(f"groups can't be compared: every patient has the label {names[0]}")
        if len(names) > MOST_CLASSES:
            raise InputError(
                f"a ranking compares two to {MOST_CLASSES} labels, the cohort has {len(names)}: "
                f"{', '.join(names[:5])}, ...; put labels together, or leave out slides"
            )
        if len(names) == 2:
            if order:
                raise InputError(
                    f"--ordered is for three labels or more; of the two, {names[0]} and "
                    f"{names[1]}, --positive says which one differences refer to"
                )
            return cls(_two_groups(names, settings.positive))
        if settings.positive is not None:
            raise InputError(
                f"--positive {settings.positive} is for two labels, and the cohort has "
                f"{len(names)}: {', '.join(names)}; leave it out (labels with an order take "
                "--ordered)"
            )
        if not order:
            return cls(tuple(names))
        if sorted(order) != sorted(names):
            raise InputError(
                f"--ordered {','.join(order)}: give each label once, the lowest first; the labels "
                f"are {', '.join(names)}"
            )
        return cls(order, ordered=True)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    @property
    def several(self) -> bool:
        """Whether there are three or more."""
        return len(self.names) > 2

    @property
    def effect(self) -> Effect:
        """What is said of the size of a difference: Cliff's delta of two groups, Somers's D of
        ordered ones, else epsilon squared."""
        if not self.several:
            return "delta"
        return "somers_d" if self.ordered else "epsilon_squared"

    def codes(self, labels: pd.Series[Any]) -> pd.Series[int]:
        """Each label's number."""
        return labels.map({name: number for number, name in enumerate(self.names)}).astype(np.int64)

    def shown(self, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        """The class of each patient whose probability is divided among features and nuclei: of two
        the positive one, of more the patient's own."""
        return labels if self.several else np.ones_like(labels)


def _two_groups(names: list[str], positive: str | None) -> tuple[str, str]:
    """The reference and the positive label."""
    if positive is None and names != ["0", "1"]:
        raise InputError(
            f"which label is positive? Say --positive {names[0]} or --positive {names[1]}"
        )
    chosen = "1" if positive is None else str(positive)
    if chosen not in names:
        raise InputError(
            f"no slide has the positive label {chosen!r}; the labels are {', '.join(names)}"
        )
    return names[1 - names.index(chosen)], chosen


def out_of_fold_auc(
    labels: NDArray[np.int64], probability: NDArray[np.float64], folds: NDArray[Any]
) -> AucInterval:
    """Of probabilities (patients, classes): of two classes `within_fold_auc_interval`, of more
    `macro_auc_interval`."""
    if probability.shape[1] == 2:
        return within_fold_auc_interval(labels, probability[:, 1], folds)
    return macro_auc_interval(labels, probability, folds)


def out_of_fold_difference(
    labels: NDArray[np.int64],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    folds: NDArray[Any],
) -> AucDifference:
    """The AUC of the first probabilities (patients, classes) minus that of the second
    (`delong_test`, `macro_auc_difference`); limits are NaN with one patient of a class."""
    if first.shape[1] > 2:
        return macro_auc_difference(labels, first, second, folds)
    try:
        test = delong_test(labels, first[:, 1], second[:, 1], folds=folds)
    except ValueError:
        areas = [within_fold_auc(labels, scores[:, 1], folds) for scores in (first, second)]
        return AucDifference(areas[0] - areas[1], np.nan, np.nan)
    return AucDifference(test.difference, *test.interval)
