"""Evidence beyond covariates: without any it is the share of variance, with them their part is
gone."""

from __future__ import annotations

import numpy as np
import pytest

from morphomil.rank.evidence import _explained_beyond, weigh_views
from morphomil.rank.representation import VIEWS


def test_beside_the_classes_shares_it_is_the_share_of_variance():
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(60, 4)), rng.integers(0, 3, (2, 60))
    chosen = rng.random((2, 60)) < 0.8
    found = []
    for y, some in zip(labels, chosen, strict=True):
        share = np.bincount(y[some], minlength=3) / some.sum()
        found.append(_explained_beyond(x, y[None], some[None], np.tile(share, (1, 60, 1)))[0])
        means = np.stack([x[some & (y == k)].mean(axis=0) for k in range(3)])
        between = share @ (means - x[some].mean(axis=0)) ** 2
        assert found[-1] == pytest.approx(between / x[some].var(axis=0))


def test_what_goes_with_the_covariate_only_is_heard_no_more():
    rng = np.random.default_rng(1)
    n = 100
    site = rng.integers(0, 2, n)
    labels = np.where(rng.random(n) < 0.85, site, 1 - site)[None]
    values = rng.normal(size=(n, 3, len(VIEWS))).astype(np.float32)
    values[:, 0, 0] += 2 * site
    values[:, 1, 0] += 1.2 * labels[0] - 0.6
    chosen = np.ones((1, n), np.bool_)
    share = np.array([labels[0, site == s].mean() for s in (0, 1)])[site]
    expected = np.stack([1 - share, share], axis=-1)[None]
    plain = weigh_views(values, labels, chosen)[0, :, 0]
    beyond = weigh_views(values, labels, chosen, expected=expected)[0, :, 0]
    assert plain.argmax() == 0
    assert beyond.argmax() == 1
    assert beyond[0] < 1.5 < 3 < plain[0]
