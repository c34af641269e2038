"""The masks of a region, label image and tissue, and their frame: where they lie on the image, how
large their pixels are.

A position is (x, y). In the masks it is mask pixels from their top left corner, on the image
level-0 pixels; a pixel's corners have integer coordinates.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from morphomil.store import reading
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

    from morphomil.slides.image import SlideImage
    from morphomil.slides.patches import RegionPatches
    from morphomil.spool import Spool
    from morphomil.types import PatchSettings

PAD_PX = 64
"""A region's masks reach this many mask pixels beyond its patch grid on every side, for nuclei that
cross the edge."""
BAND_PX = 1024
"""Masks are worked this many rows at a time."""
RINGS_AT_A_TIME = 1000
"""So many outlines are read at once."""
HALO_UM = 120.0
"""This much is read or drawn beyond a part of the masks: more than the longest nucleus that a mask
may hold."""
MIN_AREA_UM2 = 6.0
"""Smaller objects are dropped: a sphere of chromatin 2.8 um across is debris, not a nucleus in
section."""

IMPLAUSIBLE = ("size", "ink", "hole", "eosin", "pigment", "blur", "fold")
"""An object that was found is no nucleus for one of these reasons (`segment.plausible`)."""


@dataclass(frozen=True)
class MaskFrame:
    """The geometry of a region's masks: all that is needed to go between them and the image."""

    shape: tuple[int, int]
    """The masks have this height and width in mask pixels."""
    x_px: float
    """The masks' left edge is at this level-0 position."""
    y_px: float
    """The masks' top edge is at this level-0 position."""
    downsample: float
    """A mask pixel is this many level-0 pixels wide."""
    mpp: float
    """A mask pixel is this many um wide."""
    patch_px: int
    """A patch is this many mask pixels wide."""
    image: int
    """The region lies in the slide's image file of this number, from 0."""

    @classmethod
    def around(cls, cut: RegionPatches, settings: PatchSettings, *, image: int) -> MaskFrame:
        """The frame of masks around a region's patch grid, at the working resolution."""
        rim = PAD_PX * cut.downsample
        return cls(
            shape=(
                cut.rows * settings.patch_px + 2 * PAD_PX,
                cut.columns * settings.patch_px + 2 * PAD_PX,
            ),
            x_px=cut.x_px - rim,
            y_px=cut.y_px - rim,
            downsample=cut.downsample,
            mpp=settings.working_mpp,
            patch_px=settings.patch_px,
            image=image,
        )

    @property
    def level0_mpp(self) -> float:
        """A level-0 pixel is this many um wide."""
        return self.mpp / self.downsample

    @property
    def halo_px(self) -> int:
        """`HALO_UM` in mask pixels."""
        return round(HALO_UM / self.mpp)

    def to_level0(self, points: ArrayLike) -> NDArray[np.float64]:
        """Level-0 positions (..., 2) of positions in the masks (..., 2)."""
        corner = np.array([self.x_px, self.y_px])
        return np.asarray(np.asarray(points) * self.downsample + corner, dtype=np.float64)

    def from_level0(self, points: ArrayLike) -> NDArray[np.float64]:
        """Positions in the masks (..., 2) of level-0 positions (..., 2)."""
        corner = np.array([self.x_px, self.y_px])
        return np.asarray((np.asarray(points) - corner) / self.downsample, dtype=np.float64)

    def to_grid_um(self, points: ArrayLike) -> NDArray[np.float64]:
        """um from the patch grid's, and the tissue's, top left corner: (..., 2) of (..., 2)."""
        return np.asarray((np.asarray(points) - PAD_PX) * self.mpp, dtype=np.float64)

    def patch_window(self, x_px: float, y_px: float, *, margin_px: int = 0) -> tuple[slice, slice]:
        """Rows and columns of the masks under the patch whose top left corner is this level-0
        position, and a margin around it."""
        column, row = (round(place) for place in self.from_level0([x_px, y_px]).tolist())
        rows, columns = (
            slice(max(first - margin_px, 0), first + self.patch_px + margin_px)
            for first in (row, column)
        )
        return rows, columns

    def window_around(self, x_px: float, y_px: float, *, side_px: int) -> tuple[slice, slice]:
        """Rows and columns of a square around a level-0 position, moved inside the masks where it
        would leave them."""
        x, y = self.from_level0([x_px, y_px]).tolist()
        rows, columns = (
            slice(first, first + side_px)
            for first in (
                min(max(round(place - side_px / 2), 0), max(extent - side_px, 0))
                for place, extent in zip((y, x), self.shape, strict=True)
            )
        )
        return rows, columns

    def read_patch(self, image: SlideImage, x_px: float, y_px: float) -> NDArray[np.uint8]:
        """RGB uint8 (patch_px, patch_px, 3) of the patch whose top left corner is this level-0
        position, pixel for pixel with its masks.

        Raises:
            SlideError: the file is damaged there.
        """
        side = self.patch_px
        return image.read(x_px, y_px, side, side, downsample=self.downsample)

    def patch_grid(self, patches: pd.DataFrame) -> NDArray[np.intp]:
        """The number of the kept patch in each cell (rows, columns) of the region's grid, -1 where
        there is none; `patches` are the region's (schema PATCHES)."""
        grid = np.full([(side - 2 * PAD_PX) // self.patch_px for side in self.shape], -1)
        kept = patches[patches["kept"]]
        corners = self.from_level0(kept[["x_px", "y_px"]].to_numpy(np.float64)) - PAD_PX
        column, row = (corners / self.patch_px).round().astype(int).T
        grid[row, column] = kept["patch_id"]
        return grid

    def patch_at(self, points: NDArray[np.float64], grid: NDArray[np.intp]) -> NDArray[np.intp]:
        """The number of the patch of `patch_grid` that each position (n, 2) in the masks falls in;
        -1 outside."""
        bordered = np.pad(grid, 1, constant_values=-1)
        column, row = np.floor((points - PAD_PX) / self.patch_px).astype(int).T + 1
        return np.asarray(bordered[row, column], dtype=np.intp)


class RegionOutlines(NamedTuple):
    """The outlines of a region's nuclei, whose labels follow each other."""

    first_label: int
    """The first outline's label."""
    vertices: Any
    """x and y (m, 2) in the masks, float32, of all outlines one after the other; the last vertex of
    one is joined with its first. Stored ones are a Zarr array, and ones to be stored may wait in a
    file: they are read as they are sliced."""
    ends: NDArray[np.int64]
    """Each outline ends here in `vertices`."""

    def rings(self, labels: Iterable[int]) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """Each of these labels with its vertices (k, 2)."""
        starts = self.ends - np.diff(self.ends, prepend=0)
        wanted = sorted(labels)
        for first in range(0, len(wanted), RINGS_AT_A_TIME):
            places = np.array(wanted[first : first + RINGS_AT_A_TIME]) - self.first_label
            begin = int(starts[places[0]])
            part = np.asarray(self.vertices[begin : int(self.ends[places[-1]])], np.float64)
            for place in places.tolist():
                ring = part[starts[place] - begin : self.ends[place] - begin]
                yield place + self.first_label, ring


class DroppedOutlines(NamedTuple):
    """The outlines of a region's objects that are no nuclei."""

    vertices: NDArray[np.float32]
    """x and y (m, 2) in the masks, as in `RegionOutlines`."""
    ends: NDArray[np.int64]
    """Each outline ends here in `vertices`."""
    reasons: NDArray[np.uint8]
    """Each object's reason is the one of `IMPLAUSIBLE` of this number, from 1."""

    def rings(self) -> list[NDArray[np.float32]]:
        """The vertices (k, 2) of each outline."""
        return np.split(self.vertices, self.ends[:-1]) if len(self.ends) else []


class LabelBand(NamedTuple):
    """Rows of a label image, with a halo above and below for nuclei that leave them."""

    top: int
    """The band's first row in the masks."""
    bottom: int
    """The row after the band's last in the masks."""
    first: int
    """The first row of `labels` in the masks."""
    labels: NDArray[np.int32]
    """The rows (height, width) with the halo, as far as the masks go."""


@dataclass(frozen=True)
class RegionMasks:
    """A region's stored masks, read as they are sliced."""

    frame: MaskFrame
    labels: Any
    """The label image is a Zarr array (height, width), int32: 0 is background, else a nucleus's
    number within its slide."""
    tissue: Any
    """Tissue is a Zarr array, bool, on the patch grid in blocks of 4 x 4 mask pixels: what lies
    inside the region and isn't blank."""
    outlines: RegionOutlines | None = None
    """The outlines that the label image was drawn from, between its pixels; None where it is all
    that is known."""
    dropped: DroppedOutlines | None = None
    """Objects that were found and are no nuclei; None where none were."""
    types: NDArray[np.float32] | None = None
    """Probabilities (n, 4) of `NUCLEUS_TYPES` of the nuclei from `first_label` on; a row of NaN is
    a nucleus of which nothing is known. None where it is so of all."""
    first_label: int = 1
    """The first of the labels that `outlines` and `types` go by."""

    @classmethod
    def open(cls, group: Any) -> RegionMasks:
        """The masks in a region's Zarr group, as `store_region` writes them."""
        labels, stored = group["labels"], dict(group.attrs)
        frame = MaskFrame(
            shape=(int(labels.shape[0]), int(labels.shape[1])),
            x_px=float(stored["x_px"]),
            y_px=float(stored["y_px"]),
            downsample=float(stored["downsample"]),
            mpp=float(stored["mpp"]),
            patch_px=int(stored["patch_px"]),
            image=int(stored["image"]),
        )
        outlines = dropped = types = None
        first_label = int(stored.get("first_label", 1))
        if "vertices" in group:
            ends = np.asarray(group["ends"][:])
            outlines = RegionOutlines(first_label, group["vertices"], ends)
        if "types" in group:
            types = np.asarray(group["types"][:])
        if "dropped_ends" in group:
            names = (f"dropped_{name}" for name in DroppedOutlines._fields)
            dropped = DroppedOutlines(*(np.asarray(group[name][:]) for name in names))
        return cls(frame, labels, group["tissue"], outlines, dropped, types, first_label)

    def crop(self, window: tuple[slice, slice]) -> NDArray[np.int32]:
        """The label image in a window of rows and columns."""
        return np.asarray(self.labels[window], dtype=np.int32)

    def patch_labels(self, x_px: float, y_px: float) -> NDArray[np.int32]:
        """The label image (patch_px, patch_px) of the patch whose top left corner is this level-0
        position."""
        return self.crop(self.frame.patch_window(x_px, y_px))

    def types_of(self, labels: ArrayLike) -> NDArray[np.float32]:
        """Probabilities (n, 4) of `NUCLEUS_TYPES` of these labels (n,) of the region; NaN where
        they aren't known."""
        own = np.asarray(labels)
        if self.types is None:
            return np.full((len(own), len(NUCLEUS_TYPES)), np.nan, np.float32)
        return np.asarray(self.types[own - self.first_label], dtype=np.float32)

    def sample(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[np.int32]:
        """The label image (rows, columns) at these rows, ascending, and columns; 0 outside."""
        height, width = self.frame.shape
        across = (columns >= 0) & (columns < width)
        taken = np.zeros((len(rows), len(columns)), np.int32)
        for top in range(0, height if across.any() else 0, BAND_PX):
            own = np.flatnonzero((rows >= top) & (rows < min(top + BAND_PX, height)))
            if len(own):
                band = self.crop(np.s_[top : top + BAND_PX, columns[across].min() : width])
                picked = band[rows[own] - top][:, columns[across] - columns[across].min()]
                taken[np.ix_(own, across)] = picked
        return taken

    def bands(self) -> Iterator[LabelBand]:
        """The label image, `BAND_PX` rows at a time with a halo."""
        height, halo = self.frame.shape[0], self.frame.halo_px
        for top in range(0, height, BAND_PX):
            first, bottom = max(top - halo, 0), min(top + BAND_PX, height)
            yield LabelBand(top, bottom, first, np.asarray(self.labels[first : bottom + halo]))

    def analyzed_tissue(self, grid: NDArray[np.intp]) -> tuple[NDArray[np.bool_], float]:
        """The tissue in the kept patches of a `patch_grid`, and how many um its pixels are wide."""
        tissue = np.asarray(self.tissue[:], dtype=bool)
        scale = tissue.shape[0] // grid.shape[0]
        kept = np.kron(grid >= 0, np.ones((scale, scale), bool))
        return tissue & kept, self.frame.mpp * self.frame.patch_px / scale


def open_masks(path: Path) -> dict[int, RegionMasks]:
    """The masks of a slide, `masks.zarr`: by region, in their order."""
    import zarr

    group: Any = zarr.open_group(path, mode="r")
    regions = sorted((int(name), stored) for name, stored in group.groups())
    return {region: RegionMasks.open(stored) for region, stored in regions}


def has_types(path: Path) -> bool:
    """Whether the types of some of a slide's nuclei are known (`masks.zarr`).

    Raises:
        DamagedError: the masks are missing, or can't be read.
    """
    import zarr

    with reading(path):
        group: Any = zarr.open_group(path, mode="r")
        return any("types" in stored for _, stored in group.groups())


UNKNOWN_TYPE = len(NUCLEUS_TYPES)
"""A nucleus of unknown type has this number in `outlined_types`."""


def outlined_types(
    masks: Mapping[int, RegionMasks], image: int, *, shape: tuple[int, int], scale: float
) -> NDArray[np.int8]:
    """The outlines of a slide's nuclei on an image, as cells (rows, columns) of `scale` level-0
    pixels from its corner: numbers of `NUCLEUS_TYPES`, `UNKNOWN_TYPE`, -1 where no outline runs.

    A cell shows the nucleus at its center, and belongs to the outline where a cell beside it shows
    another one or none: nuclei that are smaller than cells are filled.
    """
    picture = np.full(shape, -1, np.int8)
    for own in masks.values():
        if own.frame.image != image:
            continue
        rows, columns = (
            np.floor(((np.arange(-1, side + 1) + 0.5) * scale - corner) / own.frame.downsample)
            for side, corner in zip(shape, (own.frame.y_px, own.frame.x_px), strict=True)
        )
        seen = own.sample(rows.astype(np.intp), columns.astype(np.intp))
        inner = seen[1:-1, 1:-1]
        beside = (seen[:-2, 1:-1], seen[2:, 1:-1], seen[1:-1, :-2], seen[1:-1, 2:])
        edge = np.any([inner != other for other in beside], axis=0) & (inner > 0)
        shares = own.types_of(inner[edge])
        known = ~np.isnan(shares).any(axis=1)
        picture[edge] = np.where(known, np.nan_to_num(shares).argmax(axis=1), UNKNOWN_TYPE)
    return picture


def implausible_places(masks: Mapping[int, RegionMasks], image: int) -> NDArray[np.float64]:
    """Level-0 positions (n, 2) on an image of a slide's objects that are no nuclei: the mean of
    their outline's vertices."""
    places = [
        own.frame.to_level0(ring.mean(axis=0))
        for own in masks.values()
        if own.dropped is not None and own.frame.image == image
        for ring in own.dropped.rings()
    ]
    return np.array(places).reshape(-1, 2)


class DrawnNuclei(NamedTuple):
    """The nuclei of a region before they are stored: how many, int32 pieces of the label image,
    each with its first row and column, the rest being background, the outlines that they were drawn
    from, if they say more, the objects that are no nuclei, if that was asked, and the nuclei's
    types, if they are known."""

    nuclei: int
    pieces: Iterable[tuple[int, int, NDArray[np.int32]]]
    outlines: RegionOutlines | None = None
    dropped: DroppedOutlines | None = None
    types: NDArray[np.float32] | None = None
    """Probabilities (n, 4) of `NUCLEUS_TYPES`, in order of label; NaN in the rows of unknown
    ones."""
    normalized: bool = False
    """The stains were brought to a reference."""


def store_region(
    group: Any,
    region: int,
    frame: MaskFrame,
    drawn: DrawnNuclei,
    tissue: NDArray[np.bool_] | Spool,
    *,
    first_label: int = 1,
) -> None:
    """Write a region's masks, piece by piece, and its frame, into the Zarr group of its slide; its
    nuclei are numbered from `first_label` on."""
    stored = group.create_group(str(region))
    labels = stored.create_array(
        "labels",
        shape=frame.shape,
        dtype="int32",
        chunks=tuple(min(BAND_PX, side) for side in frame.shape),
    )
    with ThreadPoolExecutor(1) as writer:  # a piece is compressed while the next one is drawn
        written: Future[None] | None = None
        for top, left, piece in drawn.pieces:
            if written is not None:
                written.result()
            rows, columns = piece.shape
            place = slice(top, top + rows), slice(left, left + columns)
            written = writer.submit(labels.__setitem__, place, piece)
        if written is not None:
            written.result()
    chunks = tuple(min(BAND_PX, side) for side in tissue.shape)
    blocks = stored.create_array("tissue", shape=tissue.shape, dtype="bool", chunks=chunks)
    for first in range(0, len(tissue), chunks[0]):
        blocks[first : first + chunks[0]] = tissue[first : first + chunks[0]]
    if drawn.outlines is not None:
        _store_arrays(stored, {"vertices": drawn.outlines.vertices, "ends": drawn.outlines.ends})
        stored.attrs["first_label"] = drawn.outlines.first_label
    if drawn.types is not None and not np.isnan(drawn.types).all():
        _store_arrays(stored, {"types": drawn.types})
        stored.attrs["first_label"] = first_label
    if drawn.dropped is not None and len(drawn.dropped.ends):
        _store_arrays(
            stored, {f"dropped_{name}": part for name, part in drawn.dropped._asdict().items()}
        )
    stored.attrs.update({name: value for name, value in asdict(frame).items() if name != "shape"})


def _store_arrays(group: Any, arrays: dict[str, NDArray[Any]]) -> None:
    for name, values in arrays.items():
        chunk = min(len(values) or 1, 2**20)
        array = group.create_array(
            name, shape=values.shape, dtype=str(values.dtype), chunks=(chunk, *values.shape[1:])
        )
        for first in range(0, len(values), chunk):
            array[first : first + chunk] = values[first : first + chunk]
