"""Covariates of a manifest: numbers where all their cells are, else text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from morphomil.cohort.names import missing_names
from morphomil.cohort.numbers import read_numbers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from morphomil.cohort.spreadsheet import Row


@dataclass
class Covariates:
    """What the named columns hold, and what to say of them."""

    values: dict[str, dict[int, Any]] = field(default_factory=dict)
    """Name -> line -> number, text or None."""
    problems: list[str] = field(default_factory=list)
    """Columns that can't be told to be numbers or text."""
    notes: list[str] = field(default_factory=list)

    @property
    def categories(self) -> list[str]:
        """Those that hold text."""
        return [
            name
            for name, cells in self.values.items()
            if any(isinstance(value, str) for value in cells.values())
        ]


def read_covariates(rows: list[Row], names: Sequence[str]) -> Covariates:
    """The named columns of rows whose cells are clean (`names.clean_name`)."""
    read = Covariates()
    for name in names:
        lacking = missing_names((row.cells[name] for row in rows), "category")
        cells = {row.line: row.cells[name] for row in rows if row.cells[name] not in lacking}
        numbers = read_numbers(cells, lambda line: f"line {line}")
        if numbers.problem:
            read.problems.append(f"covariate {name} {numbers.problem}")
        if numbers.note:
            read.notes.append(f"covariate {name} {numbers.note}")
        given: dict[int, Any] = {**cells} if numbers.values is None else {**numbers.values}
        read.values[name] = {row.line: given.get(row.line) for row in rows}
    return read
