"""What puts the features in order."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphomil.rank.outcomes import score_features

NAN = float("nan")


@pytest.fixture
def table() -> pd.DataFrame:
    """Five features: only attention is high, only a test finds it, only the scan, both do beyond
    what counts, nobody tested it."""
    return pd.DataFrame(
        {
            "attention_z": [3.0, 1.0, 1.0, 0.0, 2.0],
            "p_holm": [1.0, 0.01, 0.5, 1e-30, NAN],
            "scan_p_any": [1.0, 0.4, 0.02, 0.0002, NAN],
        }
    )


def test_attention_and_the_smaller_p_make_the_score(table):
    expected = [3, 1 - np.log(0.01), 1 - np.log(0.02), -np.log(0.001), 2]
    assert list(score_features(table)) == pytest.approx(expected)


def test_beside_covariates_their_p_counts(table):
    beside = table.assign(adjusted_p_holm=[0.05, 1.0, 1.0, 1.0, NAN])
    expected = [3 - np.log(0.05), 1 - np.log(0.4), 1 - np.log(0.02), -np.log(0.001), 2]
    assert list(score_features(beside)) == pytest.approx(expected)


def test_without_a_null_of_attention_there_is_no_score(table):
    assert np.isnan(score_features(table.assign(attention_z=NAN))).all()
