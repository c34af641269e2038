"""Against scikit-learn, where it has the same definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from morphomil.stats import (
    average_precision,
    confusion_table,
    multiclass_auc,
    precision_recall_curve,
    resampled_multiclass_auc,
)

FOLDER = Path(__file__).parents[1] / "reference"
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 120)
VALUES = RNG.dirichlet(np.ones(3), 120).round(2)
VALUES[:, 2] = 1 - VALUES[:, 0] - VALUES[:, 1]


@pytest.mark.parametrize(("method", "theirs"), [("ovr", "ovr"), ("hand-till", "ovo")])
def test_auc_of_three_classes(method: str, theirs: str) -> None:
    expected = metrics.roc_auc_score(LABELS, VALUES, multi_class=theirs, average="macro")
    assert multiclass_auc(LABELS, VALUES, method=method) == pytest.approx(expected, abs=1e-12)  # type: ignore[arg-type]
    perfect = np.eye(3)[LABELS]
    assert multiclass_auc(LABELS, perfect, method=method) == 1  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cases of each"):
        multiclass_auc(np.zeros(120, int), VALUES)


def test_hand_and_till_equals_proc() -> None:
    cases = pd.read_csv(FOLDER / "roc_cases.csv").query("sample == 'three'")
    expected = pd.read_csv(FOLDER / "roc.csv").query("quantity == 'hand_till'")["value"].item()
    found = multiclass_auc(cases["label"], cases[["a", "b", "c"]], method="hand-till")
    assert found == pytest.approx(expected, abs=1e-9)


def test_confusion() -> None:
    calls = VALUES.argmax(axis=1)
    counts, scores = confusion_table(LABELS, calls, classes=3)
    np.testing.assert_array_equal(counts, metrics.confusion_matrix(LABELS, calls))
    precision, recall, f1, n = metrics.precision_recall_fscore_support(LABELS, calls)
    for name, expected in (("precision", precision), ("recall", recall), ("f1", f1), ("n", n)):
        np.testing.assert_allclose(scores[name], expected)
    nobody = confusion_table([0, 1], [0, 0], classes=3)[1]
    assert nobody["precision"].isna().tolist() == [False, True, True]
    with pytest.raises(ValueError, match="from 0 to 2"):
        confusion_table([0, 3], [0, 1], classes=3)


def test_precision_and_recall_with_ties() -> None:
    truth, scores = LABELS == 1, VALUES[:, 1]
    assert average_precision(truth, scores) == pytest.approx(
        metrics.average_precision_score(truth, scores)
    )
    precision, recall, cutoffs = metrics.precision_recall_curve(truth, scores)
    curve = precision_recall_curve(truth, scores)
    np.testing.assert_allclose(curve["cutoff"], cutoffs[::-1])
    np.testing.assert_allclose(curve["precision"], precision[-2::-1])
    np.testing.assert_allclose(curve["recall"], recall[-2::-1])


@pytest.mark.parametrize("method", ["ovr", "hand-till"])
@pytest.mark.parametrize("decimals", [1, 6])
def test_the_order_of_cases_and_classes_and_the_scale_do_not_matter(
    method: str, decimals: int
) -> None:
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 90)
    values = np.round(
        rng.random((90, 4)) + 0.4 * np.eye(4)[labels], decimals
    )  # with and without ties
    found = multiclass_auc(labels, values, method=method)
    order, name = rng.permutation(90), rng.permutation(4)
    assert multiclass_auc(labels[order], values[order], method=method) == pytest.approx(
        found, abs=1e-12
    )
    assert multiclass_auc(
        name[labels], values[:, np.argsort(name)], method=method
    ) == pytest.approx(found, abs=1e-12)
    assert multiclass_auc(labels, np.exp(3 * values), method=method) == found
    draws = rng.multinomial(90, np.full(90, 1 / 90), size=5)
    each = [
        multiclass_auc(np.repeat(labels, t), np.repeat(values, t, axis=0), method=method)
        for t in draws
    ]
    np.testing.assert_allclose(
        resampled_multiclass_auc(labels, values, method=method)(draws), each, rtol=1e-12
    )
