"""What each nucleus adds to the probability of its slide."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from morphomil.matrix import count_nuclei, mean_rows, rebin, relative_frequencies
from morphomil.rank.attribution import attribute_nuclei, curves_of_patches
from morphomil.rank.model import restore_morphometry
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
    rank = spearmanr(slide["circularity"], result.nuclei["contribution_circularity"]).statistic
    assert rank < -0.5


def test_a_nucleus_is_worth_what_moving_it_changes(shares):
    """To first order: the gradient at the bag, by differences of the model's own answers."""
    slide, _, result, model = shares
    trained = restore_morphometry(model.weights)
    counts = count_nuclei(slide, np.unique(slide["patch_id"]))
    bag = mean_rows(relative_frequencies(rebin(counts, model.edges)))
    assert trained.predict(bag[None]).probability[:, 0, 1].mean() == pytest.approx(
        result.probability, abs=1e-5
    )
    circularity = FEATURE_NAMES.index("circularity")
    gradient, before, after = trained.integrate_gradients(trained.scaler.baseline, steps=4)
    assert before == after == pytest.approx(result.baseline)
    moved = trained.scaler.baseline.copy()
    moved[circularity, [8, 20]] += [0.001, -0.001]
    change = trained.integrate_gradients(moved, steps=4)[2] - before
    assert change == pytest.approx(
        0.001 * (gradient[circularity, 8] - gradient[circularity, 20]), rel=0.05
    )


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
