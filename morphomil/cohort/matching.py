"""A folder of slides and a table of patients -> a manifest: which file is whose, by the names of
the files."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from morphomil.cohort.names import clean_name, spelling_key, whole_number
from morphomil.cohort.spreadsheet import OPTIONAL, OTHER_NAMES, REQUIRED, quote
from morphomil.errors import InputError
from morphomil.places import check_names

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from morphomil.cohort.spreadsheet import Row
WHOLE_SLIDES = (".svs", ".ndpi", ".scn", ".mrxs", ".bif", ".vms", ".vmu", ".svslide")
"""Files with these ends are whole slides, and so are TIFFs."""
TIFFS = (".tif", ".tiff", ".btf")
FLAT_IMAGES = (".jpg", ".jpeg", ".png")
"""Files with these ends are regions, where there are no whole slides beside them."""
ANNOTATIONS = (".geojson", ".json", ".xml", ".ndpa")
MOST_LABELS = 6
"""A column of so many values may be an outcome."""
_MOST_LISTED = 10


@dataclass(frozen=True)
class Matched:
    """A manifest made from a folder of slides."""

    rows: tuple[dict[str, str], ...]
    """Its rows by column, one per slide; what isn't known is empty."""
    notes: tuple[str, ...] = ()
    """What a user has to know or mend: files and patients without each other, ambiguous names."""


@dataclass(frozen=True)
class Outcomes:
    """The rows of a table of patients, or of slides, and which columns say what."""

    rows: Sequence[Row]
    key: str
    """The column with the names that the slides' files have in theirs: of patients or slides."""
    patient: str
    outcome: str


def find_slides(folder: Path) -> tuple[list[Path], list[str]]:
    """The slides in a folder and the folders in it, sorted, and notes on what was left out.

    A folder with DICOM files is one slide. JPEG and PNG count where there are no whole slides:
    beside them they are labels, masks and thumbnails.

    Raises:
        InputError: there is no such folder, or no slide in it.
    """
    files = _files(folder)
    whole = [file for file in files if file.suffix.casefold() in WHOLE_SLIDES + TIFFS]
    whole += sorted({file.parent for file in files if file.suffix.casefold() == ".dcm"})
    flat = [file for file in files if file.suffix.casefold() in FLAT_IMAGES]
    if not whole + flat:
        ends = ", ".join(WHOLE_SLIDES + TIFFS + FLAT_IMAGES)
        raise InputError(f"{folder} has no slides (files that end in {ends}, folders of DICOM)")
    check_names(whole or flat)
    left_out = len(flat) if whole else 0
    notes = [f"{left_out} JPEG and PNG files beside the slides are left out"] if left_out else []
    return whole or flat, notes


def find_annotations(folder: Path) -> list[Path]:
    """The files of annotations in a folder and the folders in it, sorted.

    Raises:
        InputError: there is no such folder, or none in it.
    """
    found = [file for file in _files(folder) if file.suffix.casefold() in ANNOTATIONS]
    if not found:
        raise InputError(
            f"{folder} has no annotations (files that end in {', '.join(ANNOTATIONS)})"
        )
    check_names(found)
    return found


def _files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not any(p.startswith(".") for p in path.relative_to(folder).parts)
    )


def names_in(stem: str, names: Collection[str]) -> list[str]:
    """The names that a file's stem may stand for, sorted, by the first of four rules that finds
    any.

    It is the name; it is the name in another spelling (`names.spelling_key`: 7 is 007); the name
    stands in it between the ends and what is neither letter nor digit; or so in another spelling.
    """
    known = frozenset(names)
    alike: dict[str, frozenset[str]] = {}
    for name in known:
        alike[spelling_key(name)] = alike.get(spelling_key(name), frozenset()) | {name}
    whole, parts = clean_name(stem), set(_delimited(clean_name(stem)))
    none: frozenset[str] = frozenset()
    for found in (
        known & {whole},
        alike.get(spelling_key(whole), none),
        known & parts,
        none.union(*(alike.get(spelling_key(part), none) for part in parts)),
    ):
        if found:
            return sorted(found)
    return []


def file_name(cell: str) -> str:
    """The name that a file may have in its own: of a path, the file's without its end."""
    name = whole_number(clean_name(cell))
    ends = "|".join(map(re.escape, WHOLE_SLIDES + TIFFS + FLAT_IMAGES))
    found = re.fullmatch(rf"(?:.*[/\\])?([^/\\]+)(?:{ends})", name, flags=re.IGNORECASE)
    return found[1] if found else name


def _delimited(stem: str) -> Iterable[str]:
    """The parts of a stem that begin and end with its pieces of letters and digits."""
    pieces = [piece.span() for piece in re.finditer(r"[^\W_]+", stem)]
    for number, (begin, _) in enumerate(pieces):
        for _, end in pieces[number:]:
            yield stem[begin:end]


def match_cohort(
    slides: Sequence[Path], outcomes: Outcomes | None, *, annotations: Sequence[Path] = ()
) -> Matched:
    """The manifest of these slides.

    A file whose name stands for two patients keeps its row, with patient and label empty, so that
    the manifest is refused until a person has filled them in; files of no patient are left out.
    Without outcomes each slide is a patient, of no label.

    Args:
        slides: files, or folders of DICOM.
        outcomes: whose labels are known.
        annotations: files, each named as its slide, or with the slide's name in its own.

    Raises:
        InputError: no file's name stands for any patient, or the table contradicts itself.
    """
    ids = _slide_ids(slides)
    drawn, notes = _by_slide(annotations, slides)
    if outcomes is None:
        rows = [{"patient": clean_name(slide.stem), "label": ""} for slide in slides]
        kept = list(zip(slides, rows, strict=True))
    else:
        kept, said = _by_patient(slides, outcomes)
        notes = said + notes
    named = any(ids[slide] != slide.stem for slide, _ in kept)
    manifest = tuple(
        {"slide": str(slide)}
        | ({"slide_id": ids[slide]} if named else {})
        | row
        | ({"annotation": str(drawn.get(slide, ""))} if annotations else {})
        for slide, row in kept
    )
    return Matched(manifest, tuple(notes))


def _slide_ids(slides: Sequence[Path]) -> dict[Path, str]:
    """Each slide's id: its file's stem, with its folder or end where another has the same."""
    stems = Counter(slide.stem for slide in slides)
    longer = {
        slide: slide.stem if stems[slide.stem] == 1 else f"{slide.parent.name}-{slide.stem}"
        for slide in slides
    }
    counts = Counter(longer.values())
    return {
        slide: name if counts[name] == 1 else f"{name}{slide.suffix}"
        for slide, name in longer.items()
    }


def _by_patient(
    slides: Sequence[Path], outcomes: Outcomes
) -> tuple[list[tuple[Path, dict[str, str]]], list[str]]:
    """The rows of the slides that are anybody's, and notes on the others."""
    table = _rows_by_name(outcomes)
    kept: list[tuple[Path, dict[str, str]]] = []
    strangers: list[str] = []
    ambiguous: list[str] = []
    seen: set[str] = set()
    blank = dict.fromkeys(next(iter(table.values())), "")
    for slide in slides:
        names = names_in(slide.stem, table)
        seen |= set(names)
        if len(names) == 1:
            kept.append((slide, table[names[0]]))
        elif names:
            kept.append((slide, blank))
            ambiguous.append(f"{slide.name} may be {' or '.join(names[:_MOST_LISTED])}")
        else:
            strangers.append(slide.name)
    if not seen:
        raise InputError(
            f"no file's name has a value of column {outcomes.key} in it: files are "
            f"{_some([slide.name for slide in slides])}, values {_some(list(table))}; name another "
            "column with --patient"
        )
    notes = [f"{text}: fill in its patient and label" for text in ambiguous]
    if strangers:
        notes.append(f"left out, as of no row of the table: {_some(strangers)}")
    if lacking := [name for name in table if name not in seen]:
        notes.append(f"without a slide, so not in the manifest: {_some(lacking)}")
    counts = Counter(row["patient"] for _, row in kept if row["patient"])
    if several := {name: count for name, count in counts.items() if count > 1}:
        listed = _some([f"{name} ({count})" for name, count in several.items()])
        notes.append(f"patients with several slides: {listed}")
    if unlabeled := [slide.name for slide, row in kept if row["patient"] and not row["label"]]:
        notes.append(
            f"without a label: {_some(unlabeled)}; fill it in, or set drop_missing to true"
        )
    return kept, notes


def _rows_by_name(outcomes: Outcomes) -> dict[str, dict[str, str]]:
    """Name -> the cells that its slides' rows get: patient, label, then the table's other columns
    that a manifest may have."""
    taken = {outcomes.key, outcomes.patient, outcomes.outcome, *REQUIRED}
    taken |= {name for name in OPTIONAL if name not in ("split", "mpp", "site")}
    found: dict[str, dict[str, str]] = {}
    contradicted: set[str] = set()
    for row in outcomes.rows:
        name = file_name(row.cells[outcomes.key])
        if not name:
            continue
        cells = {
            "patient": whole_number(clean_name(row.cells[outcomes.patient])),
            "label": whole_number(clean_name(row.cells[outcomes.outcome])),
        } | {column: cell for column, cell in row.cells.items() if column not in taken}
        first = found.setdefault(name, cells)
        if (first["patient"], first["label"]) != (cells["patient"], cells["label"]):
            contradicted.add(name)
    if contradicted:
        raise InputError(
            f"column {outcomes.key} has {quote(contradicted)} in two rows of different patient or "
            f"{outcomes.outcome}; give each one"
        )
    if not found:
        raise InputError(f"column {outcomes.key} is empty")
    return found


def _by_slide(
    annotations: Sequence[Path], slides: Sequence[Path]
) -> tuple[dict[Path, Path], list[str]]:
    """Slide -> its annotation, and notes on those that are no slide's or one of several."""
    files: dict[Path, list[Path]] = defaultdict(list)
    strangers: list[str] = []
    notes: list[str] = []
    by_stem: dict[str, list[Path]] = defaultdict(list)
    for slide in slides:
        by_stem[clean_name(slide.stem)].append(slide)
    for file in annotations:
        found = [slide for stem in names_in(file.stem, by_stem) for slide in by_stem[stem]]
        if len(found) == 1:
            files[found[0]].append(file)
        elif found:
            notes.append(f"{file.name} may annotate {_some([slide.name for slide in found])}")
        else:
            strangers.append(file.name)
    for slide, several in files.items():
        if len(several) > 1:
            notes.append(
                f"{slide.name} has several annotations: {_some([f.name for f in several])}"
            )
    if strangers:
        notes.append(f"annotations of no slide: {_some(strangers)}")
    drawn = {slide: of_it[0] for slide, of_it in files.items() if len(of_it) == 1}
    if bare := [slide.name for slide in slides if slide not in drawn]:
        notes.append(f"slides without an annotation: {_some(bare)}")
    return drawn, notes


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_LISTED} more" if len(names) > _MOST_LISTED else ""
    return ", ".join(names[:_MOST_LISTED]) + more


@dataclass(frozen=True)
class Guess:
    """Columns of a table that may be what is looked for; one alone is taken."""

    patient: tuple[str, ...]
    outcome: tuple[str, ...]
    slide: str | None
    """The column whose names the files have, if it is one of slides."""


def guess_columns(header: Sequence[str], rows: Sequence[Row], slides: Sequence[Path]) -> Guess:
    """Who may be patient and outcome: by the columns' names, else by what is in them.

    A patient's column has names that files have; an outcome's has two to six values.
    """
    slide = next(
        (
            name
            for kind in ("slide_id", "slide")
            for name in _named(header, kind)
            if _matches(name, rows, slides)
        ),
        None,
    )
    others = [name for name in header if name != slide]
    patients = _named(others, "patient")
    if not patients:
        patients = [name for name in others if _matches(name, rows, slides)] or others
    rest = [name for name in others if patients != [name]]
    labels = [name for name in rest if name == "label"] or [
        name
        for name in rest
        if 2 <= len({clean_name(row.cells[name]) for row in rows} - {""}) <= MOST_LABELS
    ]
    return Guess(tuple(patients), tuple(labels), slide)


def _named(header: Sequence[str], kind: str) -> list[str]:
    """The columns with a known name of this kind, the exact one alone if there is one."""
    known = OTHER_NAMES[kind].split()
    alike = [name for name in header if re.sub(r"\W+", "_", name.casefold()) in known]
    return [kind] if kind in header else alike


def _matches(name: str, rows: Sequence[Row], slides: Sequence[Path]) -> bool:
    """Whether most files have a value of the column in their names, not many the same."""
    values = {file_name(row.cells[name]) for row in rows} - {""}
    hits = [names_in(slide.stem, values) for slide in slides]
    found = {names[0] for names in hits if len(names) == 1}
    return 2 * len(found) > min(len(values), len(slides))
