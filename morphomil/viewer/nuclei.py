"""A slide's nuclei as arrays: what the tiles of the slide browser are cut from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.matrix import features_in
from morphomil.nuclei.rings import box_rings, take_rings
from morphomil.nuclei.types import TYPE_COLORS
from morphomil.slides.rings import read_rings
from morphomil.store import read_parquet

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from morphomil.run.directory import Run

CONTRIBUTION = "contribution"
"""Column of what a nucleus adds to its slide's probability; those of features begin so too."""
TYPES = (*TYPE_COLORS, "unknown")
"""The codes of types; unknown is the last."""


@dataclass(frozen=True)
class SlideNuclei:
    """The nuclei of a slide, or of one of its images, in order of label."""

    label: NDArray[np.int64]  # (n,)
    image: NDArray[np.int64]  # (n,)
    patch: NDArray[np.int64]  # (n,)
    place: NDArray[np.float64]  # (n, 2), centroid, level-0 pixels
    type: NDArray[np.uint8]  # (n,), numbers in TYPES
    type_probability: NDArray[np.float32]  # (n,)
    columns: tuple[str, ...]
    """The features, then what the nuclei contribute (percentage points), if the ranking has stored
    it."""
    values: NDArray[np.float32]  # (columns, n)

    def row(self, label: int) -> int:
        """Where a label stands.

        Raises:
            LookupError: there is none such.
        """
        at = int(np.searchsorted(self.label, label))
        if at == len(self.label) or self.label[at] != label:
            raise LookupError(f"there is no nucleus {label}")
        return at

    def on_image(self, image: int) -> SlideNuclei:
        """Those of one image."""
        own = self.image == image
        if own.all():
            return self
        arrays = ("label", "image", "patch", "place", "type", "type_probability")
        parts = {name: getattr(self, name)[own] for name in arrays}
        return replace(self, values=self.values[:, own], **parts)

    @property
    def features(self) -> tuple[str, ...]:
        """The columns that are measured."""
        return tuple(name for name in self.columns if not name.startswith(CONTRIBUTION))


def read_nuclei(run: Run, slide_id: str) -> SlideNuclei:
    """The measured nuclei of a slide.

    Raises:
        DamagedError: what is stored of them is damaged.
    """
    table = run.nuclei(slide_id)
    path = run.contributions_path(slide_id)
    columns: list[str] = list(features_in(table))
    if path.is_file():
        shares = read_parquet(path).drop(columns="patch_id").set_index("label")
        columns += [str(name) for name in shares if str(name).startswith(CONTRIBUTION)]
        table = table.join(100 * shares, on="label")
    if not table["label"].is_monotonic_increasing:
        table = table.sort_values("label")
    codes = table["type"].cat.codes.to_numpy(np.int64)
    values = np.full((len(columns), len(table)), np.nan, np.float32)
    for number, name in enumerate(columns):
        values[number] = table[name]
    return SlideNuclei(
        label=table["label"].to_numpy(np.int64),
        image=table["image"].to_numpy(np.int64),
        patch=table["patch_id"].to_numpy(np.int64),
        place=table[["x_px", "y_px"]].to_numpy(np.float64),
        type=np.where(codes < 0, len(TYPES) - 1, codes).astype(np.uint8),
        type_probability=table["type_probability"].to_numpy(np.float32),
        columns=tuple(columns),
        values=values,
    )


@dataclass(frozen=True)
class SlideRings:
    """The outlines of an image's nuclei, on disk but for their boxes: a slide may have gigabytes.

    Level-0 pixels.
    """

    row: NDArray[np.int64]
    """Each ring's nucleus is this row of `SlideNuclei`."""
    boxes: NDArray[np.float32]
    """Smallest x and y, largest x and y (n, 4)."""
    vertices: NDArray[np.float32]
    """(m, 2), one ring after the other, in a file that is gone when nobody uses it."""
    ends: NDArray[np.int64]

    def within(self, left: float, top: float, side: float) -> NDArray[np.int64]:
        """Which rings reach into a square."""
        x0, y0, x1, y1 = self.boxes.T
        inside = (x1 >= left) & (x0 <= left + side) & (y1 >= top) & (y0 <= top + side)
        return np.flatnonzero(inside)

    def take(
        self, chosen: NDArray[np.int64], *, tolerance: float = 0.0
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Vertices of some rings and where each ends, without those nearer together than
        `tolerance`."""
        vertices, ends = take_rings(self.vertices, self.ends, chosen, tolerance)
        return vertices, ends

    def of(self, row: int) -> list[NDArray[np.float32]]:
        """The rings of a nucleus."""
        vertices, ends = self.take(np.flatnonzero(self.row == row))
        return np.split(vertices, ends[:-1]) if len(ends) else []


def load_rings(run: Run, slide_id: str, image: int, labels: NDArray[np.int64]) -> SlideRings:
    """The outlines of an image's nuclei that have one of these labels, which are sorted.

    Raises:
        DamagedError: the masks are damaged.
    """
    rows, boxes, ends, count = [], [], [], 0
    with TemporaryFile(prefix="morphomil-outlines-") as file:
        for masks in run.masks(slide_id).values():
            if masks.frame.image != image:
                continue
            for part in read_rings(masks):
                at = np.searchsorted(labels, part.labels).clip(max=max(len(labels) - 1, 0))
                known = labels[at] == part.labels if len(labels) else np.zeros(len(at), bool)
                vertices, stops = part.vertices, part.ends
                if not known.all():
                    chosen = np.flatnonzero(known)
                    vertices, stops = take_rings(vertices, stops, chosen, 0.0)
                file.write(np.ascontiguousarray(vertices).data)
                rows.append(at[known])
                boxes.append(box_rings(vertices, stops))
                ends.append(stops + count)
                count += len(vertices)
        file.flush()
        stored: Any = (
            np.memmap(file, np.float32, mode="r", shape=(count, 2))
            if count
            else np.zeros((0, 2), np.float32)
        )
    return SlideRings(
        np.concatenate([*rows, np.zeros(0, np.int64)]),
        np.concatenate([*boxes, np.zeros((0, 4), np.float32)]),
        stored,
        np.concatenate([*ends, np.zeros(0, np.int64)]),
    )
