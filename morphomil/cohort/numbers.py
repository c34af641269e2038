"""Numbers that are written as text, with decimal points or decimal commas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Place = TypeVar("Place")
_POINT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}")
"""1,234 may be 1.234 or 1234."""


@dataclass(frozen=True)
class Numbers(Generic[Place]):
    """A column's cells read as numbers, or why they can't be."""

    values: dict[Place, float] | None
    """By place; None where the cells are text, or of doubtful kind."""
    problem: str = ""
    """What is doubtful, as the end of a sentence that begins with the column's name."""
    note: str = ""
    """How the numbers are read, likewise."""


def read_numbers(cells: Mapping[Place, str], where: Callable[[Place], str]) -> Numbers[Place]:
    """The numbers of a column, decimal commas too where nothing else can be meant.

    Args:
        cells: those that aren't missing.
        where: says where a cell stands, as in "line 3".
    """
    points = {place: cell for place, cell in cells.items() if _POINT.fullmatch(cell)}
    commas = {place: cell for place, cell in cells.items() if _COMMA.fullmatch(cell)}
    text = {p: cell for p, cell in cells.items() if p not in points and p not in commas}

    def at(some: Mapping[Place, str]) -> str:
        place, cell = next(iter(some.items()))
        return f"{cell!r} in {where(place)}"

    if text and (commas or len(points) > len(text)):
        return Numbers(
            None,
            f"holds numbers, but {at(text)}; write decimal points, and leave unknown cells empty",
        )
    if text:
        return Numbers(None)
    fractions = {place: cell for place, cell in points.items() if "." in cell}
    if commas and fractions:
        return Numbers(
            None,
            f"has decimal points ({at(fractions)}) and commas ({at(commas)}); write decimal points",
        )
    if commas and all(map(_THOUSANDS.fullmatch, commas.values())):
        number = next(iter(commas.values()))
        return Numbers(
            None,
            f"has {at(commas)}, which may be {number.replace(',', '.')} or "
            f"{number.replace(',', '')}; write decimal points, and nothing between thousands",
        )
    values = {place: float(cell.replace(",", ".")) for place, cell in cells.items()}
    note = f"is read with decimal commas ({at(commas)})" if commas else ""
    return Numbers(values, note=note)
