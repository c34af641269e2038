"""Patient flow: what came in, what every step left, what it lost and why."""

from __future__ import annotations

import math
import textwrap
from typing import TYPE_CHECKING, Any

from matplotlib.patches import FancyBboxPatch

from morphomil.figures.drawing import Drawing
from morphomil.figures.labels import shorten
from morphomil.figures.style import BLUE, GRAY, ONE_AND_A_HALF_COLUMNS_MM, new_figure, style
from morphomil.tables.flow import flow_table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run


def draw_flow(run: Run) -> Drawing:
    """Draw the flow of patients, slides, patches and nuclei."""
    flow = flow_table(run)
    caption = (
        "Patients, slides, patches and nuclei at every step, with what each step left out and why."
    )
    return Drawing(flow_plot(flow), flow, caption)


LINE_MM = 3.6
GAP_MM = 5.0
PAD_MM = 1.6


def flow_plot(flow: pd.DataFrame, *, width_mm: float = ONE_AND_A_HALF_COLUMNS_MM) -> Figure:
    """Boxes from top to bottom, one per step, and beside each arrow what that step lost.

    `flow` has one row per step: step, patients, slides, patches, nuclei (missing: not counted
    there), groups (patients by label, as text), lost (text, "" for nothing).
    """
    left_mm = width_mm * 0.54
    right_mm = width_mm - left_mm - 8
    rows = flow.to_dict("records")
    boxes = [_wrap(_step_lines(row), left_mm) for row in rows]
    losses = [_wrap([f"Left out: {row['lost']}"], right_mm) if row["lost"] else [] for row in rows]
    gaps = [max(GAP_MM, _height(lost) + 2) if lost else GAP_MM for lost in losses]
    height_mm = sum(map(_height, boxes)) + sum(gaps[1:]) + 2
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=height_mm)
        figure.set_layout_engine("none")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, width_mm), ylim=(height_mm, 0))
        axes.set_axis_off()
        top = 1.0
        for number, (lines, lost, gap) in enumerate(zip(boxes, losses, gaps, strict=True)):
            if number:
                _draw_arrow(axes, (left_mm / 2, top), (left_mm / 2, top + gap))
                if lost:
                    middle = top + gap / 2
                    _draw_arrow(axes, (left_mm / 2, middle), (left_mm + 6, middle))
                    _draw_box(
                        axes,
                        lost,
                        (left_mm + 6, middle - _height(lost) / 2),
                        width=right_mm,
                        color=GRAY,
                        bold=False,
                    )
                top += gap
            _draw_box(axes, lines, (1, top), width=left_mm - 2, color=BLUE)
            top += _height(lines)
        figure.draw_without_rendering()
        return figure


def _step_lines(row: Mapping[Any, Any]) -> list[str]:
    counts = [f"{row['slides']:,} slides"]
    counts += [
        f"{row[name]:,.0f} {name}" for name in ("patches", "nuclei") if math.isfinite(row[name])
    ]
    return [row["step"], f"{row['patients']:,} patients: {row['groups']}", ", ".join(counts)]


def _wrap(lines: list[str], room_mm: float) -> list[str]:
    """Lines that fit: a character takes about 1.25 mm at most at these sizes; one long word is
    shortened."""
    width = int((room_mm - 2 * PAD_MM) / 1.42)
    short = [" ".join(shorten(word, width) for word in line.split()) for line in lines]
    return [part for line in short for part in textwrap.wrap(line, width)[:6]]


def _height(lines: list[str]) -> float:
    return len(lines) * LINE_MM + 2 * PAD_MM


def _draw_box(
    axes: Axes,
    lines: list[str],
    corner: tuple[float, float],
    *,
    width: float,
    color: str,
    bold: bool = True,
) -> None:
    x, y = corner
    shape = FancyBboxPatch(
        (x, y),
        width,
        _height(lines),
        boxstyle="round,pad=0,rounding_size=1",
        facecolor="white",
        edgecolor=color,
    )
    axes.add_patch(shape)
    for number, line in enumerate(lines):
        weight = "bold" if bold and number == 0 else "normal"
        axes.text(
            x + PAD_MM,
            y + PAD_MM + (number + 0.5) * LINE_MM,
            line,
            va="center",
            fontsize=6.5,
            weight=weight,
        )


def _draw_arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    look = {
        "arrowstyle": "-|>",
        "linewidth": 0.7,
        "color": "black",
        "shrinkA": 0,
        "shrinkB": 0,
        "mutation_scale": 6,
    }
    axes.annotate("", xy=end, xytext=start, arrowprops=look)
