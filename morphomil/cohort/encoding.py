"""Covariates of patients -> columns of numbers.

Everything that encoding needs (means, levels, which columns say anything) is taken from training
patients only.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import InputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
MANIFEST_COLUMNS = ("slide_id", "patient", "label", "split", "site")
"""These columns of a cohort's table are no covariates."""
MISSING_LEVEL = "missing"
"""Patients of whom a category isn't known have this level, if the model knows it."""
MAX_LEVELS = 20
"""A category with more is taken for an identifier."""


@dataclass(frozen=True)
class NumberColumn:
    """A covariate that is a number: standardized, except one that is 0 or 1; a missing one becomes
    `fill`, the mean.

    `flagged`: some training patients lack it, so a column of its own says who does.
    """

    name: str
    mean: float
    sd: float
    fill: float
    flagged: bool

    @property
    def columns(self) -> list[str]:
        """Names of what it becomes."""
        return [self.name, *([f"{self.name} {MISSING_LEVEL}"] if self.flagged else [])]

    def encode(self, values: pd.Series[Any]) -> NDArray[np.float64]:
        """(n, 1 or 2)."""
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(np.float64)
        gone = np.isnan(numbers)
        scaled = np.where(gone, self.fill, (numbers - self.mean) / self.sd)
        return np.column_stack([scaled, gone] if self.flagged else [scaled]).astype(np.float64)


@dataclass(frozen=True)
class CategoryColumn:
    """A covariate of so many levels, most frequent first: one column each; a level not seen in
    training is all 0."""

    name: str
    levels: tuple[str, ...]

    @property
    def columns(self) -> list[str]:
        """Names of what it becomes."""
        return [f"{self.name}={level}" for level in self.levels]

    def encode(self, values: pd.Series[Any]) -> NDArray[np.float64]:
        """(n, levels)."""
        return np.column_stack([as_text(values) == level for level in self.levels]).astype(
            np.float64
        )


@dataclass(frozen=True)
class ClinicalEncoder:
    """Covariates of patients -> numbers, as fitted on training patients."""

    numbers: tuple[NumberColumn, ...]
    categories: tuple[CategoryColumn, ...]
    notes: tuple[str, ...] = field(default=(), compare=False)
    """What was missing or left out."""

    @classmethod
    def fit(cls, training: pd.DataFrame) -> ClinicalEncoder:
        """Means, SDs and levels of the training patients, one row each; every column is a
        covariate.

        Columns of numbers are numbers, all others categories. A constant column says nothing and is
        left out.

        Raises:
            RefusedError: a category has so many levels that it identifies patients, or nothing is
                left.
        """
        numbers, categories, notes = [], [], []
        for name in training.columns:
            values, gone = training[name], int(_is_missing(training[name]).sum())
            if gone:
                filled = (
                    "the training mean stands in"
                    if is_number(values)
                    else "they are a level of their own"
                )
                notes.append(
                    f"{name} is missing for {gone} of {len(values)} training patients; {filled}"
                )
            if is_number(values):
                known = pd.to_numeric(values, errors="coerce").dropna().to_numpy(np.float64)
                if known.size == 0 or (np.ptp(known) == 0 and not gone):
                    notes.append(f"{name} is the same for all training patients and is left out")
                    continue
                yes_or_no = bool(np.isin(known, (0, 1)).all())
                sd = 1.0 if yes_or_no or np.ptp(known) == 0 else float(known.std())
                mean = 0.0 if yes_or_no else float(known.mean())
                fill = float(known.mean()) if yes_or_no else 0.0
                numbers.append(NumberColumn(str(name), mean, sd, fill, gone > 0))
                continue
            text = as_text(values)
            counts = text.value_counts()
            if len(counts) > MAX_LEVELS:
                raise RefusedError(
                    f"covariate {name} has {len(counts)} levels, more than {MAX_LEVELS}: is it an "
                    "identifier? Merge levels, or leave it out"
                )
            if len(counts) < 2:
                notes.append(f"{name} is the same for all training patients and is left out")
                continue
            ordered = sorted(counts.index, key=lambda level: (-int(counts[level]), str(level)))
            categories.append(CategoryColumn(str(name), tuple(str(level) for level in ordered)))
        if not numbers and not categories:
            raise RefusedError(
                "no covariate differs between training patients, so there is nothing to learn from"
            )
        return cls(tuple(numbers), tuple(categories), tuple(notes))

    @property
    def parts(self) -> tuple[NumberColumn | CategoryColumn, ...]:
        """Numbers, then categories."""
        return (*self.numbers, *self.categories)

    @property
    def columns(self) -> list[str]:
        """Names of the encoded columns."""
        return [column for part in self.parts for column in part.columns]

    def encode(self, patients: pd.DataFrame) -> pd.DataFrame:
        """One row per patient, in the given order, every level with its column (the image model's
        input).

        Raises:
            InputError: a covariate is missing from the table.
        """
        if absent := [part.name for part in self.parts if part.name not in patients]:
            raise InputError(
                f"patients lack the covariates {', '.join(absent)} that the model was trained with"
            )
        arrays = [part.encode(patients[part.name]) for part in self.parts]
        return pd.DataFrame(np.hstack(arrays), index=patients.index, columns=self.columns)

    def encode_contrasts(self, patients: pd.DataFrame) -> pd.DataFrame:
        """As `encode` without each category's most frequent level, to which the others then
        compare."""
        return self.encode(patients).drop(columns=[part.columns[0] for part in self.categories])

    def count_missing(self, patients: pd.DataFrame) -> dict[str, int]:
        """Patients without a value, or with a level that no training patient has, by covariate."""
        counts = {part.name: int(_is_missing(patients[part.name]).sum()) for part in self.numbers}
        for part in self.categories:
            counts[part.name] = int((~as_text(patients[part.name]).isin(part.levels)).sum())
        return counts

    def to_json(self) -> dict[str, Any]:
        """As stored with a model."""
        return {
            "numbers": [asdict(c) for c in self.numbers],
            "categories": [asdict(c) for c in self.categories],
        }

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> ClinicalEncoder:
        """What `to_json` gave."""
        return cls(
            tuple(NumberColumn(**part) for part in stored["numbers"]),
            tuple(
                CategoryColumn(part["name"], tuple(part["levels"])) for part in stored["categories"]
            ),
        )


def patient_covariates(cohort: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Covariates by patient, sorted by id; `cohort` has one row per slide.

    Raises:
        InputError: there is no such covariate, or a patient's slides differ in one.
    """
    if absent := [name for name in names if name not in cohort]:
        known = [name for name in cohort if name not in MANIFEST_COLUMNS]
        raise InputError(
            f"the cohort has no covariate {', '.join(absent)}; it has "
            f"{', '.join(map(str, known)) or 'none'} (morphomil segment --covariates NAME,NAME "
            "keeps columns of the manifest)"
        )
    grouped = cohort.groupby("patient", sort=True)[list(names)]
    if not names:
        return pd.DataFrame(index=grouped.size().index)
    differing = grouped.nunique(dropna=True).gt(1)
    problems = [
        f"patient {patient} has more than one {name}; give all slides of a patient the same"
        for name in names
        for patient in differing.index[differing[name]]
    ]
    if problems:
        raise InputError(problems[:20])
    return grouped.first()


def independent_columns(columns: pd.DataFrame) -> pd.DataFrame:
    """Columns left after dropping those that others of them add up to (two tests always missing
    together)."""
    kept: list[str] = []
    basis = np.ones((len(columns), 1))
    for name in columns.columns:
        wider = np.column_stack([basis, columns[name].to_numpy()])
        if np.linalg.matrix_rank(wider) == wider.shape[1]:
            kept.append(str(name))
            basis = wider
    return columns[kept]


def is_number(values: pd.Series[Any]) -> bool:
    """Whether a column's known values are numbers."""
    known = values.dropna()
    return pd.api.types.is_numeric_dtype(known) or all(
        isinstance(v, int | float | np.number) and not isinstance(v, bool) for v in known
    )


def _is_missing(values: pd.Series[Any]) -> pd.Series[bool]:
    return values.isna() | values.map(
        lambda value: isinstance(value, float) and not math.isfinite(value)
    )


def as_text(values: pd.Series[Any]) -> pd.Series[str]:
    """A column's values as levels; missing ones are `MISSING_LEVEL`."""
    return values.map(lambda value: MISSING_LEVEL if pd.isna(value) else str(value)).astype(str)
