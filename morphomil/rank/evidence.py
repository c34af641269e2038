"""How loudly the model hears each number that it reads of a feature, before it learns.

A model of few patients and many numbers fits noise unless most of them are faint. The gate of a
number is the sum of a damping that is the same for every feature and of the evidence that the
number, or the product of two features' locations, tells the training patients' classes apart: its
posterior probability among all such models of one term (Bayesian model averaging with BIC's
approximation of the marginal likelihood, Raftery 1995; tempered, since the same patients then train
the model).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import logsumexp

from morphomil.rank.representation import VIEWS

if TYPE_CHECKING:
    from numpy.typing import NDArray
DAMPING = np.array([1, 0.4, 0.3, 0.2, 0.4, 0.3, 0.4])
"""Without evidence the numbers of `VIEWS` are heard in these proportions."""
PRIOR = np.array([1, 0.25, 0.15, 0.1, 0.25, 0.25, 0.25])
"""Before the data the numbers of `VIEWS` have these odds to carry the label."""
PAIR_PRIOR = 0.1
"""Before the data the product of two features' locations has these odds to carry the label; there
are many more of them."""
NONE_PRIOR = 2.5
"""Before the data these are the odds that nothing carries the label."""
TEMPER = 0.7
"""Likelihoods are raised to this power."""
FLOOR, GAIN = 0.5, 3.0
"""A gate is the first times the damping plus the second times the root of the posterior
probability."""
LOCATION = 0
"""The number of `VIEWS` whose products are looked at."""

assert len(DAMPING) == len(PRIOR) == len(VIEWS)


def weigh_views(
    values: NDArray[np.float32],
    labels: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    *,
    available: NDArray[np.bool_] | None = None,
    expected: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Gates of models that are to be trained.

    Args:
        values: (patients, features, views), standardized.
        labels: (models, patients), classes from 0.
        chosen: (models, patients): who is trained on.
        available: (models, features): what a model may see; None for all.
        expected: (models, patients, classes), probabilities by what else is known of the patients:
            evidence is then what a number says beyond it; None where nothing is.

    Returns:
        (models, features, views).
    """
    models, (patients, features, views) = len(labels), values.shape
    first, second = np.triu_indices(features, 1)
    location = values[..., LOCATION].astype(np.float64)
    single = _log_evidence(values.reshape(patients, -1), labels, chosen, expected)
    single = single.reshape(models, features, views) + np.log(PRIOR)
    products = location[:, first] * location[:, second]
    paired = _log_evidence(products, labels, chosen, expected)
    paired = paired + np.log(PAIR_PRIOR)
    if available is not None:
        single = np.where(available[..., None], single, -np.inf)
        paired = np.where(available[:, first] & available[:, second], paired, -np.inf)
    none = np.full((models, 1), np.log(NONE_PRIOR))
    terms = np.concatenate([single.reshape(models, -1), paired, none], axis=1)
    total = logsumexp(terms, axis=1)[:, None]
    posterior = np.exp(single - total[..., None])
    of_pairs = np.exp(paired - total)
    for members in (first, second):
        posterior[..., LOCATION] += of_pairs @ np.eye(features)[members]
    return (FLOOR * DAMPING + GAIN * np.sqrt(posterior)).astype(np.float32)


def _log_evidence(
    values: NDArray[np.floating],
    labels: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    expected: NDArray[np.float64] | None,
) -> NDArray[np.float64]:
    """Tempered BIC approximation of each column's Bayes factor against no difference, (models,
    columns): of the means of the classes, by the share of variance that they explain."""
    count = chosen.sum(axis=1, keepdims=True)
    x = values.astype(np.float64)
    center = chosen @ x / count
    classes = int(labels.max()) + 1
    if expected is None:
        between = np.zeros_like(center)
        for label in range(classes):
            member = chosen & (labels == label)
            size = member.sum(axis=1, keepdims=True)
            between += size / count * (member @ x / np.maximum(size, 1) - center) ** 2
        explained = between / np.maximum(chosen @ x**2 / count - center**2, 1e-12)
    else:
        explained = _explained_beyond(x, labels, chosen, expected)
    likelihood = -count / 2 * np.log(np.clip(1 - explained, 1e-6, 1))
    return np.asarray(TEMPER * likelihood - (classes - 1) / 2 * np.log(count))


def _explained_beyond(
    x: NDArray[np.float64],
    labels: NDArray[np.int64],
    chosen: NDArray[np.bool_],
    expected: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Rao's score statistic of each column beside the expected probabilities, over the number of
    patients, (models, columns).

    The sum over classes of (sum (y - p) x)^2 / sum p (x - mean)^2, mean weighted by p: where all
    patients have the classes' shares for p, it is the share of variance between the classes.
    """
    explained = np.zeros((len(labels), x.shape[1]))
    count = chosen.sum(axis=1, keepdims=True)
    for number in range(expected.shape[-1]):
        weight = chosen * expected[..., number]
        total = np.maximum(weight.sum(axis=1, keepdims=True), 1e-12)
        center = weight @ x / total
        residual = chosen * (labels == number) - weight
        score = residual @ x - residual.sum(axis=1, keepdims=True) * center
        spread = np.maximum(weight @ x**2 - total * center**2, 1e-12)
        explained += score**2 / spread / count
    return explained
