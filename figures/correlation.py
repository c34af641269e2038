"""How the features go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from morphomil.figures.cells import draw_cells
from morphomil.figures.drawing import AbsentError, Drawing
from morphomil.figures.labels import MINUS, RHO, format_ratio
from morphomil.figures.results import read_patient_values
from morphomil.figures.style import ONE_AND_A_HALF_COLUMNS_MM, new_figure, style
from morphomil.matrix import by_value
from morphomil.nuclei.quantities import patient_quantity
from morphomil.tables.correlation import correlation_tables

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from morphomil.run.directory import Run
MOST_WRITTEN = 12
"""Numbers are written into the cells of so many features at most."""


def draw_correlation(run: Run) -> Drawing:
    """Draw the correlations of patient values.

    Raises:
        AbsentError: nothing is ranked yet, or there are too few patients.
    """
    values = by_value(read_patient_values(run)[0])
    try:
        correlation = correlation_tables(values)
    except ValueError as error:
        raise AbsentError(str(error)) from None
    figure = correlation_plot(correlation.rho, correlation.merges, patients=len(values))
    table = correlation.rho.rename_axis("feature").reset_index()
    caption = (
        "Spearman's correlation of patient values, ordered by average linkage of 1 minus its "
        "absolute value. No test."
    )
    return Drawing(
        figure, table, caption, {"tree": correlation.merges, "patients": values.reset_index()}
    )


def correlation_plot(
    rho: pd.DataFrame,
    merges: pd.DataFrame,
    *,
    patients: int,
    width_mm: float = ONE_AND_A_HALF_COLUMNS_MM,
) -> Figure:
    """Correlations of the features in clustered order, with the tree that orders them.

    `rho`: features x features; `merges`: `x1..x4, y1..y4` of each merge, x counting features, y the
    distance 1 - |rho|.
    """
    names = [patient_quantity(str(name)).name for name in rho]
    count = len(names)
    with style():
        figure = new_figure(width_mm=width_mm, height_mm=width_mm * 0.9)
        tree, axes = figure.subplots(2, 1, height_ratios=(1, 6), sharex=True)
        corners = merges.to_numpy(float)
        for row in corners:
            tree.plot(row[:4], row[4:], color="black", linewidth=0.7)
        tree.set_ylim(bottom=0)
        tree.set_ylabel(f"1 {MINUS} |{RHO}|")
        tree.tick_params(axis="x", bottom=False, labelbottom=False)
        tree.spines["bottom"].set_visible(False)
        write = format_ratio if count <= MOST_WRITTEN else None
        image = draw_cells(axes, rho.to_numpy(float), write=write)
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
        figure.colorbar(
            image, ax=[tree, axes], shrink=0.7, label=f"Spearman's {RHO}, {patients:,} patients"
        )
        figure.draw_without_rendering()
        return figure
