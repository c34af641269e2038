"""The figures of tables: ranking, features by group, ROC."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.axis import Tick
from matplotlib.text import Text
from sklearn.metrics import roc_auc_score

from morphomil.figures.features_by_group import feature_groups
from morphomil.figures.ranking import HIGHER, LOWER, NEITHER, ranking_plot
from morphomil.figures.roc import roc_plot
from morphomil.stats.roc import within_fold_auc
from morphomil.tables.roc import roc_points
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def ranking() -> pd.DataFrame:
    attention = np.array([1.1, 0.7, 0.6, 1.0, 1.3, 1.8, 0.9, 0.6])
    delta = np.array([0.2, -0.1, 0.05, 0.2, -0.25, 0.4, -0.2, 0.0])
    table = pd.DataFrame({"feature": FEATURE_NAMES, "attention": attention, "cliffs_delta": delta})
    table["rank"] = [3, 6, 7, 4, 2, 1, 5, 8]
    for name, half in (("attention", 0.2), ("cliffs_delta", 0.15)):
        table[f"{name}_low"], table[f"{name}_high"] = table[name] - half, table[name] + half
    return table.assign(
        p_value=[0.02, 0.3, 0.5, 0.02, 0.01, 0.0001, 0.04, np.nan], p_holm=0.2, p_bh=0.1
    )


def drawn_texts(figure: Figure) -> list[Text]:
    """All texts but the tick labels that stand ready outside the axes' limits."""
    figure.draw_without_rendering()
    ready = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
    texts = [text for text in figure.findobj(Text) if id(text) not in ready]
    for axis in (axis for axes in figure.axes if axes.axison for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        # An axis with hidden labels returns none.
        texts += [
            label
            for at, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
            if low <= at <= high
        ]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def assert_legible(figure: Figure) -> None:
    """No text touches another or leaves the figure, none is smaller than 6 points."""
    texts = drawn_texts(figure)
    boxes = [(t.get_text(), t.get_window_extent()) for t in texts]
    assert min(t.get_fontsize() for t in texts) >= 6
    crossed = [
        (a, b)
        for (a, ba), (b, bb) in itertools.combinations(boxes, 2)
        if ba.padded(-0.5).overlaps(bb.padded(-0.5))
    ]
    assert crossed == []
    canvas = figure.bbox.padded(1)
    assert [
        t
        for t, box in boxes
        if not (canvas.contains(box.x0, box.y0) and canvas.contains(box.x1, box.y1))
    ] == []


def test_ranking_draws_the_table_from_first_to_last() -> None:
    table = ranking()
    figure = ranking_plot(table, positive="N(+)", reference="N0")
    left, middle, right = figure.axes
    ordered = table.sort_values("rank")
    for axes, name in ((left, "attention"), (middle, "cliffs_delta")):
        points = [line for line in axes.lines if line.get_marker() in "^vo"]
        assert [line.get_xdata()[0] for line in points] == ordered[name].tolist()
        assert [line.get_ydata()[0] for line in points] == list(range(8))
        bars = [
            line.get_xdata()
            for line in axes.lines
            if line.get_marker() == "None" and len(set(line.get_ydata())) == 1
        ]
        assert np.array_equal(bars, ordered[[f"{name}_low", f"{name}_high"]])
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names[0] == "1. Density" and names[-1] == "8. Rectangularity"
    assert left.get_ylim()[0] > left.get_ylim()[1]
    assert [line.get_xdata()[0] for line in left.lines if line.get_linestyle() == "--"] == [1]
    assert "N(+) minus N0" in middle.get_xlabel() and "1/8" in left.get_xlabel()
    p_values = [text.get_text() for text in right.texts]
    assert p_values[:3] == ["p", "<0.001", "0.010"] and p_values[8] == "\N{EN DASH}"
    assert_legible(figure)


def test_tests_and_verdicts_stand_beside_the_ranking() -> None:
    words = ["supported", "inconclusive at this n", "not supported"]
    table = ranking().assign(
        attention_z=np.linspace(4, -3, 8),
        attention_p_any=0.005,
        shapley_p_any=0.0151,
        scan_p_any=0.0001,
        verdict=[words[min(rank // 2, 2)] for rank in ranking()["rank"]],
    )
    figure = ranking_plot(table, positive="N(+)", reference="N0")
    right = figure.axes[2]
    heads = [text.get_text() for text in right.texts if text.get_position()[1] >= 1]
    assert {"z", "att.", "Shap.", "scan", "p, any feature"} <= set(heads)
    rows = {text.get_text() for text in right.texts if text.get_position()[1] == 0}
    assert {"0.005", "0.015", "<0.001"} <= rows
    squares = [(line.get_ydata()[0], line.get_markerfacecolor()) for line in right.lines]
    assert squares == [(0, "black"), (1, "white"), (2, "white")]
    assert_legible(figure)
    quick = ranking_plot(table.assign(attention_p_any=np.nan, shapley_p_any=np.nan))
    texts = {text.get_text() for text in quick.axes[2].texts}
    assert "scan" in texts and "att." not in texts
    assert_legible(quick)


def test_direction_is_a_marker_and_a_color() -> None:
    figure = ranking_plot(ranking(), positive="N(+)")
    looks = [
        (line.get_marker(), line.get_color())
        for line in figure.axes[1].lines
        if line.get_marker() in "^vo"
    ]
    assert looks == [HIGHER, LOWER, HIGHER, HIGHER, LOWER, LOWER, HIGHER, NEITHER]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "higher in N(+)",
        "lower in N(+)",
        "no direction",
    ]


def test_ranking_without_effects_or_intervals() -> None:
    table = ranking().assign(
        cliffs_delta=np.nan, cliffs_delta_low=np.nan, attention_low=np.nan, attention_high=np.nan
    )
    figure = ranking_plot(
        table, positive="a very long label of a group", reference="another very long label of one"
    )
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["no direction"]
    assert_legible(figure)


def cohort(groups: int, size: int) -> tuple[pd.DataFrame, pd.Series[str]]:
    rng = np.random.default_rng(groups)
    index = [f"patient {n}" for n in range(groups * size)]
    labels = pd.Series(
        [
            f"a group with a long name {n % groups}" if groups > 3 else f"N{n % groups}"
            for n in range(len(index))
        ],
        index=index,
    )
    return pd.DataFrame(
        rng.normal(5000, 900, (len(index), 8)), index=index, columns=list(FEATURE_NAMES)
    ), labels


@pytest.mark.parametrize(("groups", "features"), [(2, 8), (3, 8), (4, 2), (5, 2), (7, 3), (10, 8)])
def test_labels_never_overlap(groups: int, features: int) -> None:
    values, labels = cohort(groups, 8)
    figure = feature_groups(values, labels, ranking().head(features))
    assert figure.get_size_inches()[0] * 25.4 == pytest.approx(180)
    assert figure.get_size_inches()[1] * 25.4 < 240
    assert_legible(figure)


def test_groups_show_every_patient_with_n_and_p() -> None:
    values, labels = cohort(2, 10)
    values.iloc[0, 0] = np.nan
    order = pd.Categorical(labels, categories=["N1", "N0"])
    figure = feature_groups(values, pd.Series(order, index=labels.index), ranking().head(1))
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["N1\nn = 10", "N0\nn = 9"]
    points = [line.get_ydata() for line in axes.lines if line.get_marker() == "o"]
    assert points[0].tolist() == values.loc[labels == "N1", "area_um2"].tolist()
    assert points[1].tolist() == values.loc[labels == "N0", "area_um2"].dropna().tolist()
    medians = [line.get_ydata()[0] for line in axes.lines if line.get_linewidth() == 1.4]
    assert medians == pytest.approx([np.median(points[0]), np.median(points[1])])
    assert axes.get_title(loc="left") == "p = 0.020\nHolm p = 0.20"
    assert axes.get_ylabel() == "Area (µm²)"


def test_groups_too_small_for_a_violin() -> None:
    values, labels = cohort(2, 2)
    values["area_um2"] = 3.0
    values.loc[labels == "N0", "area_um2"] = np.nan
    axes = feature_groups(values, labels, ranking().head(1)).axes[0]
    assert axes.collections == [] or len(axes.collections) == 0
    assert axes.get_xticklabels()[0].get_text() == "N0\nn = 0"


def predictions(seed: int, folds: int, size: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {"fold": np.repeat(np.arange(folds), size), "label": np.tile(np.arange(size) % 2, folds)}
    )
    # One decimal makes ties.
    return table.assign(probability=np.round(rng.normal(0.4 + 0.2 * table["label"], 0.3), 1))


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(2, 30))
def test_the_average_curve_has_the_average_area(seed: int, folds: int, size: int) -> None:
    table = predictions(seed, folds, size).iloc[: -(size // 3) or None]
    table = table[table.groupby("fold")["label"].transform("nunique") == 2]
    mean = roc_points(table).query("fold == 'mean'")
    parts = [part for _, part in table.groupby("fold")]
    areas = [roc_auc_score(part["label"], part["probability"]) for part in parts]
    pairs = [part["label"].sum() * (1 - part["label"]).sum() for part in parts]
    area = np.trapezoid(mean["tpr"], mean["fpr"])
    assert area == pytest.approx(np.average(areas, weights=pairs))
    assert area == pytest.approx(
        within_fold_auc(table["label"], table["probability"], table["fold"])
    )
    assert mean["fpr"].is_monotonic_increasing and mean["tpr"].is_monotonic_increasing
    assert mean[["fpr", "tpr"]].iloc[[0, -1]].to_numpy().tolist() == [[0, 0], [1, 1]]


def test_roc_plot_is_square_and_states_the_given_auc() -> None:
    table = predictions(0, 5, 20)
    figure = roc_plot(roc_points(table), auc=0.712, low=0.6, high=0.8)
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["chance: AUC 0.50", "each of 5 folds", "mean: AUC 0.71 [0.60, 0.80]"]
    extent = axes.get_window_extent()
    assert extent.width == pytest.approx(extent.height)
    mean = roc_points(table).query("fold == 'mean'")
    assert np.array_equal(axes.lines[-1].get_xydata(), mean[["fpr", "tpr"]])
    assert len(axes.lines) == 7
    assert_legible(figure)


def test_folds_with_one_label_have_no_curve() -> None:
    table = predictions(0, 3, 10)
    table.loc[table["fold"] == 1, "label"] = 0
    assert roc_points(table)["fold"].unique().tolist() == ["0", "2", "mean"]
    with pytest.raises(ValueError, match="both labels"):
        roc_points(table.assign(label=1))
