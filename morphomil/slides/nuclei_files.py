"""Nuclei that other programs found: label images and GeoJSON of outlines."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import shapely

from morphomil.errors import SlideError
from morphomil.nuclei.outlines import fill_polygons
from morphomil.slides.flat import MAX_FLAT_PX
from morphomil.slides.masks import BAND_PX, HALO_UM

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.nuclei.outlines import Rings
    from morphomil.slides.image import SlideImage

MAX_OUTSIDE = 0.5
"""Nuclei of which more than this share lies outside the image belong to another slide."""
MAX_SCALE_CONFLICT = 0.01
"""A label image's width and height may differ by this much in their scale to the slide."""
MAX_COORDINATE_PX = 1e8
MAX_FEATURE_CHARS = 2**24
"""One GeoJSON feature may have this many bytes: a nucleus has some hundred vertices."""
READ_CHARS = 2**20


class Nuclei(Protocol):
    """The nuclei of one image file, in its level-0 pixels."""

    centers: NDArray[np.float64]
    """(nuclei, 2): x, y of the centroids."""

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
        """Write the chosen nuclei to a canvas of zeros whose top left corner is the position (x_px,
        y_px).

        The n-th chosen nucleus gets the number `first_label` + n; a pixel is `downsample` level-0
        pixels wide.
        """


def read_nuclei(path: Path, image: SlideImage) -> Nuclei:
    """The nuclei of a file, a label image or GeoJSON by its content.

    Raises:
        SlideError: the file can't be read, isn't of either kind, or doesn't fit the image.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(4096)
        is_json = head.startswith(b"\x1f\x8b") or head.removeprefix(b"\xef\xbb\xbf").lstrip()[
            :1
        ] in (b"{", b"[")
        found: Nuclei = OutlineFile(path, image) if is_json else LabelImage(path, image)
    except (
        OSError,
        EOFError,
        ValueError,
        TypeError,
        LookupError,
        RecursionError,
        zlib.error,
    ) as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(
            f"nuclei {path} can't be read: {cause}; give a label image or GeoJSON"
        ) from error
    x, y = found.centers.T
    outside = (
        1 - np.mean((x >= 0) & (y >= 0) & (x <= image.width) & (y <= image.height))
        if len(x)
        else 0.0
    )
    if outside > MAX_OUTSIDE:
        raise SlideError(
            f"nuclei {path}: {outside:.0%} of them lie outside the image ({image.width} x "
            f"{image.height} pixels); they "
            "belong to another slide, or aren't in level-0 pixels"
        )
    return found


class LabelImage:
    """Nuclei of a label image of the slide's extent: integers, 0 is background."""

    def __init__(self, path: Path, image: SlideImage) -> None:
        """Read the image once, band by band, for the nuclei's places."""
        self._path = path
        self._decoded = _decode_png(path)
        with self._open() as labels:
            self._shape = height, width = labels.shape
            table = _tabulate(labels)
        self._scale = image.width / width, image.height / height
        coarse = max(MAX_SCALE_CONFLICT, 1 / width, 1 / height)
        if abs(self._scale[0] / self._scale[1] - 1) > coarse:
            raise ValueError(
                f"{width} x {height} pixels don't fit the slide's {image.width} x {image.height}"
            )
        self._values = table.index.to_numpy()
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
        """The labels as an array, or as a Zarr array where the file is a TIFF."""
        if self._decoded is not None:
            yield self._decoded
            return
        import tifffile
        import zarr

        with tifffile.TiffFile(self._path) as file, file.aszarr(key=0, level=0) as store:
            yield _checked_labels(zarr.open(store, mode="r"))

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


def _decode_png(path: Path) -> NDArray[Any] | None:
    """The labels of a PNG; None for a TIFF, which is read in parts."""
    with path.open("rb") as stream:
        magic = stream.read(8)
    if magic[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return None
    if not magic.startswith(b"\x89PNG"):
        raise ValueError("it is neither PNG, TIFF nor GeoJSON")
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
        return np.asarray(_checked_labels(np.asarray(image)))


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
    return pd.DataFrame({"x": sums["x"] / sums["pixels"], "y": sums["y"] / sums["pixels"]} | extent)


class OutlineFile:
    """Nuclei of a GeoJSON file: QuPath's detections and cells (their nuclei) if there are any, else
    all polygons."""

    def __init__(self, path: Path, image: SlideImage) -> None:
        """Read the file, feature by feature."""
        found: dict[str, list[Rings]] = {"drawn": [], "other": [], "annotation": []}
        for feature in read_features(path):
            kind, rings = _nucleus(feature)
            if rings:
                found[kind].append(rings)
        self._polygons = found["drawn"] or found["other"]
        if not self._polygons and found["annotation"]:
            raise ValueError(
                f"it has {len(found['annotation'])} annotations but no detections; export these "
                "(or cells) from QuPath"
            )
        shells = [polygon[0] for polygon in self._polygons]
        bounds = np.array([(*shell.min(axis=0), *shell.max(axis=0)) for shell in shells]).reshape(
            -1, 4
        )
        self._top, self._bottom = bounds[:, 1], bounds[:, 3]
        span_um = (bounds[:, 2:] - bounds[:, :2]).max(axis=1) * image.mpp
        if len(span_um) and span_um.max() > HALO_UM:
            raise ValueError(
                f"a polygon at {bounds[np.argmax(span_um), :2].tolist()} spans "
                f"{span_um.max():.0f} um, more than a "
                "nucleus can; are these nuclei, in level-0 pixels?"
            )
        shapes = shapely.make_valid(
            [shapely.Polygon(rings[0], rings[1:]) for rings in self._polygons]
        )
        self.centers = shapely.get_coordinates(shapely.centroid(shapes))

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
        """See `Nuclei.draw`: a pixel belongs to the polygon that holds its center."""
        bottom = y_px + canvas.shape[0] * downsample
        near = np.flatnonzero((self._bottom[chosen] >= y_px) & (self._top[chosen] <= bottom))
        corner = np.array([x_px, y_px])
        polygons = [
            [(ring - corner) / downsample for ring in self._polygons[n]] for n in chosen[near]
        ]
        fill_polygons(canvas, polygons, (first_label + near).tolist())


def _nucleus(feature: dict[str, Any]) -> tuple[str, Rings]:
    """What a feature is (drawn by a program, annotation, other) and its nucleus' rings, none if it
    has no area."""
    properties = feature.get("properties") or {}
    said = str(
        properties.get("objectType")
        or properties.get("object_type")
        or feature.get("objectType")
        or ""
    )
    kind = {"detection": "drawn", "cell": "drawn", "annotation": "annotation", "tile": "tile"}.get(
        said, "other"
    )
    geometry = (
        feature.get("nucleusGeometry")
        or properties.get("nucleusGeometry")
        or feature.get("geometry")
        or {}
    )
    if kind == "tile" or geometry.get("type") not in ("Polygon", "MultiPolygon"):
        return kind, []
    parts = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
    polygons = [[_ring(ring) for ring in part] for part in parts]
    solid = [
        [ring for ring in rings if len(ring) >= 3]
        for rings in polygons
        if rings and len(rings[0]) >= 3
    ]
    areas = [shapely.make_valid(shapely.Polygon(rings[0])).area for rings in solid]
    return kind, solid[int(np.argmax(areas))] if areas and max(areas) > 0 else []


def _ring(points: list[Any]) -> NDArray[np.float64]:
    ring = np.array([(float(point[0]), float(point[1])) for point in points]).reshape(-1, 2)
    if not (np.abs(ring) < MAX_COORDINATE_PX).all():
        raise ValueError("it has coordinates that are no finite pixel positions")
    return ring


_LIST = re.compile(r'^\s*\[|"features"\s*:\s*\[')


def read_features(path: Path) -> Iterator[dict[str, Any]]:
    """The features of a GeoJSON FeatureCollection, a bare list of features or a single one, read
    one by one.

    Raises:
        ValueError: it is no GeoJSON, cut off, or has a feature of more than `MAX_FEATURE_CHARS`
            characters.
    """
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    decoder = json.JSONDecoder()
    with (gzip.open if packed else open)(path, "rt", encoding="utf-8-sig") as stream:
        text = stream.read(READ_CHARS)
        begin = _LIST.search(text)
        if begin is None:
            yield _checked(json.loads(text + stream.read(MAX_FEATURE_CHARS)))
            return
        position, ended = begin.end(), False
        while True:
            position = _skip(text, position)
            if text[position : position + 1] == "]":
                return
            try:
                feature, stop = decoder.raw_decode(text, position)
            except json.JSONDecodeError as error:
                stop, feature = -1, error
            if stop >= 0 and (stop < len(text) or ended):
                yield _checked(feature)
                position = stop
                continue
            if ended:
                raise ValueError("it is cut off") from (
                    feature if isinstance(feature, Exception) else None
                )
            if len(text) - position > MAX_FEATURE_CHARS:
                raise ValueError(
                    f"it is no JSON, or has a feature of more than {MAX_FEATURE_CHARS:,} characters"
                )
            more = stream.read(READ_CHARS)
            ended = not more
            text, position = text[position:] + more, 0


def _skip(text: str, position: int) -> int:
    """The next place that is neither white space nor a comma."""
    while position < len(text) and text[position] in " \t\r\n,":
        position += 1
    return position


def _checked(feature: Any) -> dict[str, Any]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise ValueError("it is JSON, but no GeoJSON of features")
    return feature
