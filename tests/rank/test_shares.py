"""What each nucleus adds to the probability of its slide."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from trait_cohort import synthetic_cohort

from morphomil.matrix import FINE_BINS
from morphomil.rank.attribution import _share_patches, attribute_nuclei, curves_of_patches
from morphomil.rank.model import restore_morphometry
from morphomil.rank.ranking import rank_nuclei
from morphomil.rank.representation import (
    POOLED,
    VIEWS,
    histogram_gain,
    histogram_l_moments,
    patch_moments,
    read_patches,
)
from morphomil.rank.robustness import measure_faithfulness
from morphomil.types import FEATURE_NAMES


@pytest.fixture(scope="module")
def shares(outline):
    """A test patient's nuclei and their shares, by the model that didn't see it."""
    nuclei, cohort, ranking = outline
    row = ranking.predictions.sort_values("probability").iloc[-1]
    slide = nuclei[
        nuclei["slide_id"] == cohort.set_index("patient").loc[row["patient"], "slide_id"]
    ]
    return (
        slide,
        row,
        attribute_nuclei(slide, ranking.models[row["fold"]]),
        ranking.models[row["fold"]],
    )


def test_the_shares_of_nuclei_sum_to_what_the_slide_is_above_the_training_mean(shares):
    slide, row, result, _ = shares
    assert result.probability == pytest.approx(row["probability"], abs=1e-5)
    assert result.steps >= 64
    total = result.nuclei["contribution"].sum()
    assert total == pytest.approx(result.probability - result.baseline, abs=1e-3)
    assert total == pytest.approx(result.probability - result.baseline + result.gap, abs=1e-9)
    assert result.nuclei.index.equals(slide.index)
    of_features = result.nuclei.drop(columns="contribution")
    np.testing.assert_allclose(of_features.sum(axis=1), result.nuclei["contribution"], atol=1e-12)
    of_bins = result.bins.groupby("feature")["contribution"].sum()
    for name in FEATURE_NAMES:
        assert of_features[f"contribution_{name}"].sum() == pytest.approx(of_bins[name], abs=1e-9)
    assert (result.bins.groupby("feature")["nuclei"].sum() <= len(slide)).all()
    assert (result.bins.loc[result.bins["nuclei"] == 0, "contribution"] == 0).all()


def test_rough_nuclei_speak_for_a_label_that_goes_with_rough_outlines(shares):
    slide, _, result, _ = shares
    assert (
        result.nuclei.drop(columns="contribution").sum().abs().idxmax()
        == "contribution_circularity"
    )
    shares_of = result.nuclei["contribution_circularity"].groupby(
        pd.qcut(slide["circularity"], 4, labels=False)
    )
    assert shares_of.mean().idxmin() == 3  # the roundest


def test_a_nucleus_is_worth_what_weighing_it_more_changes(shares):
    """A bag all but the typical patient's: the difference of two nuclei's shares, by differences of
    the model's own answers when weight goes from the one to the other."""
    _, _, _, model = shares
    trained = restore_morphometry(model.weights)
    scaler, circularity = trained.scaler, FEATURE_NAMES.index("circularity")
    typical = scaler.typical.astype(np.float64)
    unknown = np.full((len(typical), len(VIEWS) - POOLED), np.nan)

    def answer(histograms):
        values = np.concatenate([histogram_l_moments(histograms), unknown], axis=1)
        return trained.integrate_gradients(values, steps=4)

    gradient, before, after = answer(typical)
    assert before == pytest.approx(after, abs=1e-6)
    gain = np.einsum(
        "fc,fcb->fb", gradient[:, :POOLED], histogram_gain(typical, typical)
    )  # of a nucleus
    moved = typical.copy()
    moved[circularity, [8, 20]] += [1e-4, -1e-4]
    change = (answer(moved)[2] - after) * 10
    assert change == pytest.approx(0.001 * (gain[circularity, 8] - gain[circularity, 20]), rel=0.05)


def test_shares_agree_with_weighing_each_nucleus_more_by_brute_force(shares):
    """With gradients of the model's numbers held fixed, a nucleus's share follows how the numbers
    respond to its weight in its patch, one nucleus at a time."""
    rng = np.random.default_rng(4)
    size, patches = 7, 6
    fine = rng.integers(200, 800, patches * size)
    place = np.repeat(np.arange(patches), size)
    counts = np.zeros((1, patches, FINE_BINS), np.int64)
    np.add.at(counts, (0, place, fine), 1)
    moments = patch_moments(counts)
    gradient, excess = rng.normal(size=3), np.zeros(3)
    shares = _share_patches(fine, place, moments[0], gradient=gradient, excess=excess)
    assert shares.sum() == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(
        _share_patches(fine, place, moments[0], gradient=gradient, excess=excess + 1).sum(),
        gradient.sum(),
    )
    step = 1e-6
    slope = np.zeros((patches, 2))
    for patch in range(patches):
        for column in range(2):
            moved = moments.copy()
            moved[0, patch, column] += step
            slope[patch, column] = gradient @ (read_patches(moved) - read_patches(moments))[0]
    slope /= step
    for patch in range(patches):
        mine = place == patch
        values = fine[mine] + 0.5
        spread = np.abs(values[:, None] - values).sum(axis=1) / (size - 1)
        moves = np.stack([values - values.mean(), spread - spread.mean()], axis=1) / size
        expected = moves @ slope[patch]
        np.testing.assert_allclose(
            shares[mine] - shares[mine].mean(), expected - expected.mean(), rtol=1e-3
        )


def test_plain_histograms_are_shared_out_too():
    nuclei, cohort = synthetic_cohort(1, trait="outline", patients=30)
    ranking = rank_nuclei(nuclei, cohort, seed=0, quick=True, reading="histograms")
    row = ranking.predictions.iloc[0]
    slide = nuclei[
        nuclei["slide_id"] == cohort.set_index("patient").loc[row["patient"], "slide_id"]
    ]
    result = attribute_nuclei(slide, ranking.models[row["fold"]])
    assert result.probability == pytest.approx(row["probability"], abs=1e-5)
    total = result.nuclei["contribution"].sum()
    assert total == pytest.approx(result.probability - result.baseline, abs=1e-3)


def test_deleting_the_patches_that_contribute_most_beats_random_order(shares):
    slide, _, result, model = shares
    curves = curves_of_patches(slide, model, result, seed_key=(0, "s"))
    assert curves.shape == (4, 11)
    np.testing.assert_allclose(curves[:2, 0], result.probability, atol=1e-5)
    np.testing.assert_allclose(curves[2:, -1], result.probability, atol=1e-5)
    np.testing.assert_allclose(curves[:2, -1], result.baseline, atol=1e-5)
    gain = measure_faithfulness(np.stack([curves, curves], axis=-1), seed=0).set_index("curve")[
        "gain"
    ]
    assert (gain > 0).all()


def test_sparse_patches_and_missing_values_have_no_say(shares):
    slide, _, _, model = shares
    first = slide["patch_id"] == 0
    sparse = slide[~first | (slide.groupby("patch_id").cumcount() < 4)].copy()
    missing = sparse.index[sparse["patch_id"] == 1][:7]
    sparse.loc[missing, "density_per_mm2"] = np.nan
    result = attribute_nuclei(sparse, model)
    assert result.nuclei.loc[sparse["patch_id"] == 0].isna().all(axis=None)
    assert (result.nuclei.loc[missing, "contribution_density_per_mm2"] == 0).all()
    total = result.nuclei["contribution"].sum()
    assert total == pytest.approx(result.probability - result.baseline, abs=1e-3)
    with pytest.raises(ValueError, match="no patch has 5 nuclei"):
        attribute_nuclei(slide[slide.groupby("patch_id").cumcount() < 4], model)
