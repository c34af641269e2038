import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphomil.matrix import FINE_BINS, mean_rows, relative_frequencies
from morphomil.rank.patch_sums import PatchSums, SlideSums, mean_shares


def drawn_counts(seed, kind=np.uint16):
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.02, (3, 6, FINE_BINS)).astype(kind)
    counts[1, 2] = 0
    return counts


@settings(deadline=None, max_examples=20)  # compiles once
@given(st.integers(0, 2**32 - 1), st.sampled_from([np.uint8, np.uint32, np.int64]))
def test_sums_are_those_of_the_values(seed, kind):
    counts = drawn_counts(seed, kind)
    sums = PatchSums.of(counts)
    for feature, patch in np.ndindex(counts.shape[:2]):
        x = np.repeat(np.arange(FINE_BINS) + 0.5, counts[feature, patch])
        pairs = np.abs(x[:, None] - x).sum() / 2
        found = [part[feature, patch] for part in sums]
        assert found == [len(x), x.sum(), (x**2).sum(), pairs]


@pytest.mark.parametrize("bag", [[0, 1, 2, 3, 4, 5], [2], [4, 2], []])
def test_shares_of_a_bag_are_the_mean_of_its_patches(bag):
    counts = drawn_counts(0)
    bags = [np.array(bag, np.int64), np.arange(3)]
    shares = mean_shares(counts, bags, n=PatchSums.of(counts).n)
    assert shares.shape == (2, 3, FINE_BINS)
    for own, found in zip(bags, shares, strict=True):
        expected = mean_rows(relative_frequencies(counts)[:, own])
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_slide_is_read_without_its_sparse_patches():
    counts = drawn_counts(1)
    counts[:, 3] = 0
    counts[0, 3, :4] = 1
    read = SlideSums.of(counts)
    kept = np.delete(counts, 3, axis=1)
    np.testing.assert_array_equal(read.counts, kept)
    for found, expected in zip(read.sums, PatchSums.of(kept), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(read.pooled, read.mean_shares([np.arange(5)])[0])
    assert SlideSums.of(counts[:, 3:4]).patches == 0
