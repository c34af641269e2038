"""Tables of numbers as colored cells with the numbers in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.patches import Rectangle

from morphomil.figures.labels import format_ratio
from morphomil.figures.style import DIVERGING

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from numpy.typing import NDArray
DARK = 0.7
"""From this share of the scale on a cell is so dark that its number is white."""


def draw_cells(
    axes: Axes,
    values: NDArray[np.float64],
    *,
    limit: float = 1.0,
    signed: bool = True,
    framed: NDArray[np.bool_] | None = None,
    write: Callable[[float], str] | None = format_ratio,
) -> AxesImage:
    """A cell for each value (rows, columns), NaN blank; what is returned makes the color bar.

    Args:
        axes: without ticks and lines afterwards; names of rows and columns are the caller's.
        values: from -limit, if signed, else from 0, to limit.
        limit: where the scale of colors ends.
        signed: two colors about 0, else shades of one.
        framed: (rows, columns), cells with a frame and a bold number.
        write: how a number is written; None: not at all.
    """
    image = axes.imshow(
        values,
        cmap=DIVERGING if signed else "Blues",
        vmin=-limit if signed else 0,
        vmax=limit,
        aspect="auto",
    )
    for (row, column), value in np.ndenumerate(values):
        sure = framed is not None and bool(framed[row, column])
        if write is not None and np.isfinite(value):
            axes.text(
                column,
                row,
                write(value),
                ha="center",
                va="center",
                color="white" if abs(value) > DARK * limit else "black",
                fontsize=6,
                fontweight="bold" if sure else "normal",
            )
        if sure:
            corner = (column - 0.46, row - 0.44)
            axes.add_patch(Rectangle(corner, 0.92, 0.88, fill=False, linewidth=1.2))
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    return image
