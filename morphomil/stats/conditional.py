"""Labels permuted as often as covariates would have it: the conditional permutation test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
STEPS = 50
"""Berrett et al. draw with so many sweeps of pairs."""


def permute_conditionally(
    labels: NDArray[np.int64],
    log_probability: NDArray[np.float64],
    *,
    permutations: int,
    rng: np.random.Generator,
    blocks: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """The labels (row 0) and permutations of them, (permutations + 1, n), each as likely as the
    covariates make it.

    A permutation has a probability proportional to the product of the cases' probabilities of the
    labels that it gives them. So labels go on depending on the covariates, and on nothing else:
    p = (b + 1) / (B + 1) of any statistic tests the rest (Berrett, Wang, Barber & Samworth 2020,
    doi 10.1111/rssb.12340). Drawn by their algorithm 1: in a sweep cases are paired at random and
    each pair exchanges its labels with the odds of the result; 50 sweeps from the labels lead to a
    hub, and 50 more from there to each permutation, so that the labels are exchangeable with them
    however far the chain has mixed. The test is as good as the probabilities: an error in them adds
    to its level.

    Args:
        labels: (n,), classes from 0.
        log_probability: (n, classes), given the covariates.
        permutations: how many.
        rng: draws.
        blocks: (n,); labels are exchanged within them only.
    """
    block = np.zeros(len(labels), np.int64) if blocks is None else blocks
    hub = _sweep(labels[None], log_probability, block, rng=rng)
    drawn = _sweep(np.repeat(hub, permutations, axis=0), log_probability, block, rng=rng)
    return np.concatenate([labels[None], drawn])


def _sweep(
    rows: NDArray[np.int64],
    log_probability: NDArray[np.float64],
    block: NDArray[np.int64],
    *,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """Rows (draws, n) after `STEPS` sweeps."""
    rows = rows.copy()
    draw = np.arange(len(rows))[:, None]
    members = [np.flatnonzero(block == number) for number in np.unique(block)]
    for _ in range(STEPS if len(rows) else 0):
        for inside in members:
            pairs = len(inside) // 2
            order = inside[rng.random((len(rows), len(inside))).argsort(axis=1)]
            one, other = order[:, :pairs], order[:, pairs : 2 * pairs]
            mine, theirs = rows[draw, one], rows[draw, other]
            gain = (
                log_probability[one, theirs]
                + log_probability[other, mine]
                - log_probability[one, mine]
                - log_probability[other, theirs]
            )
            exchanged = rng.random(gain.shape) < 1 / (1 + np.exp(-gain))
            rows[draw, one] = np.where(exchanged, theirs, mine)
            rows[draw, other] = np.where(exchanged, mine, theirs)
    return rows
