"""Annotated images: a table of files -> pixels, instance labels, resolution."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image
from skimage.transform import downscale_local_mean

from morphomil.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

FINE_MPP = 0.35
"""Images finer than this are worked at half their resolution too."""


@dataclass(frozen=True)
class AnnotatedImage:
    """One annotated image: RGB uint8 (H, W, 3), instance labels (H, W), resolution, and the group
    it belongs to.

    Pixel (i, j) covers [i, i + 1) x [j, j + 1) of the tissue, in labels as in the image. `fine` are
    the labels several times finer (k H, k W) where there are such, so that edges can lie between
    pixels.
    """

    name: str
    rgb: NDArray[np.uint8]
    labels: NDArray[np.int32]
    mpp: float
    group: str
    fine: NDArray[np.int32] | None = None

    @property
    def finest(self) -> NDArray[np.int32]:
        """The finest labels that there are (k H, k W), k a whole number."""
        return self.labels if self.fine is None else self.fine

    def levels(self) -> list[AnnotatedImage]:
        """The image itself, and if it is fine at half its resolution (area mean; labels by nearest
        neighbor, and the image's own as the finer ones)."""
        if self.mpp > FINE_MPP:
            return [self]
        height, width = (side // 2 * 2 for side in self.labels.shape)
        half = downscale_local_mean(self.rgb[:height, :width], (2, 2, 1)).round().astype(np.uint8)
        labels = self.labels[:height:2, :width:2]
        finer = self.finest.shape[0] // self.labels.shape[0]
        fine = self.finest[: height * finer, : width * finer]
        return [self, AnnotatedImage(self.name, half, labels, self.mpp * 2, self.group, fine)]


def read_annotated(table: pd.DataFrame, root: Path) -> list[AnnotatedImage]:
    """The images named in a table with the columns `image`, `labels`, `mpp` and optionally `group`.

    Labels may be a whole number of times finer than the image (2000 x 2000 for 1000 x 1000): edges
    then lie between pixels.

    Args:
        table: paths are relative to `root`. Images of one group share the chance to be drawn in
            training and are reported together (say, data sets of different size); without the
            column all images are one group.
        root: folder that the paths start from.

    Raises:
        InputError: every missing or unusable file, at once.
    """
    problems, images = [], []
    for row in table.to_dict("records"):
        try:
            with Image.open(root / row["image"]) as file:
                rgb = np.asarray(file.convert("RGB"))
            with Image.open(root / row["labels"]) as file:
                labels = np.asarray(file).astype(np.int32)
            finer = max(labels.shape[0] // rgb.shape[0], 1)
            if labels.shape != (finer * rgb.shape[0], finer * rgb.shape[1]):
                raise ValueError(f"labels are {labels.shape}, the image is {rgb.shape[:2]}")
            fine = labels if finer > 1 else None
            labels = labels[finer // 2 :: finer, finer // 2 :: finer]
            if not 0.05 <= float(row["mpp"]) <= 5:
                raise ValueError(f"mpp must be 0.05 to 5, got {row['mpp']}")
            group = row.get("group", "")
            name = str(row["image"])
            group = "" if pd.isna(group) else str(group)
            images.append(AnnotatedImage(name, rgb, labels, float(row["mpp"]), group, fine))
        except (OSError, ValueError, KeyError) as error:
            problems.append(f"{row.get('image')}: {error}")
    if problems:
        raise InputError(problems)
    return images


def read_table(path: Path, *, columns: set[str]) -> pd.DataFrame:
    """The table of a CSV.

    Raises:
        InputError: it can't be read, or lacks a column.
    """
    try:
        table = pd.read_csv(path, dtype={"group": "str", "split": "str"})
    except (OSError, ValueError) as error:
        raise InputError(f"table {path} can't be read: {error}") from error
    if missing := columns - set(table.columns):
        raise InputError(f"table {path} lacks {', '.join(sorted(missing))}")
    return table
