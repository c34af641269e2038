"""Adjusted p values: by hand, by law and against statsmodels."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphomil.stats import benjamini_hochberg, holm

laws = settings(deadline=None, max_examples=60)
values = st.lists(st.integers(-4, 4), min_size=2, max_size=25).map(
    lambda v: np.array(v, dtype=float)
)
p_values = st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), max_size=12).map(np.array)


def test_adjusted_p_by_hand():
    p = [0.01, 0.04, np.nan, 0.03, 0.005]
    np.testing.assert_allclose(holm(p), [0.03, 0.06, np.nan, 0.06, 0.02], atol=1e-15)
    np.testing.assert_allclose(benjamini_hochberg(p), [0.02, 0.04, np.nan, 0.04, 0.02], atol=1e-15)


@laws
@given(p_values)
def test_adjusted_p_laws(p):
    known = ~np.isnan(p)
    for adjust in (holm, benjamini_hochberg):
        adjusted = adjust(p)
        np.testing.assert_array_equal(np.isnan(adjusted), ~known)
        np.testing.assert_array_equal(adjusted[known], adjust(p[known]))
        np.testing.assert_array_equal(adjusted[::-1], adjust(p[::-1]))
        assert (adjusted[known] >= p[known]).all()
        assert (adjusted[known] <= 1).all()
        assert (np.diff(adjusted[known][np.argsort(p[known])]) >= 0).all()
    assert (holm(p)[known] >= benjamini_hochberg(p)[known] - 1e-15).all()


@pytest.mark.parametrize("n", [1, 2, 8, 50])
def test_adjusted_p_equals_statsmodels(n):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    p = np.round(np.random.default_rng(n).random(n) ** 3, 2)  # with ties
    np.testing.assert_allclose(holm(p), multitest.multipletests(p, method="holm")[1], atol=1e-14)
    np.testing.assert_allclose(
        benjamini_hochberg(p), multitest.multipletests(p, method="fdr_bh")[1], atol=1e-14
    )


def test_adjusting_leaves_its_argument_alone_and_rejects_what_is_no_p():
    p = np.array([0.2, 0.01])
    holm(p)
    assert p.tolist() == [0.2, 0.01]
    for adjust in (holm, benjamini_hochberg):
        with pytest.raises(ValueError, match=r"p-values must be in \[0, 1\], got -0.1 to 0.5"):
            adjust([0.5, -0.1])
