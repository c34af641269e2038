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
from scipy.special import ndtr, ndtri
from scipy.stats import binomtest
from sklearn.metrics import roc_curve

from morphomil.figures.features_by_group import feature_groups
from morphomil.figures.ranking import HIGHER, LOWER, NEITHER, ranking_plot
from morphomil.figures.roc import roc_plot
from morphomil.figures.style import MODELS, model_looks
from morphomil.tables.roc import roc_band, roc_points
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
def test_the_curve_is_that_of_all_patients_with_exact_limits(
    seed: int, folds: int, size: int
) -> None:
    table = predictions(seed, folds, size)
    points = roc_points(table)
    witness = roc_curve(table["label"], table["probability"], drop_intermediate=False)
    np.testing.assert_allclose(points["fpr"], witness[0])
    np.testing.assert_allclose(points["tpr"], witness[1])
    positives = int(table["label"].sum())
    for row in points.to_dict("records"):
        found = binomtest(round(row["tpr"] * positives), positives).proportion_ci(0.975, "exact")
        assert (row["tpr_low"], row["tpr_high"]) == pytest.approx((found.low, found.high))
    band = roc_band(points)
    assert (band["low"] <= band["high"]).all()
    assert band["low"].is_monotonic_increasing and band["high"].is_monotonic_increasing
    inside = np.interp(band["fpr"], points["fpr"], points["tpr"])
    assert (band["low"] <= inside + 1e-9).all()


def test_the_band_holds_the_true_curve_of_few_patients() -> None:
    """12 and 12 patients whose true curve is known: all of it within the band in 9 of 10 cohorts,
    each point in 95 %."""
    rng, distance = np.random.default_rng(0), 1.5
    label = np.repeat([0, 1], 12)
    points_held, whole = [], []
    for _ in range(200):
        score = rng.normal(distance * label, 1)
        band = roc_band(roc_points(pd.DataFrame({"label": label, "probability": score})))
        truth = ndtr(distance + ndtri(band["fpr"]))
        held = (band["low"] <= truth + 1e-9) & (truth <= band["high"] + 1e-9)
        points_held.append(held.mean())
        whole.append(held.all())
    assert np.mean(points_held) > 0.95
    assert np.mean(whole) > 0.8


def test_a_perfect_model_of_few_patients_has_a_wide_band() -> None:
    label = np.repeat([0, 1], 12)
    band = roc_band(roc_points(pd.DataFrame({"label": label, "probability": label})))
    assert band["low"].iloc[0] == 0
    assert 0.6 < band["low"].iloc[-1] < 0.8


def test_roc_plot_is_square_and_states_the_given_auc() -> None:
    points = roc_points(predictions(0, 5, 20))
    sizes = {"N0": 50, "N+": 50}
    figure = roc_plot(points, roc_band(points), sizes=sizes, auc=0.712, low=0.6, high=0.8)
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["chance: AUC 0.50", "95 % band", "AUC 0.71 [0.60, 0.80]"]
    assert axes.get_title(loc="left") == "50 with N0, 50 with N+"
    extent = axes.get_window_extent()
    assert extent.width == pytest.approx(extent.height)
    assert np.array_equal(axes.lines[-1].get_xydata(), points[["fpr", "tpr"]])
    assert len(axes.lines) == 2
    assert_legible(figure)


def test_a_curve_needs_both_labels() -> None:
    with pytest.raises(ValueError, match="both classes"):
        roc_points(predictions(0, 3, 10).assign(label=1))


def test_a_model_looks_the_same_in_every_figure() -> None:
    every = model_looks([*MODELS, "x", "y"])
    assert len(set(every.values())) == 7
    assert model_looks(["clinical", "morphometry"])["clinical"] == every["clinical"]
    assert model_looks(["y", "x"]) == {name: every[name] for name in ("y", "x")}
    gray = {(look.line, look.marker) for look in every.values()}
    assert len(gray) == 7
