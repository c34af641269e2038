"""A cohort given as a table -> the same in one spelling, its problems told at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.cohort.names import (
    clean_name,
    missing_names,
    say_near_equal,
    says_nothing,
    whole_number,
)
from morphomil.cohort.numbers import read_numbers
from morphomil.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

REQUIRED = ("slide_id", "patient", "label")
_PLURALS = {"patient": "patients", "label": "labels", "site": "sites"}
_MOST_LISTED = 5


@dataclass(frozen=True)
class CleanCohort:
    """A cohort's table, and what to say of it."""

    table: pd.DataFrame
    """One row per slide: `slide_id, patient, label` as text, `split` and `site` as text or None,
    covariates as numbers or text, other columns as given."""
    notes: tuple[str, ...] = ()


def clean_cohort(
    cohort: pd.DataFrame, *, covariates: Sequence[str] = (), distinct_ids: bool = False
) -> CleanCohort:
    """The cohort by the rules of manifests (`names`, `numbers`).

    Args:
        cohort: one row per slide: `slide_id`, `patient`, `label`, optionally `split`, `site` and
            covariates.
        covariates: columns that are used as such.
        distinct_ids: near-equal patients, labels, sites and categories are meant so.

    Raises:
        InputError: all problems: missing columns, a slide without a patient or label or in two
            rows, near-equal names, covariates that are neither numbers nor text.
    """
    if missing := missing_columns(cohort, covariates):
        raise InputError(missing)
    table = cohort.reset_index(drop=True)
    table["slide_id"] = clean_column(table["slide_id"])
    for name in ("patient", "label", "site"):
        if name in table:
            table[name] = clean_column(table[name]).map(whole_number)
    problems, notes = _problems_of_rows(table), []
    for name in ("split", "site"):
        if name in table:
            named = clean_column(table[name])
            notes += _say_unknown(table["slide_id"], named) if name == "site" else []
            known = [None if says_nothing(cell) else cell for cell in named]
            table[name] = pd.Series(known, index=table.index, dtype=object)
    categories = []
    for name in covariates:
        table[name], problem, note = _covariate(table, name)
        problems += problem
        notes += note
        if not pd.api.types.is_numeric_dtype(table[name]):
            categories.append(name)
    if not distinct_ids:
        for name in dict.fromkeys((*_PLURALS, *categories)):
            if name in table:
                what = _PLURALS.get(name, f"values of {name}")
                problems += say_near_equal(what, table[name].dropna())
    if problems:
        raise InputError(problems)
    return CleanCohort(table, tuple(notes))


def missing_columns(cohort: pd.DataFrame, covariates: Sequence[str] = ()) -> list[str]:
    """A sentence for each column that a cohort lacks."""
    return [
        f"the cohort lacks the column {name}; it has {', '.join(map(str, cohort))}"
        for name in (*REQUIRED, *covariates)
        if name not in cohort
    ]


def clean_column(column: pd.Series[Any]) -> pd.Series[Any]:
    """Each cell's name (`names.clean_name`), empty where there is none."""
    codes, distinct = pd.factorize(column, use_na_sentinel=False)
    names = pd.Series([clean_name(value) for value in distinct], dtype=object)
    return pd.Series(names.to_numpy()[codes], index=column.index, name=column.name, dtype=object)


def list_names(names: Iterable[Any]) -> str:
    """The first names in words."""
    given = [str(name) for name in names]
    more = len(given) - _MOST_LISTED
    return ", ".join(given[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _problems_of_rows(table: pd.DataFrame) -> list[str]:
    """Slides without a name, patient or label, or in two rows."""
    problems = []
    slides = table["slide_id"]
    if nameless := [str(i) for i in table.index[slides.map(says_nothing)]]:
        problems.append(f"the cohort's rows {list_names(nameless)} have no slide_id")
    gone = table["patient"].map(says_nothing)
    for said, part in table[gone].groupby("patient"):
        problems.append(
            f"slides without a patient{_said(said)}: {list_names(part['slide_id'])}; name the "
            "patient, or leave the slides out"
        )
    lacking = missing_names(table["label"], "label")
    for said, part in table[table["label"].isin(lacking)].groupby("label"):
        problems.append(
            f"slides without a label{_said(said)}: {list_names(part['slide_id'])}; give one or "
            "leave the slides out"
        )
    twice = slides[slides.duplicated() & ~slides.map(says_nothing)].unique()
    if len(twice):
        problems.append(
            f"slides in more than one row of the cohort: {list_names(twice)}; give each slide "
            "one row"
        )
    return problems


def _say_unknown(slides: pd.Series[str], sites: pd.Series[str]) -> list[str]:
    return [
        f"site {said!r} stands for an unknown one (slides {list_names(part)})"
        for said, part in slides.groupby(sites)
        if said and says_nothing(str(said))
    ]


def _said(name: object) -> str:
    return f" ({name!r} stands for a missing one)" if name else ""


def _covariate(table: pd.DataFrame, name: str) -> tuple[pd.Series[Any], list[str], list[str]]:
    """A covariate's values, numbers where all its cells are, with problems and notes."""
    column = table[name]
    if pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column):
        return column, [], []
    names = clean_column(column).map(whole_number)
    lacking = missing_names(names, "category")
    slides = dict(zip(table.index, table["slide_id"], strict=True))
    cells = {place: cell for place, cell in names.items() if cell not in lacking}
    numbers = read_numbers(cells, lambda place: f"slide {slides[place]}")
    problem = [f"covariate {name} {numbers.problem}"] if numbers.problem else []
    note = [f"covariate {name} {numbers.note}"] if numbers.note else []
    if numbers.values is not None:
        values = pd.Series(numbers.values, dtype=float).reindex(table.index)
        return values.rename(name), problem, note
    return names.mask(names.isin(lacking), None).rename(name), problem, note
