"""Scores of positive and negative cases for tests of ROC analysis, and DeLong's formulas as
printed."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st


def placements(labels, scores):
    """DeLong et al. 1988, equation by equation: every positive against every negative."""
    x, y = scores[labels == 1], scores[labels == 0]
    psi = (x[:, None] > y) + 0.5 * (x[:, None] == y)
    return psi.mean(), psi.mean(axis=1), psi.mean(axis=0)


def slow_delong(labels, a, b):
    (auc_a, x_a, y_a), (auc_b, x_b, y_b) = placements(labels, a), placements(labels, b)
    s = np.cov(x_a, x_b) / len(x_a) + np.cov(y_a, y_b) / len(y_a)
    contrast = np.array([1, -1])
    return auc_a, auc_b, math.sqrt(contrast @ s @ contrast), s


def planted(rng, n, *, shift=1.0, decimals=None):
    labels = rng.permutation(np.arange(n) % 3 == 0)
    scores = rng.normal(size=n) + shift * labels
    return labels, scores if decimals is None else np.round(scores, decimals)


@st.composite
def samples(draw):
    n = draw(st.integers(4, 40))
    labels = np.array(
        draw(st.permutations([True, True, False, False] + [i % 2 == 0 for i in range(n - 4)]))
    )
    scores = np.array(draw(st.lists(st.integers(-5, 5), min_size=n, max_size=n)), dtype=float)
    return labels, scores


laws = settings(deadline=None, max_examples=60)
