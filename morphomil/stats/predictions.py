"""Tables of predictions: what every table of models starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from morphomil.errors import RefusedError

if TYPE_CHECKING:
    import pandas as pd

LEAST_CASES = 2
"""Of each class, in a subgroup with an AUC."""

MEASURES = ("ACC", "SENS", "SPEC", "PPV", "NPV")

PARTS = {"train": "T", "val": "V", "test": "I-T"}
"""As the paper heads its columns: training, validation, independent test."""
PREDICTION_COLUMNS = ("model", "patient", "label", "fold", "part", "score", "cutoff")


def class_columns(predictions: pd.DataFrame) -> list[str]:
    """`probability_0`, `probability_1`, ... as far as they go."""
    names = [f"probability_{k}" for k in range(predictions.shape[1])]
    return [name for name in names if name in predictions]


def class_names_of(predictions: pd.DataFrame) -> list[str]:
    """The columns of class probabilities, of three classes or more."""
    names = class_columns(predictions)
    if len(names) < 3 or predictions[[*names, "label"]].isna().any(axis=None):
        raise ValueError(
            f"a table of several classes needs probabilities of three or more for all, got {names}"
        )
    return names


def by_model_and_part(predictions: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    """In the order in which models appear, parts as in `PARTS`."""
    return [
        ((model, part), own)
        for model in predictions["model"].unique()
        for part in PARTS
        if len(own := predictions[(predictions["model"] == model) & (predictions["part"] == part)])
    ]


def count_cases(own: pd.DataFrame, cutoff: Any) -> tuple[int, int, int, int]:
    """tp, fp, fn, tn."""
    called, ill = (own["score"] >= cutoff).to_numpy(), (own["label"] == 1).to_numpy()
    return tuple(
        int(cell.sum()) for cell in (called & ill, called & ~ill, ~called & ill, ~called & ~ill)
    )  # type: ignore[return-value]


def check_predictions(predictions: pd.DataFrame) -> None:
    """Refuse a table that lacks what every table of models needs."""
    if absent := [name for name in PREDICTION_COLUMNS if name not in predictions]:
        raise ValueError(f"predictions lack the columns {', '.join(absent)}")
    if not predictions["label"].isin([0, 1]).all():
        raise RefusedError("these tables are for two classes; `multiclass_table` is for more")
    if missing := int(predictions["score"].isna().sum()):
        raise ValueError(f"scores must not be missing, got {missing} of {len(predictions)}")
    tested = predictions[predictions["part"] == "test"]
    if tested.duplicated(["model", "patient"]).any():
        raise ValueError("a patient is predicted twice by a model in the test part")


def enough_cases(table: pd.DataFrame) -> bool:
    """Whether folds with both classes have enough cases of each for DeLong's test."""
    counts = table.groupby("fold")["label"].agg(positives="sum", n="count")
    negatives = counts["n"] - counts["positives"]
    both = (counts["positives"] > 0) & (negatives > 0)
    return bool(min(counts["positives"][both].sum(), negatives[both].sum()) >= LEAST_CASES)
