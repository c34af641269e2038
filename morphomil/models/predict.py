"""Trained folds -> predictions of test patients, once, or of another cohort.

Every scoring is written down in `test_log.csv`, so that a test set that was looked at twice can be
told.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import DamagedError, InputError, RefusedError
from morphomil.models.fold import (
    PREDICTIONS,
    RECORD,
    collect_predictions,
    prediction_rows,
)
from morphomil.models.trained import open_elsewhere, open_fold, trained_folds
from morphomil.run.ledger import key_of
from morphomil.stats.combined_auc import macro_auc_interval
from morphomil.stats.performance import has_pairs, training_auc
from morphomil.stats.roc import auc_interval, within_fold_auc_interval
from morphomil.store import (
    read_csv,
    read_json,
    read_parquet,
    write_json,
    write_parquet,
    write_table_csv,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from morphomil.models.fold import FoldRecord
    from morphomil.models.protocol import Prediction
    from morphomil.models.trained import OpenFold
    from morphomil.run.directory import Run
TEST_LOG = "test_log.csv"
EXTERNAL = "external"
"""Patients whom a model of another run has scored are of this fold; so is its folder called."""
LOG_COLUMNS = ["fold", "weights_sha256", "scoring", "at", "patients"]


@dataclass(frozen=True)
class Scoring:
    """What `predict_run` did: folds whose test patients it scored, those scored before, and
    warnings."""

    scored: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


def predict_run(run: Run, model: str) -> Scoring:
    """Score the test patients of every fold that hasn't scored them with these weights, and write
    it down.

    Adds the part `test` to the predictions and writes `attention.parquet` (`slide_id`, `patch_id`,
    `bag`, `bag_attention`, `attention`, `occlusion`) and `slides.parquet` of each fold, and a line
    of `test_log.csv`. With one fold these tables hold every slide, else those of the fold's test
    patients.

    Raises:
        InputError: nothing is trained, or what it was trained on has changed.
    """
    home, folds = run.model_folder(model), trained_folds(run, model)
    if folds[0].trained_by == "rank":
        raise InputError(
            f"the {model} models of {run.path} are the ranking's, which has predicted every "
            f"patient (rank/predictions.parquet); for a cut-off and a test log run: "
            f"morphomil train {run.path} --model {model}"
        )
    scored, skipped, notes = [], [], []
    for record in folds:
        if _is_scored(home, record):
            skipped.append(record.fold)
            continue
        _score_test_patients(home, open_fold(run, record), everyone=len(folds) == 1)
        test = ";".join(record.parts["test"])
        log = read_test_log(home)
        of_these = log.loc[log["patients"] == test, "weights_sha256"]
        times = 1 + len(set(of_these) - {record.weights_sha256})
        if times > 1:
            notes.append(
                f"the test patients of {record.fold} have now been scored by {times} "
                f"trainings of {model}"
            )
        _log_scoring(home, record.fold, record.weights_sha256, scoring=times, patients=test)
        scored.append(record.fold)
    collect_predictions(home, [record.fold for record in folds])
    return Scoring(tuple(scored), tuple(skipped), tuple(notes))


def _is_scored(home: Path, record: FoldRecord) -> bool:
    log = read_test_log(home)
    logged = (log["fold"] == record.fold) & (log["weights_sha256"] == record.weights_sha256)
    stored = read_parquet(home / record.fold / PREDICTIONS)
    return bool(logged.any()) and "test" in set(stored["part"])


def _score_test_patients(home: Path, opened: OpenFold, *, everyone: bool) -> None:
    """Add a fold's test patients to its predictions; slides of `everyone` or of these are read."""
    record, folder = opened.record, home / opened.record.fold
    wanted = record.patients() if everyone else record.patients("test")
    prediction = opened.model.predict(opened.fold, opened.inputs, wanted)
    if len(prediction.slides):
        _write_readings(folder, prediction, record)
    rows = prediction_rows(
        opened.inputs.cohort.labels,
        record.parts["test"],
        prediction.probability,
        part="test",
        fold=record.fold,
    )
    known = read_parquet(folder / PREDICTIONS)
    tables = [known[known["part"] != "test"], rows.assign(cutoff=record.cutoff)]
    write_parquet(folder / PREDICTIONS, pd.concat(tables, ignore_index=True))


def _write_readings(folder: Path, prediction: Prediction, record: FoldRecord) -> None:
    """Write `slides.parquet` and `attention.parquet` of a fold."""
    part_of = {patient: part for part, patients in record.parts.items() for patient in patients}
    slides = prediction.slides
    table = slides[["slide_id", "patient"]].assign(
        part=slides["patient"].map(part_of), score=slides[slides.columns[-1]]
    )
    write_parquet(folder / "slides.parquet", table)
    write_parquet(folder / "attention.parquet", prediction.patches)


def predict_elsewhere(run: Run, model: str, origin: Run) -> Scoring:
    """Score every patient of a cohort with a model that was trained in another run, and write it
    down.

    With several folds a patient's probability is the mean over their models, and so is the cut-off.
    The morphometry model may also be one that `rank` left there. Writes into `models/MODEL/`
    `predictions.parquet` (all of part `test` and fold `external`), a line of `test_log.csv`, and in
    `external/` `about.json` (which run, which weights), for an image model also `slides.parquet`
    and `attention.parquet` (`slide_id`, `patch_id`, `attention`, `occlusion`).

    Raises:
        InputError: there is no such model, the run has one of its own, or its data aren't what the
            model reads.
        RefusedError: a patient was trained on.
    """
    home, folds = run.model_folder(model), trained_folds(origin, model)
    if run.fold_files(RECORD, model=model):
        raise InputError(
            f"{run.path} has a {model} of its own; apply that of {origin.path} in "
            "another run directory"
        )
    _check_strangers(run, folds, origin)
    weights = key_of([record.weights_sha256 for record in folds])
    opened = open_elsewhere(run, folds, origin)
    inputs = opened[0].inputs
    labels = inputs.cohort.labels
    patients = ";".join(labels.index)
    data = key_of(*inputs.data_parts, labels.to_dict())
    key = key_of(EXTERNAL, weights, patients, data)
    if _stored_key(home) == key and (home / PREDICTIONS).is_file():
        return Scoring((), (EXTERNAL,), ())
    probability = _average_models(opened, home / EXTERNAL)
    cutoff = float(np.mean([record.cutoff for record in folds]))
    rows = prediction_rows(labels, labels.index, probability, part="test", fold=EXTERNAL)
    write_parquet(home / PREDICTIONS, rows.assign(cutoff=cutoff))
    times = 1 + len(set(read_test_log(home)["weights_sha256"]) - {weights})
    _log_scoring(home, EXTERNAL, weights, scoring=times, patients=patients)
    summary = {
        "origin": str(origin.path.absolute()),
        "folds": [record.fold for record in folds],
        "weights": weights,
        "classes": list(folds[0].classes),
        "cutoff": cutoff,
        "key": key,
    }
    write_json(home / EXTERNAL / "about.json", summary, seal=True)
    return Scoring((EXTERNAL,), (), ())


def _check_strangers(run: Run, folds: Sequence[FoldRecord], origin: Run) -> None:
    """Refuse patients whom a fold was trained on."""
    trained_on = {name for record in folds for name in record.patients("train", "val")}
    if known := sorted(trained_on & {slide.patient for slide in run.cohort.slides}):
        raise RefusedError(
            f"leakage: {folds[0].model} of {origin.path} was trained on {len(known)} patient(s) of "
            f"this cohort: {', '.join(known[:5])}; leave them out, or rename them if they are "
            "other people"
        )


def _stored_key(home: Path) -> Any:
    """The key of the last scoring of another run's model, None if there was none."""
    try:
        return read_json(home / EXTERNAL / "about.json")["key"]
    except (DamagedError, KeyError, TypeError):
        return None


def _average_models(opened: Sequence[OpenFold], folder: Path) -> pd.DataFrame:
    """The mean over models of each patient's probability; what was read of slides is written."""
    everyone = set(opened[0].inputs.cohort.labels.index)
    predictions = [one.model.predict(one.fold, one.inputs, everyone) for one in opened]
    slides = pd.concat([one.slides for one in predictions])
    if slides.empty:
        return pd.concat([one.probability for one in predictions]).groupby(level=0).mean()
    slides = slides.groupby(["slide_id", "patient"]).mean()
    score = slides[slides.columns[-1]].rename("score").reset_index()
    write_parquet(folder / "slides.parquet", score.assign(part="test"))
    columns = ["slide_id", "patch_id", "attention", "occlusion"]
    patches = pd.concat([one.patches[columns] for one in predictions])
    patches = patches.groupby(["slide_id", "patch_id"], as_index=False).mean()
    write_parquet(folder / "attention.parquet", patches)
    return slides.groupby("patient").mean()


def read_test_log(home: Path) -> pd.DataFrame:
    """The scorings of a model's test patients, one row each: `LOG_COLUMNS`."""
    if not (home / TEST_LOG).is_file():
        return pd.DataFrame(columns=LOG_COLUMNS)
    return read_csv(home / TEST_LOG, dtype={"fold": str, "weights_sha256": str, "patients": str})


def _log_scoring(home: Path, fold: str, weights: str, *, scoring: int, patients: str) -> None:
    line = {
        "fold": fold,
        "weights_sha256": weights,
        "scoring": scoring,
        "at": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "patients": patients,
    }
    log = pd.concat([read_test_log(home), pd.DataFrame([line])], ignore_index=True)
    write_table_csv(home / TEST_LOG, log)


def describe_test(run: Run, model: str) -> str:
    """A sentence on the AUC of the scored test patients: DeLong's interval on one fold, else pairs
    within folds."""
    predictions = read_parquet(run.model_folder(model) / PREDICTIONS).assign(model=model)
    table = predictions[predictions["part"] == "test"]
    names = [column for column in table if str(column).startswith("probability_")]
    if names:
        if not has_pairs(table):
            return f"no AUC: no fold of the {len(table)} test patients has two classes"
        found = macro_auc_interval(table["label"], table[names], table["fold"])
        limits, folds = f"[{found.low:.3f}, {found.high:.3f}]", table["fold"].nunique()
        about = f"({len(table)} patients, {folds} folds)"
        return f"macro AUC {found.auc:.3f} {limits} in test {about}"
    if table["label"].nunique() < 2:
        return f"no AUC: the {len(table)} test patients are of one class"
    many = table["fold"].nunique() > 1
    try:
        interval = (
            within_fold_auc_interval(
                table["label"],
                table["score"],
                table["fold"],
                training_auc=training_auc(predictions, model),
            )
            if many
            else auc_interval(table["label"], table["score"])
        )
    except ValueError as error:
        return f"no AUC: {error}"
    how = "pairs within folds" if many else "one test split"
    return (
        f"AUC {interval.auc:.3f} [{interval.low:.3f}, {interval.high:.3f}] in test "
        f"({len(table)} patients, {how})"
    )
