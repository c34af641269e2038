"""Label images: a whole number per nucleus, 0 is background; PNG, TIFF, or an array.

Cellpose writes `_cp_masks.png` and `.tif` (`cellpose.io.save_masks`). InstanSeg's models of nuclei
and cells give two planes, nuclei first (`instanseg.py`, https://github.com/instanseg/instanseg).
"""

from __future__ import annotations

import math
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

import numpy as np
import pandas as pd

from morphomil.numerals import read_digits
from morphomil.slides.flat import MAX_FLAT_PX
from morphomil.slides.masks import BAND_PX, HALO_UM
from morphomil.slides.nuclei_files.nuclei import decoding
from morphomil.slides.tiff_tiles import MAX_TILE_PX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage

MAX_SCALE_CONFLICT = 0.01
"""A label image's width and height may differ by this much in their scale to the slide."""
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC = b"\x89PNG"
PLANES = {"nuclei": ("nucle", 0), "cells": ("cell", 1)}
"""A plane's name: how a channel's name in OME-XML has it, and its number where there are no
names, as InstanSeg orders them."""


def types_file(path: Path) -> Path | None:
    """The table of types that lies beside a label image, `NAME.types.csv` beside `NAME.png`; None
    where there is none."""
    file = path.with_name(f"{path.stem}.types.csv")
    return file if file.is_file() else None


def read_types(path: Path | None) -> pd.DataFrame | None:
    """`type`, and `type_probability` if there is one, by label; None without a table.

    Raises:
        ValueError: it has no columns label and type, a label isn't a whole number, or one stands
            twice.
    """
    if path is None:
        return None
    table = pd.read_csv(path, sep=None, engine="python", encoding="utf-8-sig")
    table.columns = pd.Index([str(name).strip().casefold() for name in table])
    if missing := [name for name in ("label", "type") if name not in table]:
        raise ValueError(
            f"{path.name} beside it has no column {' and '.join(missing)}; it takes label, type "
            "and perhaps type_probability"
        )
    labels = pd.to_numeric(table["label"], errors="coerce")
    if (labels % 1 != 0).any() or labels.duplicated().any():
        raise ValueError(f"{path.name} beside it has labels that aren't whole numbers, each once")
    names = ["type"]
    if "type_probability" in table:
        names.append("type_probability")
        table["type_probability"] = pd.to_numeric(table["type_probability"], errors="coerce")
    known = table["type"].map(lambda name: None if pd.isna(name) else str(name)).astype("object")
    return table.assign(type=known)[names].set_index(pd.Index(labels.astype(np.int64)))


class LabelImage:
    """Nuclei of a label image of the slide's extent: integers, 0 is background."""

    def __init__(
        self,
        path: Path,
        image: SlideImage,
        *,
        plane: str | None = None,
        decoded: NDArray[Any] | None = None,
        said: pd.DataFrame | None = None,
    ) -> None:
        """Read the image once, band by band, for the nuclei's places.

        `plane` chooses among several (`Reading.plane`); `decoded` are labels that were read
        already, and `said` what their file says of each, by label.

        Raises:
            ValueError: it holds no labels, several planes of which none is chosen, or doesn't fit
                the image.
        """
        self._path, self._plane = path, plane
        self._decoded = _decode_png(path, plane) if decoded is None else _checked_labels(decoded)
        with self._open() as labels:
            self._shape = height, width = labels.shape
            self._scale = image.width / width, image.height / height
            coarse = max(MAX_SCALE_CONFLICT, 1 / width, 1 / height)
            if abs(self._scale[0] / self._scale[1] - 1) > coarse:
                raise ValueError(
                    f"{width} x {height} pixels don't fit the slide's {image.width} x "
                    f"{image.height}"
                )
            table = _tabulate(labels)
        self._values = table.index.to_numpy()
        self.areas_px = table["pixels"].to_numpy(float) * self._scale[0] * self._scale[1]
        self.left_out: Counter[str] = Counter()
        self.said = (
            pd.DataFrame(index=pd.RangeIndex(len(table)))
            if said is None
            else said.reindex(self._values).reset_index(drop=True)
        )
        span_um = (table[["width", "height"]].max(axis=1) * max(self._scale) * image.mpp).to_numpy()
        if len(span_um) and span_um.max() > HALO_UM:
            largest = int(np.argmax(span_um))
            raise ValueError(
                f"label {self._values[largest]} spans {span_um[largest]:.0f} um, more than a "
                "nucleus can; "
                "every nucleus needs a number of its own (skimage.measure.label gives one to each "
                "part of a mask)"
            )
        self.centers = table[["x", "y"]].to_numpy() * self._scale

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The labels as an array, or as a Zarr array where the file is a TIFF, decoded where it is
        read."""
        if self._decoded is not None:
            yield self._decoded
            return
        import tifffile
        import zarr

        with decoding(self._path), tifffile.TiffFile(self._path) as file:
            stack = file.series[0]
            with stack.aszarr(level=0) as store:
                labels: Any = zarr.open(store, mode="r")
                if math.prod(labels.chunks) > max(MAX_TILE_PX, math.prod(labels.shape)):
                    raise ValueError(f"it says its tiles have {labels.chunks} pixels")
                alike = [series for series in file.series if series.shape == stack.shape]
                if len(alike) > 1:
                    raise ValueError(
                        f"it holds {len(alike)} images of the same size; save the one of the "
                        "nuclei alone"
                    )
                yield _checked_labels(_one_plane(labels, _channel_names(file), self._plane))

    def draw(
        self,
        canvas: NDArray[np.int32],
        chosen: NDArray[np.intp],
        first_label: int,
        *,
        x_px: float,
        y_px: float,
        downsample: float,
    ) -> None:
        """See `Nuclei.draw`: each pixel takes the label at its center."""
        numbers = np.zeros(len(self._values), np.int32)
        numbers[chosen] = first_label + np.arange(len(chosen))
        sides = zip(canvas.shape[::-1], (x_px, y_px), self._scale, self._shape[::-1], strict=True)
        places = [
            np.floor((start + (np.arange(side) + 0.5) * downsample) / scale).astype(np.int64)
            for side, start, scale, _ in sides
        ]
        (x, across), (y, down) = (
            (place[inside], np.flatnonzero(inside))
            for place, size in zip(places, self._shape[::-1], strict=True)
            for inside in [(place >= 0) & (place < size)]
        )
        if not (len(x) and len(y)):
            return
        with self._open() as labels:
            block = np.asarray(labels[y[0] : y[-1] + 1, x[0] : x[-1] + 1])
        found = block[np.ix_(y - y[0], x - x[0])]
        known = found != 0
        drawn = np.zeros(found.shape, np.int32)
        drawn[known] = numbers[np.searchsorted(self._values, found[known])]
        canvas[np.ix_(down, across)] = drawn


@dataclass(frozen=True)
class _Plane:
    """One plane of a stack that is read in parts."""

    stack: Any
    place: tuple[int | None, ...]
    """The plane's number on every axis of the stack; None on those of rows and columns."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and columns."""
        sides = zip(self.stack.shape, self.place, strict=True)
        return tuple(side for side, number in sides if number is None)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The labels' type."""
        dtype: np.dtype[Any] = np.dtype(self.stack.dtype)
        return dtype

    def __getitem__(self, key: Any) -> NDArray[Any]:
        window = iter(key if isinstance(key, tuple) else (key, slice(None)))
        return np.asarray(
            self.stack[tuple(next(window) if number is None else number for number in self.place)]
        )


def _one_plane(stack: Any, names: list[str], wanted: str | None) -> Any:
    """The plane of a stack (rows and columns are its two longest axes) that is wanted."""
    sides = list(stack.shape)
    if len(sides) == 2:
        if wanted not in (None, "0", "nuclei"):
            raise ValueError(f"it has one plane, so plane {wanted} can't be taken")
        return stack
    longest = sorted(sorted(range(len(sides)), key=lambda axis: -sides[axis])[:2])
    others = [axis for axis in range(len(sides)) if axis not in longest and sides[axis] > 1]
    if len(others) > 1:
        raise ValueError(
            f"it holds {stack.dtype} {stack.shape}; a label image has rows and columns"
        )
    if others and others[0] > longest[1] and sides[others[0]] in (3, 4):
        raise ValueError(
            f"it holds colors {stack.shape}; a label image has one whole number per pixel"
        )
    count = sides[others[0]] if others else 1
    number = _plane_number(count, names, wanted) if others else 0
    place = [None if axis in longest else 0 for axis in range(len(sides))]
    if others:
        place[others[0]] = number
    return _Plane(stack, tuple(place))


def _plane_number(count: int, names: list[str], wanted: str | None) -> int:
    named = f" ({', '.join(names)})" if len(names) == count else ""
    if wanted is None:
        raise ValueError(
            f"it has {count} planes{named}, and nothing says which one holds nuclei; name it with "
            "--plane nuclei, --plane cells or its number from 0"
        )
    if wanted in PLANES:
        word, usual = PLANES[wanted]
        hits = [number for number, name in enumerate(names) if word in name.casefold()]
        if named and len(hits) == 1:
            return hits[0]
        if count == 2:
            return usual
        raise ValueError(
            f"it has {count} planes{named}, and none is known as {wanted}; give --plane the "
            "number of one, from 0"
        )
    number = read_digits(wanted)
    if number is None:
        raise ValueError(f"a plane is nuclei, cells or a number from 0, not {wanted!r}")
    if number >= count:
        raise ValueError(f"it has {count} planes{named}, numbered from 0; there is no {wanted}")
    return number


def _channel_names(file: Any) -> list[str]:
    """Of an OME-TIFF's first image; none where it says nothing."""
    if not file.is_ome:
        return []
    from defusedxml.ElementTree import fromstring

    try:
        tree = fromstring(file.ome_metadata)
    except ParseError:
        return []
    image = tree.find("{*}Image")
    channels = [] if image is None else image.findall("{*}Pixels/{*}Channel")
    return [str(channel.get("Name") or "") for channel in channels]


def _decode_png(path: Path, plane: str | None) -> NDArray[Any] | None:
    """The labels of a PNG; None for a TIFF, which is read in parts."""
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic[:4] in TIFF_MAGIC:
        return None
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(path) as image:
        if image.width * image.height > MAX_FLAT_PX:
            raise ValueError(
                f"{image.width} x {image.height} pixels are too many for a PNG; save it as a TIFF"
            )
        if image.mode not in ("L", "P", "I", "I;16"):
            raise ValueError(
                f"its pixels are {image.mode}; a label image has one whole number per pixel"
            )
        return np.asarray(_checked_labels(_one_plane(np.asarray(image), [], plane)))


def _checked_labels(labels: Any) -> Any:
    if len(labels.shape) != 2 or labels.dtype.kind not in "iu":
        raise ValueError(
            f"it holds {labels.dtype} {labels.shape}; a label image has one whole number per pixel"
        )
    return labels


def _tabulate(labels: Any) -> pd.DataFrame:
    """By label: centroid in the label image's pixels (corners at whole numbers) and extent."""
    parts = []
    for top in range(0, labels.shape[0], BAND_PX):
        band = np.asarray(labels[top : top + BAND_PX])
        if band.min(initial=0) < 0:
            raise ValueError(f"it has the negative label {band.min()}")
        rows, columns = np.nonzero(band)
        pixels = pd.DataFrame(
            {"label": band[rows, columns], "x": columns + 0.5, "y": rows + top + 0.5}
        )
        grouped = pixels.groupby("label")
        sums = grouped.sum().assign(pixels=grouped.size())
        low, high = grouped.min().add_prefix("low_"), grouped.max().add_prefix("high_")
        parts.append(pd.concat([sums, low, high], axis=1))
    whole = pd.concat(parts).groupby(level=0)
    sums, low, high = whole.sum(), whole.min(), whole.max()
    extent = {
        "width": high["high_x"] - low["low_x"] + 1,
        "height": high["high_y"] - low["low_y"] + 1,
    }
    centers = {axis: sums[axis] / sums["pixels"] for axis in ("x", "y")}
    return pd.DataFrame(centers | extent | {"pixels": sums["pixels"]})
