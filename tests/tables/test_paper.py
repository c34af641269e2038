"""`morphomil compare` on the demo's run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from morphomil.errors import InputError
from morphomil.run.directory import Run
from morphomil.tables.paper import compare


def test_tables_of_the_demo_with_a_second_model(demo: Path, tmp_path: Path) -> None:
    run = Run(shutil.copytree(demo / "run", tmp_path / "run"))
    ranked = pd.read_parquet(run.path / "rank" / "predictions.parquet")
    chance = ranked.rename(columns={"probability": "score"}).assign(part="test", cutoff=0.5)
    chance["score"] = np.random.default_rng(0).random(len(chance))
    folder = run.path / "models" / "dl-cnb"
    folder.mkdir(parents=True)
    chance.drop(columns="group").to_parquet(folder / "predictions.parquet")
    program = Path(sys.executable).with_name("morphomil")
    done = subprocess.run(
        [str(program), "compare", str(run.path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    performance = pd.read_csv(run.path / "tables" / "performance.csv")
    assert set(performance["model"]) == {"dl-cnb", "morphometry"}
    assert (run.path / "tables" / "calibration.csv").is_file()
    assert (run.path / "tables" / "net_benefit.tex").is_file()
    pairs = pd.read_csv(run.path / "tables" / "comparison.csv")
    assert pairs["n"].tolist() == [24]
    assert (pairs["test"] == "DeLong, cross-validated").all()
    page = (run.path / "tables" / "performance.html").read_text(encoding="utf-8")
    assert "out of fold" in page
    methods = (run.path / "tables" / "methods.md").read_text(encoding="utf-8")
    assert "24 patients (12 with label 0, 12 with label 1)" in methods
    assert "5-fold" in methods
    checklist = (run.path / "tables" / "checklist.md").read_text(encoding="utf-8")
    assert "AUTHOR TO FILL" in checklist
    assert "24 patients; 0: 12; 1: 12" in checklist
    answers = [
        line.split(" | ")
        for line in checklist.splitlines()
        if line.startswith("| ") and "item" not in line
    ]
    numbers = [row[0].strip("| ") for row in answers]
    tripod = [number for number in numbers if not number.isdigit()] + numbers[
        : numbers.index("27c") + 1
    ]
    assert {int(number.rstrip("abcdefg")) for number in tripod} == set(range(1, 28))
    assert numbers[numbers.index("27c") + 1 :] == [str(i) for i in range(1, 43)]
    answer = {row[1]: row[2] for row in answers}
    assert answer["Funding and role of the funders"].startswith("AUTHOR TO FILL")
    assert "tables/calibration.csv" not in checklist  # files are named where a table is
    assert "scikit-image" in answer["Software libraries and versions"]
    assert "area_um2" in answer["Predictors: definition and measurement"]
    assert "256 pixels at 0.5 um" in answer["Preprocessing of images"]
    assert "24 of 24 slides" in answer["Annotation tools"]
    assert "none stands in two parts" in answer["Level at which partitions are disjoint"]


def test_a_model_of_three_classes_has_tables_of_its_own(demo: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    shutil.copy(demo / "run" / "cohort.parquet", run.path)
    values = np.random.default_rng(0).dirichlet(np.ones(3), 30)
    table = pd.DataFrame(values, columns=[f"probability_{k}" for k in range(3)])
    table = table.assign(
        patient=np.arange(30).astype(str), label=np.arange(30) % 3, fold="split", part="test"
    )
    folder = run.path / "models" / "dl-cnb"
    folder.mkdir(parents=True)
    table.assign(score=values[:, 2], cutoff=0.4).to_parquet(folder / "predictions.parquet")
    names = {path.name for path in compare(run)}
    assert {"performance_by_class.csv", "confusion.tex", "methods.md", "checklist.md"} <= names
    assert "performance.csv" not in names
    assert "the most probable class" in (run.path / "tables" / "checklist.md").read_text(
        encoding="utf-8"
    )
    assert "most probable class" in (run.path / "tables" / "methods.md").read_text(encoding="utf-8")


def test_a_run_without_predictions_says_what_to_do(demo: Path, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    run.path.mkdir()
    shutil.copy(demo / "run" / "cohort.parquet", run.path)
    with pytest.raises(InputError, match="train a model"):
        compare(run)
