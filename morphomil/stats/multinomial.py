"""Is a number associated with three classes or more beside covariates: multinomial regressions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import chdtrc, logsumexp, ndtri

from morphomil.stats.intervals import tail_share

if TYPE_CHECKING:
    from numpy.typing import NDArray
PENALTY = 1e-6
"""Half of it times the squared coefficients is taken from the log-likelihood, which keeps them
finite where columns separate the classes and else changes nothing that is printed."""
MAX_STEPS, MAX_HALVINGS = 100, 30
"""Newton's method makes so many steps, each halved so often, at most."""


class ClassAssociation(NamedTuple):
    """A column's association with classes, given covariates."""

    chi_square: float
    """Twice what the column adds to the log-likelihood."""
    degrees: int
    p_value: float
    explained: float
    """1 - exp(-chi square / n), Cox and Snell's share."""
    odds_ratio: float = math.nan
    """Of ordered classes: per SD of the column, of a class against the one below."""
    low: float = math.nan
    high: float = math.nan


def class_association(
    values: NDArray[np.float64],
    labels: NDArray[np.int64],
    covariates: NDArray[np.float64],
    *,
    ordered: bool = False,
    level: float = 0.95,
) -> ClassAssociation:
    """Likelihood ratio test of a column in a multinomial logistic regression on it and covariates.

    Ordered classes have one coefficient, by which the log odds of every class against the one below
    rise (adjacent categories, Agresti 2010), with Wald's limits; others have one for each class but
    the first. Of two classes both are the plain logistic regression.

    Args:
        values: (n,), no NaN.
        labels: (n,), classes from 0, in their order; those without a case are left out.
        covariates: (n, columns), perhaps none.
        ordered: whether the order means something.
        level: of the limits.

    Raises:
        ValueError: the column is constant or infinite, a combination of the covariates, or known in
            one class only.
    """
    names, truth = np.unique(labels, return_inverse=True)
    if len(names) < 2:
        raise ValueError("the column is known in one class only")
    if not np.isfinite(values).all() or np.ptp(values) == 0:
        raise ValueError("the column is constant, infinite or missing")
    scaled = (values - values.mean()) / values.std(ddof=1)
    alone = np.column_stack([np.ones(len(values)), covariates])
    if np.linalg.matrix_rank(np.column_stack([alone, scaled])) == np.linalg.matrix_rank(alone):
        raise ValueError("the column is a combination of the covariates")
    free = _of_classes(alone, len(names))
    own = (
        names[:, None] * scaled[:, None, None]
        if ordered
        else _of_classes(scaled[:, None], len(names))
    )
    without, _, _ = _fit(free, truth)
    likelihood, coefficients, covariance = _fit(np.concatenate([free, own], axis=2), truth)
    chi_square, degrees = max(0.0, 2 * (likelihood - without)), own.shape[2]
    found = ClassAssociation(
        chi_square,
        degrees,
        float(chdtrc(degrees, chi_square)),
        -math.expm1(-chi_square / len(values)),
    )
    if not ordered:
        return found
    slope, reach = (
        coefficients[-1],
        -float(ndtri(tail_share(level))) * math.sqrt(covariance[-1, -1]),
    )
    low, high = (float(np.exp(min(slope + sign * reach, 700))) for sign in (-1, 1))
    return found._replace(odds_ratio=float(np.exp(min(slope, 700))), low=low, high=high)


def _of_classes(columns: NDArray[np.float64], classes: int) -> NDArray[np.float64]:
    """The design (n, classes, columns x (classes - 1)) by which each class but the first has
    coefficients of its own."""
    design = np.zeros((len(columns), classes, classes - 1, columns.shape[1]))
    for label in range(1, classes):
        design[:, label, label - 1] = columns
    return design.reshape(len(columns), classes, -1)


def _fit(
    design: NDArray[np.float64], truth: NDArray[np.intp]
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Log-likelihood, coefficients and their covariance, by Newton's method, where the log odds of
    the classes are `design` (n, classes, p) times the coefficients."""
    cases = np.arange(len(design))
    beta = np.zeros(design.shape[2])

    def value_at(coefficients: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = design @ coefficients
        log_share = logits - logsumexp(logits, axis=1, keepdims=True)
        likelihood = log_share[cases, truth].sum() - PENALTY / 2 * coefficients @ coefficients
        return float(likelihood), np.exp(log_share)

    value, share = value_at(beta)
    for _ in range(MAX_STEPS):
        mean = np.einsum("nk,nkp->np", share, design)
        score = design[cases, truth].sum(axis=0) - mean.sum(axis=0) - PENALTY * beta
        information = np.einsum("nk,nkp,nkq->pq", share, design, design, optimize=True)
        information += PENALTY * np.eye(len(beta)) - mean.T @ mean
        step = np.linalg.solve(information, score)
        reached, of_step = value_at(beta + step)
        for _ in range(MAX_HALVINGS):
            if reached >= value - 1e-12 * abs(value):
                break
            step /= 2
            reached, of_step = value_at(beta + step)
        beta, value, share = beta + step, reached, of_step
        if np.abs(step).max() < 1e-9:
            break
    return value, beta, np.linalg.inv(information)
