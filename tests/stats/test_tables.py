"""Tables of known predictions: figures agree with the functions they come from, and print
safely."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from morphomil.errors import RefusedError
from morphomil.stats import (
    auc,
    calibration,
    delong_test,
    delong_test_unpaired,
    diagnostic_table,
    interaction_test,
    multiclass_auc,
    within_fold_auc,
    youden_cutoff,
)
from morphomil.stats.characteristics import characteristics_table
from morphomil.stats.combined_auc import macro_auc_interval
from morphomil.stats.multiclass_tables import (
    confusion_counts,
    multiclass_comparison_table,
    multiclass_table,
)
from morphomil.stats.performance import (
    calibration_curve_table,
    calibration_table,
    comparison_table,
    net_benefit_table,
    performance_table,
)
from morphomil.stats.printing import (
    digits_of,
    print_multiclass,
    print_p,
    print_performance,
    print_subgroups,
    to_html,
    to_latex,
)
from morphomil.stats.subgroups import subgroup_table


def predictions(folds: int = 1, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    rows = []
    label = rng.integers(0, 2, 120)
    for model, signal in (("clinical", 0.3), ("dl-cnb", 1.2)):
        score = 1 / (1 + np.exp(-(signal * label + rng.normal(0, 1, 120))))
        for i in range(120):
            part = "test" if folds > 1 or i >= 60 else "train"
            row = {
                "model": model,
                "patient": f"P{i}",
                "label": label[i],
                "fold": f"fold{i % folds}",
                "part": part,
            }
            rows.append(row | {"score": score[i], "cutoff": 0.55})
    return pd.DataFrame(rows)


def test_performance_is_that_of_its_functions() -> None:
    table = performance_table(predictions())
    assert len(table) == 2 * 2 * 6
    own = predictions().query("model == 'dl-cnb' and part == 'test'")
    found = table.query("model == 'dl-cnb' and part == 'test'").set_index("measure")
    assert found.loc["AUC", "estimate"] == pytest.approx(auc(own["label"], own["score"]))
    called, ill = own["score"] >= 0.55, own["label"] == 1
    expected = diagnostic_table(
        (called & ill).sum(), (called & ~ill).sum(), (~called & ill).sum(), (~called & ~ill).sum()
    )
    pd.testing.assert_frame_equal(
        found.loc[["SENS", "NPV"], ["estimate", "low", "high"]],
        expected.loc[["SENS", "NPV"]],
        check_names=False,
    )
    printed = print_performance(table)
    assert printed.columns.tolist() == ["model", "part", "AUC", "ACC", "SENS", "SPEC", "PPV", "NPV"]
    assert printed["part"].tolist() == ["T", "I-T", "T", "I-T"]
    assert printed.loc[3, "AUC"].startswith(f"{found.loc['AUC', 'estimate']:.2f} [")  # of 60
    many = print_performance(table.assign(n=4000)).loc[3]
    assert many["AUC"].startswith(f"{found.loc['AUC', 'estimate']:.3f} [")
    assert many["ACC"].startswith(f"{100 * found.loc['ACC', 'estimate']:.2f} [")
    assert printed.loc[3, "ACC"].startswith(f"{100 * found.loc['ACC', 'estimate']:.0f} [")
    assert [digits_of(n) for n in (24, 99, 100, 999, 1000)] == [0, 0, 1, 1, 2]


def test_models_are_compared_on_the_same_patients() -> None:
    given = predictions()
    table = comparison_table(given).set_index("part")
    a, b = (given.query("model == @m and part == 'test'") for m in ("clinical", "dl-cnb"))
    expected = delong_test(a["label"], a["score"], b["score"])
    assert table.loc["test", "p_value"] == pytest.approx(expected.p_value)
    assert table.loc["test", ["test", "n", "n_a", "n_b"]].tolist() == ["DeLong", 60, 60, 60]
    shuffled = given.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(
        comparison_table(shuffled.sort_values("model", kind="stable"))
        .set_index("part")
        .sort_index(),
        table.sort_index(),
    )
    folded = comparison_table(predictions(folds=4)).iloc[0]
    own = predictions(folds=4).query("model == 'clinical'")
    assert folded["test"] == "DeLong, cross-validated"
    assert folded["auc_a"] == pytest.approx(
        within_fold_auc(own["label"], own["score"], own["fold"])
    )
    with pytest.raises(ValueError, match="other labels"):
        comparison_table(
            given.assign(
                label=np.where(given["model"] == "clinical", 1 - given["label"], given["label"])
            )
        )


def test_models_of_other_folds_or_fewer_patients_keep_their_own_aucs() -> None:
    given = predictions(folds=4)
    other = given["model"] == "dl-cnb"
    given.loc[other, "fold"] = "other" + (given.loc[other].index % 5).astype(str)
    pair = comparison_table(given).iloc[0]
    stored = performance_table(given).query("measure == 'AUC'").set_index("model")["estimate"]
    assert [pair["auc_a"], pair["auc_b"]] == pytest.approx(stored.tolist(), abs=1e-15)
    same = comparison_table(predictions(folds=4)).iloc[0]
    width, expected = pair["high"] - pair["low"], same["high"] - same["low"]
    assert 0.8 < width / expected < 1.25
    fewer = given[~other | (given["patient"] > "P3")]
    pair = comparison_table(fewer).iloc[0]
    assert pair["n_a"] == 120 and pair["n"] == pair["n_b"] == fewer["model"].eq("dl-cnb").sum()


def test_training_patients_say_how_far_a_model_overfits() -> None:
    given = predictions(folds=4)
    tested = given.query("model == 'dl-cnb'")
    narrow, wide = (
        performance_table(pd.concat([given, seen.assign(part="train")]))
        .query("model == 'dl-cnb' and part == 'test' and measure == 'AUC'")
        .iloc[0]
        for seen in (tested, tested.assign(score=tested["score"] + tested["label"] * 0.2))
    )
    unknown = performance_table(given).query("model == 'dl-cnb' and measure == 'AUC'").iloc[0]
    assert narrow["low"] > wide["low"] > unknown["low"]


def test_subgroups_keep_the_cutoff_and_are_compared_with_the_others() -> None:
    given = predictions()
    names = [f"P{i}" for i in range(120)]
    groups = pd.DataFrame({"stage": np.where(np.arange(120) % 3, "early", "late")}, index=names)
    groups.loc["P119", "stage"] = None
    groups["rare"] = ["x"] * 119 + ["y"]
    table = subgroup_table(given, groups).set_index(["model", "variable", "subgroup"])
    own = given.query("model == 'dl-cnb' and part == 'test'")
    stage = own["patient"].map(groups["stage"])
    sides = [own[stage == name] for name in ("early", "late")]
    row = table.loc[("dl-cnb", "stage", "early")]
    assert row["n"] == len(sides[0])
    expected = delong_test_unpaired(
        sides[0]["label"], sides[0]["score"], sides[1]["label"], sides[1]["score"]
    )
    assert row["p_value"] == pytest.approx(expected.p_value)
    assert row["p_holm"] >= row["p_value"]
    # Youden's cutoff is the best of all for the subgroup it was fitted to.
    youden = row["refitted_SENS_optimistic"] + row["refitted_SPEC_optimistic"]
    assert youden >= row["SENS"] + row["SPEC"]
    assert row["refitted_cutoff_optimistic"] == youden_cutoff(sides[0]["label"], sides[0]["score"])
    both = own[stage.notna()]
    expected_interaction = interaction_test(
        both["label"], both["score"], stage[stage.notna()]
    ).p_value
    late = table.loc[("dl-cnb", "stage", "late")]
    assert row["p_interaction"] == late["p_interaction"] == expected_interaction
    assert (
        row["p_holm"] == row["p_value"] == pytest.approx(late["p_value"])
    )  # two subgroups, one test
    assert row["p_interaction_holm"] == expected_interaction  # the other variable has none
    assert np.isnan(
        table.loc[("dl-cnb", "rare", "y"), ["auc", "p_interaction", "p_value"]].astype(float)
    ).all()
    printed = print_subgroups(table.reset_index())
    assert list(printed)[-1] == "SPEC, cutoff refitted (optimistic)"
    assert printed.loc[printed["subgroup"] == "y", "AUC"].tolist() == ["-", "-"]
    assert printed.iloc[-4]["AUC"].startswith(f"{row['auc']:.2f} [")


def test_subgroups_of_out_of_fold_scores_count_pairs_within_folds() -> None:
    """An offset of each fold's scores changes nothing but the interaction, and no cutoff is
    refitted across folds."""
    given = predictions(folds=3)
    groups = pd.DataFrame({"stage": ["early", "late"] * 60}, index=[f"P{i}" for i in range(120)])
    offset = 10 * given["fold"].astype("category").cat.codes
    tables = [
        subgroup_table(
            given.assign(score=given["score"] + step, cutoff=given["cutoff"] + step), groups
        )
        for step in (0, offset)
    ]
    kept = [name for name in tables[0] if "interaction" not in name]
    pd.testing.assert_frame_equal(tables[0][kept], tables[1][kept])
    assert tables[0].filter(like="refitted").isna().all(axis=None)


def test_characteristics_name_their_family() -> None:
    rng = np.random.default_rng(0)
    label = pd.Series(rng.integers(0, 2, 80).astype(str))
    patients = pd.DataFrame(
        {"age": rng.normal(50, 9, 80), "er": np.where(rng.random(80) < 0.6, "+", "-")}
    )
    patients.loc[:4, "age"] = np.nan
    table = characteristics_table(patients, label)
    assert table["variable"].tolist() == ["age", "er", "er"]
    assert table["missing"].tolist() == [5, 0, ""]
    assert table.loc[0, "p_holm"] >= table.loc[0, "p_value"]
    assert table.loc[1, "all"].endswith("%)")
    alone = characteristics_table(patients, pd.Series(["a"] * 80))
    assert alone["p_value"].iloc[0] != alone["p_value"].iloc[0]


def test_text_is_escaped_and_digits_are_a_journals() -> None:
    table = pd.DataFrame({"a_b": ["<script>", "5 % & more"], "x": ["", "{}"]})
    page, latex = to_html(table, caption="<b>"), to_latex(table, caption="50 %")
    assert "<script>" not in page
    assert "&lt;b&gt;" in page
    assert r"5 \% \& more" in latex
    assert r"a\_b" in latex
    assert [print_p(p) for p in (0.0001, 0.0123, 0.999, float("nan"))] == [
        "< 0.001",
        "0.012",
        "1.00",
        "",
    ]


def test_what_the_tables_cannot_hold_is_refused() -> None:
    given = predictions()
    with pytest.raises(ValueError, match="lack the columns cutoff"):
        performance_table(given.drop(columns="cutoff"))
    with pytest.raises(RefusedError, match="two classes"):
        performance_table(given.assign(label=2))
    with pytest.raises(ValueError, match="predicted twice"):
        performance_table(pd.concat([given, given]))


def three_classes() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    label = np.tile([0, 1, 2], 40)
    values = rng.dirichlet(np.ones(3), 120) + 0.5 * np.eye(3)[label]
    values /= values.sum(axis=1, keepdims=True)
    table = pd.DataFrame(values, columns=[f"probability_{k}" for k in range(3)])
    fold = np.repeat(["a", "b"], 60)
    about = {
        "model": "dl-cnb",
        "label": label,
        "fold": fold,
        "part": "test",
        "score": values[:, 2],
        "cutoff": 0.5,
    }
    return table.assign(patient=[f"P{i}" for i in range(120)], **about)


def test_three_classes_have_their_table() -> None:
    given = three_classes()
    table = multiclass_table(given).set_index(["measure", "class"])
    names = [f"probability_{k}" for k in range(3)]
    macro, hand_till = (table.loc[(f"AUC {name}", "all")] for name in ("macro", "Hand-Till"))
    limits = macro_auc_interval(given["label"], given[names], given["fold"])
    assert tuple(macro[["estimate", "low", "high"]]) == pytest.approx(limits)
    assert hand_till["low"] < hand_till["estimate"] < hand_till["high"]
    by_fold = [
        multiclass_auc(own["label"], own[names], method="hand-till")
        for _, own in given.groupby("fold")
    ]
    assert hand_till["estimate"] == pytest.approx(np.mean(by_fold), rel=1e-12)  # like folds
    one = table.loc[("AUC", 1)]
    assert one["estimate"] == pytest.approx(
        within_fold_auc(given["label"] == 1, given["probability_1"], given["fold"])
    )
    counts = confusion_counts(given)
    assert counts[["called_0", "called_1", "called_2"]].to_numpy().sum() == 120
    right = counts.loc[counts["label"] == 2, "called_2"].item()
    assert table.loc[("recall", 2), "estimate"] == right / 40
    assert table.loc[("precision", 2), "estimate"] == right / counts["called_2"].sum()
    assert table.loc[("recall", 2), "low"] < right / 40
    printed = print_multiclass(table.reset_index())
    assert printed["class"].tolist() == ["all", "class 0", "class 1", "class 2"]
    assert printed.loc[0, "AUC macro"].startswith(f"{macro['estimate']:.3f} [")
    with pytest.raises(ValueError, match="three or more"):
        multiclass_table(given.drop(columns="probability_2"))


def test_models_of_three_classes_are_compared() -> None:
    good, names = three_classes(), [f"probability_{k}" for k in range(3)]
    poor = good.assign(model="clinical")
    poor[names] = np.random.default_rng(1).dirichlet(np.ones(3), 120)
    same = good.assign(model="copy")
    table = multiclass_comparison_table(pd.concat([good, poor, same]))
    assert len(table) == 3 * 5  # pairs; two means and three classes
    assert table["test"].str.endswith(", cross-validated").all()
    found = table.set_index(["model_a", "model_b", "measure", "class"])
    macro = found.loc[("dl-cnb", "clinical", "AUC macro", "all")]
    single = multiclass_table(pd.concat([good, poor])).query("measure == 'AUC macro'")
    assert [macro["auc_a"], macro["auc_b"]] == pytest.approx(single["estimate"].tolist())
    assert macro["low"] < macro["difference"] < macro["high"]
    assert macro["p_value"] < 0.001
    own = found.loc[("dl-cnb", "clinical", "AUC", 2)]
    expected = delong_test(
        good["label"] == 2,
        good["probability_2"],
        poor["probability_2"],
        folds=good["fold"] + "/" + poor["fold"],
    )
    assert own["p_value"] == expected.p_value
    assert (table["p_holm"] >= table["p_value"]).all()
    copied = table.query("model_a == 'dl-cnb' and model_b == 'copy'")
    assert (copied["difference"] == 0).all()
    assert (copied["p_value"] == 1).all()
    assert (copied[["low", "high"]] == 0).all(axis=None)
    with pytest.raises(ValueError, match="other labels"):
        multiclass_comparison_table(pd.concat([good, poor.assign(label=(poor["label"] + 1) % 3)]))


def test_calibration_and_net_benefit_of_probabilities() -> None:
    given = predictions()
    table = calibration_table(given).set_index("model")
    own = given.query("model == 'dl-cnb' and part == 'test'")
    expected = calibration(own["label"], own["score"])
    assert table.loc["dl-cnb", ["slope", "slope_low", "slope_high"]].tolist() == pytest.approx(
        list(expected.slope)
    )
    assert table.loc["dl-cnb", "brier"] == expected.brier
    assert set(net_benefit_table(given)["part"]) == {"test"}
    assert calibration_table(given.assign(score=given["score"] * 3)).empty
    assert net_benefit_table(given.assign(score=given["score"] * 3)).empty


def test_a_point_of_a_calibration_curve_is_of_twelve_patients_or_more() -> None:
    given = predictions()
    curve = calibration_curve_table(given)
    assert list(curve) == ["model", "part", "n", "predicted", "observed", "low", "high"]
    points = curve.groupby("model")["n"].agg(["size", "min", "sum"])
    tested = given[given["part"] == "test"].groupby("model").size()
    assert (points["sum"] == tested).all()
    assert (points["min"] >= 12).all() and points["size"].between(2, 10).all()
    assert calibration_curve_table(given.assign(score=given["score"] * 3)).empty


def test_training_patients_of_several_folds_are_no_independent_cases() -> None:
    given = predictions(folds=2)
    training = [given.assign(part="train", fold=f"fold{k}") for k in range(2)]
    everything = pd.concat([given, *training], ignore_index=True)
    table = performance_table(everything).set_index("part")
    assert table.loc["train", ["low", "high"]].isna().all(axis=None)
    assert table.loc["test", ["low", "high"]].notna().all(axis=None)
    assert "[" not in print_performance(performance_table(everything)).loc[0, "ACC"]
    assert comparison_table(everything)["part"].tolist() == ["test"]


def test_parts_of_one_class_have_no_auc_but_a_row() -> None:
    given = predictions()
    given.loc[given["part"] == "train", "label"] = 1
    table = performance_table(given).set_index(["model", "part", "measure"])
    assert np.isnan(table.loc[("clinical", "train", "AUC"), "estimate"])
    assert table.loc[("clinical", "train", "SENS"), "n"] == 60
    assert comparison_table(given)["part"].tolist() == ["test"]
    given.loc[3, "score"] = np.nan
    with pytest.raises(ValueError, match="1 of 240"):
        performance_table(given)
