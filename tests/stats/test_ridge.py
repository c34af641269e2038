"""Ridge regression against a general optimizer; conditional permutations against enumeration."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from morphomil.stats import logistic_model
from morphomil.stats.conditional import permute_conditionally
from morphomil.stats.ridge import fit_ridge, ridge_log_probability


def drawn(seed, *, n=60, columns=3, labelings=4, classes=2):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, columns)), rng.integers(0, classes, (labelings, n))


@pytest.mark.parametrize("classes", [2, 3])
def test_coefficients_are_the_penalized_maximum(classes):
    design, labels = drawn(1, classes=classes)
    fitted = fit_ridge(design, labels, classes=classes, prior_sd=1.5)
    columns = np.column_stack([np.ones(len(design)), design])

    def loss(flat, y):
        beta = flat.reshape(classes - 1, -1)
        logits = np.column_stack([np.zeros(len(y)), columns @ beta.T])
        ridge = (beta[:, 1:] ** 2).sum() / (2 * 1.5**2) + (beta[:, 0] ** 2).sum() / (2 * 3**2)
        return ridge - log_softmax(logits, axis=1)[np.arange(len(y)), y].sum()

    for found, y in zip(fitted, labels, strict=True):
        witness = minimize(loss, np.zeros(found.size), args=(y,), tol=1e-12).x
        np.testing.assert_allclose(found.ravel(), witness, atol=1e-4)
    log_probability = ridge_log_probability(design, fitted)
    np.testing.assert_allclose(np.exp(log_probability).sum(axis=-1), 1)


def test_a_wide_prior_is_maximum_likelihood():
    design, labels = drawn(2)
    fitted = fit_ridge(design, labels[:1], prior_sd=1e4)
    witness = logistic_model(design, labels[0]).summary["coefficient"]
    np.testing.assert_allclose(fitted[0, 0], witness, atol=1e-5)


def test_separated_and_single_classes_have_finite_coefficients():
    design = np.linspace(-1, 1, 20)[:, None]
    labels = np.stack([np.arange(20) >= 10, np.zeros(20)]).astype(np.int64)
    fitted = fit_ridge(design, labels)
    assert np.isfinite(fitted).all()
    assert fitted[0, 0, 1] > 3
    assert fitted[1, 0, 0] < -2
    with pytest.raises(ValueError, match="impute"):
        fit_ridge(np.full((20, 1), np.nan), labels)


def test_permutations_have_the_probabilities_that_covariates_give_them():
    """Of the 20 ways to choose 3 positives of 6."""
    log_odds = np.array([-2.0, -1, 0, 0.5, 1, 2])
    log_probability = np.column_stack([-np.logaddexp(0, log_odds), -np.logaddexp(0, -log_odds)])
    labels = np.array([0, 0, 0, 1, 1, 1])
    rows = permute_conditionally(
        labels, log_probability, permutations=20000, rng=np.random.default_rng(3)
    )
    assert (rows[0] == labels).all()
    assert (rows.sum(axis=1) == 3).all()
    every = list(combinations(range(6), 3))
    weight = np.array([np.exp(log_odds[list(one)].sum()) for one in every])
    code = (rows[1:] * 2 ** np.arange(6)).sum(axis=1)
    seen = np.array([(code == sum(2**i for i in one)).mean() for one in every])
    np.testing.assert_allclose(seen, weight / weight.sum(), atol=0.012)


def test_blocks_keep_their_labels():
    labels = np.tile([0, 1, 1, 0, 1], 4)
    blocks = np.repeat(np.arange(4), 5)
    rows = permute_conditionally(
        labels,
        np.zeros((20, 2)),
        permutations=50,
        rng=np.random.default_rng(0),
        blocks=blocks,
    )
    for number in range(4):
        assert (rows[:, blocks == number].sum(axis=1) == 3).all()
    assert len(np.unique(rows, axis=0)) > 45
