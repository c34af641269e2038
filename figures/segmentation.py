"""How good a segmenter is, seen: worst and best tiles with both outlines, bias of every feature,
types."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from morphomil.figures.contours import outline_nuclei
from morphomil.figures.labels import shorten
from morphomil.figures.slides import draw_scale_bar
from morphomil.figures.style import PALETTE, SKY, TWO_COLUMNS_MM, YELLOW, new_figure, style
from morphomil.nuclei.quantities import feature_quantity
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from morphomil.segment.evaluate import Example

_SIDES = (("annotated", SKY), ("found", YELLOW))


def agreement_sheet(
    examples: Sequence[Example], *, columns: int = 4, width_mm: float = TWO_COLUMNS_MM
) -> Figure:
    """Tiles with the outlines of annotated and of found nuclei, each with its panoptic quality and
    a scale bar."""
    if not examples:
        raise ValueError("a sheet needs at least one tile, got none")
    columns = min(columns, len(examples))
    rows = math.ceil(len(examples) / columns)
    side_mm = width_mm / columns
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=rows * (side_mm + 7) + 7)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat:
            axes.set_axis_off()
        for axes, example in zip(grid.flat, examples, strict=False):
            axes.imshow(example.rgb)
            for name, color in _SIDES:
                outlines = list(outline_nuclei(getattr(example, name)).values())
                lines = LineCollection(outlines, color=color, linewidth=0.8)
                lines.set_path_effects([withStroke(linewidth=1.4, foreground="black")])
                axes.add_collection(lines, autolim=False)
            draw_scale_bar(axes, width=example.rgb.shape[1], um_per_unit=example.mpp)
            title = (
                f"PQ {example.pq:.2f}, {example.mpp:g} "
                f"µm/px\n{shorten(example.name, round(side_mm * 0.6))}"
            )
            axes.set_title(title, loc="left", pad=2)
        handles = [Line2D([], [], color=color, label=name) for name, color in _SIDES]
        figure.legend(handles=handles, loc="outside lower center", ncols=2)
        figure.draw_without_rendering()
        return figure


def feature_bias_plot(features: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM) -> Figure:
    """Relative bias of every feature with its interval, one color per data set and resolution.

    `features` is the table of `Evaluation.features`; orientation, which has no zero to be relative
    to, is left out.
    """
    shown = features[np.isfinite(features["relative_bias"])]
    if shown.empty:
        raise ValueError("no feature has a bias: no nucleus was matched")
    names = list(dict.fromkeys(shown["feature"]))
    sets = list(shown.groupby(["group", "mpp"]))
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=20 + 9 * len(names))
        axes = figure.subplots()
        axes.axvline(0, color="black", linewidth=0.5)
        for number, ((group, mpp), own) in enumerate(sets):
            place = [
                names.index(name) + 0.6 * ((number + 0.5) / len(sets) - 0.5)
                for name in own["feature"]
            ]
            scale = 100 / own["annotated_mean"]
            color = PALETTE[number % len(PALETTE)]
            axes.hlines(place, own["low"] * scale, own["high"] * scale, color=color)
            label = f"{group} {mpp:g} µm/px".strip()
            axes.plot(
                own["relative_bias"] * 100, place, "o", markersize=3, color=color, label=label
            )
        axes.set_yticks(range(len(names)), [feature_quantity(name).name for name in names])
        axes.invert_yaxis()
        axes.set_xlabel(
            "Bias, found against annotated nuclei (% of the annotated mean, 95 % "
            "interval over images)"
        )
        figure.legend(loc="outside lower center", ncols=min(len(sets), 4))
        figure.draw_without_rendering()
        return figure


def reliability_plot(
    means: pd.DataFrame, table: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM
) -> Figure:
    """Found against annotated mean of every image, a panel for each feature, with the identity and
    each set's slope.

    `means` and `table` are those of `Evaluation`: `means` and `reliability`.
    """
    names = list(dict.fromkeys(means["feature"]))
    if not names:
        raise ValueError("no image has enough nuclei on both sides to compare their means")
    sets = list(dict.fromkeys(zip(means["group"], means["mpp"], strict=True)))
    columns = min(3, len(names))
    rows = math.ceil(len(names) / columns)
    side_mm = width_mm / columns
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=rows * (side_mm + 4 * len(sets)) + 10)
        grid = figure.subplots(rows, columns, squeeze=False)
        for axes in grid.flat[len(names) :]:
            axes.set_axis_off()
        for axes, name in zip(grid.flat, names, strict=False):
            own = means[means["feature"] == name]
            ends = np.nanquantile(own[["annotated", "found"]].to_numpy(float), (0, 1))
            axes.plot(ends, ends, color="black", linewidth=0.5)
            for number, (group, mpp) in enumerate(sets):
                part = own[(own["group"] == group) & (own["mpp"] == mpp)]
                color = PALETTE[number % len(PALETTE)]
                axes.plot(part["annotated"], part["found"], "o", markersize=2.5, color=color)
            axes.set_title(_slopes(table[table["feature"] == name]), loc="left", fontsize=6)
            axes.set_xlabel(f"{feature_quantity(name)}\nannotated")
            axes.set_ylabel("found")
        handles = [
            Line2D([], [], marker="o", linestyle="", color=PALETTE[n % len(PALETTE)], label=label)
            for n, label in enumerate(f"{group} {mpp:g} µm/px".strip() for group, mpp in sets)
        ]
        figure.legend(handles=handles, loc="outside lower center", ncols=min(len(sets), 4))
        figure.draw_without_rendering()
        return figure


def _slopes(table: pd.DataFrame) -> str:
    """A line for each set: bias, slope and correlation of the images' means."""
    lines = [
        f"{shorten(str(row['group']), 10)} {row['mpp']:g}: {100 * row['bias']:+.1f} %, "
        f"slope {row['slope']:.2f}, r {row['correlation']:.2f}"
        for row in table.to_dict("records")
    ]
    return "\n".join(lines)


def types_plot(
    confused: pd.DataFrame, calibrated: pd.DataFrame, *, width_mm: float = TWO_COLUMNS_MM
) -> Figure:
    """For every group of images how types that are annotated are found, and how often the type is
    right by what its probability says (`confusion`, `calibration_table`)."""
    groups = sorted(calibrated["group"].unique())
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=max(len(groups), 1) * width_mm / 2)
        grid = figure.subplots(max(len(groups), 1), 2, squeeze=False)
        for (left, right), group in zip(grid, groups, strict=True):
            _draw_confusion(left, confused[confused["group"] == group])
            left.set_title(group, loc="left")
            bins = calibrated[calibrated["group"] == group]
            right.plot([0, 1], [0, 1], color="0.6", linewidth=0.8, linestyle="--")
            right.plot(bins["probability"], bins["right"], "o-", color=PALETTE[0])
            for _, one in bins.iterrows():
                where = (one["probability"], one["right"])
                right.annotate(
                    f"{one['nuclei']:,}", where, (0, -10), textcoords="offset points", fontsize=5
                )
            right.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
            right.set(xlabel="probability of the type", ylabel="share of nuclei with that type")
    return figure


def _draw_confusion(axes: Axes, table: pd.DataFrame) -> None:
    """Shares of each annotated type, with numbers of nuclei."""
    rows = [name for name in NUCLEUS_TYPES if (table["annotated"] == name).any()]
    columns: list[str] = [*NUCLEUS_TYPES, ""]
    counts = table.set_index("annotated").reindex(index=rows, columns=columns).to_numpy()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        dark = shares[row, column] > 0.6
        text = f"{shares[row, column]:.0%}\n{count:,}"
        axes.text(
            column, row, text, ha="center", va="center", fontsize=5, color="w" if dark else "k"
        )
    axes.set_xticks(range(len(columns)), [*NUCLEUS_TYPES, "not found"], rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="found", ylabel="annotated")
