"""Logistic regression with a weak ridge, for many labelings of the same cases at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
PRIOR_SD = 5.0
"""Log odds ratios are taken for draws with this standard deviation around 0, which keeps them
finite where the columns separate the classes and else changes them by some percent."""
MAX_STEPS, MAX_HALVINGS = 60, 30
"""Newton's method makes so many steps, each halved so often, at most."""


def fit_ridge(
    design: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    classes: int = 2,
    prior_sd: float = PRIOR_SD,
) -> NDArray[np.float64]:
    """Coefficients of multinomial regressions, one per labeling, the intercept first.

    The maximum of log-likelihood - sum of squares / (2 prior_sd^2), by Newton's method; the
    intercept has a prior twice as wide. Class 0 is the one that the others are held against.

    Args:
        design: (n, columns), without an intercept.
        labels: (labelings, n), classes from 0.
        classes: how many there are, whether or not a labeling has all.
        prior_sd: see `PRIOR_SD`.

    Returns:
        (labelings, classes - 1, 1 + columns).

    Raises:
        ValueError: shapes differ, or a value is missing.
    """
    if labels.ndim != 2 or design.ndim != 2 or labels.shape[1] != len(design):
        raise ValueError(
            f"labels must be (labelings, n) of {len(design)} cases, got shape {labels.shape}"
        )
    if not np.isfinite(design).all():
        raise ValueError("the design has missing or infinite values; impute them")
    columns = np.column_stack([np.ones(len(design)), design])
    terms = columns.shape[1]
    penalty = np.full(terms, prior_sd**-2)
    penalty[0] /= 4
    target = labels[:, None] == np.arange(1, classes)[:, None]  # (labelings, classes - 1, n)
    beta = np.zeros((len(labels), classes - 1, terms))
    value = _objective(columns, beta, target, penalty)
    for _ in range(MAX_STEPS):
        share = _shares(columns, beta)
        score = (target - share) @ columns - penalty * beta
        spread = -share[:, :, None] * share[:, None]  # (labelings, classes - 1, classes - 1, n)
        index = np.arange(classes - 1)
        spread[:, index, index] += share
        information = np.einsum("lkjn,np,nq->lkpjq", spread, columns, columns, optimize=True)
        size = (classes - 1) * terms
        information = information.reshape(len(labels), size, size)
        information += np.diag(np.tile(penalty, classes - 1))
        step = np.linalg.solve(information, score.reshape(len(labels), size, 1)).reshape(beta.shape)
        reached = _objective(columns, beta + step, target, penalty)
        for _ in range(MAX_HALVINGS):
            worse = reached < value - 1e-12 * np.abs(value)
            if not worse.any():
                break
            step[worse] /= 2
            reached = _objective(columns, beta + step, target, penalty)
        beta, value = beta + step, reached
        if np.abs(step).max() < 1e-9:
            break
    return beta


def ridge_log_probability(
    design: NDArray[np.float64], coefficients: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Logarithm of each class's probability, (labelings, n, classes), from `fit_ridge`."""
    columns = np.column_stack([np.ones(len(design)), design])
    return _log_shares(columns, coefficients)


def _log_shares(columns: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.float64]:
    logits = np.einsum("lkp,np->lnk", beta, columns)
    logits = np.concatenate([np.zeros((*logits.shape[:2], 1)), logits], axis=-1)
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))


def _shares(columns: NDArray[np.float64], beta: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probability of the classes but the first, (labelings, classes - 1, n)."""
    return np.exp(np.moveaxis(_log_shares(columns, beta)[..., 1:], -1, 1))


def _objective(
    columns: NDArray[np.float64],
    beta: NDArray[np.float64],
    target: NDArray[np.bool_],
    penalty: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Penalized log-likelihood, (labelings,)."""
    log_shares = np.moveaxis(_log_shares(columns, beta), -1, 1)
    rest = ~target.any(axis=1)
    likelihood = (target * log_shares[:, 1:]).sum(axis=(1, 2)) + (rest * log_shares[:, 0]).sum(
        axis=1
    )
    return np.asarray(likelihood - 0.5 * (penalty * beta**2).sum(axis=(1, 2)))
