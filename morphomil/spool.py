"""Rows that come one after the other, perhaps more of them than memory should hold."""

from __future__ import annotations

import os
from tempfile import TemporaryFile
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator
    from io import FileIO

    from numpy.typing import DTypeLike, NDArray
HELD_BYTES = 2**25
"""So many bytes of rows are held in memory, unless told otherwise; further ones go to a temporary
file."""
BLOCK_BYTES = 2**22
"""Rows are put away and read in blocks of about so many bytes."""


class Spool:
    """Arrays of one shape, in the order in which they are added.

    Blocks that no temporary file takes (none can be made, the disk is full) stay in memory. Several
    threads may read.
    """

    def __init__(self, kind: DTypeLike, *, held: int | None = None) -> None:
        """Of numbers of this kind, to which others are cast; so many bytes are held in memory."""
        self._kind = np.dtype(kind)
        self._held = HELD_BYTES if held is None else held
        self._filling: NDArray[Any] = np.empty(0, self._kind)
        self._used = 0  # rows of the block that is being filled
        self._away: list[NDArray[Any] | int] = []
        """Full blocks, or where they begin in the file."""
        self._file: FileIO | None = None
        self._turn = Lock()

    def __len__(self) -> int:
        return len(self._away) * len(self._filling) + self._used

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all rows together."""
        return (len(self), *self._filling.shape[1:])

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """All of them."""
        return self[:].astype(dtype or self._kind, copy=False)

    def add(self, rows: NDArray[Any]) -> None:
        """Further rows (n, ...)."""
        if not len(self):
            size = max(1, BLOCK_BYTES // max(1, rows[0].size * self._kind.itemsize))
            self._filling = np.empty((size, *rows.shape[1:]), self._kind)
        start = 0
        while start < len(rows):
            some = rows[start : start + len(self._filling) - self._used]
            self._filling[self._used : self._used + len(some)] = some
            self._used, start = self._used + len(some), start + len(some)
            if self._used == len(self._filling):
                self._away.append(self._put_away(self._filling))
                self._used = 0

    def _put_away(self, block: NDArray[Any]) -> NDArray[Any] | int:
        """Where it is from now on."""
        if (len(self._away) + 1) * block.nbytes > self._held:
            try:
                if self._file is None:  # it lives as long as the rows
                    self._file = TemporaryFile(prefix="morphomil-rows-", buffering=0)  # noqa: SIM115
                    finalize(self, self._file.close)
                with self._turn:
                    place = self._file.seek(0, os.SEEK_END)
                    if self._file.write(block.data) == block.nbytes:
                        return place
            except OSError:
                pass
        return block.copy()

    def blocks(self) -> Iterator[NDArray[Any]]:
        """All rows in order, some at a time."""
        for block in self._away:
            yield self._read(block, len(self._filling)) if isinstance(block, int) else block
        if self._used:
            yield self._filling[: self._used]

    def __getitem__(self, wanted: slice) -> NDArray[Any]:
        """Some of the rows, a copy."""
        first, end, _ = wanted.indices(len(self))
        size = len(self._filling)
        parts = [self._filling[:0]]
        for number in range(first // size, -(-end // size)) if first < end else ():
            low, high = max(first - number * size, 0), min(end - number * size, size)
            away = self._filling if number == len(self._away) else self._away[number]
            if isinstance(away, int):
                parts.append(self._read(away + low * self._row_bytes(), high - low))
            else:
                parts.append(away[low:high])
        return np.concatenate(parts)

    def _row_bytes(self) -> int:
        return self._filling.nbytes // len(self._filling)

    def _read(self, place: int, count: int) -> NDArray[Any]:
        block = np.empty((count, *self._filling.shape[1:]), self._kind)
        view = block.data.cast("B")
        done = 0
        while self._file is not None and done < len(view):
            with self._turn:  # threads share the file's position
                self._file.seek(place + done)
                got = self._file.readinto(view[done:])
            if not got:
                raise OSError(f"the temporary file of {len(self)} rows has been cut short")
            done += got
        return block
