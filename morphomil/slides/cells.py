"""The decoded cells of a level: the last ones in memory, those of the rows before in a temporary
file, which gives them back in a tenth of the time that decoding takes."""

from __future__ import annotations

import math
import shutil
from functools import lru_cache
from tempfile import TemporaryFile, gettempdir
from threading import Lock
from typing import TYPE_CHECKING
from weakref import finalize

import numpy as np

from morphomil.slides.levels import CELL_PX

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import FileIO

    from numpy.typing import NDArray

    from morphomil.slides.levels import Level

CELLS_HELD = 64
"""So many cells are kept in memory, 50 MB: enough for areas side by side."""
ROWS_OF_CELLS = 4
"""Rows of areas of 1,400 pixels overlap in cells of so many rows."""
CELL_BYTES = 3 * CELL_PX**2
SPARE = 4
"""A disk is asked to take cells if it has so many times their room."""


class Cells:
    """RGB (height, width, 3) of each cell of a level (column, row), as `decode` gives it.

    Several threads may ask. A level of which `CELLS_HELD` are `ROWS_OF_CELLS` rows goes without a
    file, and so does one that no disk takes: its cells are decoded again.
    """

    def __init__(
        self, decode: Callable[[int, int], NDArray[np.uint8]], level: Level, *, in_memory: bool
    ) -> None:
        """`in_memory`: whatever is asked for is there already."""
        self._decode, self._level = decode, level
        self._recent = lru_cache(CELLS_HELD)(self._find)
        self._columns = math.ceil(level.width / CELL_PX)
        self._stored: dict[int, int] = {}
        """Of each place in the file that is taken: the row of the cell that is there."""
        self._file: FileIO | None = None
        self._filed = not in_memory and ROWS_OF_CELLS * self._columns > CELLS_HELD
        self._turn = Lock()

    def __call__(self, column: int, row: int) -> NDArray[np.uint8]:
        """A cell, not to be changed."""
        return self._recent(column, row)

    def clear(self) -> None:
        """Forget them all, and use no file any more."""
        self._recent.cache_clear()
        with self._turn:
            self._give_up()

    def _find(self, column: int, row: int) -> NDArray[np.uint8]:
        with self._turn:
            cell = self._read(column, row)
        if cell is None:
            cell = self._decode(column, row)
            with self._turn:
                self._write(column, row, cell)
        return cell

    def _place(self, column: int, row: int) -> int:
        """Rows that are near each other have places of their own."""
        return row % ROWS_OF_CELLS * self._columns + column

    def _read(self, column: int, row: int) -> NDArray[np.uint8] | None:
        """A cell from the file; None where it isn't there, or not whole."""
        place = self._place(column, row)
        if self._file is None or self._stored.get(place) != row:
            return None
        height = min(CELL_PX, self._level.height - row * CELL_PX)
        width = min(CELL_PX, self._level.width - column * CELL_PX)
        cell = np.empty((height, width, 3), np.uint8)
        try:
            self._file.seek(place * CELL_BYTES)
            read = self._file.readinto(cell.data)
        except OSError:
            return None
        return cell if read == cell.nbytes else None

    def _write(self, column: int, row: int, cell: NDArray[np.uint8]) -> None:
        """Put a cell into the file; where it can't be, no others are tried."""
        if not self._filed:
            return
        place = self._place(column, row)
        self._stored.pop(place, None)
        try:
            if self._file is None:
                self._file = self._open_file()
            self._file.seek(place * CELL_BYTES)
            if self._file.write(np.ascontiguousarray(cell).data) == cell.nbytes:
                self._stored[place] = row
        except OSError:
            self._give_up()

    def _open_file(self) -> FileIO:
        needed = SPARE * ROWS_OF_CELLS * self._columns * CELL_BYTES
        if shutil.disk_usage(gettempdir()).free < needed:
            raise OSError(f"less than {needed} bytes are free")
        file = TemporaryFile(prefix="morphomil-cells-", buffering=0)  # noqa: SIM115
        finalize(self, file.close)  # it lives as long as the cells
        return file

    def _give_up(self) -> None:
        self._filed = False
        self._stored.clear()
        if self._file is not None:
            self._file.close()
            self._file = None
