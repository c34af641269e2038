"""The models of a ranking, stored as folds of the morphometry model, so that they score other
cohorts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from morphomil.models.fold import (
    PREDICTIONS,
    CovariateFacts,
    Facts,
    Fitted,
    FoldRecord,
    clear_fold,
    forget_folds,
    write_model,
    write_record,
)
from morphomil.models.morphometry import COEFFICIENTS
from morphomil.models.predict import EXTERNAL
from morphomil.run.ledger import key_of
from morphomil.store import write_json

if TYPE_CHECKING:
    from morphomil.rank.ranking import Ranking
    from morphomil.run.directory import Run
MODEL = "morphometry"
CUTOFF = 0.5
"""From this probability on a patient is called positive: a ranking's models share no validation
patients, so they have no cut-off of their own."""


def store_ranked_folds(run: Run, ranking: Ranking, *, seed: int) -> None:
    """Write `models/morphometry/FOLD/` of every ranked fold: weights, log, edges, record.

    They take the place of what `morphomil train --model morphometry` has left; the log of scored
    test patients stays, and so does the prediction of another run's model.
    """
    home = run.model_folder(MODEL)
    forget_folds(home, {*ranking.models, EXTERNAL})
    if not (home / EXTERNAL).is_dir():
        (home / PREDICTIONS).unlink(missing_ok=True)
    measured = run.measured_key()
    for fold in ranking.folds:
        if fold.name not in ranking.models:
            continue
        model, folder = ranking.models[fold.name], run.fold_folder(MODEL, fold.name)
        clear_fold(folder)
        facts, weights = Facts(edges=model.edges), dict(model.weights)
        if (known := model.covariates) is not None and ranking.design.covariates is not None:
            missing = known.encoder.count_missing(ranking.design.covariates)
            facts = replace(
                facts, covariates=CovariateFacts(known.names, known.encoder, missing, known.columns)
            )
            weights |= {COEFFICIENTS: known.coefficients.astype(np.float32)}
        fitted = Fitted(weights, model.log, facts, pd.DataFrame())
        outputs = write_model(folder, fitted)
        write_json(folder / "edges.json", model.edges.to_json())
        classes = ranking.classes.names
        parts = {"train": fold.train, "val": fold.val, "test": fold.test}
        key = key_of("rank", seed, classes, parts, measured)
        record = FoldRecord(
            MODEL, fold.name, classes, seed, parts, facts, CUTOFF, outputs, key, trained_by="rank"
        )
        write_record(folder, record)
