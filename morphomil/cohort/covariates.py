"""Covariates of a manifest: numbers where all their cells are, else text."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from morphomil.cohort.spreadsheet import MISSING, Row

if TYPE_CHECKING:
    from collections.abc import Sequence


def covariate_values(
    rows: list[Row], covariates: Sequence[str]
) -> tuple[dict[str, dict[int, Any]], list[str]]:
    """Name -> line -> number, text or None; and the columns that can't be told to be numbers or
    text."""
    values: dict[str, dict[int, Any]] = {}
    problems = []
    for name in covariates:
        cells = {
            row.line: row.cells[name] for row in rows if row.cells[name].casefold() not in MISSING
        }
        numbers = {
            line: number for line, cell in cells.items() if (number := _number(cell)) is not None
        }
        text = {line: cell for line, cell in cells.items() if line not in numbers}
        if (text and len(numbers) > len(text)) or any(
            re.fullmatch(r"[+-]?\d+,\d+", cell) for cell in text.values()
        ):
            line, cell = next(iter(text.items()))
            problems.append(
                f"covariate {name} holds numbers, but {cell!r} in line {line}; write decimal "
                "points, and leave unknown cells empty"
            )
        given: dict[int, Any] = {**cells} if text else {**numbers}
        values[name] = {row.line: given.get(row.line) for row in rows}
    return values, problems


def _number(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
