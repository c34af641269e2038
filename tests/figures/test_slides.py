from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.colors import to_rgba
from matplotlib.offsetbox import AnchoredOffsetbox
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from shapely import MultiPolygon, Polygon, box

from morphomil.figures.contours import contact_sheet, contours, outline_nuclei
from morphomil.figures.contributions import contribution_limits
from morphomil.figures.patch_examples import PatchExample
from morphomil.figures.slides import overview, slide_heatmap
from morphomil.figures.style import GRAY
from morphomil.nuclei.types import TYPE_COLORS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

THUMBNAIL = np.full((60, 100, 3), 200, np.uint8)
SCALE, MPP = 32.0, 0.25
FRAME = {"level0_px_per_thumb_px": SCALE, "mpp": MPP}


def patches(kept: tuple[bool, ...] = (True, True, False)) -> pd.DataFrame:
    x = 500.0 * np.arange(len(kept))
    return pd.DataFrame({"x_px": x, "y_px": 100.0, "side_px": 512.0, "kept": np.array(kept, bool)})


def scale_bar(axes: Axes) -> tuple[float, float]:
    """The bar's drawn length in the axes' units, and the um that its text states."""
    anchored = next(child for child in axes.get_children() if isinstance(child, AnchoredOffsetbox))
    bar = anchored.findobj(lambda a: isinstance(a, Rectangle) and a.get_height() == 0)[0]
    ends = bar.get_transform().transform(bar.get_path().vertices)[:, 0]
    origin, end = axes.transData.inverted().transform([(ends.min(), 0), (ends.max(), 0)])[:, 0]
    text = next(t.get_text() for t in anchored.findobj(Text) if t.get_text())
    number, unit = re.fullmatch(r"([\d.]+) (µm|mm)", text).groups()
    return end - origin, float(number) * (1000 if unit == "mm" else 1)


def squares(figure: Figure) -> list[PolyCollection]:
    return [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]


def test_overview_shows_kept_and_dropped_patches_where_they_are() -> None:
    figure = overview(THUMBNAIL, patches(), regions=[box(0, 0, 900, 900)], title="s1", **FRAME)
    dropped, kept = squares(figure)
    assert [p.vertices[0].tolist() for p in kept.get_paths()] == [[0, 100], [500, 100]]
    assert dropped.get_paths()[0].vertices[2].tolist() == [1512, 612]
    assert dropped.get_hatch() and not kept.get_hatch()
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["kept patch (2)", "dropped patch (1)", "region (1)"]
    assert figure.axes[0].get_title(loc="left") == "s1"
    assert figure.axes[0].get_xlim() == (0, 3200) and figure.axes[0].get_ylim() == (1920, 0)


def test_patches_of_a_whole_slide_are_tinted() -> None:
    figure = overview(THUMBNAIL, patches(), level0_px_per_thumb_px=1000, mpp=0.25)
    dropped, kept = squares(figure)
    assert not dropped.get_hatch()
    assert not np.array_equal(dropped.get_facecolor(), kept.get_facecolor())
    tints = [patch.get_facecolor() for patch in figure.legends[0].get_patches()]
    assert np.array_equal([kept.get_facecolor()[0], dropped.get_facecolor()[0]], tints)


def test_outlines_have_the_colors_of_their_types() -> None:
    types = np.full((120, 200), -1, np.int8)
    types[20:30, 40], types[50, 60:90] = 1, 4
    figure = overview(THUMBNAIL, patches(), types=types, **FRAME)
    drawn = figure.axes[0].images[1]
    assert drawn.get_extent() == [0, 3200, 1920, 0]
    colors = drawn.get_array()
    assert tuple(colors[25, 40]) == pytest.approx(to_rgba(TYPE_COLORS["lymphocyte"]))
    assert tuple(colors[50, 70]) == (0, 0, 0, 1)
    assert (colors[..., 3] > 0).sum() == 40
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[2:] == ["lymphocyte", "unknown"]


def test_patches_past_the_edge_stay_in_view() -> None:
    figure = overview(THUMBNAIL, patches().assign(x_px=3000.0, y_px=1800.0), **FRAME)
    assert figure.axes[0].get_xlim() == (0, 3512) and figure.axes[0].get_ylim() == (2312, 0)


def test_regions_show_holes_and_parts() -> None:
    ring = Polygon(box(0, 0, 900, 900).exterior, [box(200, 200, 300, 300).exterior])
    figure = overview(
        THUMBNAIL, patches(()), regions=[MultiPolygon([ring, box(1000, 0, 1200, 100)])], **FRAME
    )
    lines = next(c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    assert len(lines.get_segments()) == 3
    assert figure.legends[0].get_texts()[-1].get_text() == "region (2)"


@settings(deadline=None, max_examples=15)
@given(st.floats(0.1, 5), st.integers(50, 400), st.floats(1, 64))
def test_scale_bar_has_the_length_it_states(mpp: float, columns: int, scale: float) -> None:
    image = np.zeros((40, columns, 3), np.uint8)
    axes = overview(image, patches(()), level0_px_per_thumb_px=scale, mpp=mpp).axes[0]
    length_px, um = scale_bar(axes)
    assert length_px == pytest.approx(um / mpp)
    assert 0.099 < length_px / (columns * scale) < 0.2501
    assert um / 10 ** math.floor(math.log10(um * 1.0001)) == pytest.approx(
        round(um / 10 ** math.floor(math.log10(um * 1.0001)))
    )


def test_heatmap_colors_are_the_values() -> None:
    figure = slide_heatmap(
        THUMBNAIL,
        patches(),
        [3.0, np.nan, 7.0],
        label="Density",
        unit="nuclei/mm²",
        regions=[box(0, 0, 9, 9)],
        **FRAME,
    )
    missing, cells = squares(figure)
    assert cells.get_array().tolist() == [3, 7]
    assert [p.vertices[0, 0] for p in cells.get_paths()] == [0, 1000]
    assert missing.get_paths()[0].vertices[0, 0] == 500
    assert (cells.norm.vmin, cells.norm.vmax) == (3, 7)
    assert figure.axes[1].get_ylabel() == "Density (nuclei/mm²)"
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        "region (1)",
        "patch without a value",
    ]
    length_px, um = scale_bar(figure.axes[0])
    assert length_px == pytest.approx(um / MPP)


def test_heatmaps_share_limits_and_show_what_lies_beyond() -> None:
    figure = slide_heatmap(
        THUMBNAIL, patches(), [1, 5, 20], label="a", unit="", limits=(0, 10), **FRAME
    )
    cells = squares(figure)[0]
    assert (cells.norm.vmin, cells.norm.vmax) == (0, 10)
    assert cells.colorbar.extend == "max"


def test_diverging_colors_have_their_middle_at_a_marked_zero() -> None:
    figure = slide_heatmap(
        THUMBNAIL, patches(), [-1.0, 0.0, 4.0], label="a", unit="u", diverging=True, **FRAME
    )
    cells = squares(figure)[0]
    assert (cells.norm.vmin, cells.norm.vmax) == (-4, 4)
    assert cells.get_cmap().name == "RdBu_r"
    (mark,) = [line for line in figure.axes[1].lines if set(line.get_ydata()) == {0}]
    assert mark.get_color() == "black"


def test_contributions_have_one_scale_for_all_slides() -> None:
    slides = [pd.Series([-3.0, 1.0, np.nan]), pd.Series([2.0])]
    low, high = contribution_limits(slides)
    assert -low == high == pytest.approx(np.percentile([3, 1, 2], 98))
    assert contribution_limits([pd.Series([0.0])]) is None
    assert contribution_limits([]) is None


@pytest.mark.parametrize("values", [[2.0, 2.0, 2.0], [np.nan] * 3])
def test_heatmap_of_one_or_no_value(values: list[float]) -> None:
    figure = slide_heatmap(THUMBNAIL, patches(), values, label="a", unit="", **FRAME)
    assert len(figure.axes) == (2 if np.isfinite(values).all() else 1)


def test_heatmap_refuses_values_that_fit_no_patches() -> None:
    with pytest.raises(ValueError, match="got 2 for 3 patches"):
        slide_heatmap(THUMBNAIL, patches(), [1, 2], label="a", unit="", **FRAME)


def test_outlines_follow_the_pixels() -> None:
    labels = np.zeros((30, 40), np.int32)
    labels[5:15, 20:26] = 2
    labels[5:15, 26:30] = 7
    labels[0:3, 0:3] = 3
    outlines = outline_nuclei(labels)
    assert sorted(outlines) == [2, 3, 7]
    assert (outlines[2].min(axis=0).tolist(), outlines[2].max(axis=0).tolist()) == (
        [19.5, 4.5],
        [25.5, 14.5],
    )
    assert (outlines[3].min(axis=0).tolist(), outlines[3].max(axis=0).tolist()) == (
        [-0.5, -0.5],
        [2.5, 2.5],
    )
    x, y = outlines[2].T
    # A contour at half height cuts the four corner pixels: 60 minus 4 triangles of 1/8.
    assert abs(np.dot(x[:-1], y[1:]) - np.dot(x[1:], y[:-1])) / 2 == pytest.approx(60 - 4 / 8)


def two_nuclei() -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros((64, 64), np.int32)
    labels[10:20, 10:20], labels[30:50, 30:50] = 1, 2
    return np.full((64, 64, 3), 220, np.uint8), labels


def test_contours_are_colored_by_value() -> None:
    rgb, labels = two_nuclei()
    figure = contours(
        rgb, labels, mpp=0.5, values={1: 25.0, 2: 100.0}, label="Area", unit="µm²", title="patch 3"
    )
    lines = next(c for c in figure.axes[0].collections if isinstance(c, LineCollection))
    assert lines.get_array().tolist() == [25, 100]
    assert lines.get_cmap()(np.nan) == to_rgba(GRAY)
    assert figure.axes[1].get_ylabel() == "Area (µm²)"
    length_px, um = scale_bar(figure.axes[0])
    assert length_px == pytest.approx(um / 0.5)


def test_contours_without_values_or_nuclei() -> None:
    rgb, labels = two_nuclei()
    assert len(contours(rgb, labels, mpp=0.5).axes) == 1
    assert len(contours(rgb, labels * 0, mpp=0.5).axes) == 1


def test_contact_sheet_shares_one_color_scale() -> None:
    rgb, labels = two_nuclei()
    examples = [
        PatchExample(rgb, labels, title=f"p{n}", values={1: n, 2: 10.0 * n}) for n in range(1, 6)
    ]
    figure = contact_sheet(examples, mpp=0.5, label="Area", unit="µm²", columns=3)
    panels, bar = figure.axes[:6], figure.axes[6]
    assert [axes.get_title(loc="left") for axes in panels] == ["p1", "p2", "p3", "p4", "p5", ""]
    limits = {(c.norm.vmin, c.norm.vmax) for axes in panels for c in axes.collections}
    assert limits == {(1, 50)} and bar.get_ylim() == (1, 50)
    with pytest.raises(ValueError, match="at least one patch"):
        contact_sheet([], mpp=0.5)


def test_colors_survive_a_hostile_title() -> None:
    figure = overview(THUMBNAIL, patches(), title="$\\frac{" + "x" * 300, **FRAME)
    assert len(figure.axes[0].get_title(loc="left")) < 70
