"""Of many slides each has fewer bags; nobody is left out, and a patient counts once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphomil.matrix import FINE_BINS
from morphomil.rank import bags


@pytest.mark.parametrize(("most", "expected"), [(9, 3), (5, 1), (1, 1)])
def test_many_slides_have_fewer_bags_each(
    monkeypatch: pytest.MonkeyPatch, most: int, expected: int
) -> None:
    rng = np.random.default_rng(0)
    counts = rng.poisson(0.05, (3, 2, 40, FINE_BINS)).astype(np.uint16)
    cohort = pd.DataFrame({"slide_id": ["a", "b", "c"], "patient": ["p", "p", "q"]})
    monkeypatch.setattr(bags, "MAX_DRAWN", most)
    found = bags.PatientBags.collect(lambda name: counts["abc".index(name)], cohort, seed=0)
    assert np.bincount(found.drawn.patient).tolist() == [2 * expected, expected]
    assert np.bincount(found.drawn.patient, found.drawn.weight) == pytest.approx([1, 1])
    assert np.bincount(found.whole.patient).tolist() == [2, 1]
    np.testing.assert_array_equal(found.totals[0], counts[:2].sum(axis=(0, 2)))
    np.testing.assert_array_equal(found.totals[1], counts[2].sum(axis=1))
    assert found.drawn.fine.sum(axis=-1) == pytest.approx(1)
