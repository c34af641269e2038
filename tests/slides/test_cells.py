"""Decoded cells: each of a sweep once, the right pixels whatever the disk does."""

from __future__ import annotations

import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from morphomil.slides import cells as module
from morphomil.slides.cells import Cells
from morphomil.slides.levels import CELL_PX, Level

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

COLUMNS, ROWS, HELD = 6, 9, 4
LEVEL = Level(1.0, (COLUMNS - 1) * CELL_PX + 100, (ROWS - 1) * CELL_PX + 30)


class Slide:
    """Cells of one value each, counted as they are decoded."""

    def __init__(self, *, in_memory: bool = False) -> None:
        self.decoded: Counter[tuple[int, int]] = Counter()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "CELLS_HELD", HELD)
            self.cells = Cells(self.decode, LEVEL, in_memory=in_memory)

    def decode(self, column: int, row: int) -> NDArray[np.uint8]:
        self.decoded[column, row] += 1
        height = min(CELL_PX, LEVEL.height - row * CELL_PX)
        width = min(CELL_PX, LEVEL.width - column * CELL_PX)
        cell = np.full((height, width, 3), 7 * row + column, np.uint8)
        cell[0, 0] = row, column, 255
        return cell

    def check(self, column: int, row: int) -> None:
        """The cell is what decoding it would give."""
        known = self.decoded[column, row]
        expected = self.decode(column, row)
        self.decoded[column, row] = known
        assert np.array_equal(self.cells(column, row), expected)

    def sweep(self, high: int = 3, step: int = 2) -> None:
        """All cells, in areas of so many rows, each area so many rows below the one before."""
        for top in range(0, ROWS - high + 1, step):
            for column in range(COLUMNS):
                for row in range(top, top + high):
                    self.check(column, row)


@pytest.fixture
def slide() -> Slide:
    return Slide()


def test_rows_of_areas_decode_each_cell_once(slide: Slide) -> None:
    slide.sweep()
    assert len(slide.decoded) == COLUMNS * ROWS
    assert set(slide.decoded.values()) == {1}
    slide.cells.clear()
    slide.check(3, 1)
    assert slide.decoded[3, 1] == 2


def test_what_is_in_memory_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(module, "TemporaryFile")
    slide = Slide(in_memory=True)
    slide.sweep()
    assert max(slide.decoded.values()) > 1


class Disk(FileIO):
    """Its writes and reads end too early or not at all, once it is told so."""

    ends: ClassVar[dict[str, str]] = {}

    def _end(self, what: str) -> bool:
        if self.ends.get(what) == "refused":
            raise OSError(28, "No space left on device")
        return self.ends.get(what) == "early"

    def write(self, data: Any) -> int:
        return super().write(data[:1] if self._end("write") else data)

    def readinto(self, data: Any) -> int:
        return 100 if self._end("readinto") else int(super().readinto(data))


@pytest.mark.parametrize("what", ["write", "readinto"])
@pytest.mark.parametrize("ends", ["early", "refused"])
def test_a_disk_that_fails_costs_time_alone(
    slide: Slide, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, what: str, ends: str
) -> None:
    monkeypatch.setattr(module, "TemporaryFile", lambda **_: Disk(tmp_path / "cells", "w+b"))
    slide.sweep()
    assert set(slide.decoded.values()) == {1}
    monkeypatch.setitem(Disk.ends, what, ends)
    slide.sweep()
    slide.sweep()
    assert max(slide.decoded.values()) > 1


def test_a_disk_with_little_room_gets_none(slide: Slide, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: usage._replace(free=2**20))
    monkeypatch.delattr(module, "TemporaryFile")  # nobody asks for it
    slide.sweep()
    assert slide.decoded[0, 2] == 2
    monkeypatch.undo()
    slide.sweep()
    assert slide.decoded[0, 2] == 4


@settings(max_examples=30)
@given(
    asked=st.lists(st.tuples(st.integers(0, COLUMNS - 1), st.integers(0, ROWS - 1)), max_size=100)
)
def test_any_order_gives_the_right_cells(asked: list[tuple[int, int]]) -> None:
    slide = Slide()
    for column, row in asked:
        slide.check(column, row)
    for column, row in asked[::-1]:
        slide.check(column, row)


def test_threads_get_the_right_cells(slide: Slide) -> None:
    rng = np.random.default_rng(0)
    asked = rng.integers((COLUMNS, ROWS), size=(2000, 2)).tolist()
    with ThreadPoolExecutor(8) as pool:
        for (column, row), cell in zip(
            asked, pool.map(lambda one: slide.cells(*one), asked), strict=True
        ):
            assert cell[0, 0].tolist() == [row, column, 255]
            assert (cell[1:] == 7 * row + column).all()
