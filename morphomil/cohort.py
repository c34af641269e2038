"""Manifest (CSV or XLSX) -> cohort: slides, patients, labels, splits, covariates; every problem
reported at once."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.store import fingerprint
from morphomil.types import Cohort, ImageSource, InputError, RefusedError, Slide

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EXAMPLE_MANIFEST = """\
slide,slide_id,patient,label,annotation,mpp,site,age
slides/001.svs,,001,0,,,North,52
slides/002.ndpi,,002,1,annotations/002.geojson,,North,61
regions/003_0.jpg,003,003,1,,0.5,South,47
regions/003_1.jpg,003,003,1,,0.5,South,47
"""
"""A manifest to fill in; paths start from its folder, rows of one `slide_id` are region images of
one slide."""

EXAMPLE_COMMANDS = """\
# The settings of this analysis and the commands that use them. Run it with: bash analysis.sh
# What is finished is skipped, so it can be run again after an interruption.
set -eu
cd "$(dirname "$0")"

COHORT=cohort.csv
RUN=run
POSITIVE=1         # the label that counts as positive
COVARIATES=age     # columns for the clinical models and for subgroups, with commas between
WORKING_MPP=0.5    # um per pixel to cut and segment patches at
PATCH=256          # side of a patch, working pixels
FOLDS=5
SEED=0

morphomil doctor --manifest "$COHORT"
morphomil segment "$COHORT" --out "$RUN" --covariates "$COVARIATES" \\
  --working-mpp "$WORKING_MPP" --patch "$PATCH"
morphomil featurize "$RUN"
morphomil rank "$RUN" --positive "$POSITIVE" --folds "$FOLDS" --seed "$SEED"

# The image model and the clinical one beside it.
morphomil embed "$RUN"
for MODEL in dl-cnb dl-cnb+c clinical; do
    morphomil train "$RUN" --model "$MODEL" --positive "$POSITIVE" --folds "$FOLDS" --seed "$SEED"
done
morphomil predict "$RUN"

# Tables, figures, report.
morphomil compare "$RUN"
morphomil figures "$RUN"
morphomil report "$RUN"
"""
"""The whole analysis as a shell script, its settings at the head."""

REQUIRED = ("slide", "patient", "label")
OPTIONAL = ("slide_id", "split", "annotation", "mpp", "site")
SPLITS = ("train", "val", "test")
MISSING = frozenset({"", "na", "n/a", "nan", "null", "?"})
"""Cells, in lower case, that hold nothing."""
MPP_RANGE = (0.05, 5.0)
_SAYS_NO_PIXEL_SIZE = (".jpg", ".jpeg", ".png")
_BASE_COLUMNS = ("slide_id", "patient", "label", "split", "site", "slide", "annotation", "mpp")

_OTHER_NAMES = {
    "slide": "slide_path slide_file path file filepath file_path filename file_name image "
    "image_path wsi wsi_path",
    "patient": "patient_id patientid case case_id caseid p_id pid subject subject_id participant "
    "participant_id",
    "label": "class target y outcome category diagnosis status",
    "slide_id": "slideid wsi_id image_id",
    "split": "dataset set subset partition fold",
    "annotation": "annotations annotation_path geojson xml",
    "mpp": "pixel_size um_per_px um_per_pixel microns_per_pixel",
    "site": "center centre hospital institution",
}
"""Names of the columns in the tables of CLAM, TRIDENT, STAMP, slideflow and others."""


@dataclass(frozen=True)
class Manifest:
    """What a manifest holds, and what its reader should tell the user: rows left out, columns not
    read, encoding."""

    cohort: Cohort
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Row:
    line: int
    cells: dict[str, str]

    def get(self, column: str) -> str | None:
        """The cell, None where there is nothing in it."""
        return self.cells.get(column) or None


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
    `split` (train, val, test), `annotation`, `mpp`, `site` and the named covariates, which become
    numbers where all their cells are. Ids stay text. JPEG and PNG hold no pixel size, so they need
    a cell `mpp`, or `mpp` for the whole cohort. Columns `elsewhere` are read by others
    (`read_paths`).

    Raises:
        InputError: all problems of the file, with their lines.
        RefusedError: a patient, or a copied file, stands in two splits.
    """
    header, rows, notes = _read_cells(path)
    problems = _check_header(header, covariates)
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
    header, rows, _ = _read_cells(path)
    if column not in header or "slide" not in header:
        raise InputError(
            f"{path}: column {column if 'slide' in header else 'slide'} is missing; "
            f"{_columns(header)}"
        )
    return {
        (path.parent / row.cells["slide"]).absolute(): (path.parent / row.cells[column]).absolute()
        for row in rows
        if row.get(column)
    }


# ------------------------------------------------------------------------------------ file -> cells


def _read_cells(path: Path) -> tuple[list[str], list[_Row], list[str]]:
    """The header, the rows that aren't empty, and notes on how the file was read."""
    try:
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
        [_Row(line, dict(zip(header, cells, strict=True))) for line, cells in padded],
        notes,
    )


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
    try:
        return [(reader.line_num, [_clean(cell) for cell in cells]) for cells in reader], notes
    except csv.Error as error:
        raise InputError(f"manifest {path}, line {reader.line_num}: {error}") from error


def _decode(path: Path, content: bytes) -> tuple[str, list[str]]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace"), [f"{path.name} is read as UTF-16"]
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
    from zipfile import BadZipFile

    from python_calamine import CalamineError

    try:
        with pd.ExcelFile(io.BytesIO(content), engine="calamine") as book:
            names = book.sheet_names
            sheet = pd.read_excel(
                book, sheet_name=names[0], header=None, dtype=str, keep_default_na=False
            )
    except (CalamineError, BadZipFile, ValueError, OSError, IndexError) as error:
        raise InputError(
            f"manifest {path} can't be read as a workbook: {error}; save it as CSV UTF-8"
        ) from error
    notes = [f"{path.name} has {len(names)} sheets; {names[0]!r} is read"] if len(names) > 1 else []
    cells = sheet.fillna("").to_numpy().tolist()
    return [
        (line, [_clean(str(cell)) for cell in row]) for line, row in enumerate(cells, start=1)
    ], notes


def _clean(cell: str) -> str:
    return unicodedata.normalize("NFC", cell).strip()


# ------------------------------------------------------------------------------------------- checks


def _check_header(header: list[str], covariates: Sequence[str]) -> list[str]:
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
        if name in _BASE_COLUMNS:
            problems.append(
                f"covariate {name} has the name of a column with another task; copy "
                "it under a new name"
            )
        elif name not in header:
            near = difflib.get_close_matches(name, header, n=1)
            problems.append(
                f"covariate {name} is no column; "
                f"{'is it ' + near[0] + '?' if near else _columns(header)}"
            )
    return problems


def _hint(name: str, header: list[str]) -> str:
    """How to mend a missing column."""
    known = {name, *_OTHER_NAMES[name].split()}
    free = [column for column in header if column not in REQUIRED + OPTIONAL]
    alike = [column for column in free if re.sub(r"\W+", "_", column.casefold()) in known]
    alike = alike or difflib.get_close_matches(name, free, n=1, cutoff=0.75)
    if alike:
        return f"rename {alike[0]} to {name}"
    if name == "slide" and "slide_id" in header:
        return "slide_id names slides but no files: add a column slide with the path of each image"
    return _columns(header)


def _columns(header: list[str]) -> str:
    return f"the columns are {', '.join(header)}"


def _name_unread(header: list[str], covariates: Sequence[str]) -> list[str]:
    unread = [name for name in header if name not in (*REQUIRED, *OPTIONAL, *covariates)]
    notes = (
        [f"columns not read: {', '.join(unread)} (name covariates with --covariates)"]
        if unread
        else []
    )
    for name in OPTIONAL:
        alike = [column for column in unread if column.casefold() in _OTHER_NAMES[name].split()]
        if name not in header and alike:
            notes.append(
                f"column {alike[0]} isn't read; if it holds what {name} means, rename it to {name}"
            )
    return notes


def _check_row(row: _Row, folder: Path, mpp: float | None) -> list[str]:
    problems = [f"{name} is empty" for name in ("slide", "patient") if not row.get(name)]
    if row.cells["label"].casefold() in MISSING:
        problems.append("label is missing (--drop-missing leaves such rows out)")
    if (split := row.get("split")) and split not in SPLITS:
        problems.append(f"split is train, val or test, not {split!r}")
    if slide := row.get("slide"):
        problems += _path_problems("slide", folder, slide)
    if annotation := row.get("annotation"):
        problems += _path_problems("annotation", folder, annotation)
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


def _check_files(rows: list[_Row], folder: Path) -> list[str]:
    lines = defaultdict(list)
    for row in rows:
        if slide := row.get("slide"):
            try:
                lines[(folder / slide).resolve()].append(row.line)
            except (OSError, ValueError):
                continue
    return [
        f"lines {_listed(same)} name the same file {path.name}"
        for path, same in lines.items()
        if len(same) > 1
    ]


def _group(rows: list[_Row]) -> dict[str, list[_Row]]:
    """Rows by slide id, in the order of the file; the id is the file's stem where the manifest
    gives none."""
    slides: dict[str, list[_Row]] = defaultdict(list)
    for row in rows:
        slides[_slide_id(row)].append(row)
    return dict(slides)


def _slide_id(row: _Row) -> str:
    return row.get("slide_id") or Path(row.cells["slide"]).stem


def _check_slides(slides: dict[str, list[_Row]], covariates: Sequence[str]) -> list[str]:
    problems = []
    for name, rows in slides.items():
        lines = _listed([row.line for row in rows])
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
                    f"slide {name} (lines {lines}) has more than one {column}: {_quoted(values)}"
                )
    folders = defaultdict(list)
    for name in slides:
        folders[safe_name(name).casefold()].append(name)
    problems += [
        f"slide ids {_quoted(names)} would share a folder where case doesn't count; rename all "
        "but one"
        for names in folders.values()
        if len(names) > 1
    ]
    return problems


def _check_patients(rows: list[_Row]) -> list[str]:
    problems = []
    for patient, members in _by_patient(rows).items():
        labels = {_label(row) for row in members if row.cells["label"].casefold() not in MISSING}
        if len(labels) > 1:
            lines = _listed([row.line for row in members])
            problems.append(
                f"patient {patient} (lines {lines}) has more than one label: {_quoted(labels)}"
            )
    unsplit = [row.line for row in rows if not row.get("split")]
    if 0 < len(unsplit) < len(rows):
        problems.append(
            f"split is empty in lines {_listed(unsplit)}; give it in every row, or in none"
        )
    return problems


def _split_patients(rows: list[_Row]) -> list[str]:
    leaks = []
    for patient, members in _by_patient(rows).items():
        splits = {row.cells["split"] for row in members if row.get("split") in SPLITS}
        if len(splits) > 1:
            lines = _listed([row.line for row in members])
            leaks.append(
                f"patient {patient} (lines {lines}) stands in {' and '.join(sorted(splits))}"
            )
    return leaks


def _copied_files(rows: list[_Row], folder: Path) -> tuple[list[str], list[str]]:
    """Leaks and notes about copies of one file under several names; only files of equal size are
    looked into."""
    sizes = defaultdict(list)
    for row in rows:
        sizes[(folder / row.cells["slide"]).stat().st_size].append(row)
    copies = defaultdict(list)
    for same in (same for same in sizes.values() if len(same) > 1):
        for row in same:
            copies[fingerprint(folder / row.cells["slide"])].append(row)
    leaks, notes = [], []
    for same in (same for same in copies.values() if len(same) > 1):
        lines = _listed([row.line for row in same])
        splits = {row.get("split") for row in same}
        patients = {row.cells["patient"] for row in same}
        if len(splits) > 1 or (len(patients) > 1 and splits == {None}):
            leaks.append(
                f"the files of lines {lines} are copies, under patients {_quoted(patients)}"
            )
        else:
            notes.append(f"the files of lines {lines} are copies of one another")
    return leaks, notes


def _look_alikes(rows: list[_Row]) -> list[str]:
    alike = defaultdict(set)
    for row in rows:
        patient = row.cells["patient"]
        alike[re.sub(r"\s+", "", unicodedata.normalize("NFKC", patient)).casefold()].add(patient)
    return [
        f"patients {_quoted(names)} are taken as different people"
        for names in alike.values()
        if len(names) > 1
    ]


def _by_patient(rows: list[_Row]) -> dict[str, list[_Row]]:
    patients = defaultdict(list)
    for row in rows:
        if patient := row.get("patient"):
            patients[patient].append(row)
    return patients


def _listed(lines: list[int]) -> str:
    return ", ".join(map(str, lines[:10])) + (
        f" and {len(lines) - 10} more" if len(lines) > 10 else ""
    )


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(repr(value) for value in sorted(values))


# ---------------------------------------------------------------------------------- cells -> cohort


def _label(row: _Row) -> str:
    """The label; whole numbers that a spreadsheet wrote as 1.0 are 1."""
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", row.cells["label"])


def _covariate_values(
    rows: list[_Row], covariates: Sequence[str]
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


def _slide(name: str, rows: list[_Row], folder: Path, values: dict[str, dict[int, Any]]) -> Slide:
    first = rows[0]
    images = tuple(
        ImageSource(
            (folder / row.cells["slide"]).absolute(),
            (folder / row.cells["annotation"]).absolute() if row.get("annotation") else None,
            float(row.cells["mpp"]) if row.get("mpp") else None,
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


def cohort_table(cohort: Cohort) -> pd.DataFrame:
    """One row per image file: the manifest's columns, with absolute paths, then the covariates."""
    rows = [
        {
            "slide_id": slide.slide_id,
            "patient": slide.patient,
            "label": slide.label,
            "split": slide.split,
            "site": slide.site,
            "slide": str(image.path),
            "annotation": None if image.annotation is None else str(image.annotation),
            "mpp": image.mpp,
        }
        | slide.covariates
        for slide in cohort.slides
        for image in slide.images
    ]
    return pd.DataFrame(rows).astype({"mpp": "float64"})


def cohort_from_table(table: pd.DataFrame) -> Cohort:
    """The cohort that `cohort_table` made the table of, exactly."""
    if missing := [name for name in _BASE_COLUMNS if name not in table.columns]:
        raise ValueError(f"cohort table lacks {', '.join(missing)}")
    covariates = [name for name in table.columns if name not in _BASE_COLUMNS]
    slides = []
    for _, rows in table.groupby("slide_id", sort=False):
        columns = {name: [_plain(value) for value in rows[name]] for name in table.columns}
        paths = zip(columns["slide"], columns["annotation"], columns["mpp"], strict=True)
        images = tuple(
            ImageSource(Path(path), note and Path(note), mpp) for path, note, mpp in paths
        )
        first = {name: values[0] for name, values in columns.items()}
        slide = Slide(
            first["slide_id"],
            first["patient"],
            first["label"],
            images,
            split=first["split"],
            site=first["site"],
            covariates={name: first[name] for name in covariates},
        )
        slides.append(slide)
    return Cohort(tuple(slides))


def _plain(value: Any) -> Any:
    """A cell as a plain Python value, None where it is missing."""
    if pd.isna(value):
        return None
    return value.item() if hasattr(value, "item") else value


# ------------------------------------------------------------------------------------- folder names

MAX_NAME_BYTES = 100
_RESERVED = {
    "CON",
    "PRN",
    "AUX",
    "NUL",
    *(f"{port}{number}" for port in ("COM", "LPT") for number in range(1, 10)),
}


def safe_name(slide_id: str) -> str:
    """The folder name of a slide: its id where that is safe on every system, else what is left of
    it and a hash."""
    kept = re.sub(r"[^\w.+ -]", "_", slide_id).strip(" .")
    if unicodedata.normalize("NFKC", kept).split(".")[0].strip().upper() in _RESERVED:
        kept = f"_{kept}"
    raw = slide_id.encode("utf-8", "surrogatepass")
    if kept == slide_id and kept and len(raw) <= MAX_NAME_BYTES:
        return kept
    mark = hashlib.blake2b(raw, digest_size=4).hexdigest()
    head = kept.encode()[: MAX_NAME_BYTES - len(mark) - 1].decode("utf-8", "ignore").rstrip(" .")
    return f"{head}-{mark}"
