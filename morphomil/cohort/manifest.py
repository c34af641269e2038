"""Manifest (CSV or XLSX) -> cohort: slides, patients, labels, splits, covariates; every problem
reported at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from morphomil.cohort.checks import (
    check_files,
    check_patients,
    check_row,
    check_slides,
    find_copies,
    find_leaks,
    find_near_equal,
    group_rows,
    look_elsewhere,
    mpp_problems,
)
from morphomil.cohort.covariates import read_covariates
from morphomil.cohort.names import clean_name, missing_names, says_nothing, whole_number
from morphomil.cohort.numbers import parse_number
from morphomil.cohort.spreadsheet import (
    OPTIONAL,
    OTHER_NAMES,
    REQUIRED,
    SITE,
    Row,
    check_header,
    list_columns,
    list_some,
    read_cells,
)
from morphomil.errors import InputError, RefusedError
from morphomil.places import check_names, read_place
from morphomil.types import Cohort, ImageSource, Slide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from morphomil.places import Place


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds, and what its reader should tell the user: rows left out, columns not
    read, encoding."""

    cohort: Cohort
    notes: tuple[str, ...] = ()


def read_manifest(
    path: Path,
    *,
    covariates: Sequence[str] = (),
    mpp: float | None = None,
    drop_missing: bool = False,
    elsewhere: Sequence[str] = (),
    distinct_ids: bool = False,
    images: bool = True,
) -> Manifest:
    """The cohort of a manifest: one row per slide, or several region images under one `slide_id`.

    Columns `slide` (path from the manifest's folder, or an address elsewhere), `patient`, `label`;
    optional `slide_id`, `split` (train, val, test), `annotation`, `annotation_origin` (level0,
    bounds), `mpp`, `site` and the named covariates, which become numbers where all their cells are.
    Ids stay text, in one spelling (`names.clean_name`); near-equal ones are refused unless
    `distinct_ids`. JPEG and PNG hold no pixel size, so they need a cell `mpp`, or `mpp` for the
    whole cohort. Columns `elsewhere` are read by others (`read_paths`). Without `images` slides
    needn't be there.

    Raises:
        InputError: all problems of the file, with their lines.
        RefusedError: a patient, or a copied file, stands in two splits.
    """
    check_names([path.absolute()])
    header, rows, notes = read_cells(path)
    problems = check_header(header, covariates)
    covariates = [name for name in covariates if name != SITE]
    if mpp is not None:
        problems += mpp_problems(str(mpp), "mpp")
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems])
    notes += _name_unread(header, (*covariates, *elsewhere))
    rows, missing_notes = _clean_rows(rows, covariates)
    notes += missing_notes
    missing_labels = missing_names((row.cells["label"] for row in rows), "label")
    if drop_missing:
        labeled = [row for row in rows if row.cells["label"] not in missing_labels]
        if len(labeled) < len(rows):
            notes.append(
                f"{len(rows) - len(labeled)} of {len(rows)} rows have no label and are left out"
            )
        rows = labeled
    if not rows:
        raise InputError(f"{path}: there are no rows{' with a label' if drop_missing else ''}")
    problems = [
        f"line {row.line}: {problem}"
        for row in rows
        for problem in check_row(
            row, path.parent, mpp, missing_labels=missing_labels, images=images
        )
    ]
    read = read_covariates(rows, covariates)
    slides = group_rows(rows)
    problems += (
        read.problems
        + (check_files(rows, path.parent) if images else [])
        + check_slides(slides, covariates)
        + check_patients(rows, missing_labels)
    )
    if not distinct_ids:
        problems += find_near_equal(rows, read.categories)
    leaks = find_leaks(rows)
    elsewhere_problems, known = look_elsewhere(rows) if images else ([], {})
    problems += elsewhere_problems
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems + leaks])
    copies, copy_notes = find_copies(rows, path.parent, known) if images else ([], [])
    if leaks + copies:
        raise RefusedError("leakage across splits: " + "; ".join(leaks + copies))
    cohort = Cohort(
        tuple(_slide(name, members, path.parent, read.values) for name, members in slides.items())
    )
    return Manifest(cohort, tuple(notes + copy_notes + read.notes))


def _clean_rows(rows: list[Row], covariates: Sequence[str]) -> tuple[list[Row], list[str]]:
    """The rows with their names in one spelling, and notes on sites that aren't known."""
    given = rows[0].cells if rows else {}
    columns = [name for name in ("patient", "label", "site", *covariates) if name in given]
    plain = [name for name in ("slide_id", "split") if name in given]
    cleaned = [
        {name: whole_number(clean_name(row.cells[name])) for name in columns}
        | {name: clean_name(row.cells[name]) for name in plain}
        for row in rows
    ]
    lines: dict[str, list[int]] = {}
    for row, cells in zip(rows, cleaned, strict=True):
        if (site := cells.get("site")) and says_nothing(site):
            lines.setdefault(site, []).append(row.line)
            cells["site"] = ""
    notes = [
        f"site {site!r} in line {list_some(at)} stands for an unknown one"
        for site, at in lines.items()
    ]
    return [
        replace(row, cells=row.cells | new) for row, new in zip(rows, cleaned, strict=True)
    ], notes


def read_paths(path: Path, column: str) -> dict[Place, Place]:
    """Image file -> the path or address in a further column of its row, from the manifest's folder;
    rows without one left out.

    Raises:
        InputError: the manifest can't be read, or has no such column.
    """
    header, rows, _ = read_cells(path)
    if column not in header or "slide" not in header:
        raise InputError(
            f"{path}: column {column if 'slide' in header else 'slide'} is missing; "
            f"{list_columns(header)}"
        )
    return {
        read_place(row.cells["slide"], path.parent): read_place(row.cells[column], path.parent)
        for row in rows
        if row.get(column)
    }


def _name_unread(header: list[str], covariates: Sequence[str]) -> list[str]:
    unread = [name for name in header if name not in (*REQUIRED, *OPTIONAL, *covariates)]
    notes = (
        [f"columns not read: {', '.join(unread)} (name covariates with --covariates)"]
        if unread
        else []
    )
    for name in OPTIONAL:
        alike = [column for column in unread if column.casefold() in OTHER_NAMES[name].split()]
        if name not in header and alike:
            notes.append(
                f"column {alike[0]} isn't read; if it holds what {name} means, rename it to {name}"
            )
    return notes


def _slide(name: str, rows: list[Row], folder: Path, values: dict[str, dict[int, Any]]) -> Slide:
    first = rows[0]
    images = tuple(
        ImageSource(
            read_place(row.cells["slide"], folder),
            read_place(row.cells["annotation"], folder) if row.get("annotation") else None,
            parse_number(row.cells["mpp"]) if row.get("mpp") else None,
            row.get("annotation_origin"),  # type: ignore[arg-type]
        )
        for row in rows
    )
    return Slide(
        name,
        first.cells["patient"],
        first.cells["label"],
        images,
        split=first.get("split"),  # type: ignore[arg-type]
        site=first.get("site"),
        covariates={covariate: by_line[first.line] for covariate, by_line in values.items()},
    )
