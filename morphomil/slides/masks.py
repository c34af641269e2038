"""The masks of a region: label image and tissue, on a frame of their own."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.slides.patches import RegionPatches
    from morphomil.slides.regions import Region
    from morphomil.types import PatchSettings

PAD_PX = 64
"""Rim of a region's masks beyond its patch grid, working pixels, for nuclei that reach over the
edge."""
BAND_PX = 1024
"""Rows of masks worked at a time."""
HALO_UM = 120.0
"""Rows of masks read beyond a band: more than the longest nucleus that the segmenter draws."""


class Masks(NamedTuple):
    """The masks of a region: how many nuclei, and int32 bands of its label image, each with its
    first row."""

    nuclei: int
    bands: Iterable[tuple[int, NDArray[np.int32]]]


def mask_frame(
    cut: RegionPatches, settings: PatchSettings
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Shape of a region's masks in working pixels, and the level-0 position (x, y) of their top
    left corner."""
    height, width = (count * settings.patch_px + 2 * PAD_PX for count in (cut.rows, cut.columns))
    return (height, width), (cut.x_px - PAD_PX * cut.downsample, cut.y_px - PAD_PX * cut.downsample)


def store_region(
    group: Any, region: Region, cut: RegionPatches, settings: PatchSettings, masks: Masks
) -> None:
    """Write a region's masks, band by band, and its frame."""
    shape, (x, y) = mask_frame(cut, settings)
    stored = group.create_group(str(region.index))
    labels = stored.create_array(
        "labels", shape=shape, dtype="int32", chunks=tuple(min(BAND_PX, side) for side in shape)
    )
    with ThreadPoolExecutor(1) as writer:  # a band is compressed while the next one is drawn
        written: Future[None] | None = None
        for top, band in masks.bands:
            if written is not None:
                written.result()
            written = writer.submit(labels.__setitem__, slice(top, top + len(band)), band)
        if written is not None:
            written.result()
    stored.create_array("tissue", shape=cut.tissue.shape, dtype="bool", chunks=cut.tissue.shape)[
        :
    ] = cut.tissue
    scale = {
        "downsample": cut.downsample,
        "mpp": settings.working_mpp,
        "patch_px": settings.patch_px,
    }
    stored.attrs.update({"x_px": x, "y_px": y} | scale | {"image": region.image})


def patch_grid(
    patches: pd.DataFrame, frame: dict[str, Any], *, shape: tuple[int, int]
) -> NDArray[np.intp]:
    """The number of the kept patch in each cell of a region's grid, -1 where there is none."""
    cells = np.full([(side - 2 * PAD_PX) // frame["patch_px"] for side in shape], -1)
    kept = patches[patches["kept"]]
    origin = [frame[name] + PAD_PX * frame["downsample"] for name in ("y_px", "x_px")]
    side = frame["patch_px"] * frame["downsample"]
    row, column = (
        ((kept[n] - start) / side).round().astype(int)
        for n, start in zip(("y_px", "x_px"), origin, strict=True)
    )
    cells[row, column] = kept["patch_id"]
    return cells
