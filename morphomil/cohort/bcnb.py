"""The public data set of core-needle biopsies (BCNB, Xu et al. 2021): its folders -> a manifest for
one of five tasks.

Expected in the folder: `WSIs/ID.jpg` with `WSIs/ID.json` (tumor polygons), or region crops
`ID_REGION.jpg`, or patches `ID_REGION_X_Y.jpg`; a table of patients (`.xlsx` or `.csv`), or the
released bags; optionally the published split as `train_id.txt`, `val_id.txt`, `test_id.txt`.

The released bags are lists of `{"id": ..., "label": 0, 1 or 2, "patch_paths": [...]}`, one entry
per bag, in `train-type-TASK.json`, `val-type-TASK.json` and `test-type-TASK.json`, or without paths
in `NAME/train.json` and so on, NAME being that of the experiment, such as `N0 vs. N(+)`. They hold
each task's own split.
"""

from __future__ import annotations

import os
import re
import unicodedata
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.errors import InputError, RefusedError, translating
from morphomil.places import check_names
from morphomil.store import parse_json, write_table_csv

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SUGGESTED_MPP = 0.5
"""The exports are nominally 20x, about so many um per pixel; their pixel size is recorded
nowhere."""
TASKS: dict[int, dict[str, str]] = {
    0: {"N0": "N0", "N+(1-2)": "N+", "N+(>2)": "N+"},
    1: {"N+(1-2)": "N+(1-2)", "N+(>2)": "N+(>2)"},
    2: {"N0": "N0", "N+(1-2)": "N+(1-2)", "N+(>2)": "N+(>2)"},
    3: {"N0": "N0", "N+(1-2)": "N+(1-2)"},
    4: {"N0": "N0", "N+(>2)": "N+(>2)"},
}
"""Status of the axillary lymph nodes -> label, by the number of the paper's experiment."""
BAG_FOLDERS = {0: "N0vs.N(+)", 3: "N0vs.N+(1-2)", 4: "N0vs.N+(>2)"}
"""Where the bags of a task lie that name no patches, blanks left out."""
PARTS = ("train", "val", "test")
POSITIVE = {0: "N+", 1: "N+(>2)", 2: "N+(>2)", 3: "N+(1-2)", 4: "N+(>2)"}
_COLUMNS = {
    "patient": r"patient.?id|^id$|^patient$",
    "status": r"aln.?status|axillary|^label$|lymph.?node.?status",
    "age": r"^age",
    "tumor_size": r"tumou?r.?size",
    "tumor_type": r"tumou?r.?type",
    "er": r"^er$|^er.?status",
    "pr": r"^pr$|^pr.?status",
    "her2": r"^her.?2$|^her.?2.?status",
    "her2_expression": r"her.?2.?expression",
    "grade": r"histological.?grad",
    "surgical": r"^surgical",
    "ki67": r"^ki.?67",
    "subtype": r"molecular.?sub",
}
"""What a column of the patient table must look like, in lower case."""
_PATCH = re.compile(r"(?P<patient>\d+)_\d+_\d+_\d+")
PAPER_COVARIATES = ("age", "tumor_size", "er", "pr", "her2")


@dataclass(frozen=True)
class BcnbManifest:
    """A manifest's rows with what the user should know of them."""

    table: pd.DataFrame
    positive: str
    covariates: tuple[str, ...]
    notes: tuple[str, ...]


def bcnb_manifest(
    folder: Path, *, task: int, mpp: float, table: Path | None = None
) -> BcnbManifest:
    """The manifest of an experiment of the paper: 0 N0/N+, 1 N+(1-2)/N+(>2), 2 all three, 3
    N0/N+(1-2), 4 N0/N+(>2).

    Args:
        folder: of the data set; images are looked for in all its subfolders.
        task: number of the experiment.
        mpp: um per pixel of the exports (`SUGGESTED_MPP`).
        table: the patient table, where it isn't the only `.xlsx` or `.csv` of the folder.

    Raises:
        InputError: images, table or columns are missing, a status isn't known, or table and bags
            disagree.
        RefusedError: a patient's bags stand in two parts of the split.
    """
    if task not in TASKS:
        raise InputError(f"tasks are 0 to 4, got {task}")
    if not folder.is_dir():
        raise InputError(
            f"{folder} is no folder; name that of the data set, which holds WSIs and "
            "the patient table"
        )
    bags = _read_bags(folder, task)
    patients = _patients_of_task(folder, task, table=table, bags=bags)
    images = _find_images(folder)
    notes = _check_images(folder, task, patients, images)
    splits, of_another_task = _splits_of_task(folder, task, bags)
    covariates = [
        name for name in _COLUMNS if name in patients and name not in ("patient", "status")
    ]
    rows = [
        _row(patient, image, mpp=mpp, splits=splits, covariates=covariates)
        for patient in patients.to_dict("records")
        for image in images.get(patient["patient"], [])
    ]
    manifest = pd.DataFrame(rows)
    if "split" in manifest and (manifest["split"] == "").any():
        lost = manifest.loc[manifest["split"] == "", "patient"].nunique()
        notes.append(f"{lost} patients stand in no published split and are left out")
        manifest = manifest[manifest["split"] != ""]
    return BcnbManifest(
        manifest.reset_index(drop=True),
        POSITIVE[task],
        tuple(covariates),
        tuple(notes + of_another_task),
    )


def _patients_of_task(
    folder: Path, task: int, *, table: Path | None, bags: pd.DataFrame | None
) -> pd.DataFrame:
    """The patients that a task is about, with its `label`, from the table or else the bags."""
    if bags is not None and table is None and not _tables(folder, named=True):
        patients = bags[["patient", "status"]]
    else:
        patients = _read_patients(table or _find_table(folder))
    unknown = sorted(set(patients["status"].dropna()) - set(TASKS[2]))
    if unknown:
        raise InputError(
            f"status of lymph nodes {', '.join(map(repr, unknown))} isn't one of "
            f"{', '.join(TASKS[2])}"
        )
    patients = patients.assign(label=patients["status"].map(TASKS[task]))
    if bags is not None:
        _check_labels(patients, bags)
    return patients.dropna(subset=["label"])


def _check_images(
    folder: Path, task: int, patients: pd.DataFrame, images: dict[str, list[Path]]
) -> list[str]:
    """Notes on patients without an image, and on images that are patches; refuses if no patient
    has one."""
    notes = []
    without = [name for name in patients["patient"] if name not in images]
    if without:
        notes.append(
            f"{len(without)} of {len(patients)} patients of task {task} have no image and are "
            "left out"
        )
    if len(without) == len(patients):
        raise InputError(
            f"no image under {folder} is named after a patient of the table (WSIs/ID.jpg, "
            "ID_REGION.jpg or ID_REGION_X_Y.jpg)"
        )
    first = [images[name][0] for name in patients["patient"] if name in images]
    if any(_PATCH.fullmatch(image.stem) for image in first):
        notes.append(
            "images are patches: segment them with --regions whole; all that are there are used, "
            "and bags are drawn anew from them"
        )
    return notes


def _splits_of_task(
    folder: Path, task: int, bags: pd.DataFrame | None
) -> tuple[dict[str, str], list[str]]:
    """Patient -> part of the split, empty without one, and a note where the published one is of
    another task."""
    if bags is not None:
        return dict(zip(bags["patient"], bags["split"], strict=True)), []
    splits = _read_splits(folder)
    if not splits or task == 0:
        return splits, []
    return {}, [
        "the published split is that of task 0; the other experiments drew their own, so none is "
        "given"
    ]


def _row(
    patient: Mapping[Any, Any],
    image: Path,
    *,
    mpp: float,
    splits: Mapping[str, str],
    covariates: Iterable[str],
) -> dict[str, Any]:
    """A row of the manifest."""
    name, annotation = patient["patient"], image.with_suffix(".json")
    row = {"slide": str(image.absolute()), "slide_id": name, "patient": name}
    row |= {"label": patient["label"], "mpp": mpp}
    row["annotation"] = str(annotation.absolute()) if annotation.is_file() else ""
    if splits:
        row["split"] = splits.get(name, "")
    return row | {covariate: patient[covariate] for covariate in covariates}


def write_bcnb_manifest(manifest: BcnbManifest, out: Path) -> Path:
    """Write the manifest as CSV; refuses to replace a file.

    Raises:
        InputError: `out` exists.
    """
    if out.exists():
        raise InputError(f"{out} exists; name another file with --out")
    write_table_csv(out, manifest.table)
    return out


def _tables(folder: Path, *, named: bool = False) -> list[Path]:
    """The folder's tables; `named`: those whose name says that they are about patients."""
    found = sorted(
        path for pattern in ("*.xlsx", "*.csv") for path in folder.glob(pattern) if path.is_file()
    )
    return [
        path for path in found if not named or re.search("clinic|patient", path.name.casefold())
    ]


def _find_table(folder: Path) -> Path:
    chosen = _tables(folder, named=True) or _tables(folder)
    if len(chosen) != 1:
        what = (
            f"{len(chosen)} tables ({', '.join(path.name for path in chosen[:3])})"
            if chosen
            else "no .xlsx or .csv"
        )
        raise InputError(f"{folder} holds {what}; name the patient table with --table")
    return chosen[0]


def _read_patients(path: Path) -> pd.DataFrame:
    """One row per patient, columns named as in `_COLUMNS`."""
    with translating(lambda cause: InputError(f"patient table {path} can't be read: {cause}")):
        if path.suffix.casefold() == ".csv":
            raw = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig")
        else:
            raw = pd.read_excel(path, dtype=str, engine="calamine", keep_default_na=False)
    raw.columns = [unicodedata.normalize("NFKC", str(name)).strip() for name in raw.columns]
    named = {}
    for name, pattern in _COLUMNS.items():
        alike = [column for column in raw.columns if re.search(pattern, column.casefold())]
        if alike:
            named[alike[0]] = name
    patients = (
        raw[list(named)]
        .rename(columns=named)
        .map(lambda cell: unicodedata.normalize("NFKC", str(cell)).strip())
    )
    if missing := [name for name in ("patient", "status") if name not in patients]:
        wanted = {"patient": "Patient ID", "status": "ALN status"}
        raise InputError(
            f"patient table {path} has no column {' or '.join(wanted[name] for name in missing)}; "
            f"it has {', '.join(map(str, raw.columns))}"
        )
    patients["patient"] = patients["patient"].str.replace(r"\.0$", "", regex=True)
    if patients["patient"].duplicated().any():
        twice = patients.loc[patients["patient"].duplicated(), "patient"].iloc[0]
        raise InputError(f"patient {twice} stands in two rows of {path}")
    patients["status"] = (
        patients["status"].str.replace(" ", "").replace({"N+(>=3)": "N+(>2)", "N+(≥3)": "N+(>2)"})
    )
    patients["status"] = patients["status"].replace({"": None})
    return patients


def _find_images(folder: Path) -> dict[str, list[Path]]:
    """Patient -> its images: whole slides `ID.jpg` where they have polygons, else region crops
    `ID_REGION.jpg`, else patches `ID_REGION_X_Y.jpg`, else whole slides."""
    files = sorted(
        Path(root) / name
        for root, _, names in os.walk(folder)
        for name in names
        if name.casefold().endswith(".jpg")
    )
    check_names(files)
    whole = [path for path in files if re.fullmatch(r"\d+", path.stem)]
    crops = [path for path in files if re.fullmatch(r"\d+_\d+", path.stem)]
    images: dict[str, list[Path]] = {}
    for path in [path for path in whole if path.with_suffix(".json").is_file()]:
        images.setdefault(path.stem, [path])
    for path in crops:
        patient = path.stem.split("_")[0]
        if patient not in images or images[patient][0] in crops:
            images.setdefault(patient, []).append(path)
    cut = set(images)
    for path in files:
        if (named := _PATCH.fullmatch(path.stem)) and named["patient"] not in cut:
            images.setdefault(named["patient"], []).append(path)
    for path in whole:
        images.setdefault(path.stem, [path])
    return images


def _read_bags(folder: Path, task: int) -> pd.DataFrame | None:
    """`patient`, `status` (one that the task maps to the bags' label), `label`, `split`; None
    without released bags.

    Raises:
        InputError: the files of a part are missing, several, or of another form.
        RefusedError: a patient stands in two parts.
    """
    files = sorted(folder.rglob("*.json"))
    found = {
        part: [path for path in files if path.name == f"{part}-type-{task}.json"] for part in PARTS
    }
    if not any(found.values()):
        for part in PARTS:
            found[part] = [
                path for path in files if path.name == f"{part}.json" and _is_of(path.parent, task)
            ]
    if not any(found.values()):
        return None
    if strange := {part: paths for part, paths in found.items() if len(paths) != 1}:
        part, paths = next(iter(strange.items()))
        raise InputError(
            f"bags of task {task} need one file each for train, val and test, and {folder} has "
            f"{len(paths)} for "
            f"{part}{': ' + ', '.join(str(path) for path in paths[:3]) if paths else ''}"
        )
    names = list(dict.fromkeys(TASKS[task].values()))
    status = {label: status for status, label in reversed(TASKS[task].items())}
    rows = []
    for part, (path,) in found.items():
        with translating(partial(_refuse_bags, path, len(names))):
            bags = parse_json(path.read_bytes())
            labels = {(str(bag["id"]), names[int(bag["label"])]) for bag in bags}
        rows += [(patient, status[label], label, part) for patient, label in sorted(labels)]
    table = pd.DataFrame(rows, columns=["patient", "status", "label", "split"])
    if (twice := table["patient"].duplicated()).any():
        name = table.loc[twice, "patient"].iloc[0]
        own = table[table["patient"] == name]
        if own["label"].nunique() > 1:
            raise InputError(f"bags of patient {name} have two labels: {', '.join(own['label'])}")
        raise RefusedError(f"leakage: bags of patient {name} stand in {' and '.join(own['split'])}")
    return table


def _refuse_bags(path: Path, labels: int, cause: str) -> InputError:
    return InputError(
        f'bags {path} must be a list of {{"id": ..., "label": 0 to {labels - 1}}}: {cause}'
    )


def _is_of(folder: Path, task: int) -> bool:
    return unicodedata.normalize("NFKC", folder.name).replace(" ", "") == BAG_FOLDERS.get(task)


def _check_labels(patients: pd.DataFrame, bags: pd.DataFrame) -> None:
    both = patients.merge(bags, on="patient", suffixes=("", "_bags"))
    if len(other := both[both["label"] != both["label_bags"]]):
        first = other.iloc[0]
        raise InputError(
            f"{len(other)} patients have another label in the bags than in the table, such as "
            f"{first['patient']}: {first['label_bags']} and {first['status']}"
        )


def _read_splits(folder: Path) -> dict[str, str]:
    """Patient -> train, val or test, from the published lists of ids; empty where there are
    none."""
    splits: dict[str, str] = {}
    for name in ("train", "val", "test"):
        for path in sorted(folder.rglob(f"{name}_id.txt"))[:1]:
            for patient in _ids(path.read_text(encoding="utf-8").split()):
                splits[patient] = name
    return splits


def _ids(words: Iterable[str]) -> list[str]:
    return [re.sub(r"\.\w+$", "", word.strip(",;")) for word in words if word.strip(",;")]
