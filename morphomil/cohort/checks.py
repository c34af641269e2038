"""What is wrong with a manifest's rows: each by itself, slides, patients, splits, copied files."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from morphomil import store
from morphomil.cohort.names import say_near_equal, says_nothing
from morphomil.cohort.numbers import parse_number
from morphomil.cohort.spreadsheet import Row, list_some, quote
from morphomil.errors import InputError
from morphomil.places import (
    Address,
    Known,
    cache_folder,
    fingerprint,
    is_address,
    is_dicom,
    look_at_all,
    read_place,
    split_image_number,
    too_large,
    without_secrets,
)
from morphomil.store import safe_name
from morphomil.types import AnnotationOrigin, Split

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from morphomil.places import Place

SPLITS = get_args(Split)
ORIGINS = get_args(AnnotationOrigin)
"""The places that an annotation's coordinates may count from."""
MPP_RANGE = (0.05, 5.0)
"""A pixel size beyond this range, um per pixel, is taken for a mistake."""
_SAYS_NO_PIXEL_SIZE = (".jpg", ".jpeg", ".png")


def check_row(
    row: Row,
    folder: Path,
    mpp: float | None,
    *,
    missing_labels: Collection[str],
    images: bool = True,
) -> list[str]:
    """What is wrong with a row by itself, a sentence for each problem; without `images` slides
    needn't be there."""
    problems = [f"{name} is empty" for name in ("slide", "patient") if not row.get(name)]
    problems += [
        f"{name} {row.cells[name]!r} stands for an unknown one; name it, or remove the row"
        for name in ("patient", "slide_id")
        if row.get(name) and says_nothing(row.cells[name])
    ]
    if not row.get("label"):
        problems.append("label is missing (--drop-missing leaves such rows out)")
    elif row.cells["label"] in missing_labels:
        problems.append(
            f"label {row.cells['label']!r} stands for a missing one and is no class "
            "(--drop-missing leaves such rows out; give it another name if it is one)"
        )
    if (split := row.get("split")) and split not in SPLITS:
        problems.append(f"split is train, val or test, not {split!r}")
    if images and (slide := row.get("slide")):
        problems += _path_problems("slide", folder, slide)
    if annotation := row.get("annotation"):
        problems += _path_problems("annotation", folder, annotation)
    if (origin := row.get("annotation_origin")) and origin not in ORIGINS:
        problems.append(f"annotation_origin is level0 or bounds, not {origin!r}")
    if stated := row.get("mpp"):
        problems += mpp_problems(stated, "mpp")
    elif images and slide and mpp is None and slide.casefold().endswith(_SAYS_NO_PIXEL_SIZE):
        problems.append(
            f"{without_secrets(slide)} can't state its pixel size; fill the column mpp, or give "
            "--mpp, um per pixel"
        )
    return problems


def _path_problems(kind: str, folder: Path, text: str) -> list[str]:
    if is_address(text):
        return _address_problems(kind, text)
    path = folder / text
    try:
        if kind == "slide":
            path, _ = store.split_image_number(path)
            if path.is_dir() and any(map(is_dicom, path.iterdir())):
                return []
        if path.is_file():
            if path.suffix.casefold() == ".mrxs" and not path.with_suffix("").is_dir():
                return [f"{kind} {text} lacks the folder {path.stem} that belongs to an MRXS file"]
            return []
        what = "is a folder" if path.is_dir() else "is no file"
        what = what if path.exists() else "doesn't exist"
    except (OSError, ValueError):
        what = "is no usable path"
    return [
        f"{kind} {text!r} {what}{' (write / between folders)' if chr(92) in text else ''}; "
        f"looked in {folder}"
    ]


def _address_problems(kind: str, text: str) -> list[str]:
    try:
        Address(text)
    except InputError as error:
        return [f"{kind} {problem}" for problem in error.problems]
    return []


def look_elsewhere(rows: list[Row]) -> tuple[list[str], dict[Place, int]]:
    """Problems of files elsewhere, which are asked for side by side, and the bytes of the others.

    Raises:
        InputError: there is nowhere to copy them to.
    """
    lines = defaultdict(list)
    for row in rows:
        for column in ("slide", "annotation"):
            text = row.get(column)
            if text and is_address(text) and not _address_problems(column, text):
                lines[Address(text).file].append(row.line)
    if not lines:
        return [], {}
    cache_folder()
    problems: list[str] = []
    sizes: dict[Place, int] = {}
    for address, said in look_at_all(lines).items():
        problem = too_large(address, said.size) if isinstance(said, Known) else str(said)
        if problem:
            problems.append(f"line {list_some(lines[address])}: {problem}")
        elif isinstance(said, Known):
            sizes[address] = said.size
    return problems, sizes


def mpp_problems(text: str, name: str) -> list[str]:
    """What is wrong with a pixel size."""
    low, high = MPP_RANGE
    try:
        value = parse_number(text)
    except ValueError:
        return [f"{name} {text!r} is no number (write it with a point, as in 0.25)"]
    return (
        []
        if low <= value <= high
        else [f"{name} is {text} um per pixel; pixel sizes are {low:g} to {high:g}"]
    )


def check_files(rows: list[Row], folder: Path) -> list[str]:
    """Files that more than one row names."""
    lines = defaultdict(list)
    for row in rows:
        if slide := row.get("slide"):
            try:
                elsewhere = is_address(slide)
                path = Path(without_secrets(slide)) if elsewhere else (folder / slide).resolve()
            except (OSError, ValueError):
                continue
            lines[path].append(row.line)
    return [
        f"lines {list_some(same)} name the same file {path.name}"
        for path, same in lines.items()
        if len(same) > 1
    ]


def group_rows(rows: list[Row]) -> dict[str, list[Row]]:
    """Rows by slide id, in the order of the file; the id is the file's stem where the manifest
    gives none."""
    slides: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        slides[slide_id_of(row)].append(row)
    return dict(slides)


def slide_id_of(row: Row) -> str:
    """The row's slide id, else its file's stem with the image's number."""
    if name := row.get("slide_id"):
        return name
    path, number = store.split_image_number(Path(without_secrets(row.cells["slide"])))
    return path.stem if number is None else f"{path.stem}-{number}"


def check_slides(slides: dict[str, list[Row]], covariates: Sequence[str]) -> list[str]:
    """Slides whose rows disagree, or that would share a folder."""
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


def check_patients(rows: list[Row], missing_labels: Collection[str]) -> list[str]:
    """Patients with more than one label, and a split that is given in part."""
    problems = []
    for patient, members in _by_patient(rows).items():
        labels = {row.cells["label"] for row in members} - set(missing_labels)
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


def find_leaks(rows: list[Row]) -> list[str]:
    """Patients who stand in two parts of the split."""
    leaks = []
    for patient, members in _by_patient(rows).items():
        splits = {row.cells["split"] for row in members if row.get("split") in SPLITS}
        if len(splits) > 1:
            lines = list_some([row.line for row in members])
            leaks.append(
                f"patient {patient} (lines {lines}) stands in {' and '.join(sorted(splits))}"
            )
    return leaks


def find_copies(
    rows: list[Row], folder: Path, known: Mapping[Place, int]
) -> tuple[list[str], list[str]]:
    """Leaks and notes about copies of one file under several names; only files of equal size are
    looked into. `known` are the bytes of files elsewhere."""
    sizes = defaultdict(list)
    for row in rows:
        place, number = split_image_number(read_place(row.cells["slide"], folder))
        if number is None and (place in known or (isinstance(place, Path) and place.is_file())):
            size = place.stat().st_size if isinstance(place, Path) else known[place]
            sizes[size].append(row)  # images of one file are no copies
    copies = defaultdict(list)
    for same in (same for same in sizes.values() if len(same) > 1):
        for row in same:
            copies[fingerprint(read_place(row.cells["slide"], folder))].append(row)
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


def find_near_equal(rows: list[Row], categories: Sequence[str]) -> list[str]:
    """Patients, labels, sites and values of other categories that look like one spelled in
    different ways."""
    found = []
    named = {"patient": "patients", "label": "labels", "site": "sites"}
    for column in (*named, *categories):
        lines = defaultdict(list)
        for row in rows:
            if cell := row.get(column):
                lines[cell].append(row.line)
        what = named.get(column, f"values of {column}")
        found += say_near_equal(what, lines, where=partial(_say_lines, lines))
    return found


def _say_lines(lines: Mapping[str, list[int]], name: str) -> str:
    return f" (line {list_some(lines[name])})"


def _by_patient(rows: list[Row]) -> dict[str, list[Row]]:
    patients = defaultdict(list)
    for row in rows:
        if patient := row.get("patient"):
            patients[patient].append(row)
    return patients
