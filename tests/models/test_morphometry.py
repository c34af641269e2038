"""The morphometry model as a model: trained and scored by the commands, and applied to another
cohort, whether `train` or `rank` made it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import zarr

from morphomil import pipeline
from morphomil.errors import BusyError, InputError, RefusedError
from morphomil.matrix import count_nuclei
from morphomil.models.settings import TrainSettings
from morphomil.models.trained import trained_folds, trained_models
from morphomil.pipeline import Shard
from morphomil.run.claims import Part
from morphomil.run.directory import Run
from morphomil.stats import auc
from morphomil.stats.combined_auc import macro_auc
from morphomil.store import write_arrays, write_parquet
from morphomil.tables.predictions import read_predictions
from morphomil.types import (
    FEATURE_NAMES,
    NUCLEI,
    PATCHES,
    Cohort,
    ImageSource,
    RankSettings,
    Slide,
)

PROGRAM = Path(sys.executable).with_name("morphomil")
PATCHES_PER_SLIDE, NUCLEI_PER_PATCH = 6, 20


def morphomil(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(PROGRAM), *map(str, words)], capture_output=True, text=True, check=False
    )


def make_run(
    path: Path,
    *,
    seed: int,
    prefix: str,
    patients: int = 24,
    features: tuple[str, ...] = FEATURE_NAMES,
    labels: int = 2,
    without_density: str = "",
) -> Run:
    """A run as `featurize` leaves it, of nuclei that are the larger the higher the label; slides of
    one label may lack the density."""
    rng = np.random.default_rng(seed)
    path.mkdir(parents=True)
    (path / ".lock").touch()
    run = Run(path)
    slides = [
        Slide(
            f"{prefix}{n}",
            f"{prefix}{n}",
            str(n % labels),
            (ImageSource(Path("none.png"), None, 0.5),),
        )
        for n in range(patients)
    ]
    run.save_cohort(Cohort(tuple(slides)))
    for slide in slides:
        name, folder = slide.slide_id, run.slide_folder(slide.slide_id)
        patches = pd.DataFrame({"patch_id": range(PATCHES_PER_SLIDE)}).assign(
            slide_id=name, image=0, region=0, x_px=0.0, y_px=0.0, side_px=256.0, kept=True
        )
        patches = patches.assign(
            blank_fraction=0.0, tissue_mm2=0.016, ink_fraction=0.0, sharpness=1.0
        )
        write_parquet(folder / "patches.parquet", PATCHES.check(patches))
        run.ledger.mark_done(name, "segment", "k", outputs=["patches.parquet"], figures={})
        nuclei = draw_nuclei(rng, name, larger=int(slide.label))
        if slide.label == without_density:
            nuclei["density_per_mm2"] = np.nan
        write_parquet(folder / "nuclei.parquet", nuclei)
        counts = count_nuclei(nuclei, range(PATCHES_PER_SLIDE), features=features)
        group = zarr.open_group(folder / "counts.zarr", mode="w")
        group.create_array("counts", data=counts)
        group.attrs.update({"features": list(features), "patch_id": list(range(PATCHES_PER_SLIDE))})
        figures = {"nuclei": len(nuclei), "patches_kept": PATCHES_PER_SLIDE}
        run.ledger.mark_done(
            name, "featurize", "k", outputs=["nuclei.parquet", "counts.zarr"], figures=figures
        )
    settings = {"mpp": None, "model": "default", "working_mpp": 0.5, "patch_px": 256}
    run.record("segment", settings, seconds=0)
    return run


def draw_nuclei(rng: np.random.Generator, slide_id: str, *, larger: int) -> pd.DataFrame:
    n = PATCHES_PER_SLIDE * NUCLEI_PER_PATCH
    area = rng.normal(45 + 25 * larger, 8, n).clip(10)
    major = 2 * np.sqrt(area / np.pi) * rng.uniform(1.1, 1.4, n)
    minor = 4 * area / np.pi / major
    table = pd.DataFrame(
        {
            "slide_id": slide_id,
            "patch_id": np.repeat(range(PATCHES_PER_SLIDE), NUCLEI_PER_PATCH),
            "label": range(1, n + 1),
            "image": 0,
            "x_px": rng.uniform(0, 256, n),
            "y_px": rng.uniform(0, 256, n),
            "area_um2": area,
            "major_axis_um": major,
            "minor_axis_um": minor,
            "orientation_deg": rng.uniform(0, 180, n),
            "circumference_um": np.pi * (major + minor) / 2,
            "density_per_mm2": rng.normal(3000, 300, n),
            "circularity": rng.uniform(0.7, 1, n),
            "rectangularity": rng.uniform(0.7, 0.85, n),
        }
    )
    return NUCLEI.check(table)


def predictions(run: Run) -> pd.DataFrame:
    return pd.read_parquet(run.model_folder("morphometry") / "predictions.parquet")


@pytest.fixture(scope="module")
def ranked(tmp_path_factory) -> Run:
    run = make_run(tmp_path_factory.mktemp("ranked") / "run", seed=0, prefix="p")
    pipeline.rank(run, folds=3, quick=True)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Run:
    run = make_run(tmp_path_factory.mktemp("trained") / "run", seed=0, prefix="p")
    done = morphomil("train", run.path, "--model", "morphometry", "--folds", "3")
    assert done.returncode == 0, done.stderr
    done = morphomil("predict", run.path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("AUC") == 1
    return run


@pytest.fixture
def elsewhere(tmp_path) -> Run:
    return make_run(tmp_path / "other", seed=7, prefix="q", patients=16)


def test_it_is_trained_and_scored_as_any_model(trained):
    table = predictions(trained)
    test = table[table["part"] == "test"]
    assert sorted(test["patient"]) == sorted(f"p{number}" for number in range(24))
    areas = [auc(fold["label"], fold["score"]) for _, fold in test.groupby("fold")]
    assert np.mean(areas) > 0.95
    assert trained_models(trained) == ["morphometry"]
    assert pipeline.train(trained, TrainSettings("morphometry", folds=3)).skipped == (
        "fold0",
        "fold1",
        "fold2",
    )
    assert set(read_predictions(trained)["model"]) == {"morphometry"}


@pytest.mark.parametrize("made_by", ["ranked", "trained"])
def test_it_scores_another_cohort(made_by, elsewhere, request):
    origin = request.getfixturevalue(made_by)
    done = morphomil(
        "predict", elsewhere.path, "--model", "morphometry", "--model-from", origin.path
    )
    assert done.returncode == 0, done.stderr
    table = predictions(elsewhere)
    assert set(table["part"]) == {"test"}
    assert set(table["fold"]) == {"external"}
    assert sorted(table["patient"]) == sorted(f"q{number}" for number in range(16))
    assert auc(table["label"], table["score"]) > 0.95
    cutoffs = [record.cutoff for record in trained_folds(origin, "morphometry")]
    assert table["cutoff"].unique() == pytest.approx([np.mean(cutoffs)])
    assert read_predictions(elsewhere)["model"].tolist() == 16 * ["morphometry"]
    assert pipeline.predict(elsewhere, "morphometry", origin=origin).skipped == ("external",)


def test_three_labels_are_trained_scored_and_applied_elsewhere(tmp_path):
    run = make_run(tmp_path / "run", seed=1, prefix="p", labels=3)
    done = morphomil("train", run.path, "--model", "morphometry", "--folds", "2")
    assert done.returncode == 0, done.stderr
    done = morphomil("predict", run.path)
    assert done.returncode == 0, done.stderr
    assert "macro AUC" in done.stdout
    table = predictions(run)
    columns = [f"probability_{number}" for number in range(3)]
    np.testing.assert_allclose(table[columns].sum(axis=1), 1)
    test = table[table["part"] == "test"]
    assert sorted(test["patient"]) == sorted(f"p{number}" for number in range(24))
    assert macro_auc(test["label"], test[columns], test["fold"]) > 0.9
    other = make_run(tmp_path / "other", seed=7, prefix="q", patients=15, labels=3)
    done = morphomil("predict", other.path, "--model-from", run.path, "--model", "morphometry")
    assert done.returncode == 0, done.stderr
    scored = predictions(other)
    assert macro_auc(scored["label"], scored[columns], scored["fold"]) > 0.9
    done = morphomil("train", run.path, "--model", "morphometry+clinical", "--covariates", "age")
    assert done.returncode == 2
    assert "tells two labels apart, the cohort has 3; morphometry takes more" in done.stderr


def test_a_feature_whose_absence_tells_the_label_is_ranked_only_if_allowed(tmp_path):
    run = make_run(tmp_path / "run", seed=2, prefix="p", without_density="1")
    words = ("rank", run.path, "--quick", "--folds", "2")
    refused = morphomil(*words)
    assert refused.returncode == 4
    assert "density_per_mm2 is missing in 12 of 12 patients with label 1" in refused.stderr
    assert "--allow-missing density_per_mm2" in refused.stderr
    assert not (run.rank_folder / "ranking.csv").exists()
    done = morphomil(*words, "--allow-missing", "density_per_mm2")
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(run.rank_folder / "ranking.csv").set_index("feature")
    assert table["shapley_auc"].notna().all()
    missing = pd.read_csv(run.rank_folder / "missing.csv").set_index("feature")
    assert missing.loc["density_per_mm2", "absent_positive"] == 12


def test_patients_it_was_trained_on_are_refused(ranked, tmp_path):
    other = make_run(tmp_path / "other", seed=8, prefix="p", patients=16)
    with pytest.raises(RefusedError, match="was trained on"):
        pipeline.predict(other, "morphometry", origin=ranked)
    words = ("predict", other.path, "--model", "morphometry", "--model-from", ranked.path)
    assert morphomil(*words).returncode == 4


def test_other_features_are_refused(ranked, tmp_path):
    other = make_run(tmp_path / "other", seed=8, prefix="q", features=FEATURE_NAMES[:-1])
    words = ("predict", other.path, "--model", "morphometry", "--model-from", ranked.path)
    done = morphomil(*words)
    assert done.returncode == 2
    assert "the model reads area_um2" in done.stderr
    with pytest.raises(InputError, match="measured with the features"):
        pipeline.predict(other, "morphometry", origin=ranked)


def test_a_ranking_and_a_training_take_each_others_place(ranked, tmp_path):
    run = Run(shutil.copytree(ranked.path, tmp_path / "run"))
    assert trained_models(run) == []
    with pytest.raises(InputError, match="are the ranking's"):
        pipeline.predict(run, "morphometry")
    assert set(read_predictions(run)["part"]) == {"test"}
    pipeline.train(run, TrainSettings("morphometry", folds=3))
    pipeline.predict(run, "morphometry")
    assert not run.fold_files("edges.json")
    assert set(read_predictions(run)["part"]) == {"train", "val", "test"}
    pipeline.rank(run, folds=3, quick=True)
    one, other = (
        json.loads((path.fold_folder("morphometry", "fold0") / "settings.json").read_text())
        for path in (run, ranked)
    )
    assert one == other
    assert one["trained_by"] == "rank"
    assert set(read_predictions(run)["part"]) == {"test"}
    assert len(pd.read_csv(run.model_folder("morphometry") / "test_log.csv")) == 3


def with_covariates(run: Run, sites: str) -> Run:
    """The run with a site and an age for every patient."""
    slides = [
        replace(slide, site=sites[n // 2 % len(sites)], covariates={"age": 50.0 + n * 7 % 11})
        for n, slide in enumerate(run.cohort.slides)
    ]
    run.save_cohort(Cohort(tuple(slides)))
    return Run(run.path)


def test_an_adjusted_ranking_carries_its_covariates_to_other_cohorts(tmp_path):
    run = with_covariates(make_run(tmp_path / "run", seed=0, prefix="p"), "AB")
    words = ("rank", run.path, "--quick", "--folds", "3", "--strata", "site", "--adjust", "age")
    done = morphomil(*words)
    assert done.returncode == 0, done.stderr
    about = run.ranking_about()
    assert about["strata"] == ["site"]
    assert about["adjusted"] == ["site", "age"]
    assert about["auc_covariates_low"] <= about["auc_covariates"] <= about["auc_covariates_high"]
    context = pd.read_csv(run.rank_folder / "context.csv")
    assert set(context["against"]) == {"site", "age"}
    assert set(context["feature"]) == {"label", *FEATURE_NAMES}
    draw_figures_of(run)

    alike = with_covariates(make_run(tmp_path / "alike", seed=7, prefix="q", patients=16), "AB")
    words = ("predict", alike.path, "--model", "morphometry", "--model-from", run.path)
    done = morphomil(*words)
    assert done.returncode == 0, done.stderr
    table = predictions(alike)
    assert auc(table["label"], table["score"]) > 0.95
    strange = with_covariates(make_run(tmp_path / "new", seed=8, prefix="r", patients=16), "AC")
    with pytest.raises(InputError, match=r"adjusted for site and knows .*; 8 patients have C"):
        pipeline.predict(strange, "morphometry", origin=run)
    plain = make_run(tmp_path / "plain", seed=9, prefix="s", patients=16)
    with pytest.raises(InputError, match=r"was adjusted for (site, age|age, site), and"):
        pipeline.predict(plain, "morphometry", origin=run)


def draw_figures_of(run: Run) -> None:
    from morphomil.figures.registry import draw_figures

    outcomes = {one.name: one for one in draw_figures(run, only=["context"], formats=("png",))}
    assert outcomes["context"].paths


def test_a_column_that_is_not_there_ends_with_status_2(ranked):
    done = morphomil("rank", ranked.path, "--quick", "--strata", "scanner")
    assert done.returncode == 2
    assert "--strata scanner: the cohort has no such column" in done.stderr


def ranked_files(run: Run) -> dict[str, bytes]:
    return {
        str(path.relative_to(run.path)): path.read_bytes()
        for folder in (run.rank_folder, run.model_folder("morphometry"))
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def trainings(monkeypatch) -> list[int]:
    """How many models each training had; the one at which -1 stands is interrupted."""
    from morphomil.rank import training

    train, heard = training.train_morphometry, []

    def count(bags, labels, **options):
        if heard and heard[-1] == -1:
            raise KeyboardInterrupt
        heard.append(len(options["streams"]))
        return train(bags, labels, **options)

    monkeypatch.setattr(training, "train_morphometry", count)
    return heard


IN_PARTS = RankSettings(0, folds=2, permutations=3)


@pytest.fixture(scope="module")
def at_once(tmp_path_factory) -> Run:
    """Ranked in one go."""
    run = make_run(tmp_path_factory.mktemp("whole") / "run", seed=0, prefix="p")
    pipeline.rank(run, settings=IN_PARTS)
    return run


def test_a_ranking_in_parts_is_the_same_and_trains_nothing_twice(at_once, tmp_path, trainings):
    settings, parts = IN_PARTS, make_run(tmp_path / "parts", seed=0, prefix="p")
    for index in (3, 1, 2):
        pipeline.rank_part(parts, Shard(index, 3), settings=settings)
    stored = sorted(parts.rank_parts_folder.rglob("*.safetensors"))
    assert len(stored) == len(trainings) == 4  # ablation and null of two folds
    trainings.clear()
    stored[0].write_bytes(stored[0].read_bytes()[:-9])
    pipeline.rank(parts, settings=settings)
    assert len(trainings) == 3  # the first models of two folds, and what was damaged
    assert ranked_files(parts) == ranked_files(at_once)
    assert not parts.rank_parts_folder.exists()


def test_an_interrupted_ranking_goes_on_where_it_stopped(at_once, tmp_path, trainings, monkeypatch):
    monkeypatch.setattr("morphomil.rank.ranking.CORES", 1)
    run = make_run(tmp_path / "run", seed=0, prefix="p")

    def write_the_last(path, arrays):
        write_arrays(path, arrays)
        trainings.append(-1)

    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr("morphomil.pipeline.ranking.write_arrays", write_the_last)
        pipeline.rank(run, settings=IN_PARTS)
    trainings.clear()
    pipeline.rank(run, settings=IN_PARTS)
    assert len(trainings) == 5  # the first models of two folds, and three of four pieces
    assert ranked_files(run) == ranked_files(at_once)


def test_parts_of_other_settings_or_slides_are_not_taken(tmp_path, trainings):
    run = make_run(tmp_path / "run", seed=0, prefix="p")
    settings = replace(IN_PARTS, ablation=False)
    pipeline.rank_part(run, Shard(1, 2), settings=settings)
    made = len(trainings)
    pipeline.rank_part(run, Shard(1, 2), settings=settings)
    assert len(trainings) == made
    pipeline.rank_part(run, Shard(1, 2), settings=replace(settings, seed=1))
    assert len(trainings) == 2 * made
    with pytest.raises(InputError, match="trained in one go"):
        pipeline.rank_part(run, Shard(1, 2), settings=replace(settings, quick=True))
    with pytest.raises(InputError, match="not those of a plan"):
        pipeline.rank_part(run, Shard(1, 2, {"p0": 1}), settings=settings)
    with run.lock(Part("segment", 1, 2)), pytest.raises(BusyError):
        pipeline.rank_part(run, Shard(2, 2), settings=settings)
    with run.lock(Part("rank", 1, 2)):
        pipeline.rank_part(run, Shard(2, 2), settings=settings)
