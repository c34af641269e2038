"""The figures beyond ranking, groups and ROC: legible at every size, and like their stored pictures."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageChops
from shapely.geometry import Polygon

from morphomil.figure_tables import calibration_tables, confusion_tables, decision_table
from morphomil.figures.alongside import patches_plot
from morphomil.figures.features import correlation_plot, feature_matrices, orientation_rose
from morphomil.figures.flow import flow_plot
from morphomil.figures.heatmap import ScoredPatch, attention_plate
from morphomil.figures.labels import Quantity
from morphomil.figures.models import (
    calibration_plot,
    confusion_plot,
    decision_plot,
    roc_comparison,
    subgroup_forest,
)
from morphomil.figures.plate import PatientPlate, patient_plate
from morphomil.figures.ranking import ranking_plot
from morphomil.figures.ranking_evidence import evidence_plot
from morphomil.figures.roc import MEAN, roc_points
from morphomil.figures.slides import PatchExample
from morphomil.figures.style import LOOKS, render, use_look
from morphomil.stats.tables import comparison_table, performance_table
from morphomil.types import FEATURE_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from matplotlib.figure import Figure

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


def draw_roc_models(models: int) -> Figure:
    predictions = tables.predictions(models)
    curves = []
    for model, own in predictions.groupby("model", sort=False):
        points = roc_points(own.rename(columns={"score": "probability"}))
        curves.append(points[points["fold"] == MEAN].assign(model=model))
    aucs = performance_table(predictions).query("measure == 'AUC'")
    return roc_comparison(pd.concat(curves), aucs, comparison_table(predictions).head(10))


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
        at = pd.DataFrame({"x_px": [0.0, 100.0, 200.0], "y_px": [50.0, 50.0, 50.0], "side_px": 100.0})
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
    ranking = pd.DataFrame({"feature": values.columns, "p_value": [0.0001, 0.2, 0.6], "p_holm": [0.0008, 1, 1]})
    ranking = ranking.assign(cliffs_delta=0.3, cliffs_delta_low=-0.1, cliffs_delta_high=0.6)
    quantities = {"patch_quantity": Quantity("Density", "nuclei/mm²"), "nucleus_quantity": Quantity("Area", "µm²")}
    return patient_plate(plates, values, labels, ranking, **quantities)


def draw_attention(side: float = 100.0) -> Figure:
    """A slide of 1600 x 1200 pixels whose patches of this side have less and less attention."""
    x, y = np.meshgrid(np.arange(4) * side + 200, np.arange(3) * side + 300)
    shares = np.linspace(2, 0.1, 12)
    at = pd.DataFrame({"x_px": x.ravel(), "y_px": y.ravel(), "side_px": side, "relative_attention": shares})
    thumbnail = np.full((300, 400, 3), (230, 190, 210), np.uint8)
    top = [ScoredPatch(disks(0).rgb, f"{n}  patch {30 + n}: {shares[n - 1]:.2g} x") for n in range(1, 6)]
    box = Polygon([(150, 250), (1000, 250), (1000, 900), (150, 900)])
    return attention_plate(
        thumbnail, at, top, top_mpp=0.5, level0_px_per_thumb_px=4, mpp=0.5, regions=[box], title="P001 (N+): DL-CNB"
    )


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
    "ranking": lambda: ranking_plot(plots.ranking(), positive="N(+)", reference="N0"),
    "attention_tiny": lambda: draw_attention(side=15.0),
    "subgroups_5": lambda: subgroup_forest(tables.subgroups(5, variables=4)),
    "patches_of_attention": lambda: patches_plot(tables.attended(), FEATURE_NAMES, title="P001: DL-CNB"),
}
TOLERANCE = 0.012
"""Share of the full range by which pictures may differ on average; a moved label or curve differs by more."""


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
    assert not same or np.asarray(ImageChops.difference(drawn, stored), dtype=float).mean() / 255 > TOLERANCE


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", LEGIBLE)
def test_figures_are_legible_in_every_look(name: str, look: str) -> None:
    with use_look(look):
        figure = LEGIBLE[name]()
        assert_legible(figure)
    width = figure.get_size_inches()[0] * 25.4
    assert round(width) in (85, 120, 180)
    assert figure.get_size_inches()[1] * 25.4 < 245


def test_confusion_counts_calls_at_the_cutoff() -> None:
    predictions = pd.DataFrame({"model": "m", "label": [0, 0, 1, 1, 1], "score": [0.1, 0.5, 0.5, 0.9, 0.2]})
    found = confusion_tables(predictions.assign(cutoff=0.5)).set_index(["label", "call"])
    assert found["n"].to_dict() == {(0, 0): 1, (1, 0): 1, (0, 1): 1, (1, 1): 2}
    assert found.loc[(1, 1), "share"] == pytest.approx(2 / 3)


def test_brackets_state_every_pair() -> None:
    figure = draw_roc_models(3)
    texts = [text.get_text() for axes in figure.findobj(lambda a: hasattr(a, "texts")) for text in axes.texts]
    pairs = comparison_table(tables.predictions(3))
    assert len([t for t in texts if " p = " in t or " p < " in t]) == len(pairs) == 3
    assert [t for t in texts if t in "abc"] == ["a", "b", "c"]


if __name__ == "__main__":
    for case in sys.argv[1:] or CASES:
        picture(CASES[case]()).save(REFERENCE / f"{case}.png", optimize=True)
