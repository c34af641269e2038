"""The figures beyond ranking, groups and ROC: legible at every size, and like their stored
pictures."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from PIL import Image, ImageChops
from shapely.geometry import Polygon

from morphomil.figures.attention import attention_plate
from morphomil.figures.calibration import calibration_plot
from morphomil.figures.composition import composition_plot
from morphomil.figures.confusion import confusion_plot
from morphomil.figures.context import context_plot
from morphomil.figures.correlation import correlation_plot
from morphomil.figures.decision import decision_plot
from morphomil.figures.flow import flow_plot
from morphomil.figures.heatmap import ScoredPatch
from morphomil.figures.interactions import interaction_plot
from morphomil.figures.labels import format_ratio
from morphomil.figures.matrices import feature_matrices
from morphomil.figures.orientation import orientation_rose
from morphomil.figures.patch_examples import PatchExample
from morphomil.figures.patches_of_attention import patches_plot
from morphomil.figures.plate import PatientPlate, patient_plate
from morphomil.figures.ranking import ranking_plot
from morphomil.figures.ranking_evidence import evidence_plot
from morphomil.figures.registry import FIGURES
from morphomil.figures.roc_models import roc_comparison
from morphomil.figures.scan import scan_plot
from morphomil.figures.style import LOOKS, model_looks, render, use_look
from morphomil.figures.subgroups import subgroup_forest
from morphomil.figures.verdict import verdict_plot
from morphomil.nuclei.quantities import Quantity
from morphomil.stats.performance import comparison_table, performance_table
from morphomil.tables.models import calibration_tables, confusion_tables, decision_table
from morphomil.tables.pairs import quadrants
from morphomil.tables.roc import model_curves, roc_points
from morphomil.tables.types import types_of_groups
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from matplotlib.figure import Figure
    from numpy.typing import NDArray

HERE = Path(__file__).parent
REFERENCE = HERE / "reference"


def sibling(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"figures_{name}", HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


tables = sibling("tables")
plots = sibling("test_plots")
assert_legible = plots.assert_legible


def draw_roc_models(models: int, *, crossed: bool = False) -> Figure:
    predictions = tables.predictions(models)
    aucs = performance_table(predictions).query("measure == 'AUC'")
    pairs = comparison_table(predictions).head(10)
    if crossed:  # scores out of fold
        pairs["test"] += ", cross-validated"
    return roc_comparison(model_curves(predictions), aucs, pairs)


def draw_calibration(models: int) -> Figure:
    found = calibration_tables(tables.predictions(models))
    return calibration_plot(found.curve, found.summary)


def draw_confusion(models: int, classes: int) -> Figure:
    return confusion_plot(tables.confusion(models, classes), classes=tables.groups(classes))


def draw_correlation() -> Figure:
    found = tables.correlation()
    return correlation_plot(found.rho, found.merges, patients=40)


def disks(shift: int) -> PatchExample:
    y, x = np.mgrid[:64, :64]
    labels = np.zeros((64, 64), np.int32)
    for number, (cx, cy) in enumerate(((15, 15), (45, 20), (30 + shift, 45)), start=1):
        labels[(x - cx) ** 2 + (y - cy) ** 2 < 50] = number
    rgb = np.full((64, 64, 3), 220, np.uint8)
    rgb[labels > 0] = (90, 60, 140)
    return PatchExample(rgb, labels, title="patch 3", values={1: 40.0, 2: 60.0, 3: 80.0 + shift})


def draw_plate() -> Figure:
    plates = []
    for number, group in enumerate(("N0", "N+")):
        at = pd.DataFrame(
            {"x_px": [0.0, 100.0, 200.0], "y_px": [50.0, 50.0, 50.0], "side_px": 100.0}
        )
        plates.append(
            PatientPlate(
                title=f"{group}: patient {number}",
                thumbnail=np.full((60, 80, 3), 200, np.uint8),
                level0_px_per_thumb_px=5,
                mpp=0.5,
                patches=at,
                values=np.array([1000.0, 2000.0 + 900 * number, np.nan]),
                example=disks(number),
                example_mpp=0.5,
                example_at=(100.0, 50.0, 100.0),
            )
        )
    values = tables.patient_values()[["density_per_mm2", "area_um2", "circularity"]]
    labels = pd.Series(pd.Categorical(["N0", "N+"] * 20, ["N0", "N+"]), values.index)
    ranking = pd.DataFrame(
        {"feature": values.columns, "p_value": [0.0001, 0.2, 0.6], "p_holm": [0.0008, 1, 1]}
    )
    ranking = ranking.assign(cliffs_delta=0.3, cliffs_delta_low=-0.1, cliffs_delta_high=0.6)
    quantities = {
        "patch_quantity": Quantity("Density", "nuclei/mm²"),
        "nucleus_quantity": Quantity("Area", "µm²"),
    }
    return patient_plate(plates, values, labels, ranking, **quantities)


def draw_attention(side: float = 100.0) -> Figure:
    """A slide of 1600 x 1200 pixels whose patches of this side have less and less attention."""
    x, y = np.meshgrid(np.arange(4) * side + 200, np.arange(3) * side + 300)
    shares = np.linspace(2, 0.1, 12)
    at = pd.DataFrame(
        {"x_px": x.ravel(), "y_px": y.ravel(), "side_px": side, "relative_attention": shares}
    )
    thumbnail = np.full((300, 400, 3), (230, 190, 210), np.uint8)
    top = [
        ScoredPatch(disks(0).rgb, f"{n}  patch {30 + n}: {shares[n - 1]:.2g} x")
        for n in range(1, 6)
    ]
    box = Polygon([(150, 250), (1000, 250), (1000, 900), (150, 900)])
    return attention_plate(
        thumbnail,
        at,
        top,
        top_mpp=0.5,
        level0_px_per_thumb_px=4,
        mpp=0.5,
        regions=[box],
        title="P001 (N+): DL-CNB",
    )


def draw_interactions() -> Figure:
    pairs, values, positive = tables.interactions()
    first = pairs.iloc[0]
    shares = quadrants(values, positive, (first["first"], first["second"]))
    return interaction_plot(
        pairs,
        values,
        positive.map({True: "N(+)", False: "N0"}),
        shares,
        features=FEATURE_NAMES,
        groups=("N0", "N(+)"),
        shown="N(+)",
    )


def draw_composition(count: int) -> Figure:
    patients, order = tables.composition(count), tables.groups(count)
    return composition_plot(patients, types_of_groups(patients), order=order)


CASES: dict[str, Callable[[], Figure]] = {
    "flow": lambda: flow_plot(tables.flow()),
    "roc_models": lambda: draw_roc_models(3),
    "roc_models_6": lambda: draw_roc_models(6),
    "confusion": lambda: draw_confusion(2, 3),
    "confusion_10": lambda: draw_confusion(1, 10),
    "confusion_4x2": lambda: draw_confusion(4, 2),
    "calibration": lambda: draw_calibration(3),
    "calibration_6": lambda: draw_calibration(6),
    "decision": lambda: decision_plot(decision_table(tables.predictions(3))),
    "subgroups": lambda: subgroup_forest(tables.subgroups(3)),
    "correlation": draw_correlation,
    "matrices": lambda: feature_matrices(tables.histograms(2), tables.groups(2)),
    "matrices_10": lambda: feature_matrices(tables.histograms(10), tables.groups(10)),
    "orientation": lambda: orientation_rose(tables.orientation(2), tables.groups(2)),
    "orientation_10": lambda: orientation_rose(tables.orientation(10), tables.groups(10)),
    "plate": draw_plate,
    "attention": draw_attention,
    "ranking_evidence": lambda: evidence_plot(*tables.evidence()),
}
LEGIBLE = CASES | {
    "roc_models_crossed": lambda: draw_roc_models(2, crossed=True),
    "roc_models_crossed_5": lambda: draw_roc_models(5, crossed=True),
    "ranking": lambda: ranking_plot(plots.ranking(), positive="N(+)", reference="N0"),
    "scan": lambda: scan_plot(*tables.scan(), positive="N(+)", reference="N0"),
    "context": lambda: context_plot(tables.context()),
    "interactions": lambda: draw_interactions(),
    "composition": lambda: draw_composition(6),
    "verdict": lambda: verdict_plot(*tables.verdict(), word="inconclusive at this n"),
    "verdict_pair": lambda: verdict_plot(*tables.verdict(pair=True), word="supported"),
    "attention_tiny": lambda: draw_attention(side=15.0),
    "subgroups_5": lambda: subgroup_forest(tables.subgroups(5, variables=4)),
    "patches_of_attention": lambda: patches_plot(
        tables.attended(), FEATURE_NAMES, title="P001: DL-CNB"
    ),
}
TOLERANCE = 0.012
"""Share of the full range by which pictures may differ on average; a moved label or curve differs
by more."""


def picture(figure: Figure) -> Image.Image:
    return Image.open(io.BytesIO(render(figure, "png", dpi=72))).convert("RGB")


@pytest.mark.parametrize("name", CASES)
def test_figures_look_like_their_pictures(name: str) -> None:
    drawn, stored = picture(CASES[name]()), Image.open(REFERENCE / f"{name}.png").convert("RGB")
    assert drawn.size == stored.size
    difference = np.asarray(ImageChops.difference(drawn, stored), dtype=float) / 255
    assert difference.mean() < TOLERANCE


def test_a_changed_figure_is_noticed() -> None:
    stored = Image.open(REFERENCE / "decision.png").convert("RGB")
    drawn = picture(decision_plot(decision_table(tables.predictions(2))))
    same = drawn.size == stored.size
    assert (
        not same
        or np.asarray(ImageChops.difference(drawn, stored), dtype=float).mean() / 255 > TOLERANCE
    )


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", LEGIBLE)
def test_figures_are_legible_in_every_look(name: str, look: str) -> None:
    with use_look(look):
        figure = LEGIBLE[name]()
        assert_legible(figure)
    width = figure.get_size_inches()[0] * 25.4
    assert round(width) in (85, 120, 180)
    assert figure.get_size_inches()[1] * 25.4 < 245


def test_the_scan_frames_what_is_sure_and_leaves_missing_cells_blank() -> None:
    table, features = tables.scan()
    (axes, *_) = scan_plot(table, features).axes
    known = table.dropna()
    sure = known[known["p_any"] <= 0.05]
    assert len(axes.patches) == len(sure) > 0
    written = [text for text in axes.texts if text.get_text()]
    assert len(written) == len(known)
    bold = [text.get_text() for text in written if text.get_fontweight() == "bold"]
    assert sorted(bold) == sorted(format_ratio(x) for x in sure["delta"])
    first = features.sort_values("scan_p_any")["feature"].iloc[0]
    assert axes.get_yticklabels()[0].get_text().lower().startswith(first.split("_")[0])


def test_the_context_says_units_what_is_held_and_what_is_sure() -> None:
    table = tables.context()
    (axes, *_) = context_plot(table).axes
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "Site*",
        "Age",
        "Pixel size (µm)",
        "Sharpness",
        "Tissue area (mm²)",
        "Optical density",
    ]
    assert axes.get_yticklabels()[0].get_text() == "Label"
    assert len(axes.patches) == (table["p_value"] <= 0.05).sum() > 0
    assert len(axes.texts) == len(table) - 1


def test_confusion_counts_calls_at_the_cutoff() -> None:
    predictions = pd.DataFrame(
        {"model": "m", "label": [0, 0, 1, 1, 1], "score": [0.1, 0.5, 0.5, 0.9, 0.2]}
    )
    found = confusion_tables(predictions.assign(cutoff=0.5)).set_index(["label", "call"])
    assert found["n"].to_dict() == {(0, 0): 1, (1, 0): 1, (0, 1): 1, (1, 1): 2}
    assert found.loc[(1, 1), "share"] == pytest.approx(2 / 3)


def test_brackets_state_every_pair() -> None:
    figure = draw_roc_models(3)
    texts = [
        text.get_text()
        for axes in figure.findobj(lambda a: hasattr(a, "texts"))
        for text in axes.texts
    ]
    pairs = comparison_table(tables.predictions(3))
    assert len([t for t in texts if " p = " in t or " p < " in t]) == len(pairs) == 3
    assert [t for t in texts if t in "abc"] == ["a", "b", "c"]


def lines(
    figure: Figure, marker: str = "None"
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """x and y of every drawn line with this marker, in the order of drawing."""
    drawn = [
        line for axes in figure.findobj(Axes) for line in axes.lines if line.get_marker() == marker
    ]
    return [
        (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)) for line in drawn
    ]


def assert_drawn(
    figure: Figure, x: pd.Series[float], y: pd.Series[float], marker: str = "None"
) -> None:
    """A line has just these points."""
    found = [pair for pair in lines(figure, marker) if len(pair[0]) == len(x)]
    assert any(np.allclose(a, x) and np.allclose(b, y) for a, b in found)


def texts_at(axes: Axes) -> dict[tuple[float, float], str]:
    return {text.get_position(): text.get_text() for text in axes.texts}


def test_decision_curves_and_calibration_are_those_of_the_table() -> None:
    table = decision_table(tables.predictions(3))
    figure = decision_plot(table)
    for model, own in table.groupby("model"):
        marker = model_looks(table["model"].unique())[model].marker
        assert_drawn(figure, own["threshold"], own["net_benefit"], marker)
    assert_drawn(figure, own["threshold"], own["treat_all"])
    found = calibration_tables(tables.predictions(3))
    figure = calibration_plot(found.curve, found.summary)
    for model, (_, _, marker) in model_looks(found.summary["model"]).items():
        own = found.curve[found.curve["model"] == model]
        assert_drawn(figure, own["predicted"], own["observed"], marker)
        bars = [c for c in figure.axes[0].collections if len(c.get_segments()) == len(own)]
        ends = own[["low", "high"]].to_numpy(float)
        assert any(np.allclose([s[:, 1] for s in c.get_segments()], ends) for c in bars)


def test_roc_curves_and_aucs_are_those_of_the_table() -> None:
    predictions = tables.predictions(3)
    figure = draw_roc_models(3)
    aucs = performance_table(predictions).query("measure == 'AUC'")
    for row, own in enumerate(aucs.to_dict("records")):
        marker = model_looks(aucs["model"])[own["model"]].marker
        assert_drawn(figure, [own["estimate"]], [row], marker)
        assert_drawn(figure, [own["low"], own["high"]], [row, row])
        points = roc_points(
            predictions[predictions["model"] == own["model"]].rename(
                columns={"score": "probability"}
            )
        )
        assert_drawn(figure, points["fpr"], points["tpr"], marker)


def test_confusion_has_labels_as_rows_and_calls_as_columns() -> None:
    table = tables.confusion(1, 3)
    axes = draw_confusion(1, 3).axes[0]
    for row in table.to_dict("records"):
        assert texts_at(axes)[row["call"], row["label"]].startswith(f"{row['n']}\n")
    assert axes.get_xlabel() == "Called" and axes.get_ylabel() == "Label"
    shown = axes.images[0].get_array()
    assert shown[2, 0] == table.set_index(["label", "call"])["share"][2, 0]


def test_forest_has_every_auc_beside_its_numbers() -> None:
    table = tables.subgroups(2).dropna(subset="auc")
    figure = subgroup_forest(table)
    markers = {look.marker for look in model_looks(table["model"]).values()}
    drawn = [(x[0], y[0]) for marker in markers for x, y in lines(figure, marker)]
    drawn.sort(key=lambda place: place[1])
    assert [x for x, _ in drawn] == pytest.approx(table["auc"].tolist())
    texts = texts_at(figure.axes[2])
    for (_, row), own in zip(drawn, table.to_dict("records"), strict=True):
        said = [text for (_, at), text in texts.items() if at == row]
        assert f"{own['auc']:.2f} [{own['low']:.2f}, {own['high']:.2f}]" in said


def test_ranking_and_evidence_are_those_of_the_table() -> None:
    table = plots.ranking().sort_values("rank").assign(p_holm=0.25, p_bh=0.125, p_value=0.0625)
    figure = ranking_plot(table)
    drawn = [(text.get_position()[0], text.get_text()) for text in figure.axes[2].texts]
    heads = sorted((x, text) for x, text in drawn if text in ("p", "Holm", "BH"))
    row = sorted((x, text) for (x, y), text in texts_at(figure.axes[2]).items() if y == 3)
    assert [text for _, text in heads] == ["p", "Holm", "BH"]
    assert [text for _, text in row] == ["0.062", "0.25", "0.12"]
    ranking, stability = tables.evidence()
    figure = evidence_plot(ranking, stability)
    ordered = ranking.sort_values("shapley_auc", ascending=False).reset_index(drop=True)
    for axes, name in zip(figure.axes, ("attention", "shapley_auc", "ablation_auc"), strict=False):
        points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
        assert points == pytest.approx(ordered[name].tolist())
    places = stability.set_index("feature").loc[ordered["feature"]].filter(like="rank")
    np.testing.assert_allclose(figure.axes[3].images[0].get_array(), places)


def test_interactions_are_those_of_the_table() -> None:
    pairs, _, _ = tables.interactions()
    left, _, right, _ = draw_interactions().axes
    cells = np.ma.filled(left.images[0].get_array(), np.nan)
    place = {name: at for at, name in enumerate(FEATURE_NAMES)}
    for row in pairs.to_dict("records"):
        low, high = sorted((place[row["first"]], place[row["second"]]))
        assert cells[high - 1, low] == pytest.approx(row["index"])
    assert np.isfinite(cells).sum() == len(pairs)
    squares = [(line.get_xdata()[0], line.get_ydata()[0]) for line in left.lines]
    assert squares == [(0, 1), (0, 2)]  # the first two pairs have small p values
    assert len(right.texts) == 4


def test_evidence_shows_places_by_shapley_value_only() -> None:
    ranking, stability = tables.evidence()
    other = stability.assign(
        by="attention", kendalls_w=0.9, **{f"rank{n}": 0.0 for n in range(1, 9)}
    )
    figure = evidence_plot(ranking, pd.concat([stability, other]))
    assert float(figure.axes[3].images[0].get_array().sum()) == pytest.approx(8)
    assert "0.18" in figure.axes[3].get_xlabel()


def test_correlations_and_histograms_are_those_of_the_table() -> None:
    found = tables.correlation()
    image = next(axes.images[0] for axes in draw_correlation().axes if axes.images)
    np.testing.assert_allclose(image.get_array(), found.rho)
    table = tables.histograms(2)
    figure = feature_matrices(table, tables.groups(2))
    own = table[table["feature"] == FEATURE_NAMES[0]]
    means = own.groupby(["label", "low"])["share"].mean()
    for group, stairs in zip(tables.groups(2), figure.axes[0].patches, strict=True):
        np.testing.assert_allclose(stairs.get_data().values, means[group])
        assert stairs.get_label() == group


def test_plate_shows_each_group_s_patients_over_its_name() -> None:
    figure = draw_plate()
    values = tables.patient_values()
    panel = next(
        axes for axes in figure.findobj(Axes) if axes.get_ylabel() == "Density (nuclei/mm²)"
    )
    points = [line for line in panel.lines if line.get_marker() == "o"]
    assert [label.get_text() for label in panel.get_xticklabels()] == ["N0\nn = 20", "N+\nn = 20"]
    for number, line in enumerate(points):
        np.testing.assert_allclose(
            line.get_ydata(), values["density_per_mm2"].to_numpy()[number::2]
        )
        assert np.abs(line.get_xdata() - number).max() < 0.5


def test_roses_turn_clockwise_and_stand_at_both_ends() -> None:
    low = np.arange(-90.0, 90.0, 10.0)
    rose = pd.DataFrame(
        {"label": "N+", "patients": 3, "polarity": 0.5, "low": low, "high": low + 10, "share": 0.0}
    )
    rose.loc[rose["low"] == 30, "share"] = 1.0
    axes = orientation_rose(rose, ["N+"]).axes[0]
    tall = [bar for bar in axes.patches if bar.get_height() > 0]
    assert sorted(np.degrees(bar.get_x() + bar.get_width() / 2) for bar in tall) == pytest.approx(
        [35, 215]
    )
    (right, down), middle = (
        axes.transData.transform([(0, 1), (np.pi / 2, 1)]),
        axes.transData.transform((0, 0)),
    )
    assert right[0] > middle[0] and abs(right[1] - middle[1]) < 1
    assert down[1] < middle[1] and abs(down[0] - middle[0]) < 1


def test_attention_is_drawn_on_its_patches() -> None:
    figure = draw_attention()
    (cells,) = [
        c
        for axes in figure.findobj(Axes)
        for c in axes.collections
        if isinstance(c, PolyCollection) and c.get_array() is not None and len(c.get_array()) == 12
    ]
    np.testing.assert_allclose(cells.get_array(), np.linspace(2, 0.1, 12))
    np.testing.assert_allclose(cells.get_paths()[0].vertices[0], [200, 300])
    slide = next(axes for axes in figure.findobj(Axes) if len(axes.patches) == 5)
    assert [patch.get_xy() for patch in slide.patches] == [
        (200, 300),
        (300, 300),
        (400, 300),
        (500, 300),
        (200, 400),
    ]


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        picture(CASES[case]()).save(REFERENCE / f"{case}.png", optimize=True)


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_lies_in_the_file_of_its_name(name: str) -> None:
    _, draw = FIGURES[name]
    assert (draw.__module__, draw.__name__) == (f"morphomil.figures.{name}", f"draw_{name}")
