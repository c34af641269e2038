"""Stored features of many slides, read by row; slides with their patients."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from morphomil.bags import draw_bags
from morphomil.errors import InputError
from morphomil.types import CORES

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor
HELD_BYTES = 2**30
"""Features are held in memory up to this size; larger ones are read from their files, bag by
bag."""
WIDE = 4096
"""Rows of more features than this are worth more than one thread in a training step."""
LARGE = 3 * 128**2
"""Rows of more pixels than this are, too."""


class Rows:
    """The patches of many slides one after the other, in memory or in their `.npy` files."""

    def __init__(self, arrays: Sequence[NDArray[Any]] = (), *, paths: Sequence[Path] = ()) -> None:
        """Arrays (patches, F), or files of such.

        Raises:
            InputError: their widths differ.
        """
        self._paths = list(paths)
        headers = [_header(path) for path in paths]
        shapes = [array.shape for array in arrays] + [shape for shape, _, _ in headers]
        widths = {shape[1:] for shape in shapes}
        if len(widths) != 1:
            raise InputError(
                f"slides have features of different shapes ({sorted(widths)}); run "
                "morphomil embed anew"
            )
        self.width = int(np.prod(widths.pop()))
        self.starts = np.concatenate([[0], np.cumsum([shape[0] for shape in shapes])]).astype(
            np.int64
        )
        self._offsets = np.array([offset for _, _, offset in headers], dtype=np.int64)
        self._dtype = headers[0][1] if headers else arrays[0].dtype
        self._held: Tensor | None = None
        if arrays:
            self._held = torch.from_numpy(np.concatenate(arrays))
        elif len(self) * self.width * self._dtype.itemsize <= HELD_BYTES:
            self._held = torch.from_numpy(
                np.concatenate([np.load(p, allow_pickle=False) for p in paths])
            )

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def threads(self) -> int:
        """One thread for narrow rows, whose products are too small to share; as many as there are
        cores for wide."""
        return 1 if self.width <= (LARGE if self._dtype == np.uint8 else WIDE) else CORES

    def read(self, index: NDArray[np.int64]) -> Tensor:
        """The rows of these numbers (n, F): float32, or uint8 where they are pixels."""
        if self._held is not None:
            return _as_features(self._held[torch.from_numpy(index)])
        rows = np.empty((len(index), self.width), self._dtype)
        files = np.searchsorted(self.starts, index, side="right") - 1
        size = self.width * self._dtype.itemsize
        for number in np.unique(files):
            handle = os.open(self._paths[number], os.O_RDONLY)
            try:
                for place in np.flatnonzero(files == number):
                    start = int(self._offsets[number] + (index[place] - self.starts[number]) * size)
                    if os.preadv(handle, [memoryview(rows[place]).cast("B")], start) != size:
                        raise InputError(
                            f"{self._paths[number]} is cut short; run morphomil embed anew"
                        )
            finally:
                os.close(handle)
        return _as_features(torch.from_numpy(rows))


def _as_features(rows: Tensor) -> Tensor:
    return rows if rows.dtype == torch.uint8 else rows.float()


def _header(path: Path) -> tuple[tuple[int, ...], np.dtype[Any], int]:
    """Shape, type and place of the numbers of a `.npy` file."""
    with path.open("rb") as stream:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise InputError(f"{path} isn't what morphomil embed writes; run it anew")
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
        return shape, dtype, stream.tell()


@dataclass(frozen=True)
class ImageCohort:
    """Slides with their patches' features, and their patients; numbers of patients count from 0."""

    slides: tuple[str, ...]
    rows: Rows
    """The slides' patches in the same order."""
    patient: NDArray[np.int64]  # (slides,)
    labels: NDArray[np.int64]  # (patients,)
    classes: int
    clinical: NDArray[np.float32] | None = None  # (patients, C)

    def __post_init__(self) -> None:
        """Refuse slides without a patch and numbers that don't fit."""
        if len(self.slides) != len(self.patient) or len(self.slides) != len(self.rows.starts) - 1:
            raise ValueError(
                f"{len(self.slides)} slides, {len(self.patient)} owners, "
                f"{len(self.rows.starts) - 1} files"
            )
        if (np.diff(self.rows.starts) == 0).any():
            raise ValueError("a slide has no patches")

    def bags(
        self, slide: int, *, size: int, key: tuple[Any, ...], most: int = 0
    ) -> list[NDArray[np.int64]]:
        """Row numbers of each bag of a slide."""
        first, end = self.rows.starts[slide : slide + 2]
        count = int(end - first)
        drawn = draw_bags(
            count, size=size or count, bags=most or None, seed_key=(*key, self.slides[slide])
        )
        return [first + bag for bag in drawn]

    def covariates(self, patient: NDArray[np.int64] | int) -> Tensor | None:
        """Clinical columns of patients."""
        return (
            None
            if self.clinical is None
            else torch.tensor(self.clinical[patient], dtype=torch.float32)
        )
