"""A manifest's file -> its cells: CSV in whatever encoding, or a workbook."""

from __future__ import annotations

import csv
import difflib
import io
import re
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from morphomil.cohort.table import BASE_COLUMNS
from morphomil.errors import InputError, translating
from morphomil.store import check_kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
REQUIRED = ("slide", "patient", "label")
OPTIONAL = ("slide_id", "split", "annotation", "annotation_origin", "mpp", "site")
OTHER_NAMES = {
    "slide": "slide_path slide_file path file filepath file_path filename file_name image "
    "image_path wsi wsi_path",
    "patient": "patient_id patientid case case_id caseid p_id pid subject subject_id participant "
    "participant_id",
    "label": "class target y outcome category diagnosis status",
    "slide_id": "slideid wsi_id image_id",
    "split": "dataset set subset partition fold",
    "annotation": "annotations annotation_path geojson xml",
    "annotation_origin": "origin",
    "mpp": "pixel_size um_per_px um_per_pixel microns_per_pixel",
    "site": "center centre hospital institution",
}
"""Names of the columns in the tables of CLAM, TRIDENT, STAMP, slideflow and others."""


@dataclass(frozen=True)
class Row:
    """A row of a manifest: its line in the file, and its cells by column."""

    line: int
    cells: dict[str, str]

    def get(self, column: str) -> str | None:
        """The cell, None where there is nothing in it."""
        return self.cells.get(column) or None


def read_cells(path: Path) -> tuple[list[str], list[Row], list[str]]:
    """The header, the rows that aren't empty, and notes on how the file was read."""
    if path.is_dir():
        raise InputError(_say_folder(path))
    try:
        check_kind(path, streams=True)
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"manifest {path} can't be read: {error.strerror or error}") from error
    is_workbook = content.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0"))
    numbered, notes = _workbook_lines(path, content) if is_workbook else _csv_lines(path, content)
    filled = [(line, cells) for line, cells in numbered if any(cells)]
    if not filled:
        raise InputError(f"manifest {path} is empty; see an example with: morphomil init")
    (_, header), *body = filled
    while (
        header
        and not header[-1]
        and all(len(cells) < len(header) or not cells[-1] for _, cells in body)
    ):
        header, body = header[:-1], [(line, cells[: len(header) - 1]) for line, cells in body]
    ragged = [line for line, cells in body if len(cells) > len(header)]
    if ragged:
        lines = ", ".join(map(str, ragged[:20]))
        raise InputError(f"manifest {path}: more cells than the header has columns in line {lines}")
    padded = [(line, cells + [""] * (len(header) - len(cells))) for line, cells in body]
    return (
        header,
        [Row(line, dict(zip(header, cells, strict=True))) for line, cells in padded],
        notes,
    )


def _say_folder(path: Path) -> str:
    """What to do with a folder that is given instead of a manifest."""
    if (path / "cohort.csv").is_file():
        return (
            f"{path} is a folder; its manifest is {path / 'cohort.csv'}, or: morphomil run {path}"
        )
    return (
        f"{path} is a folder; a manifest says whose slides and which labels: "
        f"morphomil init project --slides {path} --outcomes TABLE makes one"
    )


UNENDED = "unexpected end of data"
"""What `csv` says of a quote that is never closed, at the end of the file."""


def _csv_lines(path: Path, content: bytes) -> tuple[list[tuple[int, list[str]]], list[str]]:
    text, notes = _decode(path, content)
    first = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(",;\t", key=first.count)
    if separator != ",":
        notes.append(
            f"{path.name} is read with {'tabs' if separator == chr(9) else 'semicolons'} "
            "between cells"
        )
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: list[tuple[int, list[str]]] = []
    begun = 1
    try:
        for cells in reader:
            rows.append((reader.line_num, [_clean(cell) for cell in cells]))
            begun = reader.line_num + 1
    except csv.Error as error:
        problem = str(error)
        if reader.line_num > begun or problem == UNENDED:
            problem = (
                f'a cell that opens with a quote (") has no end, or not where it should ({error})'
            )
        raise InputError(f"manifest {path}, line {begun}: {problem}") from error
    return rows, notes


def _decode(path: Path, content: bytes) -> tuple[str, list[str]]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            return content.decode("utf-16"), [f"{path.name} is read as UTF-16"]
        except UnicodeDecodeError:
            raise InputError(
                f"manifest {path} begins as UTF-16 text and isn't all of it, as a file that was "
                "cut short; save it as CSV UTF-8"
            ) from None
    try:
        return content.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        note = f"{path.name} isn't UTF-8; it is read as Windows-1252, so check accented letters"
    try:
        return content.decode("cp1252"), [note]
    except UnicodeDecodeError:
        raise InputError(
            f"manifest {path} is neither UTF-8 nor Windows-1252 text; save it as CSV UTF-8"
        ) from None


def _workbook_lines(path: Path, content: bytes) -> tuple[list[tuple[int, list[str]]], list[str]]:
    with (
        translating(
            lambda cause: InputError(
                f"manifest {path} can't be read as a workbook: {cause}; save it as CSV UTF-8"
            )
        ),
        pd.ExcelFile(io.BytesIO(content), engine="calamine") as book,
    ):
        names = book.sheet_names
        sheet = pd.read_excel(
            book, sheet_name=names[0], header=None, dtype=str, keep_default_na=False
        )
    notes = [f"{path.name} has {len(names)} sheets; {names[0]!r} is read"] if len(names) > 1 else []
    cells = sheet.fillna("").to_numpy().tolist()
    return [
        (line, [_clean(str(cell)) for cell in row]) for line, row in enumerate(cells, start=1)
    ], notes


def _clean(cell: str) -> str:
    return unicodedata.normalize("NFC", cell).strip()


SITE = "site"
"""This column is kept of every manifest; a covariate may name it all the same."""


def check_header(header: list[str], covariates: Sequence[str]) -> list[str]:
    """What is wrong with a header, a sentence for each problem."""
    problems = [
        f"column {name or '(no name)'} stands twice"
        for name in sorted({n for n in header if header.count(n) > 1})
    ]
    if "" in header and header.count("") == 1:
        problems.append(f"column {header.index('') + 1} has cells but no name")
    for name in REQUIRED:
        if name not in header:
            problems.append(f"column {name} is missing; {_hint(name, header)}")
    for name in OPTIONAL:
        if name not in header and (
            near := [column for column in header if column.casefold() == name]
        ):
            problems.append(f"column {near[0]} isn't read; rename it to {name}")
    for name in covariates:
        if name in BASE_COLUMNS and name != SITE:
            problems.append(
                f"covariate {name} has the name of a column with another task; copy "
                "it under a new name"
            )
        elif name not in header:
            near = difflib.get_close_matches(name, header, n=1)
            problems.append(
                f"covariate {name} is no column; "
                f"{'is it ' + near[0] + '?' if near else list_columns(header)}"
            )
    return problems


def _hint(name: str, header: list[str]) -> str:
    """How to mend a missing column."""
    known = {name, *OTHER_NAMES[name].split()}
    free = [column for column in header if column not in REQUIRED + OPTIONAL]
    alike = [column for column in free if re.sub(r"\W+", "_", column.casefold()) in known]
    alike = alike or difflib.get_close_matches(name, free, n=1, cutoff=0.75)
    if alike:
        return f"rename {alike[0]} to {name}"
    if name == "slide" and "slide_id" in header:
        return "slide_id names slides but no files: add a column slide with the path of each image"
    return list_columns(header)


def list_columns(header: list[str]) -> str:
    """The columns in words."""
    return f"the columns are {', '.join(header)}"


def list_some(lines: list[int]) -> str:
    """The first lines in words."""
    return ", ".join(map(str, lines[:10])) + (
        f" and {len(lines) - 10} more" if len(lines) > 10 else ""
    )


def quote(values: Iterable[str]) -> str:
    """Values in quotes, sorted."""
    return ", ".join(repr(value) for value in sorted(values))
