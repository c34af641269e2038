from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import strategies as st
from scipy import stats

from morphomil.errors import RefusedError
from morphomil.stats import (
    axial_mean,
    benjamini_hochberg,
    compare_categories,
    compare_groups,
    holm,
    watson_williams_test,
)

FOLDER = Path(__file__).parents[1] / "reference"
REFERENCE = json.loads((FOLDER / "stats.json").read_text(encoding="utf-8"))
R = pd.read_csv(FOLDER / "groups.csv").set_index("quantity")["value"]
R_CASES = pd.read_csv(FOLDER / "groups_cases.csv")
values = st.lists(st.integers(-4, 4), min_size=2, max_size=25).map(
    lambda v: np.array(v, dtype=float)
)


@pytest.fixture
def table():
    return pd.DataFrame(
        {
            "up": [1, 2, 3, 4, 5, 6, 7, 8],
            "down": [9.0, 8, 7, 6, 1, 2, 3, np.nan],
            "flat": [2.0] * 8,
            "absent": [np.nan] * 4 + [1.0, 2, 3, 4],
        },
        index=list("abcdefgh"),
    )


def test_compare_groups_by_hand(table):
    found = compare_groups(table, ["N0"] * 4 + ["N+"] * 4, positive="N+")
    assert list(found) == [
        "feature",
        "test",
        "n_positive",
        "n_reference",
        "missing",
        "missing_positive",
        "missing_reference",
        "median_positive",
        "median_reference",
        "u",
        "p_value",
        "p_holm",
        "p_bh",
        "brunner_munzel_p",
        "brunner_munzel_holm",
        "brunner_munzel_bh",
        "cliffs_delta",
        "cliffs_delta_low",
        "cliffs_delta_high",
        "hodges_lehmann",
        "hodges_lehmann_low",
        "hodges_lehmann_high",
        "direction",
        "positive",
        "family",
    ]
    found = found.set_index("feature")
    assert found.loc["up", ["n_positive", "n_reference", "missing"]].tolist() == [4, 4, 0]
    assert found.loc[
        "up", ["median_positive", "median_reference", "u", "cliffs_delta"]
    ].tolist() == [6.5, 2.5, 16, 1]
    assert found.loc["down", ["n_positive", "missing", "median_positive", "u"]].tolist() == [
        3,
        1,
        2,
        0,
    ]
    # what is constant or absent is tested nowhere, so the family has two tests
    nothing = [np.nan, np.nan]
    np.testing.assert_allclose(found["p_value"], [2 / 70, 2 / 35, *nothing], atol=1e-15)
    np.testing.assert_allclose(found["p_holm"], [4 / 70, 4 / 70, *nothing], atol=1e-15)
    np.testing.assert_allclose(found["p_bh"], [4 / 70, 4 / 70, *nothing], atol=1e-15)
    np.testing.assert_allclose(found["brunner_munzel_p"], found["p_value"], atol=1e-15)
    np.testing.assert_allclose(found["brunner_munzel_holm"], found["p_holm"], atol=1e-15)
    assert found["direction"].iloc[:3].tolist() == ["higher", "lower", "equal"]
    assert found.loc[
        "up", ["hodges_lehmann", "hodges_lehmann_low", "hodges_lehmann_high"]
    ].tolist() == [4, 1, 7]
    assert found.loc["down", ["missing_positive", "missing_reference"]].tolist() == [1, 0]
    assert set(found["family"]) == {"columns of this table (2 p values)"}
    assert set(found["positive"]) == {"N+"}
    assert pd.isna(found.loc["absent", "direction"])
    assert found.loc["absent", ["n_positive", "n_reference", "missing"]].tolist() == [4, 0, 4]


def test_the_other_positive_label_turns_direction_and_delta(table):
    labels = np.array(["N0"] * 4 + ["N+"] * 4)
    forth, back = (
        compare_groups(table, labels, positive="N+"),
        compare_groups(table, labels, positive="N0"),
    )
    np.testing.assert_array_equal(forth["p_value"], back["p_value"])
    np.testing.assert_allclose(forth["cliffs_delta_low"], -back["cliffs_delta_high"], atol=1e-12)
    assert back["direction"].iloc[:3].tolist() == ["lower", "higher", "equal"]


@pytest.mark.parametrize("labels", [[0, 1] * 4, [False, True] * 4, [0.0, 1.0] * 4])
def test_labels_0_and_1_need_no_positive(table, labels):
    expected = compare_groups(table, ["no", "yes"] * 4, positive="yes").drop(columns="positive")
    found = compare_groups(table, labels)
    assert set(found["positive"]) == {labels[1]}
    pd.testing.assert_frame_equal(found.drop(columns="positive"), expected)


def test_the_last_label_is_positive_unless_said_otherwise(table):
    found = compare_groups(table, ["N1", "N0"] * 4)
    pd.testing.assert_frame_equal(found, compare_groups(table, ["N1", "N0"] * 4, positive="N1"))


def test_compare_groups_is_the_same_for_permuted_patients(table):
    labels = pd.Series(["N0"] * 4 + ["N+"] * 4, index=table.index)
    order = list("hcafbged")
    found = compare_groups(table.loc[order], labels.loc[order], positive="N+")
    pd.testing.assert_frame_equal(found, compare_groups(table, labels, positive="N+"))


def test_three_groups_equal_r():
    case = REFERENCE["kruskal.test"]
    numbers = pd.DataFrame({"half": [*case["x"], *case["y"], *case["z"]]})
    row = compare_groups(numbers, ["x"] * 5 + ["y"] * 4 + ["z"] * 5).iloc[0]
    assert round(row["h"], 5) == case["chi_squared"]
    assert round(row["p_value"], 2) == case["p"]
    assert row["epsilon_squared"] == pytest.approx(case["chi_squared"] / 13, abs=1e-6)
    assert row[["n_x", "n_y", "n_z", "missing"]].tolist() == [5, 4, 5, 0]
    assert row[["median_x", "median_y", "median_z"]].tolist() == [2.9, 3.25, 2.8]


def test_three_groups_with_nothing_to_compare(table):
    found = compare_groups(table, ["a"] * 4 + ["b", "b", "c", "c"]).set_index("feature")
    assert found.loc["flat", ["h", "epsilon_squared"]].tolist() == [0, 0]
    assert np.isnan(found.loc["flat", "p_value"])
    assert (
        found.loc["absent", ["h", "p_value", "epsilon_squared", "p_holm", "median_a"]].isna().all()
    )
    np.testing.assert_allclose(
        found.loc[["up", "down", "flat"], "p_holm"], holm(found["p_value"].iloc[:3])
    )
    assert compare_groups(table[["up"]], [2, 2, 2, 2, 0, 0, 1, 1]).loc[
        0, ["n_0", "n_1", "n_2"]
    ].tolist() == [2, 2, 4]


def test_one_group_is_refused(table):
    with pytest.raises(
        RefusedError,
        match=r"the 8 patients have 1 label\(s\) \['N0'\]; two are "
        r"needed",
    ):
        compare_groups(table, ["N0"] * 8, positive="N0")


@pytest.mark.parametrize(
    ("labels", "positive", "message"),
    [
        (["N0", "N+"] * 4, "N1", r"one of the labels \['N\+', 'N0'\], got 'N1'"),
        (["a", "b", "c", "c"] * 2, "a", "are for two groups, got 'a' and mann-whitney with 3"),
        (["N0", "N+", "N+"], "N+", r"one label for each of 8 rows, got shape \(3,\)"),
        (["N0", None] * 4, "N0", "must not be missing, got 4 of 8"),
        (pd.Series(["N0", "N+"] * 4), "N+", "must have the table's index"),
    ],
)
def test_groups_are_checked(table, labels, positive, message):
    with pytest.raises(ValueError, match=message):
        compare_groups(table, labels, positive=positive)


def test_columns_are_checked(table):
    with pytest.raises(ValueError, match="test must be"):
        compare_groups(table, [0, 1] * 4, test="wilcoxon")
    with pytest.raises(ValueError, match="correction must be holm, bh"):
        compare_groups(table, [0, 1] * 4, correction="bonferroni")
    with pytest.raises(ValueError, match="column density has infinite"):
        compare_groups({"area": range(8), "density": [np.inf, *range(7)]}, [0, 1] * 4)
    with pytest.raises(ValueError, match="must have a column"):
        compare_groups(table[[]], [0, 1] * 4)


def test_shuffled_labels_give_uniform_p():
    rng = np.random.default_rng(3)
    features = pd.DataFrame(rng.normal(size=(80, 300)))
    found = compare_groups(features, rng.permutation([0, 1] * 40))
    assert stats.kstest(found["p_value"], "uniform").pvalue > 0.01
    assert (found["p_holm"] > 0.05).all()


def test_a_planted_feature_stands_out():
    rng = np.random.default_rng(4)
    labels = rng.permutation([0, 1] * 40)
    features = pd.DataFrame(rng.normal(size=(80, 8)), columns=list("abcdefgh"))
    features["c"] -= 1.2 * labels
    found = compare_groups(features, labels).set_index("feature")
    assert found["p_value"].idxmin() == "c"
    assert found.loc["c", "p_holm"] < 0.01
    assert found.loc["c", "direction"] == "lower"
    assert found.loc["c", "cliffs_delta_high"] < 0


def test_categories_by_chi_square_and_fisher() -> None:
    from scipy.stats import chi2_contingency, fisher_exact

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 300)
    table = pd.DataFrame(
        {
            "grade": rng.integers(1, 4, 300).astype(object),
            "rare": np.where(rng.random(300) < 0.01, "yes", "no"),
            "same": np.where(rng.random(300) < 0.2 + 0.4 * labels, "a", "b"),
            "one": "x",
        }
    )
    table.loc[:9, "grade"] = None
    found = compare_categories(table, labels).set_index("feature")
    counts = pd.crosstab(table["grade"], labels[: len(table)])
    expected = chi2_contingency(counts, correction=False)
    assert found.loc["grade", "p_value"] == pytest.approx(expected.pvalue)
    assert found.loc["grade", ["n", "missing", "degrees", "test"]].tolist() == [
        290,
        10,
        2,
        "chi-square",
    ]
    assert found.loc["rare", "test"] == "Fisher"
    assert found.loc["rare", "p_value"] == pytest.approx(
        fisher_exact(pd.crosstab(table["rare"], labels))[1]
    )
    assert np.isnan(found.loc["one", "p_value"])
    assert found.loc["same", "p_holm"] == pytest.approx(3 * found.loc["same", "p_value"])
    same = found.loc["same"]
    assert 0 < same["cramers_v_low"] < same["cramers_v"] < same["cramers_v_high"] < 1
    assert found.loc["grade", "cramers_v_low"] == 0


def test_no_association_in_the_sample_is_no_certainty() -> None:
    row = compare_categories(pd.DataFrame({"x": ["a", "b"] * 20}), np.repeat([0, 1], 20)).iloc[0]
    assert (row["cramers_v"], row["cramers_v_low"]) == (0, 0)
    assert 0.3 < row["cramers_v_high"] < 0.6


def test_axes_are_compared_as_directions():
    """Axes on both sides of 0 and 180 degrees, which a rank test would tear apart."""
    rng = np.random.default_rng(8)
    groups = np.repeat([0, 1], 40)
    degrees = (rng.normal(0, 12, 80) + np.where(groups == 1, 15, -5)) % 180
    table = pd.DataFrame(
        {"orientation": degrees, "area": rng.normal(size=80), "spread": rng.uniform(0, 180, 80)}
    )
    table.loc[3, "orientation"] = np.nan
    found = compare_groups(table, groups, axial=["orientation", "spread"]).set_index("feature")
    row, known = found.loc["orientation"], table["orientation"].notna()
    expected = watson_williams_test(table["orientation"][known], groups[known])
    assert (row["statistic"], row["p_value"]) == expected
    assert row["p_value"] < 1e-6
    assert row["mean_direction_positive"] == pytest.approx(axial_mean(degrees[groups == 1]))
    assert row["n_reference"] == 39
    assert (
        found.loc["area", "p_holm"] == found.loc["area", "p_value"]
    )  # Holm's last step of a family of two
    assert found.loc["spread", "rayleigh_p_positive"] > 0.01
    assert np.isnan(found.loc["spread", "p_value"])  # no common direction, no test
    rows = table.loc[table.index.repeat(3)]
    patients = np.repeat(np.arange(80), 3)
    by_patient = compare_groups(
        rows, np.repeat(groups, 3), patients=patients, axial=["orientation", "spread"]
    )
    assert by_patient.set_index("feature").loc["orientation", "p_value"] == pytest.approx(
        row["p_value"]
    )
    with pytest.raises(ValueError, match="must be in the table"):
        compare_groups(table, groups, axial=["angle"])


def test_columns_may_come_as_a_mapping_or_an_array(table):
    labels = [0, 1] * 4
    expected = compare_groups(table, labels)
    pd.testing.assert_frame_equal(
        compare_groups({name: table[name].tolist() for name in table}, labels), expected
    )
    numbers = table.select_dtypes("number")
    plain = compare_groups(numbers.to_numpy(), labels)
    assert plain["p_value"].tolist() == pytest.approx(
        compare_groups(numbers, labels)["p_value"].tolist(), nan_ok=True
    )


def test_the_interval_of_cramers_v_covers() -> None:
    """Population V of this fourfold table is 0.3."""
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        labels = np.repeat([0, 1], 100)
        values = pd.DataFrame(
            {"x": (rng.random(200) < np.where(labels == 1, 0.65, 0.35)).astype(int)}
        )
        row = compare_categories(values, labels).iloc[0]
        inside += row["cramers_v_low"] <= 0.3 <= row["cramers_v_high"]
    assert 0.92 <= inside / 400 <= 0.98


def test_numbers_and_categories_in_one_family():
    categories = {
        "grade": R_CASES["grade"].map({1: "I", 2: "II", 3: "III"}),
        "rare": R_CASES["rare"],
    }
    table = R_CASES[["tied"]].assign(**categories)
    found = compare_groups(table, R_CASES["group"], categories=["rare"], correction="bh").set_index(
        "feature"
    )
    assert found["test"].tolist() == ["Mann-Whitney", "chi-square", "Fisher"]
    np.testing.assert_allclose(found["p_value"], R[["tied_p", "chi_p", "fisher_p"]], rtol=1e-9)
    assert found.loc["tied", "u"] == R["tied_u"]
    assert found.loc["grade", "statistic"] == pytest.approx(R["chi_statistic"], rel=1e-12)
    np.testing.assert_allclose(
        found["p_adjusted"], benjamini_hochberg(R[["tied_p", "chi_p", "fisher_p"]]), rtol=1e-9
    )
    assert 0 < found.loc["grade", "cramers_v"] < 0.4
    assert np.isnan(found.loc["grade", "cliffs_delta"])
    uncorrected = compare_groups(table, R_CASES["group"], categories=["rare"], correction="none")
    assert uncorrected["p_adjusted"].tolist() == uncorrected["p_value"].tolist()


@pytest.mark.parametrize("test", ["t", "welch"])
def test_means_equal_r(test):
    found = compare_groups(R_CASES[["spread"]], R_CASES["group"], test=test).iloc[0]
    expected = R[[f"{test}_{name}" for name in ("t", "df", "p", "low", "high")]]
    columns = ["t", "degrees", "p_value", "difference_low", "difference_high"]
    np.testing.assert_allclose(found[columns].astype(float), expected, rtol=1e-9)
    assert found["difference"] == pytest.approx(
        found["mean_positive"] - found["mean_reference"], abs=1e-12
    )
    x, y = (R_CASES.loc[R_CASES["group"] == g, "spread"] for g in (1, 0))
    pooled = math.sqrt((34 * x.var() + 54 * y.var()) / 88)
    assert found["hedges_g"] == pytest.approx(
        (1 - 3 / (4 * 88 - 1)) * (x.mean() - y.mean()) / pooled, rel=1e-3
    )
    assert found["hedges_g_low"] < found["hedges_g"] < found["hedges_g_high"]


def test_means_without_spread_or_cases():
    table = pd.DataFrame(
        {"same": [2.0] * 6, "apart": [1.0, 2, 1, 2, 1, 2], "few": [np.nan] * 4 + [1.0, 2]}
    )
    found = compare_groups(table, [0, 1] * 3, test="welch").set_index("feature")
    assert np.isnan(found.loc["same", "p_value"])  # nothing is tested
    assert np.isnan(found.loc["same", "p_holm"])
    assert found.loc[["apart", "few"], "p_value"].isna().all()
    assert found.loc["apart", ["difference", "direction"]].tolist() == [1, "higher"]


def test_rank_tests_and_adjustments_equal_r():
    few = R_CASES.iloc[[*range(7), *range(55, 66)]]
    found = compare_groups(few[["smooth"]], few["group"]).iloc[0]
    assert found["u"] == R["exact_u"]
    assert found["p_value"] == pytest.approx(R["exact_p"], rel=1e-9)
    limits = found[["hodges_lehmann", "hodges_lehmann_low", "hodges_lehmann_high"]].astype(float)
    np.testing.assert_allclose(limits, R[["shift", "shift_low", "shift_high"]], rtol=1e-12)
    three = compare_groups(R_CASES[["smooth"]], R_CASES["grade"]).iloc[0]
    assert [three["h"], three["p_value"]] == pytest.approx(
        R[["kruskal_h", "kruskal_p"]].tolist(), rel=1e-9
    )
    paper = [0.015, 0.012, 0.009, 0.010, 0.024, 0.083, 0.065, 0.149]
    for way, adjust in (("holm", holm), ("bh", benjamini_hochberg)):
        np.testing.assert_allclose(
            adjust(paper), R[[f"{way}_{i}" for i in range(1, 9)]], rtol=1e-12
        )


def test_rows_of_patients_are_aggregated_and_never_taken_as_cases():
    rng = np.random.default_rng(5)
    patients = np.repeat(np.arange(20), 30)
    nuclei = pd.DataFrame(
        {"area": rng.normal(size=20)[patients] + rng.normal(size=600), "site": "A"}
    )
    groups = patients % 2
    found = compare_groups(nuclei, groups, patients=patients)
    medians = nuclei.groupby(patients)["area"].median().to_frame()
    expected = compare_groups(medians, np.arange(20) % 2)
    pd.testing.assert_frame_equal(
        found.loc[[0], list(expected)].drop(columns="family"), expected.drop(columns="family")
    )
    with pytest.raises(
        RefusedError, match="600 rows of 20 patients are not 600 independent observations"
    ):
        compare_groups(nuclei.assign(patient=patients), groups)
    with pytest.raises(ValueError, match="stand in two groups"):
        compare_groups(nuclei, np.arange(600) % 2, patients=patients)
    with pytest.raises(ValueError, match="site differs within a patient"):
        compare_groups(nuclei.assign(site=np.arange(600).astype(str)), groups, patients=patients)


def test_slides_weigh_alike_as_in_a_ranking():
    from morphomil.matrix import patient_values

    rng = np.random.default_rng(0)
    owner = np.repeat(np.arange(12), 3)
    slide = np.array([f"s{i}" for i in range(36)])
    rows = np.repeat(np.arange(36), rng.integers(1, 9, 36))
    table = pd.DataFrame({"area_um2": rng.normal(size=len(rows))})
    label = np.array(list("ab"))[owner % 2]
    medians = table.groupby(slide[rows])["area_um2"].median().rename_axis("slide_id").reset_index()
    cohort = pd.DataFrame({"slide_id": slide, "patient": owner, "label": label})
    ranked = patient_values(medians, cohort)
    one = compare_groups(ranked[["area_um2"]], ranked["label"])
    two = compare_groups(table, label[rows], patients=owner[rows], slides=slide[rows])
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize("cell", ["12,5", "12.5"])
def test_numbers_written_as_text_are_no_categories(cell):
    table = pd.DataFrame({"age": [cell, "61", "40", "52"]})
    with pytest.raises(ValueError, match=f"age holds numbers written as text, such as '{cell}'"):
        compare_groups(table, [0, 0, 1, 1])
    compare_groups(table, [0, 0, 1, 1], categories=["age"])
