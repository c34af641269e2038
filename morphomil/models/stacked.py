"""Morphometry + clinical: the morphometry model's score as one more covariate of a logistic
regression.

A training patient's score comes from a model that didn't see that patient (cross-fitting within the
training patients, stacked generalization, Wolpert 1992), else the regression would trust a score
that knows the label by heart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.cohort.splits import Fold, make_folds
from morphomil.nuclei.registry import FEATURES
from morphomil.rank.folds import FoldTask, by_patient
from morphomil.seeds import generator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from morphomil.rank.folds import FoldModel, PatientBags
SCORE = "morphometry"
"""Name of the covariate: log odds."""
INNER_FOLDS = 5
SEEDS = 3
"""Models whose probabilities are averaged."""
FLOOR = 1e-3
"""Probabilities are kept this far from 0 and 1 before their log odds are taken."""


def fit_score(
    bags: PatientBags,
    cohort: pd.DataFrame,
    positive: pd.Series[bool],
    train: Sequence[str],
    *,
    seed: int,
) -> tuple[pd.Series[float], FoldModel]:
    """Score every patient by morphometry models trained on `train`: its own patients by
    cross-fitting.

    Args:
        bags: of all patients.
        cohort: one row per slide: `slide_id, patient, label`.
        positive: by patient.
        train: patients to learn from.
        seed: of inner folds and training.

    Returns:
        Log odds of the positive label by patient, and the model that scores whom it wasn't trained
        on.

    Raises:
        RefusedError: too few patients of a class for two inner folds.
    """
    own = cohort[cohort["patient"].isin(train)].assign(split=None)
    count = max(2, min(INNER_FOLDS, int(positive[list(train)].value_counts().min())))
    inner = make_folds(own, folds=count, seed=int(generator("inner", seed).integers(2**31)))
    known = set(train)
    others = Fold(
        "others", tuple(train), (), tuple(name for name in bags.patients if name not in known)
    )
    scores, model = [], None
    for fold in (*inner, others):
        probability, model = FoldTask(
            fold, bags, positive, features=tuple(FEATURES), seed=seed
        ).score(SEEDS)
        scores.append(probability)
    if model is None:
        raise ValueError("there is no fold")
    return _log_odds(pd.concat(scores)).loc[list(bags.patients)], model


def score_patients(bags: PatientBags, model: FoldModel) -> pd.Series[float]:
    """Log odds of the positive label by patient, from the model that `fit_score` gives."""
    from morphomil.rank.model import restore_morphometry

    instances = bags.whole.instances(model.edges)
    answers = restore_morphometry(model.weights).predict(instances.values).probability
    probability = by_patient(answers, instances)[..., 1].mean(axis=0)
    return _log_odds(pd.Series(probability, index=pd.Index(bags.patients, dtype=object)))


def _log_odds(probability: pd.Series[float]) -> pd.Series[float]:
    inside = probability.clip(FLOOR, 1 - FLOOR)
    return pd.Series(np.log(inside / (1 - inside)), index=inside.index, name=SCORE)
