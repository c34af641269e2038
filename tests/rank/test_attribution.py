"""What the demo's ranking leaves of each nucleus's contribution: stored tables, QuPath
measurements, figures."""

from __future__ import annotations

import gzip
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.axis import Tick
from matplotlib.text import Text

from morphomil.figures.registry import draw_figures
from morphomil.figures.sentences import say_plainly
from morphomil.run.directory import Run


def stored(run: Run, slide_id: str) -> pd.DataFrame:
    return pd.read_parquet(
        run.path / "rank" / "nuclei" / f"{run.slide_folder(slide_id).name}.parquet"
    )


def test_every_slides_nuclei_sum_to_its_patients_probability(demo: Path) -> None:
    """One slide per patient here: shares and the training mean's probability give the
    prediction."""
    run = Run.open(demo / "run")
    predictions = pd.read_parquet(run.path / "rank" / "predictions.parquet").set_index("patient")
    base: dict[str, list[float]] = {}
    for slide in run.cohort.slides:
        table = stored(run, slide.slide_id)
        assert set(table["label"]) <= set(run.nuclei(slide.slide_id)["label"])
        parts = table.filter(like="contribution_").sum(axis=1, min_count=1)
        np.testing.assert_allclose(parts, table["contribution"], atol=1e-6)
        row = predictions.loc[slide.patient]
        base.setdefault(row["fold"], []).append(row["probability"] - table["contribution"].sum())
    for of_fold in base.values():
        np.testing.assert_allclose(
            of_fold, of_fold[0], atol=2.5e-3
        )  # each share sum is complete to 1e-3


def test_the_other_tables_of_the_ranking_are_there(demo: Path) -> None:
    folder = demo / "run" / "rank"
    ranking = pd.read_csv(folder / "ranking.csv")
    assert (
        ranking[["shapley_p_any", "attention_p_any", "ablation_auc", "alone_auc"]]
        .notna()
        .all(axis=None)
    )
    assert (ranking["shapley_p"] >= 1 / 200).all()
    for name in ("groups", "agreement", "stability", "faithfulness", "correlation"):
        assert len(pd.read_csv(folder / f"{name}.csv"))
    about = json.loads((folder / "about.json").read_text())
    assert about["permutations"] == 199
    said = say_plainly(about["statement"], ranking["feature"].tolist())
    assert said in (demo / "run" / "report.html").read_text(encoding="utf-8").replace("&#39;", "'")
    assert "_per_mm2" not in said
    assert (demo / "run" / "figures" / "ranking_evidence.png").stat().st_size > 500


def test_contributions_go_to_qupath_and_into_figures(demo: Path, tmp_path: Path) -> None:
    run = Run.open(demo / "run")
    slide = run.cohort.slides[0]
    program = Path(sys.executable).with_name("morphomil")
    words = [
        "export",
        str(run.path),
        "--to",
        "qupath",
        "--out",
        str(tmp_path),
        "--slide",
        slide.slide_id,
    ]
    subprocess.run([str(program), *words], check=True, capture_output=True)
    (path,) = tmp_path.glob("*.geojson.gz")
    features = json.loads(gzip.decompress(path.read_bytes()))["features"]
    sent = [
        feature["properties"]["measurements"].get("Contribution")
        for feature in features
        if feature["properties"].get("objectType") == "detection"
    ]
    known = stored(run, slide.slide_id)["contribution"].dropna()
    assert sum(number for number in sent if number is not None) == pytest.approx(
        known.sum(), abs=1e-5
    )
    pictures = run.path / "figures" / "slides" / run.slide_folder(slide.slide_id).name
    for name in ("contribution", "speaking_nuclei"):
        assert (pictures / f"{name}.png").stat().st_size > 500


def test_the_numbers_on_a_figure_stand_in_the_csvs_beside_it(demo: Path, tmp_path: Path) -> None:
    run = Run(
        shutil.copytree(demo / "run", tmp_path / "run", ignore=shutil.ignore_patterns("figures"))
    )
    names = [
        "ranking",
        "features_by_group",
        "roc",
        "plate",
        "orientation",
        "correlation",
        "confusion",
    ]
    for found in draw_figures(run, only=names, formats=("png",)):
        tables = [pd.read_csv(path) for path in found.paths if path.suffix == ".csv"]
        numbers = np.concatenate(
            [table.select_dtypes("number").to_numpy(float).ravel() for table in tables]
        )
        written = {f"{abs(x):.{digits}f}" for x in numbers for digits in (2, 3)}
        figure = found.drawing.figure
        ticks = {id(label) for tick in figure.findobj(Tick) for label in (tick.label1, tick.label2)}
        said = [text.get_text() for text in figure.findobj(Text) if id(text) not in ticks]
        shown = {
            number for text in said for number in re.findall(r"(?<!< )(?<!<)\b\d+\.\d{2,3}", text)
        }
        shown -= {"0.50"}  # of chance
        assert shown or found.name == "confusion", found.name
        assert sorted(shown - written) == [], found.name
        counts = {int(n) for text in said for n in re.findall(r"([\d,]+) patients", text)}
        assert counts <= {len(table) for table in tables}, found.name
