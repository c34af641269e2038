"""The record of a fold: which model was trained on whom, with which outcome, and is it whole.

`models/MODEL/FOLD/` holds `settings.json` (the record), `weights.safetensors`, `log.csv` and
`predictions.parquet`. The record is written last, so a fold with one is complete.
"""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import pandas as pd

from morphomil.cohort.encoding import ClinicalEncoder
from morphomil.errors import DamagedError, InputError
from morphomil.image_model.recipe import ImageRecipe
from morphomil.matrix import Edges
from morphomil.seeds import generator
from morphomil.stats.roc import youden_cutoff
from morphomil.store import (
    digest,
    read_arrays,
    read_json,
    read_parquet,
    reading,
    write_arrays,
    write_json,
    write_parquet,
    write_table_csv,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Parts = dict[str, tuple[str, ...]]
    """Patients by part: `train`, `val`, `test`."""
T = TypeVar("T")
RECORD = "settings.json"
WEIGHTS = "weights.safetensors"
LOG = "log.csv"
PREDICTIONS = "predictions.parquet"
CHECKPOINT = "checkpoint.safetensors"
PREDICTION_COLUMNS = ["patient", "label", "fold", "part", "score", "cutoff"]


@dataclass(frozen=True)
class ImageFacts:
    """How the image model of a fold was trained."""

    preset: str
    recipe: ImageRecipe
    model_seed: int
    backbone: str
    finetune: bool
    features: int
    best_epoch: int


@dataclass(frozen=True)
class CovariateFacts:
    """What a fold's model makes of covariates."""

    names: tuple[str, ...]
    encoder: ClinicalEncoder
    missing: dict[str, int]
    """Patients without a value that the encoder knows, by covariate."""
    columns: tuple[str, ...] = ()
    """Of the regression, in the order of its coefficients; empty for an image model."""


@dataclass(frozen=True)
class Facts:
    """What predicting needs beside weights; each kind of model fills what it has."""

    edges: Edges | None = None
    image: ImageFacts | None = None
    covariates: CovariateFacts | None = None

    def to_json(self) -> dict[str, Any]:
        """As the record holds them."""
        stored: dict[str, Any] = {} if self.edges is None else {"edges": self.edges.to_json()}
        if self.image is not None:
            stored |= asdict(self.image)
        if self.covariates is not None:
            table = self.covariates
            stored |= {"covariates": list(table.names), "encoder": table.encoder.to_json()}
            stored |= {"columns": list(table.columns)} if table.columns else {}
            stored |= {"missing": table.missing}
        return stored

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> Facts:
        """What `to_json` gave."""
        edges = Edges.from_json(stored["edges"]) if "edges" in stored else None
        image = covariates = None
        if "recipe" in stored:
            names = ("preset", "model_seed", "backbone", "finetune", "features", "best_epoch")
            image = ImageFacts(
                recipe=ImageRecipe(**stored["recipe"]), **{name: stored[name] for name in names}
            )
        if "encoder" in stored:
            covariates = CovariateFacts(
                tuple(stored["covariates"]),
                ClinicalEncoder.from_json(stored["encoder"]),
                stored["missing"],
                tuple(stored.get("columns", ())),
            )
        return cls(edges, image, covariates)


@dataclass(frozen=True)
class FoldRecord:
    """A trained fold, as its `settings.json` says."""

    model: str
    fold: str
    classes: tuple[str, ...]
    """Names of the labels, the positive one last."""
    seed: int
    parts: Parts
    facts: Facts
    cutoff: float
    """Scores from it on are called positive."""
    outputs: dict[str, str]
    """SHA-256 of weights and log."""
    key: str
    """Changes with everything that the model depends on."""
    trained_by: Literal["train", "rank"] = "train"
    """The command; folds of `rank` have no cut-off or predictions of their own."""

    def to_json(self) -> dict[str, Any]:
        """As stored."""
        stored: dict[str, Any] = {
            "model": self.model,
            "fold": self.fold,
            "classes": list(self.classes),
            "seed": self.seed,
            "parts": {name: list(patients) for name, patients in self.parts.items()},
        }
        if self.trained_by != "train":
            stored |= {"trained_by": self.trained_by}
        stored |= self.facts.to_json() | {"cutoff": self.cutoff}
        return stored | {"outputs": self.outputs, "key": self.key}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> FoldRecord:
        """What `to_json` gave.

        Raises:
            KeyError: something is missing.
        """
        return cls(
            stored["model"],
            stored["fold"],
            tuple(stored["classes"]),
            stored["seed"],
            {name: tuple(patients) for name, patients in stored["parts"].items()},
            Facts.from_json(stored),
            stored["cutoff"],
            stored["outputs"],
            stored["key"],
            stored.get("trained_by", "train"),
        )

    @property
    def edges(self) -> Edges:
        """The bins of the histograms.

        Raises:
            InputError: the record has none.
        """
        return self._needed(self.facts.edges, "the histograms' edges")

    @property
    def image(self) -> ImageFacts:
        """How the image model was trained.

        Raises:
            InputError: the record doesn't say.
        """
        return self._needed(self.facts.image, "the image model's recipe")

    @property
    def covariates(self) -> CovariateFacts:
        """The encoder of the covariates.

        Raises:
            InputError: the record has none.
        """
        return self._needed(self.facts.covariates, "the encoder")

    def _needed(self, value: T | None, what: str) -> T:
        if value is None:
            raise InputError(
                f"{self.model}/{self.fold}/{RECORD} lacks {what}; train the model anew"
            )
        return value

    @property
    def weights_sha256(self) -> str:
        """Of the file of weights."""
        return self.outputs[WEIGHTS]

    def patients(self, *parts: str) -> set[str]:
        """Who stands in these parts; in any, if none is named."""
        return {name for part in parts or tuple(self.parts) for name in self.parts[part]}


@dataclass(frozen=True)
class Fitted:
    """What training a fold gives."""

    arrays: dict[str, NDArray[Any]] = field(repr=False)
    """The weights, by name."""
    log: pd.DataFrame = field(repr=False)
    facts: Facts
    probability: pd.DataFrame = field(repr=False)
    """Of training and validation patients at least: one row per patient, one column per class."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainedFold:
    """A fold's record and weights, all that predicting needs of it."""

    record: FoldRecord
    weights: dict[str, NDArray[Any]] = field(repr=False)


def fold_seed(seed: int, fold: str) -> int:
    """The seed of all that is drawn in a fold."""
    return int(generator("fold", seed, fold).integers(2**31))


def read_record(folder: Path) -> FoldRecord | None:
    """The record of a fold; None where there is none that can be read."""
    try:
        return stored_record(folder)
    except DamagedError:
        return None


def stored_record(folder: Path) -> FoldRecord:
    """The record of a fold.

    Raises:
        DamagedError: there is none that can be read.
    """
    path = folder / RECORD
    with reading(path):
        return FoldRecord.from_json(read_json(path))


def read_fold(folder: Path, record: FoldRecord) -> TrainedFold:
    """The fold with its weights.

    Raises:
        DamagedError: the weights are missing, or not those that the record is of.
    """
    path = folder / WEIGHTS
    weights = read_arrays(path)
    with reading(path):
        if digest(path) != record.weights_sha256:
            raise ValueError("its weights aren't those of this fold")
    return TrainedFold(record, weights)


def is_done(folder: Path, key: str) -> bool:
    """Whether a fold is trained with this key and its files are unharmed."""
    record = read_record(folder)
    return (
        record is not None
        and record.key == key
        and all(
            (folder / name).is_file() and digest(folder / name) == sha
            for name, sha in record.outputs.items()
        )
    )


def write_model(folder: Path, fitted: Fitted) -> dict[str, str]:
    """Write weights and log; their SHA-256 by name."""
    write_arrays(folder / WEIGHTS, fitted.arrays)
    write_table_csv(folder / LOG, fitted.log)
    return {name: digest(folder / name) for name in (WEIGHTS, LOG)}


def write_record(folder: Path, record: FoldRecord) -> None:
    """State that a fold is complete."""
    write_json(folder / RECORD, record.to_json(), seal=True)
    (folder / CHECKPOINT).unlink(missing_ok=True)


def clear_fold(folder: Path) -> None:
    """Remove what another training left in a fold's folder; an unfinished one's checkpoint
    stays."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name != CHECKPOINT:
            path.unlink()


def forget_folds(home: Path, keep: Collection[str]) -> None:
    """Remove the folds of a model but some."""
    for folder in home.iterdir() if home.is_dir() else ():
        if folder.is_dir() and folder.name not in keep:
            shutil.rmtree(folder)


def prediction_rows(
    labels: pd.Series[int],
    patients: Iterable[str],
    probability: pd.DataFrame,
    *,
    part: str,
    fold: str,
) -> pd.DataFrame:
    """One row per patient, sorted: `patient, label, fold, part, score` (the last class's
    probability), with three classes or more also `probability_0`, `probability_1`, ..."""
    names = sorted(patients)
    of_classes = probability.loc[names].to_numpy()
    table = pd.DataFrame(
        {"patient": names, "label": labels[names].to_numpy(), "fold": fold, "part": part}
    )
    table["score"] = of_classes[:, -1]
    if of_classes.shape[1] > 2:
        for number in range(of_classes.shape[1]):
            table[f"probability_{number}"] = of_classes[:, number]
    return table


def write_known(
    folder: Path, labels: pd.Series[int], parts: Parts, probability: pd.DataFrame
) -> float:
    """Write the predictions of training and validation patients; the cut-off, Youden's on
    validation."""
    tables = [
        prediction_rows(labels, parts[part], probability, part=part, fold=folder.name)
        for part in ("train", "val")
    ]
    val = tables[1]
    cutoff = float(youden_cutoff(val["label"] == probability.shape[1] - 1, val["score"]))
    table = pd.concat(tables, ignore_index=True).assign(cutoff=cutoff)
    write_parquet(folder / PREDICTIONS, table)
    return cutoff


def collect_predictions(home: Path, folds: Sequence[str]) -> None:
    """Write `predictions.parquet` of all folds: `PREDICTION_COLUMNS`, then those of several
    classes."""
    tables = [read_parquet(home / name / PREDICTIONS) for name in folds]
    if not tables:
        return
    table = pd.concat(tables, ignore_index=True)
    further = [name for name in table if name not in PREDICTION_COLUMNS]
    write_parquet(home / PREDICTIONS, table[PREDICTION_COLUMNS + further])
