"""Manifest (CSV or XLSX) -> cohort: slides, patients, labels, splits, covariates; every problem
reported at once."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from morphomil.cohort.spreadsheet import (
    MISSING,
    OPTIONAL,
    OTHER_NAMES,
    REQUIRED,
    Row,
    check_header,
    list_columns,
    list_some,
    quote,
    read_cells,
)
from morphomil.errors import InputError, RefusedError
from morphomil.store import fingerprint, safe_name, split_image_number
from morphomil.types import Cohort, ImageSource, Slide

if TYPE_CHECKING:
    from collections.abc import Sequence
SPLITS = ("train", "val", "test")
ORIGINS = ("level0", "bounds")
MPP_RANGE = (0.05, 5.0)
_SAYS_NO_PIXEL_SIZE = (".jpg", ".jpeg", ".png")


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
) -> Manifest:
    """The cohort of a manifest: one row per slide, or several region images under one `slide_id`.

    Columns `slide` (path from the manifest's folder), `patient`, `label`; optional `slide_id`,
    `split` (train, val, test), `annotation`, `annotation_origin` (level0,
    bounds), `mpp`, `site` and the named covariates, which become
    numbers where all their cells are. Ids stay text. JPEG and PNG hold no pixel size, so they need
    a cell `mpp`, or `mpp` for the whole cohort. Columns `elsewhere` are read by others
    (`read_paths`).

    Raises:
        InputError: all problems of the file, with their lines.
        RefusedError: a patient, or a copied file, stands in two splits.
    """
    header, rows, notes = read_cells(path)
    problems = check_header(header, covariates)
    if mpp is not None:
        problems += _mpp_problems(str(mpp), "mpp")
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems])
    notes += _name_unread(header, (*covariates, *elsewhere))
    if drop_missing:
        labeled = [row for row in rows if row.cells["label"].casefold() not in MISSING]
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
        for problem in _check_row(row, path.parent, mpp)
    ]
    values, strange = _covariate_values(rows, covariates)
    slides = _group(rows)
    problems += (
        strange
        + _check_files(rows, path.parent)
        + _check_slides(slides, covariates)
        + _check_patients(rows)
    )
    leaks = _split_patients(rows)
    if problems:
        raise InputError([f"{path}: {problem}" for problem in problems + leaks])
    copies, copy_notes = _copied_files(rows, path.parent)
    if leaks + copies:
        raise RefusedError("leakage across splits: " + "; ".join(leaks + copies))
    cohort = Cohort(
        tuple(_slide(name, members, path.parent, values) for name, members in slides.items())
    )
    return Manifest(cohort, tuple(notes + copy_notes + _look_alikes(rows)))


def read_paths(path: Path, column: str) -> dict[Path, Path]:
    """Image file -> the path in a further column of its row, from the manifest's folder; rows
    without one left out.

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
        (path.parent / row.cells["slide"]).absolute(): (path.parent / row.cells[column]).absolute()
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


def _check_row(row: Row, folder: Path, mpp: float | None) -> list[str]:
    problems = [f"{name} is empty" for name in ("slide", "patient") if not row.get(name)]
    if row.cells["label"].casefold() in MISSING:
        problems.append("label is missing (--drop-missing leaves such rows out)")
    if (split := row.get("split")) and split not in SPLITS:
        problems.append(f"split is train, val or test, not {split!r}")
    if slide := row.get("slide"):
        problems += _path_problems("slide", folder, slide)
    if annotation := row.get("annotation"):
        problems += _path_problems("annotation", folder, annotation)
    if (origin := row.get("annotation_origin")) and origin not in ORIGINS:
        problems.append(f"annotation_origin is level0 or bounds, not {origin!r}")
    if stated := row.get("mpp"):
        problems += _mpp_problems(stated, "mpp")
    elif slide and mpp is None and slide.casefold().endswith(_SAYS_NO_PIXEL_SIZE):
        problems.append(
            f"{slide} can't state its pixel size; fill the column mpp, or give --mpp, um per pixel"
        )
    return problems


def _path_problems(kind: str, folder: Path, text: str) -> list[str]:
    path = folder / text
    try:
        if kind == "slide":
            path, _ = split_image_number(path)
            if path.is_dir() and any(map(_is_dicom, path.iterdir())):
                return []
        if path.is_file():
            if path.suffix.casefold() == ".mrxs" and not path.with_suffix("").is_dir():
                return [f"{kind} {text} lacks the folder {path.stem} that belongs to an MRXS file"]
            return []
        what = "is a folder" if path.is_dir() else "doesn't exist"
    except (OSError, ValueError):
        what = "is no usable path"
    return [
        f"{kind} {text!r} {what}{' (write / between folders)' if chr(92) in text else ''}; "
        f"looked in {folder}"
    ]


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _mpp_problems(text: str, name: str) -> list[str]:
    low, high = MPP_RANGE
    try:
        value = float(text)
    except ValueError:
        return [f"{name} {text!r} is no number (write it with a point, as in 0.25)"]
    return (
        []
        if low <= value <= high
        else [f"{name} is {text} um per pixel; pixel sizes are {low:g} to {high:g}"]
    )


def _check_files(rows: list[Row], folder: Path) -> list[str]:
    lines = defaultdict(list)
    for row in rows:
        if slide := row.get("slide"):
            try:
                lines[(folder / slide).resolve()].append(row.line)
            except (OSError, ValueError):
                continue
    return [
        f"lines {list_some(same)} name the same file {path.name}"
        for path, same in lines.items()
        if len(same) > 1
    ]


def _group(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by slide id, in the order of the file; the id is the file's stem where the manifest
    gives none."""
    slides: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        slides[_slide_id(row)].append(row)
    return dict(slides)


def _slide_id(row: Row) -> str:
    if name := row.get("slide_id"):
        return name
    path, number = split_image_number(Path(row.cells["slide"]))
    return path.stem if number is None else f"{path.stem}-{number}"


def _check_slides(slides: dict[str, list[Row]], covariates: Sequence[str]) -> list[str]:
    problems = []
    for name, rows in slides.items():
        lines = list_some([row.line for row in rows])
        if len({row.cells["slide"] for row in rows}) > 1 and not all(
            row.get("slide_id") for row in rows
        ):
            problems.append(
                f"lines {lines} have files of the same name {name}; tell them apart "
                "with a column slide_id"
            )
            continue
        for column in ("patient", "label", "split", "site", *covariates):
            values = {row.cells.get(column, "") for row in rows}
            if len(values) > 1:
                problems.append(
                    f"slide {name} (lines {lines}) has more than one {column}: {quote(values)}"
                )
    folders = defaultdict(list)
    for name in slides:
        folders[safe_name(name).casefold()].append(name)
    problems += [
        f"slide ids {quote(names)} would share a folder where case doesn't count; rename all "
        "but one"
        for names in folders.values()
        if len(names) > 1
    ]
    return problems


def _check_patients(rows: list[Row]) -> list[str]:
    problems = []
    for patient, members in _by_patient(rows).items():
        labels = {_label(row) for row in members if row.cells["label"].casefold() not in MISSING}
        if len(labels) > 1:
            lines = list_some([row.line for row in members])
            problems.append(
                f"patient {patient} (lines {lines}) has more than one label: {quote(labels)}"
            )
    unsplit = [row.line for row in rows if not row.get("split")]
    if 0 < len(unsplit) < len(rows):
        problems.append(
            f"split is empty in lines {list_some(unsplit)}; give it in every row, or in none"
        )
    return problems


def _split_patients(rows: list[Row]) -> list[str]:
    leaks = []
    for patient, members in _by_patient(rows).items():
        splits = {row.cells["split"] for row in members if row.get("split") in SPLITS}
        if len(splits) > 1:
            lines = list_some([row.line for row in members])
            leaks.append(
                f"patient {patient} (lines {lines}) stands in {' and '.join(sorted(splits))}"
            )
    return leaks


def _copied_files(rows: list[Row], folder: Path) -> tuple[list[str], list[str]]:
    """Leaks and notes about copies of one file under several names; only files of equal size are
    looked into."""
    sizes = defaultdict(list)
    for row in rows:
        path, number = split_image_number(folder / row.cells["slide"])
        if number is None and path.is_file():  # images of one file are no copies
            sizes[path.stat().st_size].append(row)
    copies = defaultdict(list)
    for same in (same for same in sizes.values() if len(same) > 1):
        for row in same:
            copies[fingerprint(folder / row.cells["slide"])].append(row)
    leaks, notes = [], []
    for same in (same for same in copies.values() if len(same) > 1):
        lines = list_some([row.line for row in same])
        splits = {row.get("split") for row in same}
        patients = {row.cells["patient"] for row in same}
        if len(splits) > 1 or (len(patients) > 1 and splits == {None}):
            leaks.append(f"the files of lines {lines} are copies, under patients {quote(patients)}")
        else:
            notes.append(f"the files of lines {lines} are copies of one another")
    return leaks, notes


def _look_alikes(rows: list[Row]) -> list[str]:
    alike = defaultdict(set)
    for row in rows:
        patient = row.cells["patient"]
        alike[re.sub(r"\s+", "", unicodedata.normalize("NFKC", patient)).casefold()].add(patient)
    return [
        f"patients {quote(names)} are taken as different people"
        for names in alike.values()
        if len(names) > 1
    ]


def _by_patient(rows: list[Row]) -> dict[str, list[Row]]:
    patients = defaultdict(list)
    for row in rows:
        if patient := row.get("patient"):
            patients[patient].append(row)
    return patients


def _label(row: Row) -> str:
    """The label; whole numbers that a spreadsheet wrote as 1.0 are 1."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", row.cells["label"])


def _covariate_values(
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
                "points, and leave "
                "unknown cells empty"
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


def _slide(name: str, rows: list[Row], folder: Path, values: dict[str, dict[int, Any]]) -> Slide:
    first = rows[0]
    images = tuple(
        ImageSource(
            (folder / row.cells["slide"]).absolute(),
            (folder / row.cells["annotation"]).absolute() if row.get("annotation") else None,
            float(row.cells["mpp"]) if row.get("mpp") else None,
            row.get("annotation_origin"),  # type: ignore[arg-type]
        )
        for row in rows
    )
    return Slide(
        name,
        first.cells["patient"],
        _label(first),
        images,
        split=first.get("split"),  # type: ignore[arg-type]
        site=first.get("site"),
        covariates={covariate: by_line[first.line] for covariate, by_line in values.items()},
    )
