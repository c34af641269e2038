"""Numbers that are written as text, with decimal points or decimal commas."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Place = TypeVar("Place")
_POINT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
_COMMA = re.compile(r"[+-]?[0-9]+,[0-9]+")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
"""1,234 may be 1.234 or 1234."""


def parse_number(text: str) -> float:
    """The number that a cell holds, with a decimal point.

    `float` would take more: 0_5 as 5, and the digits of other scripts.

    Raises:
        ValueError: it is none.
    """
    plain = text.strip()
    if not (_POINT.fullmatch(plain) or _NO_NUMBER.fullmatch(plain)):
        raise ValueError(f"{text!r} is no number")
    return float(plain)


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
    values = {place: parse_number(cell.replace(",", ".")) for place, cell in cells.items()}
    note = f"is read with decimal commas ({at(commas)})" if commas else ""
    return Numbers(values, note=note)
