"""A model -> one trained model per fold: resumable, fold by fold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from morphomil.cohort.labels import order_classes
from morphomil.cohort.splits import fold_parts, split_cohort
from morphomil.errors import TrainingError
from morphomil.models.fold import (
    FoldRecord,
    clear_fold,
    collect_predictions,
    forget_folds,
    is_done,
    write_known,
    write_model,
    write_record,
)
from morphomil.models.registry import model_of
from morphomil.models.trained import fold_key, labeled_slides

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from morphomil.models.fold import Fitted, Parts
    from morphomil.models.protocol import Inputs
    from morphomil.models.settings import TrainSettings
    from morphomil.run.directory import Run

    OnEpoch = Callable[[str, int, int], None]
    """Hears the fold, the finished epochs and the most there can be."""


@dataclass(frozen=True)
class TrainResult:
    """What became of each fold."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]
    notes: tuple[str, ...]


def train_run(
    run: Run,
    settings: TrainSettings,
    *,
    on_epoch: OnEpoch | None = None,
    on_folds: Callable[[int], None] = lambda number: None,
) -> TrainResult:
    """Train a model on every fold, from its checkpoint where there is one; finished folds are left
    as they are.

    Writes `models/MODEL/FOLD/` (weights, settings with the cut-off, log, predictions of training
    and validation patients) and `models/MODEL/predictions.parquet`. `on_folds` hears how many folds
    are to be trained before the first one is.

    Raises:
        InputError: no features, covariates or labels to learn from.
        RefusedError: leakage, or too few patients of a class.
    """
    model, slides = model_of(settings), labeled_slides(run)
    inputs = model.inputs(run, slides, order_classes(slides["label"], settings.positive))
    cohort = inputs.cohort
    folds = split_cohort(
        cohort.slides, how=settings.split, folds=settings.folds, seed=settings.seed
    )
    home = run.model_folder(settings.model)
    done, skipped, failed, notes = [], [], {}, list(cohort.notes)
    parted = [(fold, fold_parts(fold, cohort.labels, seed=settings.seed)) for fold in folds]
    keys = {fold.name: fold_key(settings, inputs, parts) for fold, parts in parted}
    ready = [fold.name for fold in folds if is_done(home / fold.name, keys[fold.name])]
    if len(ready) < len(folds):
        on_folds(len(folds) - len(ready))
    for fold, parts in parted:
        key, folder = keys[fold.name], home / fold.name
        if fold.name in ready:
            skipped.append(fold.name)
            continue
        clear_fold(folder)
        report = None if on_epoch is None else _of_fold(on_epoch, fold.name)
        try:
            fitted = model.fit(inputs, parts, folder=folder, on_epoch=report)
        except TrainingError as error:
            failed[fold.name] = str(error)
            continue
        _store(folder, fitted, inputs, parts, settings=settings, key=key)
        notes += [f"{fold.name}: {note}" for note in fitted.notes]
        done.append(fold.name)
    trained = [fold.name for fold in folds if fold.name not in failed]
    forget_folds(home, trained)
    collect_predictions(home, trained)
    return TrainResult(tuple(done), tuple(skipped), failed, tuple(notes))


def _of_fold(on_epoch: OnEpoch, fold: str) -> Callable[[int, int], None]:
    return lambda done, total: on_epoch(fold, done, total)


def _store(
    folder: Path,
    fitted: Fitted,
    inputs: Inputs,
    parts: Parts,
    *,
    settings: TrainSettings,
    key: str,
) -> None:
    """Write a fold, its record last."""
    outputs = write_model(folder, fitted)
    cutoff = write_known(folder, inputs.cohort.labels, parts, fitted.probability)
    record = FoldRecord(
        settings.model,
        folder.name,
        inputs.cohort.classes,
        settings.seed,
        parts,
        fitted.facts,
        cutoff,
        outputs,
        key,
    )
    write_record(folder, record)
