"""What the model reads of a distribution: against the definitions of L-moments, and what one
nucleus changes."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import eval_sh_legendre
from scipy.stats import norm

from morphomil.matrix import FINE_BINS
from morphomil.rank.evidence import DAMPING, FLOOR, GAIN, weigh_views
from morphomil.rank.representation import (
    SOFT,
    VIEWS,
    barycenter,
    histogram_gain,
    histogram_l_moments,
    patch_influence,
    patch_moments,
    read_patches,
    reading_of,
    sample_influence,
    sample_l_moments,
    sample_slopes,
    spread_influence,
)


def by_definition(values, order):
    """Hosking 1990: mean over all samples of the weighted order statistics."""
    signs = {1: [1], 2: [-1, 1], 3: [1, -2, 1], 4: [-1, 3, -3, 1]}[order]
    samples = [np.sort(chosen) for chosen in combinations(values, order)]
    return np.mean(samples @ np.array(signs)) / order


def test_l_moments_of_a_histogram_are_integrals_of_its_quantile_function():
    histogram = np.random.default_rng(0).dirichlet(np.ones(6))
    histogram[3] = 0
    histogram /= histogram.sum()
    below = np.concatenate([[0], np.cumsum(histogram)])

    def quantile(u):
        return np.interp(u, below, np.arange(7))

    for order, moment in enumerate(histogram_l_moments(histogram[None])[0]):
        expected, _ = quad(
            lambda u, k=order: quantile(u) * eval_sh_legendre(k, u), 0, 1, points=below, limit=200
        )
        assert moment == pytest.approx(expected, abs=1e-6)
    assert np.isnan(histogram_l_moments(np.zeros((1, 6)))).all()


def test_a_normal_distribution_has_its_known_l_moments():
    edges = np.linspace(-5, 5, 401)
    moments = histogram_l_moments(np.diff(norm.cdf(edges))[None])[0] * 10 / 400
    np.testing.assert_allclose(
        moments / moments[1], [5 * np.sqrt(np.pi), 1, 0, 0.1226], atol=2e-3
    )  # location 5 from the start, 1 / sqrt(pi), and 30 / pi arctan(sqrt 2) - 9 (Hosking 1990)


def test_sample_l_moments_are_the_means_over_all_samples():
    values = np.random.default_rng(1).normal(size=(2, 8))
    values[1, [0, 3, 4, 5, 6]] = np.nan
    found = sample_l_moments(values, orders=4)
    for order in (1, 2, 3, 4):
        assert found[0, order - 1] == pytest.approx(by_definition(values[0], order))
    rest = values[1, [1, 2, 7]]
    np.testing.assert_allclose(found[1, :3], [by_definition(rest, r) for r in (1, 2, 3)])
    assert np.isnan(found[1, 3])
    assert np.isnan(sample_l_moments(np.full((1, 3), np.nan), orders=2)).all()


def test_influence_and_slopes_are_what_one_value_changes():
    values = np.random.default_rng(2).normal(size=9)
    influence, slopes = sample_influence(values, orders=4), sample_slopes(values, orders=4)
    whole = sample_l_moments(values, orders=4)
    np.testing.assert_allclose(influence.sum(axis=0), 0, atol=1e-12)
    for number in range(9):
        without = sample_l_moments(np.delete(values, number), orders=4)
        np.testing.assert_allclose(influence[number], (9 - np.arange(1, 5)) * (whole - without))
        moved = values.copy()
        moved[number] += 1e-6
        change = (sample_l_moments(moved, orders=4) - whole) / 1e-6
        np.testing.assert_allclose(slopes[number], change, atol=1e-6)
    assert (sample_influence(values[:2], orders=4)[:, 2:] == 0).all()
    assert (sample_slopes(values[:2], orders=4)[:, 2:] == 0).all()
    group = np.array([0, 0, 0, 0, 1, 1, 1, 1, 1])
    both = np.concatenate(
        [sample_influence(values[group == one], orders=2)[:, 1] for one in (0, 1)]
    )
    np.testing.assert_allclose(spread_influence(values, group), both)


def test_the_gain_of_bins_completes_the_change_of_the_moments():
    rng = np.random.default_rng(3)
    start, end = rng.dirichlet(np.ones(12), (2, 3))
    gain = histogram_gain(start, end)
    change = histogram_l_moments(end) - histogram_l_moments(start)
    np.testing.assert_allclose(np.einsum("fcb,fb->fc", gain, end - start), change, atol=1e-12)
    step = 1e-6
    moved = start.copy()
    moved[:, [2, 7]] += [step, -step]
    slope = (histogram_l_moments(moved) - histogram_l_moments(start)) / step
    same = histogram_gain(start, start)
    np.testing.assert_allclose(same[..., 2] - same[..., 7], slope, rtol=1e-3, atol=1e-5)


def test_patches_are_read_by_their_means_and_spreads():
    rng = np.random.default_rng(4)
    fine = rng.integers(0, FINE_BINS, (5, 9))
    counts = np.stack([np.bincount(row, minlength=FINE_BINS) for row in fine])[None]
    sparse = np.zeros((1, 1, FINE_BINS), int)
    sparse[0, 0, :4] = 1  # four nuclei say too little
    moments = patch_moments(np.concatenate([counts, sparse], axis=1))
    expected = sample_l_moments(fine + 0.5, orders=2)
    np.testing.assert_allclose(moments[0, :5, :2], expected)
    assert (moments[0, :5, 2] == 9).all()
    assert np.isnan(moments[0, 5]).all()
    between, skewness, within = read_patches(moments)[0]
    means = sample_l_moments(expected[:, 0], orders=3)
    excess = means[1] ** 2 - (expected[:, 1] ** 2 / 9).mean()
    assert between == pytest.approx(excess / np.sqrt(abs(excess) + SOFT * means[1] ** 2))
    assert skewness == pytest.approx(means[2])
    assert within == pytest.approx(expected[:, 1].mean())
    one = read_patches(moments[:, :1])[0]
    assert np.isnan(one[:2]).all()
    assert np.isfinite(one[2])
    assert np.isnan(read_patches(moments[:, 5:])).all()
    assert reading_of(len(VIEWS)) == "quantiles"
    assert reading_of(31) == "histograms"


@pytest.mark.parametrize("nuclei", [8, 24, 72])
def test_the_spread_between_patches_is_that_of_their_levels_however_many_nuclei(nuclei):
    rng = np.random.default_rng(nuclei)
    for between in (0.0, 30.0):
        levels = 500 + between * rng.normal(size=(400, 1, 40, 1))
        values = np.rint(levels + 60 * rng.normal(size=(400, 1, 40, nuclei)) - 0.5)
        moments = np.stack([*np.moveaxis(sample_l_moments(values + 0.5, orders=2), -1, 0)], -1)
        count = np.full((*moments.shape[:-1], 1), nuclei)
        of_cohort = np.concatenate([moments, count], axis=-1)[:, 0]
        found = read_patches(of_cohort)[:, 0]
        assert found.mean() == pytest.approx(between / np.sqrt(np.pi), abs=1.5)


def test_the_influence_of_patches_is_what_one_patch_changes():
    rng = np.random.default_rng(6)
    moments = np.stack(
        [rng.normal(500, 40, 30), rng.normal(60, 9, 30), rng.integers(6, 40, 30).astype(float)],
        axis=1,
    )
    influence, derivative = patch_influence(moments)
    whole = read_patches(moments[None])[0]
    np.testing.assert_allclose(influence.sum(axis=0), 0, atol=1e-9)
    for patch in (0, 11, 29):
        without = read_patches(np.delete(moments, patch, axis=0)[None])[0]
        np.testing.assert_allclose(influence[patch] / 29, whole - without, rtol=0.2, atol=0.05)
        for column in (0, 1):
            moved = moments.copy()
            moved[patch, column] += 1e-5
            change = (read_patches(moved[None])[0] - whole) / 1e-5
            np.testing.assert_allclose(derivative[patch, column], change, atol=1e-5)


def test_the_typical_patient_lies_between_the_others():
    bins = np.arange(60)
    rows = np.stack([norm.pdf(bins, center, 4) for center in (20, 30)])
    rows /= rows.sum(axis=1, keepdims=True)
    middle = barycenter(rows, np.array([1.0, 3.0]))
    typical = histogram_l_moments(np.stack([*rows, middle]))
    np.testing.assert_allclose(typical[2], typical[:2].T @ [0.25, 0.75], atol=0.02)
    np.testing.assert_allclose(barycenter(np.zeros((2, 4)), np.ones(2)), 0.25)


def test_gates_open_for_what_tells_the_training_patients_apart():
    rng = np.random.default_rng(5)
    values = rng.normal(size=(80, 4, len(VIEWS))).astype(np.float32)
    labels = np.arange(80) % 2
    values[:, 1, 4] += 2 * labels
    crossed = (np.arange(80) // 2) % 2
    values[:, 2, 0] = (2 * crossed - 1) * 2 + 0.3 * values[:, 2, 0]
    values[:, 3, 0] = (2 * (crossed ^ labels) - 1) * 2 + 0.3 * values[:, 3, 0]
    chosen = np.ones((3, 80), bool)
    chosen[2, :40] = False
    available = np.array([[True] * 4, [True, False, True, True], [True, True, True, False]])
    shuffled = np.stack([labels, labels, rng.permutation(labels)])
    gates = weigh_views(values, shuffled, chosen, available=available)
    quiet = (FLOOR * DAMPING).astype(np.float32)
    assert gates.shape == (3, 4, len(VIEWS))
    assert (gates >= quiet).all()
    assert (gates <= quiet + GAIN * 1.001).all()
    loud = gates - quiet
    assert loud[0].max() > 0.9 * GAIN
    assert loud[1, 2, 0] > 0.9 * GAIN
    np.testing.assert_allclose(loud[1, 2, 0], loud[1, 3, 0])
    np.testing.assert_array_equal(gates[1, 1], quiet)
    assert loud[2].max() < loud[0].max()
    alone = weigh_views(values, shuffled[:1], chosen[:1], available=available[:1])
    np.testing.assert_allclose(alone[0], gates[0], rtol=1e-5)
