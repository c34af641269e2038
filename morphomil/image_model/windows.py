"""Windows between the patches: attention of a model on a finer grid than the one its slides were
cut on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from morphomil.errors import InputError
from morphomil.image_model.embed import PATCHES_AT_ONCE, patch_pixels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.types import Slide

    Score = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
    """Patches (n, side, side, 3) uint8 -> attention before the softmax (n,)."""
MAX_PER_SIDE = 8
"""At most so many windows begin within a patch's side."""


def windows_per_side(overlap: float) -> int:
    """How many windows begin within a patch's side if neighbors share this part of theirs: 0.5
    gives 2, 0.75 gives 4.

    Raises:
        InputError: the overlap isn't a share from 0 on, or so large that a slide is read too many
            times.
    """
    if not 0 <= overlap <= 1 - 1 / MAX_PER_SIDE:
        raise InputError(
            f"windows overlap by 0 (not at all) to {1 - 1 / MAX_PER_SIDE} of their "
            f"side, got {overlap:g}"
        )
    return round(1 / (1 - overlap))


def overlapping_windows(patches: pd.DataFrame, *, per_side: int) -> pd.DataFrame:
    """Windows of a patch's size, `per_side` to a side, that lie on kept patches alone; the kept
    patches are among them.

    `patches` are the kept ones of a slide (schema PATCHES). One row per window: `image`, `region`,
    `x_px`, `y_px`, `side_px`, its `row` and `column` on the fine grid of its region, and `shifted`:
    it is none of the patches.
    """
    tables = []
    for (image, region), of_region in patches.groupby(["image", "region"], sort=True):
        side = float(of_region["side_px"].iloc[0])
        x, y = float(of_region["x_px"].min()), float(of_region["y_px"].min())
        row, column = (
            (of_region[name] - start).to_numpy() / side
            for name, start in (("y_px", y), ("x_px", x))
        )
        kept = np.zeros((round(row.max()) + 2, round(column.max()) + 2), bool)
        kept[row.round().astype(int), column.round().astype(int)] = True
        for down in range(per_side):
            for right in range(per_side):
                whole = kept[:-1, :-1].copy()
                if right:
                    whole &= kept[:-1, 1:]
                if down:
                    whole &= kept[1:, :-1]
                if right and down:
                    whole &= kept[1:, 1:]
                rows, columns = whole.nonzero()
                places = {"row": per_side * rows + down, "column": per_side * columns + right}
                shared = {"image": image, "region": region, "x_px": x, "y_px": y, "side_px": side}
                tables.append(pd.DataFrame(places | shared | {"shifted": bool(right or down)}))
    windows = pd.concat(tables, ignore_index=True)
    step = windows["side_px"] / per_side
    return windows.assign(
        x_px=windows["x_px"] + windows["column"] * step,
        y_px=windows["y_px"] + windows["row"] * step,
    )


def spread(windows: pd.DataFrame, values: NDArray[np.float64], *, per_side: int) -> pd.DataFrame:
    """Cells of the fine grid with the mean of the windows over each:
    `image, region, x_px, y_px, side_px, value`."""
    tables = []
    for (image, region), of_region in windows.assign(value=values).groupby(
        ["image", "region"], sort=True
    ):
        row, column = of_region["row"].to_numpy(), of_region["column"].to_numpy()
        total = np.zeros((row.max() + per_side, column.max() + per_side))
        count = np.zeros_like(total)
        for down in range(per_side):
            for right in range(per_side):
                np.add.at(total, (row + down, column + right), of_region["value"].to_numpy())
                np.add.at(count, (row + down, column + right), 1)
        rows, columns = count.nonzero()
        step = float(of_region["side_px"].iloc[0]) / per_side
        x, y = (
            of_region["x_px"].iloc[0] - column[0] * step,
            of_region["y_px"].iloc[0] - row[0] * step,
        )
        places = {"x_px": x + columns * step, "y_px": y + rows * step, "side_px": step}
        mean = total[rows, columns] / count[rows, columns]
        tables.append(pd.DataFrame({"image": image, "region": region} | places | {"value": mean}))
    return pd.concat(tables, ignore_index=True)


def attend_windows(
    run: Run, slide: Slide, *, per_side: int, outside: Literal["white", "keep"], score: Score
) -> pd.DataFrame:
    """`relative_attention` of the cells of a slide's fine grid, 1 for what an average patch has
    (`spread`).

    Raises:
        SlideError: the slide can't be read.
    """
    windows = overlapping_windows(run.patches(slide.slide_id).query("kept"), per_side=per_side)
    windows = windows.assign(
        blank_fraction=1.0
    )  # none is known, so all are painted where the region isn't
    pixels = patch_pixels(run, slide, outside=outside, patches=windows)
    scores = np.concatenate([score(batch) for batch in _batches(pixels)])
    weight = np.exp(scores - scores.max())
    relative = weight / weight[~windows["shifted"].to_numpy()].mean()
    return spread(windows, relative, per_side=per_side).rename(
        columns={"value": "relative_attention"}
    )


def _batches(pixels: Iterator[NDArray[np.uint8]]) -> Iterator[NDArray[np.uint8]]:
    waiting = []
    for rgb in pixels:
        waiting.append(rgb)
        if len(waiting) == PATCHES_AT_ONCE:
            yield np.stack(waiting)
            waiting = []
    if waiting:
        yield np.stack(waiting)
