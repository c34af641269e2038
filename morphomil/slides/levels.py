"""What every decoder of images gives: levels and cells; and one error for damaged files."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from morphomil.errors import SlideError, translating

if TYPE_CHECKING:
    from contextlib import AbstractContextManager
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

CELL_PX = 512
MEND_FILE = "copy it anew from its source, or leave it out"


class Level(NamedTuple):
    """A level of a pyramid: level-0 pixels per pixel, and its size."""

    downsample: float
    width: int
    height: int


class Pixels(Protocol):
    """A decoder: levels, finest first, and 512 x 512 cells of a level on a fixed grid, white where
    there is nothing."""

    levels: tuple[Level, ...]

    def cell(self, level: int, column: int, row: int) -> NDArray[np.uint8]:
        """RGB of the cell, cut at the right and bottom edge."""

    def close(self) -> None:
        """Release the file."""


def reading(path: Path) -> AbstractContextManager[None]:
    """Turn whatever a decoder raises into one error that names the file."""
    return translating(
        lambda cause: SlideError(f"slide {path} can't be read: {cause}; {MEND_FILE}")
    )
