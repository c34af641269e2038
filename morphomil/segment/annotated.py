"""Annotated images: a table of files -> pixels, instance labels, types of nuclei, resolution."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from PIL import Image
from scipy import ndimage
from skimage.transform import downscale_local_mean

from morphomil.cohort.numbers import parse_number
from morphomil.errors import InputError, translating
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Hashable
    from pathlib import Path

    from numpy.typing import NDArray

FINE_MPP = 0.35
"""Images finer than this are worked at half their resolution too."""


@dataclass(frozen=True)
class TypedNuclei:
    """Nuclei whose type is known: centers x and y (n, 2) in pixels from the image's top left
    corner, and the number of each one's type in `NUCLEUS_TYPES` (n,)."""

    centers: NDArray[np.float64]
    types: NDArray[np.uint8]


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
    typed: TypedNuclei | None = None
    outlined: bool = True

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
        typed = self.typed and TypedNuclei(self.typed.centers / 2, self.typed.types)
        smaller = replace(self, rgb=half, labels=labels, mpp=self.mpp * 2, fine=fine, typed=typed)
        return [self, smaller]


def read_annotated(table: pd.DataFrame, root: Path) -> list[AnnotatedImage]:
    """The images named in a table with the columns `image`, `labels`, `mpp` and optionally `group`,
    `types` and `points`.

    Labels may be a whole number of times finer than the image (2000 x 2000 for 1000 x 1000): edges
    then lie between pixels. `types` is a CSV of `label` and `type` (one of `NUCLEUS_TYPES`) of
    nuclei that have labels, `points` one of `x_px`, `y_px` and `type` of any; with points an image
    may be without labels.

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
            with translating(InputError):
                images.append(_read_image({k: v for k, v in row.items() if not pd.isna(v)}, root))
        except InputError as error:
            problems.append(f"{row.get('image')}: {error}")
    if problems:
        raise InputError(problems)
    return images


def _read_image(row: dict[Hashable, Any], root: Path) -> AnnotatedImage:
    """The image that a row names."""
    rgb = _decode(root / row["image"], "RGB")
    outlined = "labels" in row
    if not outlined and "points" not in row:
        raise ValueError("it has neither labels nor points")
    labels: NDArray[np.int32] = np.zeros(rgb.shape[:2], np.int32)
    if outlined:
        labels = _decode(root / row["labels"]).astype(np.int32)
    finer = max(labels.shape[0] // rgb.shape[0], 1)
    if labels.shape != (finer * rgb.shape[0], finer * rgb.shape[1]):
        raise ValueError(
            f"{row['labels']} is an array of {labels.shape}, which is no whole multiple of the "
            f"image's {rgb.shape[:2]}"
        )
    mpp = parse_number(str(row["mpp"]))
    if not 0.05 <= mpp <= 5:
        raise ValueError(f"mpp must be 0.05 to 5, got {row['mpp']}")
    typed = None
    if "points" in row:
        typed = _read_points(root / row["points"])
    elif "types" in row:
        typed = _read_types(root / row["types"], labels, finer)
    return AnnotatedImage(
        str(row["image"]),
        rgb,
        labels[finer // 2 :: finer, finer // 2 :: finer],
        mpp,
        str(row.get("group", "")),
        labels if finer > 1 else None,
        typed,
        outlined,
    )


def _decode(path: Path, mode: str | None = None) -> NDArray[Any]:
    refusal = translating(lambda cause: InputError(f"{path} can't be read: {cause}"))
    with refusal, Image.open(path) as file:
        return np.asarray(file.convert(mode) if mode else file)


def _read_points(path: Path) -> TypedNuclei:
    table = _read_cells(path, {"x_px", "y_px", "type"})
    places = table[["x_px", "y_px"]].apply(pd.to_numeric, errors="coerce").to_numpy(float)
    if not np.isfinite(places).all():
        row = int(np.flatnonzero(~np.isfinite(places).all(axis=1))[0])
        raise ValueError(f"{path.name}, line {row + 2}: its position is no two numbers")
    # a point is a pixel, whose middle it means
    return TypedNuclei(places + 0.5, _numbers(table, path))


def _read_types(path: Path, labels: NDArray[np.int32], finer: int) -> TypedNuclei:
    table = _read_cells(path, {"label", "type"})
    if unknown := set(table["label"]) - set(np.unique(labels)):
        raise ValueError(f"{path.name} names labels that the image lacks, such as {min(unknown)}")
    middles = ndimage.center_of_mass(labels > 0, labels, table["label"].to_numpy())
    centers = (np.array(middles, dtype=float).reshape(-1, 2)[:, ::-1] + 0.5) / finer
    return TypedNuclei(centers, _numbers(table, path))


def _read_cells(path: Path, columns: set[str]) -> pd.DataFrame:
    with translating(lambda cause: InputError(f"{path} can't be read: {cause}")):
        table = pd.read_csv(path, keep_default_na=False)
    if missing := columns - set(table.columns):
        raise ValueError(f"{path.name} lacks the columns {', '.join(sorted(missing))}")
    return table


def _numbers(table: pd.DataFrame, path: Path) -> NDArray[np.uint8]:
    """The number of each row's type."""
    if unknown := set(table["type"]) - set(NUCLEUS_TYPES):
        raise ValueError(
            f"{path.name} has the type {min(unknown)!r}; types are {', '.join(NUCLEUS_TYPES)}"
        )
    return table["type"].map(NUCLEUS_TYPES.index).to_numpy(np.uint8)


def read_table(path: Path, *, columns: set[str]) -> pd.DataFrame:
    """The table of a CSV.

    Raises:
        InputError: it can't be read, or lacks a column.
    """
    with translating(lambda cause: InputError(f"table {path} can't be read: {cause}")):
        table = pd.read_csv(path, dtype={"group": "str", "split": "str"})
    if missing := columns - set(table.columns):
        raise InputError(f"table {path} lacks {', '.join(sorted(missing))}")
    return table
