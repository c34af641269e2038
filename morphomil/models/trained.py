"""Trained models of a run: which there are, and each fold with the data that it reads."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from morphomil.errors import DamagedError, InputError
from morphomil.models.fold import (
    PREDICTIONS,
    RECORD,
    FoldRecord,
    read_fold,
    stored_record,
)
from morphomil.models.image import embeddings_of
from morphomil.models.registry import model_of
from morphomil.models.settings import MODELS, TrainSettings, check_model
from morphomil.run.ledger import key_of
from morphomil.store import read_parquet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from morphomil.models.fold import Parts, TrainedFold
    from morphomil.models.protocol import Inputs, Model
    from morphomil.run.directory import Run
    from morphomil.types import EmbedSettings


@dataclass(frozen=True)
class OpenFold:
    """A trained fold with its model and the data that it reads."""

    fold: TrainedFold
    model: Model[Any]
    inputs: Any  # what `model` reads

    @property
    def record(self) -> FoldRecord:
        """The fold's record."""
        return self.fold.record


def labeled_slides(run: Run) -> pd.DataFrame:
    """The cohort's table, patients and labels as text."""
    table = run.cohort.table()
    return table.assign(label=table["label"].astype(str), patient=table["patient"].astype(str))


def fold_key(settings: TrainSettings, inputs: Inputs, parts: Parts) -> str:
    """What a fold's model depends on."""
    cohort = inputs.cohort
    split = [settings.model, settings.seed, cohort.classes, parts, cohort.labels.to_dict()]
    return key_of("fit", *split, *inputs.key_parts)


def trained_models(run: Run) -> list[str]:
    """Models that `train_run` has left in a run."""
    return [
        name
        for name in MODELS
        if any(record.trained_by == "train" for record in _records(run, name))
    ]


def trained_folds(run: Run, model: str) -> list[FoldRecord]:
    """The records of a model's folds, whether `train` or `rank` made them.

    Raises:
        InputError: there are none, or not all: the training was interrupted, or a record is gone.
    """
    check_model(model)
    records = _records(run, model)
    if not records:
        raise InputError(
            f"{run.path} has no trained {model}; run: morphomil train {run.path} --model {model}"
        )
    _check_complete(run, model, records)
    return records


def _check_complete(run: Run, model: str, records: Sequence[FoldRecord]) -> None:
    """Refuse a model without all of its folds, which their common predictions name."""
    home, by_rank = run.model_folder(model), records[0].trained_by == "rank"
    again = f"morphomil {'rank' if by_rank else 'train'} {run.path}"
    again += "" if by_rank else f" --model {model}"
    path = (run.rank_folder if by_rank else home) / PREDICTIONS
    if not path.exists():
        if by_rank:
            return
        raise InputError(f"the training of {model} in {run.path} isn't finished; run: {again}")
    stated, found = set(read_parquet(path)["fold"]), {record.fold for record in records}
    if lost := sorted(stated - found):
        raise DamagedError(
            f"{home / lost[0] / RECORD} is missing, of {len(lost)} of the {len(stated)} folds of "
            f"{model}; run: {again}"
        )
    if found - stated:
        raise InputError(f"the training of {model} in {run.path} isn't finished; run: {again}")


def _records(run: Run, model: str) -> list[FoldRecord]:
    paths = run.fold_files(RECORD, model=model)
    return [stored_record(path.parent) for path in paths]


def settings_of(record: FoldRecord) -> TrainSettings:
    """What a fold was trained with, as far as reading it needs."""
    facts = record.facts
    image: dict[str, Any] = {}
    if facts.image is not None:
        image = {
            "preset": facts.image.preset,
            "changes": asdict(facts.image.recipe),
            "backbone": facts.image.backbone,
            "finetune": facts.image.finetune,
        }
    covariates = () if facts.covariates is None else facts.covariates.names
    return TrainSettings(
        record.model,
        covariates=covariates,
        allow_leakage=covariates,  # that was settled in training
        positive=record.classes[-1],
        seed=record.seed,
        **image,
    )


def tuned_settings(run: Run, model: str) -> EmbedSettings | None:
    """The backbone that a trained model has fine-tuned, None if it is frozen.

    Raises:
        InputError: nothing is trained.
    """
    settings = settings_of(trained_folds(run, model)[0])
    return embeddings_of(run, settings).settings() if settings.finetune else None


def open_fold(run: Run, record: FoldRecord) -> OpenFold:
    """Load a fold of the run with the data of its patients.

    Raises:
        InputError: patients, features or covariates have changed since it was trained.
    """
    settings = settings_of(record)
    model, slides = model_of(settings), labeled_slides(run)
    slides = slides[slides["patient"].isin(record.patients())]
    inputs = model.inputs(run, slides, record.classes)
    if fold_key(settings, inputs, record.parts) != record.key:
        raise InputError(
            f"what {record.model} was trained on has changed since; run: morphomil train "
            f"{run.path} --model {record.model}"
        )
    folder = run.fold_folder(record.model, record.fold)
    return OpenFold(read_fold(folder, record), model, inputs)


def open_elsewhere(run: Run, records: Sequence[FoldRecord], origin: Run) -> list[OpenFold]:
    """Load folds of another run with the data of all patients of this one.

    Raises:
        InputError: slides were cut or embedded otherwise than those the model was trained on, or
            labels are others.
    """
    opened: list[OpenFold] = []
    for record in records:
        settings = settings_of(record)
        model = model_of(settings)
        if opened and opened[-1].model == model:
            inputs = opened[-1].inputs
        else:
            _check_alike(run, origin, model)
            inputs = model.inputs(run, labeled_slides(run), record.classes)
            _check_labels(inputs, record, origin)
        folder = origin.fold_folder(record.model, record.fold)
        opened.append(OpenFold(read_fold(folder, record), model, inputs))
    return opened


def _check_alike(run: Run, origin: Run, model: Model[Any]) -> None:
    was, now = (one.segmented_with() for one in (origin, run))
    differing = [
        f"{name} {now.get(name)}"
        for name in ("working_mpp", "patch_px")
        if was.get(name) != now.get(name)
    ]
    differing += model.differences(run, origin)
    if differing:
        raise InputError(
            f"{run.path} was made otherwise than {origin.path}, with {', '.join(differing)}"
        )


def _check_labels(inputs: Inputs, record: FoldRecord, origin: Run) -> None:
    cohort = inputs.cohort
    if len(cohort.labels) and (cohort.labels >= 0).all():
        return
    unknown = sorted(set(cohort.slides["label"]) - set(record.classes))
    raise InputError(
        f"{record.model} of {origin.path} tells {', '.join(record.classes)} apart, and this cohort "
        f"has {'the label ' + ', '.join(unknown) if unknown else 'no slide that it can read'}"
    )
