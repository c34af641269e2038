"""The nuclei behind a prediction: what patches contribute, and the nuclei that speak most for and
against."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.figures.contours import contact_sheet
from morphomil.figures.patch_examples import PatchExample
from morphomil.store import read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.figure import Figure

    from morphomil.figures.slide_image import OpenedImage
    from morphomil.run.directory import Run

SHOWN = 8
"""So many nuclei that speak for the label are shown, and as many that speak against it."""
SIDE_PX = 64
"""The square around a nucleus has sides of this many working pixels."""


def read_contributions(run: Run, slide_id: str) -> pd.DataFrame | None:
    """The slide's nuclei with what they contribute (`rank/nuclei`), or None if the ranking has not
    stored it."""
    path = run.contributions_path(slide_id)
    if not path.is_file():
        return None
    return run.nuclei(slide_id).merge(read_parquet(path).drop(columns="patch_id"), on="label")


def patch_contributions(nuclei: pd.DataFrame, patches: pd.DataFrame) -> pd.Series[float]:
    """What each patch's nuclei contribute together, in percentage points; NaN in patches that no
    bag has."""
    total = nuclei.groupby("patch_id")["contribution"].sum(min_count=1)
    return 100 * patches["patch_id"].map(total)


def contribution_limits(values: Iterable[pd.Series[float]]) -> tuple[float, float] | None:
    """The same colors for all slides, as far below 0 as above: the 98th percentile of the size of
    the patches' contributions; None where there is none."""
    sizes = [np.abs(column.dropna().to_numpy(float)) for column in values]
    together = np.concatenate(sizes) if sizes else np.empty(0)
    reach = float(np.percentile(together, 98)) if len(together) else 0.0
    return (-reach, reach) if reach > 0 else None


def nuclei_gallery(opened: OpenedImage, nuclei: pd.DataFrame, *, positive: str) -> Figure | None:
    """The nuclei of one image that contribute most for (first) and against the positive label, each
    in its place.

    `nuclei` as `read_contributions` gives them; None if none of the image has a contribution.
    """
    patches = opened.run.patches(opened.slide.slide_id)
    contributing = nuclei.merge(
        patches.loc[patches["image"] == opened.number, ["patch_id", "region"]], on="patch_id"
    )
    contributing = contributing[contributing["contribution"].notna()].sort_values(
        "contribution", kind="stable"
    )
    if contributing.empty:
        return None
    count = min(SHOWN, max(len(contributing) // 2, 1))
    chosen = pd.concat([contributing.iloc[::-1].head(count), contributing.head(count)])
    masks = opened.run.masks(opened.slide.slide_id)
    examples = []
    for nucleus in chosen.to_dict("records"):
        region = masks[nucleus["region"]]
        frame = region.frame
        window = frame.window_around(nucleus["x_px"], nucleus["y_px"], side_px=SIDE_PX)
        labels = region.crop(window)
        x, y = frame.to_level0([window[1].start, window[0].start]).tolist()
        height, width = labels.shape
        rgb = opened.image.read(x, y, width, height, downsample=frame.downsample)
        share = 100 * nucleus["contribution"]
        only = np.where(labels == nucleus["label"], labels, 0)
        side = "for" if share > 0 else "against"
        examples.append(
            PatchExample(
                rgb, only, title=f"{side} {positive}", values={int(nucleus["label"]): share}
            )
        )
    return contact_sheet(
        examples, mpp=frame.mpp, label="Contribution", unit="% points", columns=SHOWN
    )
