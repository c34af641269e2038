"""The results of a run that several figures draw; where they are absent, which command makes
them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.errors import InputError
from morphomil.figures.drawing import AbsentError
from morphomil.matrix import by_feature, by_value
from morphomil.nuclei.registry import FEATURES
from morphomil.store import read_csv, read_parquet
from morphomil.tables.predictions import (
    class_names,
    of_test_patients,
    two_class_predictions,
    two_class_test_part,
)
from morphomil.tables.typical import typical_patients

if TYPE_CHECKING:
    from morphomil.run.directory import Run
    from morphomil.types import Slide


def read_ranking(run: Run) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The ranking, and the summary of how it was made.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    summary = run.ranking_about()
    if not summary:
        raise AbsentError(f"nothing is ranked yet; run: morphomil rank {run.path}")
    return run.ranking, summary


def ordered_groups(run: Run) -> list[str]:
    """Labels in the order of figures: as the models and the ranking count them, the positive one
    last."""
    labels = sorted({str(slide.label) for slide in run.cohort.slides})
    known = class_names(run)
    return [label for label in known if label in labels] + [
        label for label in labels if label not in known
    ]


def read_patient_values(run: Run) -> tuple[pd.DataFrame, pd.Series[str]]:
    """Each patient's value of every feature, and its group, categorical with the reference first.

    Raises:
        AbsentError: nothing is ranked yet.
    """
    read_ranking(run)
    values = by_feature(read_parquet(run.rank_folder / "patient_values.parquet"))
    values = values.set_index("patient")
    labels = values.pop("label").astype(str)
    present = set(labels)
    groups = [group for group in ordered_groups(run) if group in present]
    return values, pd.Series(pd.Categorical(labels, groups), values.index)


def read_test_predictions(run: Run) -> pd.DataFrame:
    """The models' predictions of test patients."""
    try:
        return of_test_patients(run)
    except InputError as error:
        raise AbsentError(str(error)) from None


def read_binary_predictions(run: Run) -> pd.DataFrame:
    """The predictions of test patients by models that tell two classes apart."""
    try:
        return two_class_test_part(run)
    except InputError as error:
        raise AbsentError(str(error)) from None


def read_compared_predictions(run: Run) -> pd.DataFrame:
    """All predictions by models that tell two classes apart and tested both."""
    try:
        return two_class_predictions(run)
    except InputError as error:
        raise AbsentError(str(error)) from None


def typical_slides(run: Run) -> list[tuple[Slide, str]]:
    """A slide of the typical patient of each group, in the order of the groups (reference first),
    and the group's name."""
    _, summary = read_ranking(run)
    predictions = read_parquet(run.rank_folder / "predictions.parquet")
    measured = run.figures("featurize").set_index("slide_id")
    chosen = []
    groups = [str(summary["classes"][label]) for label in sorted(predictions["label"].unique())]
    for patient, group in zip(typical_patients(predictions), groups, strict=True):
        slides = measured[(measured["patient"] == patient) & (measured["state"] == "done")]
        if slides.empty:
            raise AbsentError(
                f"no slide of patient {patient} is measured; run: morphomil featurize {run.path}"
            )
        chosen.append((run.slide(str(slides["nuclei"].idxmax())), group))
    return chosen


def read_attention_table(run: Run, stem: str) -> pd.DataFrame:
    """A table that `compare` writes of the image models' attention, by its name without the suffix;
    tables of before have features' names in place of values'.

    Raises:
        AbsentError: it isn't there.
    """
    path = run.alongside_folder / f"{stem}.csv"
    if not path.is_file():
        raise AbsentError(
            "the image model's attention isn't set beside the nuclei yet; run: "
            f"morphomil predict {run.path} --model dl-cnb, then morphomil compare {run.path}"
        )
    table = by_value(read_csv(path, dtype={"slide_id": str, "patient": str}))
    named = {f"{name}_z": f"{entry.value}_z" for name, entry in FEATURES.items()}
    if "feature" in table:
        values = {name: entry.value for name, entry in FEATURES.items()}
        table["feature"] = table["feature"].replace(values)
    return table.rename(columns=named)
