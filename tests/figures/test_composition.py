"""The figure of types by group, and patches whose outlines say the type."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from morphomil.figures.composition import composition_plot
from morphomil.figures.contours import contact_sheet
from morphomil.figures.patch_examples import PatchExample
from morphomil.figures.slides import type_map
from morphomil.nuclei.types import TYPE_COLORS
from morphomil.tables.types import types_of_groups
from morphomil.types import NUCLEUS_TYPES


def test_every_patient_is_a_dot_and_every_group_has_its_interval() -> None:
    shares = np.random.default_rng(0).dirichlet([5, 2, 2, 1], 40)
    patients = pd.DataFrame(shares, columns=list(NUCLEUS_TYPES)).assign(patient=range(40))
    patients["label"] = np.repeat(["N0", "a group with a long name"], 20)
    groups = types_of_groups(patients)
    figure = composition_plot(patients, groups, order=["N0", "a group with a long name"])
    for axes, kind in zip(figure.axes, NUCLEUS_TYPES, strict=True):
        assert axes.get_title(loc="left") == kind
        dots, mean, interval = axes.lines[:3]
        np.testing.assert_allclose(dots.get_ydata(), patients[kind][:20])
        row = groups[(groups["type"] == kind) & (groups["label"] == "N0")].iloc[0]
        np.testing.assert_allclose(mean.get_ydata(), row["share"])
        np.testing.assert_allclose(interval.get_ydata(), [row["share_low"], row["share_high"]])


def test_outlines_have_the_colors_of_their_types() -> None:
    labels = np.zeros((40, 40), np.int32)
    for number in (1, 2, 3):
        labels[5:12, 10 * number : 10 * number + 6] = number
    rgb = np.full((40, 40, 3), 200, np.uint8)
    example = PatchExample(rgb, labels, types={1: "lymphocyte", 2: "stroma"})
    figure = contact_sheet([example], mpp=0.5)
    (lines,) = figure.axes[0].collections
    colors = [to_hex(color) for color in lines.get_colors()]
    named = [TYPE_COLORS["lymphocyte"], TYPE_COLORS["stroma"]]
    assert colors == [*(color.lower() for color in named), "#000000"]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [*NUCLEUS_TYPES, "unknown"]


def test_a_map_of_types_counts_all_nuclei() -> None:
    nuclei = pd.DataFrame(
        {"x_px": [10.0, 20, 30], "y_px": 15.0, "type": ["stroma", "stroma", None]}
    )
    figure = type_map(
        np.full((50, 60, 3), 220, np.uint8), nuclei, level0_px_per_thumb_px=1, mpp=0.5, title="P1"
    )
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["epithelial (0)", "lymphocyte (0)", "stroma (2)", "other (0)"]
    drawn = [line for line in figure.axes[0].lines if line.get_marker() == "."]
    np.testing.assert_array_equal(drawn[2].get_xdata(), [10, 20])
