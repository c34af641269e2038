"""The Hodges-Lehmann shift, its interval and its memory."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from morphomil.stats import hodges_lehmann

laws = settings(deadline=None, max_examples=60)
values = st.lists(st.integers(-4, 4), min_size=2, max_size=25).map(
    lambda v: np.array(v, dtype=float)
)


@laws
@given(values, values)
@example(np.zeros(2), np.r_[np.zeros(6), 1])
def test_hodges_lehmann_is_the_median_of_all_differences(x, y):
    found = hodges_lehmann(x / 3, y / 7)
    differences = np.sort((x[:, None] / 3 - y / 7).ravel())
    assert found.estimate == pytest.approx(np.median(differences), abs=1e-15)
    assert found.low in differences
    assert found.high in differences
    assert found.low <= found.estimate <= found.high
    back = hodges_lehmann(y / 7, x / 3)
    assert back == pytest.approx((-found.estimate, -found.high, -found.low), abs=1e-15)
    moved = hodges_lehmann(x / 3 + 5, y / 7)
    assert moved == pytest.approx((found.estimate + 5, found.low + 5, found.high + 5), abs=1e-12)


def test_hodges_lehmann_of_large_samples_needs_linear_memory():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.3, 1, 100_000), rng.normal(size=100_000)
    tracemalloc.start()
    found = hodges_lehmann(x, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.low < 0.3 < found.high < found.low + 0.03
    assert peak < 100 * 200_000
    assert np.isnan(hodges_lehmann([np.nan], [1.0])).all()
    with pytest.raises(ValueError, match="finite"):
        hodges_lehmann([np.inf], [1.0])
