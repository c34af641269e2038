"""The public data set's layout -> manifest, from folders built as it is published and from its real
sample crops."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from morphomil.cohort.bcnb import POSITIVE, TASKS, bcnb_manifest, write_bcnb_manifest
from morphomil.cohort.manifest import read_manifest
from morphomil.errors import InputError, RefusedError

PROGRAM = Path(sys.executable).with_name("morphomil")
STATUS = ["N0", "N+(1-2)", "N+(>2)", "N0", "N+(＞2)", "N0"]  # noqa: RUF001 (the data set has full-width signs)


@pytest.fixture
def folder(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    (tmp_path / "WSIs").mkdir()
    for number in range(1, 6):  # the sixth patient has no image
        Image.fromarray(rng.integers(100, 240, (400, 500, 3)).astype(np.uint8)).save(
            tmp_path / f"WSIs/{number}.jpg"
        )
        area = {"name": "Annotation 0", "vertices": [[50, 50], [450, 50], [450, 350], [50, 350]]}
        (tmp_path / f"WSIs/{number}.json").write_text(
            json.dumps({"positive": [area], "negative": []})
        )
    pd.DataFrame(
        {
            "Patient ID": range(1, 7),
            "Age(years)": [40, 50, 60, 45, 55, 65],
            "Tumour Size(cm)": [1.0, 2.5, 3.0, 1.5, "", 2.0],
            "ER": ["Positive", "Negative", "Positive", "Positive", "Negative", "Positive"],
            "HER2": ["Negative"] * 6,
            "HER2 Expression": ["0", "1+", "2+", "0", "3+", "0"],
            "ALN status": STATUS,
        }
    ).to_csv(tmp_path / "patient-clinical-data.csv", index=False)
    return tmp_path


@pytest.mark.parametrize(
    ("task", "labels"),
    [
        (0, ["N0", "N+", "N+", "N0", "N+"]),
        (1, ["N+(1-2)", "N+(>2)", "N+(>2)"]),
        (2, ["N0", "N+(1-2)", "N+(>2)", "N0", "N+(>2)"]),
        (3, ["N0", "N+(1-2)", "N0"]),
        (4, ["N0", "N+(>2)", "N0", "N+(>2)"]),
    ],
)
def test_every_task_has_its_patients(folder, task, labels):
    made = bcnb_manifest(folder, task=task, mpp=0.5)
    assert made.table["label"].tolist() == labels
    assert made.positive == POSITIVE[task]
    assert made.positive in TASKS[task].values()
    assert made.covariates == ("age", "tumor_size", "er", "her2", "her2_expression")
    if task in (0, 2, 3, 4):
        assert "1 of" in made.notes[0]


def test_the_manifest_is_one_that_segment_reads(folder, tmp_path):
    out = tmp_path / "manifest.csv"
    words = ["cohort", "bcnb", folder, "--task", 0, "--mpp", 0.5, "--out", out]
    done = subprocess.run(
        [str(PROGRAM), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "3 N+, 2 N0 patients" in done.stdout
    cohort = read_manifest(out, covariates=("age", "tumor_size", "er")).cohort
    assert [slide.patient for slide in cohort.slides] == ["1", "2", "3", "4", "5"]
    assert cohort.slides[0].images[0].annotation == (folder / "WSIs/1.json").absolute()
    assert cohort.slides[4].covariates == {"age": 55, "tumor_size": None, "er": "Negative"}
    again = subprocess.run(
        [str(PROGRAM), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert again.returncode == 2
    assert "exists" in again.stderr
    unsized = [word for word in words if word not in ("--mpp", 0.5)]
    assert (
        subprocess.run(
            [str(PROGRAM), *map(str, unsized)], capture_output=True, check=False
        ).returncode
        == 2
    )


def test_the_published_split_is_task_0s(folder):
    (folder / "dataset-splitting").mkdir()
    for name, ids in {"train": "1\n2\n", "val": "3\n", "test": "4\n"}.items():
        (folder / "dataset-splitting" / f"{name}_id.txt").write_text(ids)
    made = bcnb_manifest(folder, task=0, mpp=0.5)
    assert made.table["split"].tolist() == ["train", "train", "val", "test"]
    assert "1 patients stand in no published split" in made.notes[-1]
    other = bcnb_manifest(folder, task=4, mpp=0.5)
    assert "split" not in other.table
    assert "drew their own" in other.notes[-1]


def write_patches(folder: Path, task: int, parts: dict[str, dict[str, int]]) -> None:
    """Patients of each part with their label: patches in their folders, one bag each."""
    for part, patients in parts.items():
        bags = []
        for patient, label in patients.items():
            home = folder / "patches" / patient
            home.mkdir(parents=True, exist_ok=True)
            names = [f"{patient}_0_{x}_0.jpg" for x in (0, 256)]
            for name in names:
                noise = np.random.default_rng(len(name) * label + int(patient)).integers(
                    100, 240, (256, 256, 3)
                )
                Image.fromarray(noise.astype(np.uint8)).save(home / name)
            paths = [f"patches/{patient}/{name}" for name in names]
            bags.append({"id": patient, "label": str(label), "patch_paths": paths})
        (folder / "json").mkdir(exist_ok=True)
        (folder / "json" / f"{part}-type-{task}.json").write_text(json.dumps(bags + bags[:1]))


def test_the_released_patches_and_bags(tmp_path):
    write_patches(tmp_path, 3, {"train": {"1": 0, "2": 1}, "val": {"3": 0}, "test": {"14": 1}})
    made = bcnb_manifest(tmp_path, task=3, mpp=0.5)
    assert made.table.groupby("patient")["label"].first().to_dict() == {
        **{"1": "N0", "3": "N0"},
        **{"2": "N+(1-2)", "14": "N+(1-2)"},
    }
    assert made.table.groupby("patient")["split"].first().to_dict() == {
        **{"1": "train", "2": "train"},
        **{"3": "val", "14": "test"},
    }
    assert "--regions whole" in made.notes[0]
    out = write_bcnb_manifest(made, tmp_path / "manifest.csv")
    assert [len(slide.images) for slide in read_manifest(out).cohort.slides] == [2, 2, 2, 2]
    out.unlink()
    with pytest.raises(InputError, match="holds no"):  # no bags of this task
        bcnb_manifest(tmp_path, task=4, mpp=0.5)


def test_bags_without_patches_hold_the_split_of_their_task(folder):
    home = folder / "dataset_json" / "N0 vs. N + (＞2)"  # noqa: RUF001
    home.mkdir(parents=True)
    for part, bags in {
        "train": [(1, 0), (1, 0), (3, 1)],
        "val": [(4, 0)],
        "test": [(5, 1)],
    }.items():
        (home / f"{part}.json").write_text(
            json.dumps([{"id": name, "label": label} for name, label in bags])
        )
    made = bcnb_manifest(folder, task=4, mpp=0.5)
    assert dict(zip(made.table["patient"], made.table["split"], strict=True)) == {
        **{"1": "train", "3": "train"},
        **{"4": "val", "5": "test"},
    }
    (home / "val.json").write_text(json.dumps([{"id": 1, "label": 0}]))
    with pytest.raises(RefusedError, match="patient 1 stand in train and val"):
        bcnb_manifest(folder, task=4, mpp=0.5)
    (home / "val.json").write_text(json.dumps([{"id": 4, "label": 1}]))
    with pytest.raises(InputError, match="another label in the bags"):
        bcnb_manifest(folder, task=4, mpp=0.5)
    (home / "val.json").write_text(json.dumps([{"id": 4, "status": 1}]))
    with pytest.raises(InputError, match="must be a list"):
        bcnb_manifest(folder, task=4, mpp=0.5)
    (home / "val.json").unlink()
    with pytest.raises(InputError, match="has 0 for val"):
        bcnb_manifest(folder, task=4, mpp=0.5)


def test_what_is_wrong_is_said(folder):
    path = folder / "patient-clinical-data.csv"
    table = pd.read_csv(path, dtype=str)
    table.drop(columns="ALN status").to_csv(path, index=False)
    with pytest.raises(InputError, match="no column ALN status"):
        bcnb_manifest(folder, task=0, mpp=0.5)
    table.assign(**{"ALN status": "N7"}).to_csv(path, index=False)
    with pytest.raises(InputError, match="'N7' isn't one of N0"):
        bcnb_manifest(folder, task=0, mpp=0.5)
    table.to_csv(path, index=False)
    shutil.rmtree(folder / "WSIs")
    with pytest.raises(InputError, match="no image under"):
        bcnb_manifest(folder, task=0, mpp=0.5)
    path.unlink()
    with pytest.raises(InputError, match=r"no \.xlsx or \.csv"):
        bcnb_manifest(folder, task=0, mpp=0.5)


def test_the_real_region_crops(shared_data, tmp_path):
    """Two patients of the published samples: their crops are region images of one slide each."""
    table = tmp_path / "patients.csv"
    pd.DataFrame({"Patient ID": ["351899", "469387"], "ALN status": ["N+(>2)", "N+(1-2)"]}).to_csv(
        table, index=False
    )
    made = bcnb_manifest(shared_data / "bcnb" / "regions", task=1, mpp=0.5, table=table)
    assert made.table["slide_id"].tolist() == ["351899"] * 3 + ["469387"] * 2
    made.table.to_csv(tmp_path / "manifest.csv", index=False)
    cohort = read_manifest(tmp_path / "manifest.csv").cohort
    assert [len(slide.images) for slide in cohort.slides] == [3, 2]
