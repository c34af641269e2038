"""Histogram matrices: closed forms, NumPy's histogram as witness, laws of rotation and
rebinning."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphomil.matrix import (
    BINS,
    FINE_BINS,
    Binning,
    Edges,
    HistogramMatrices,
    by_feature,
    by_value,
    count_nuclei,
    features_in,
    fit_edges,
    fit_edges_to_counts,
    has_enough_nuclei,
    histogram_matrices,
    mean_rows,
    patch_values,
    patient_values,
    rebin,
    relative_frequencies,
    slide_values,
)
from morphomil.nuclei.registry import FEATURES
from morphomil.types import FEATURE_NAMES


def random_nuclei(seed, *, slides=2, patches=4, per_patch=30):
    rng = np.random.default_rng(seed)
    n = slides * patches * per_patch
    table = pd.DataFrame(
        {
            "slide_id": np.repeat([f"s{i}" for i in range(slides)], n // slides),
            "patch_id": np.tile(np.repeat(np.arange(patches), per_patch), slides),
            "area_um2": rng.lognormal(3.7, 0.4, n),
            "major_axis_um": rng.lognormal(2.2, 0.2, n),
            "minor_axis_um": rng.lognormal(1.8, 0.2, n),
            "orientation_deg": rng.uniform(0, 180, n),
            "circumference_um": rng.lognormal(3.2, 0.2, n),
            "density_per_mm2": rng.lognormal(8.4, 0.3, n),
            "circularity": rng.uniform(0.5, 1.05, n),
            "rectangularity": rng.uniform(0.6, 0.9, n),
        }
    )
    table.loc[rng.random(n) < 0.1, ["orientation_deg", "density_per_mm2"]] = np.nan
    return table


def test_counts_agree_with_numpys_histogram():
    nuclei = random_nuclei(1, slides=1)
    counts = count_nuclei(nuclei, [2, 0, 9])
    for number, name in enumerate(FEATURE_NAMES):
        if name == "orientation_deg":
            continue
        grid = np.linspace(FEATURES[name].low, FEATURES[name].high, FINE_BINS + 1)
        for row, patch in enumerate([2, 0, 9]):
            values = nuclei.loc[nuclei["patch_id"] == patch, name].dropna()
            np.testing.assert_array_equal(counts[number, row], np.histogram(values, grid)[0])


def test_values_beyond_the_range_fall_in_the_end_bins_and_missing_ones_nowhere():
    nuclei = pd.DataFrame(
        {"patch_id": [0] * 6, "area_um2": [-1.0, 0.0, 399.99, 400.0, 1e9, np.nan]}
    )
    counts = count_nuclei(nuclei, [0], features=["area_um2"])
    assert counts[0, 0, 0] == 2
    assert counts[0, 0, -1] == 3
    assert counts.sum() == 5


def test_orientation_is_the_deviation_from_the_other_nuclei_of_the_patch():
    nuclei = pd.DataFrame(
        {"patch_id": [7, 7, 7, 3, 3], "orientation_deg": [10.0, 10.0, 40.0, 0.0, 90.0]}
    )
    counts = count_nuclei(nuclei, [3, 7], features=["orientation_deg"])
    per_degree = FINE_BINS / 90
    # Patch 3: each lies across the other. Patch 7: 15 from the mean of 10 and 40 (twice), 30 from
    # 10.
    assert counts[0, 0, -1] == 2
    assert counts[0, 1, int(15 * per_degree)] == 2
    assert counts[0, 1, int(30 * per_degree)] == 1


def test_absolute_orientation_spans_half_a_turn():
    nuclei = pd.DataFrame({"patch_id": [0, 0], "orientation_deg": [45.0, 135.0]})
    counts = count_nuclei(nuclei, [0], features=["orientation_deg"], orientation="absolute")
    np.testing.assert_array_equal(
        np.flatnonzero(counts[0, 0]), [FINE_BINS // 4, 3 * FINE_BINS // 4]
    )


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), quarters=st.integers(1, 3), whole=st.booleans())
def test_turning_the_slide_by_right_angles_changes_no_matrix(seed, quarters, whole):
    nuclei = random_nuclei(seed, slides=1, per_patch=8)
    if whole:  # many deviations exactly on edges
        nuclei["orientation_deg"] = nuclei["orientation_deg"].round(-1) % 180
    turned = nuclei.assign(orientation_deg=(nuclei["orientation_deg"] + 90 * quarters) % 180)
    np.testing.assert_array_equal(count_nuclei(nuclei, range(4)), count_nuclei(turned, range(4)))
    edges = fit_edges(nuclei)
    assert edges == fit_edges(turned)
    before, after = (histogram_matrices(table, edges=edges) for table in (nuclei, turned))
    np.testing.assert_array_equal(before.values, after.values)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6))
def test_rebinning_counts_equals_binning_the_nuclei(seed):
    nuclei = random_nuclei(seed)
    edges = fit_edges(nuclei)
    slide = nuclei[nuclei["slide_id"] == "s1"]
    counts = count_nuclei(slide, range(4))
    binned = rebin(counts, edges)
    np.testing.assert_array_equal(binned.sum(-1), counts.sum(-1))
    for number, name in enumerate(FEATURE_NAMES):
        if name == "orientation_deg":
            continue
        limits = edges.values(name).copy()
        limits[0], limits[-1] = -np.inf, np.inf
        for patch in range(4):
            values = slide.loc[slide["patch_id"] == patch, name].dropna()
            np.testing.assert_array_equal(binned[number, patch], np.histogram(values, limits)[0])


def test_edges_span_the_first_to_the_99th_percentile_in_equal_bins():
    nuclei = random_nuclei(3, slides=1, per_patch=2000)
    edges = fit_edges(nuclei)
    for name in FEATURE_NAMES:
        values = edges.values(name)
        step = (FEATURES[name].high - FEATURES[name].low) / FINE_BINS
        np.testing.assert_allclose(np.diff(values), np.diff(values)[0], rtol=1e-9)
        if FEATURES[name].fixed_edges:
            np.testing.assert_allclose(values[[0, -1]], [0, 90])
            continue
        low, high = np.nanpercentile(nuclei[name], [1, 99])
        slack = (
            BINS + 2
        ) * step  # each bin is a whole number of fine bins, so up to one more fine bin for each
        assert low - slack <= values[0] <= low + step
        assert high - step <= values[-1] <= high + slack


def test_edges_weigh_patients_equally_and_are_the_same_from_counts():
    few, many = random_nuclei(4, slides=1, per_patch=5), random_nuclei(5, slides=2, per_patch=400)
    many["area_um2"] += 100
    nuclei = pd.concat([few.assign(slide_id="a", patient="p"), many.assign(patient="q")])
    edges = fit_edges(nuclei)
    totals = [
        sum(count_nuclei(slide, range(4)).sum(axis=1) for _, slide in part.groupby("slide_id"))
        for _, part in nuclei.groupby("patient")
    ]
    assert fit_edges_to_counts([np.stack(totals)], features=FEATURE_NAMES) == edges
    assert edges.values("area_um2")[0] < few["area_um2"].quantile(
        0.1
    )  # its 20 nuclei are half of the weight
    assert fit_edges(nuclei.drop(columns="patient")).values("area_um2")[0] > 100


def test_edges_survive_json():
    for orientation in ("relative", "absolute"):
        edges = fit_edges(random_nuclei(6), orientation=orientation)
        assert Edges.from_json(json.loads(json.dumps(edges.to_json()))) == edges
    with pytest.raises(ValueError, match="must lie on a grid"):
        Binning(0, 1, first=1, width=FINE_BINS // BINS)


def test_sparse_patches_are_left_out_and_counted_and_rows_without_values_are_absent():
    nuclei = random_nuclei(7, slides=1, per_patch=20)
    nuclei = nuclei.drop(index=nuclei.index[nuclei["patch_id"] == 1][4:])
    nuclei.loc[nuclei["patch_id"] == 2, "density_per_mm2"] = np.nan
    edges = fit_edges(nuclei)
    matrices = histogram_matrices(nuclei, edges=edges)
    assert matrices.dropped == 1
    np.testing.assert_array_equal(matrices.patch_id, [0, 2, 3])
    density = FEATURE_NAMES.index("density_per_mm2")
    np.testing.assert_allclose(matrices.values.sum(-1)[:density], 1, rtol=1e-6)
    np.testing.assert_array_equal(matrices.values.sum(-1)[density].round(6), [1, 0, 1])
    present = matrices.values[density][[0, 2]].mean(axis=0)
    np.testing.assert_allclose(mean_rows(matrices.values)[density], present, rtol=1e-6)
    np.testing.assert_allclose(mean_rows(matrices.values).sum(-1), 1, rtol=1e-6)


def test_a_patch_has_as_many_nuclei_as_its_most_complete_feature():
    counts = np.zeros((2, 3, FINE_BINS), np.uint32)
    counts[0, 0, 5], counts[1, 1, 9] = 5, 5
    counts[:, 2, 0] = 4
    np.testing.assert_array_equal(has_enough_nuclei(counts), [True, True, False])


def test_a_table_without_enough_nuclei_gives_empty_matrices():
    nuclei = random_nuclei(8, slides=1, per_patch=3)
    matrices = histogram_matrices(nuclei, edges=fit_edges(nuclei))
    assert matrices.values.shape == (8, 0, BINS)
    assert matrices.dropped == 4
    assert relative_frequencies(np.zeros((1, 2, BINS))).sum() == 0


def test_a_subset_of_the_features_is_possible():
    nuclei = random_nuclei(9)[["slide_id", "patch_id", "circularity", "area_um2"]]
    assert features_in(nuclei) == ("area_um2", "circularity")
    matrices = histogram_matrices(nuclei, edges=fit_edges(nuclei))
    assert matrices.features == ("area_um2", "circularity")
    with pytest.raises(ValueError, match="counts must be of 2 features"):
        rebin(np.zeros((8, 1, FINE_BINS)), fit_edges(nuclei))


def test_matrices_refuse_rows_that_are_no_frequencies():
    with pytest.raises(ValueError, match="rows must sum to 1"):
        HistogramMatrices(
            np.array(["s"]), np.array([0]), ("area_um2",), np.ones((1, 1, BINS), np.float32), 0
        )


def test_slide_values_by_hand():
    nuclei = pd.DataFrame(
        {
            "patch_id": [0] * 6 + [1] * 3,
            "area_um2": [1.0, 2, 3, 4, 5, 6, 7, 8, 9],
            "orientation_deg": [20.0] * 6 + [0, 45, 90],  # patch 1 has too few
            "density_per_mm2": [10.0, np.nan, 30] * 3,
        }
    )
    names = ["area_um2", "orientation_deg", "density_per_mm2"]
    values = slide_values(nuclei, features=names)
    assert values.tolist() == pytest.approx([5, 1, 20])
    assert list(values.index) == ["area_um2", "orientation_polarity", "density_per_mm2"]


def test_a_patch_has_the_median_of_its_nuclei_under_the_names_of_values():
    nuclei = pd.DataFrame(
        {
            "patch_id": [0] * 5 + [2],
            "orientation_deg": [20.0] * 5 + [0.0],
            "density_per_mm2": [10.0, np.nan, 30, 40, 50, 1],
        }
    )
    patches = pd.DataFrame(
        {"patch_id": [0, 1, 2], "tissue_mm2": [0.01, 0.02, 5.0], "kept": [True, True, False]}
    )
    table = patch_values(nuclei, patches)
    assert table["nuclei"].tolist() == [5, 0]
    np.testing.assert_allclose(table["density_per_mm2"], [35, np.nan])
    np.testing.assert_allclose(table["orientation_polarity"], [1, np.nan])
    assert "orientation_deg" not in table
    before = by_feature(table)
    assert "orientation_deg" in before
    pd.testing.assert_frame_equal(by_feature(before), before)
    pd.testing.assert_frame_equal(by_value(before), table)


def test_uniform_angles_have_no_polarity_at_any_number_of_nuclei():
    rng = np.random.default_rng(10)
    for per_patch in (5, 80):
        nuclei = pd.DataFrame({"patch_id": np.repeat(np.arange(4000), per_patch)})
        nuclei["orientation_deg"] = rng.uniform(0, 180, len(nuclei))
        assert slide_values(nuclei, features=["orientation_deg"]).iloc[0] == pytest.approx(
            0, abs=0.015
        )


def test_patient_values_are_means_over_slides():
    values = pd.DataFrame(
        {
            "slide_id": ["a", "b", "c", "x"],
            "area_um2": [1.0, 3, 5, 9],
            "circularity": [np.nan, 2, 4, 9],
        }
    )
    cohort = pd.DataFrame(
        {"slide_id": ["c", "a", "b"], "patient": ["q", "p", "p"], "label": ["N+", "N0", "N0"]}
    )
    table = patient_values(values, cohort)
    expected = pd.DataFrame(
        {
            "patient": ["p", "q"],
            "label": ["N0", "N+"],
            "area_um2": [2.0, 5.0],
            "circularity": [2.0, 4.0],
        }
    )
    pd.testing.assert_frame_equal(table, expected)
