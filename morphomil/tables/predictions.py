"""A run's predictions and patients, as every table of models takes them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from morphomil.cohort.labels import patient_labels
from morphomil.errors import InputError
from morphomil.stats.predictions import PREDICTION_COLUMNS, class_columns
from morphomil.store import read_json, read_parquet

if TYPE_CHECKING:
    from morphomil.run.directory import Run


def read_predictions(run: Run) -> pd.DataFrame:
    """Predictions of every trained model, and the ranking's out-of-fold ones as `morphometry` (its
    cutoff is 0.5).

    Models of three or more classes have the columns `probability_0`, `probability_1`, ... beside.

    Raises:
        InputError: there are none.
    """
    tables = []
    for path in run.model_files("predictions.parquet"):
        tables.append(read_parquet(path).assign(model=path.parent.name))
    ranked = run.rank_folder / "predictions.parquet"
    if ranked.is_file() and not any((table["model"] == "morphometry").any() for table in tables):
        own = read_parquet(ranked).rename(columns={"probability": "score"})
        tables.append(own.assign(model="morphometry", part="test", cutoff=0.5))
    if not tables:
        raise InputError(
            f"{run.path} has no predictions; train a model (morphomil train) or rank first"
        )
    table = pd.concat(tables, ignore_index=True)
    return table[[*PREDICTION_COLUMNS, *class_columns(table)]]


def patients_table(run: Run) -> pd.DataFrame:
    """One row per patient: `label`, `split`, `site` and the covariates that are the same on all of
    its slides."""
    slides = run.cohort.table()
    rows = slides.groupby("patient", sort=True)
    names = [str(name) for name in slides if name not in ("slide_id", "patient")]
    known = [name for name in names if not (rows[name].nunique() > 1).any()]
    patients = rows[known].first()
    patients["label"] = patient_labels(slides)
    return patients.dropna(axis=1, how="all")


def has_several_classes(predictions: pd.DataFrame) -> bool:
    """Whether the models tell more than two classes apart."""
    return bool(class_columns(predictions))


def of_test_patients(run: Run) -> pd.DataFrame:
    """The models' predictions of test patients (`read_predictions`).

    Raises:
        InputError: there are none, or of one class only.
    """
    predictions = read_predictions(run)
    tested = predictions[predictions["part"] == "test"]
    if tested["label"].nunique() < 2:
        raise InputError("no model has predictions of test patients of two classes")
    return tested


def two_class_test_part(run: Run) -> pd.DataFrame:
    """The predictions of test patients by models that tell two classes apart and tested both.

    Raises:
        InputError: as `of_test_patients`, or no model is such.
    """
    tested = of_test_patients(run)
    if has_several_classes(tested):
        raise InputError("it is for two classes, and the models tell more apart")
    both = tested.groupby("model")["label"].transform("nunique") == 2
    if not both.any():
        raise InputError("no model has predictions of test patients of both classes")
    return tested[both]


def two_class_predictions(run: Run) -> pd.DataFrame:
    """All predictions, also of training and validation patients, by the models of
    `two_class_test_part`.

    Raises:
        InputError: as `two_class_test_part`.
    """
    models = two_class_test_part(run)["model"].unique()
    predictions = read_predictions(run)
    return predictions[predictions["model"].isin(models)]


def class_names(run: Run) -> list[str]:
    """The labels in the order of the classes 0, 1, ... that the run's models, else its ranking,
    tell apart.

    Empty before there are any.
    """
    for path in run.fold_files("settings.json"):
        stated = read_json(path)
        if "classes" in stated:
            return [str(name) for name in stated["classes"]]
    about = run.ranking_about()
    return [str(name) for name in about["classes"]] if about else []
