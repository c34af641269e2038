"""Splits -> a model per fold -> what it says of patients: clinical, image and combined models in a
run directory.

A fold's cut-off comes from its validation patients. Its test patients are scored by `predict_run`,
and every scoring is written down, so that a test set that was looked at twice can be told.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.splits import (
    Fold,
    SplitMode,
    fold_parts,
    order_classes,
    patient_labels,
    split_cohort,
)
from morphomil.errors import InputError, RefusedError
from morphomil.image_model.backbones import build_backbone, keep_pixels, load_backbone
from morphomil.image_model.windows import attend_windows, windows_per_side
from morphomil.models.clinical import ClinicalEncoder, ClinicalModel, patient_covariates
from morphomil.run.embeddings import PIXELS, Embeddings, embedded_backbones, pixels_name
from morphomil.run.ledger import key_of
from morphomil.seeds import generator
from morphomil.stats.roc import youden_cutoff
from morphomil.store import (
    digest,
    write_arrays,
    write_json,
    write_parquet,
    write_table_csv,
)
from morphomil.types import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from morphomil.image_model.model import ImageModel, SlideReading
    from morphomil.image_model.recipe import ImageRecipe
    from morphomil.image_model.rows import ImageCohort
    from morphomil.rank.folds import PatientBags
    from morphomil.run.directory import Run
    from morphomil.types import EmbedSettings

    OnEpoch = Callable[[str, int, int], None]
    """Hears the fold, the finished epochs and the most there can be."""
MODELS = ("clinical", "dl-cnb", "dl-cnb+c", "morphometry+clinical")
_TABLE_COLUMNS = ("slide_id", "patient", "label", "split", "site")


@dataclass(frozen=True)
class FitSettings:
    """Which model is trained, on which split."""

    model: str
    preset: str = "default"
    changes: dict[str, Any] = field(default_factory=dict)
    """Settings of the preset's recipe that are changed (`image_model.ImageRecipe`)."""
    backbone: str = ""
    """The folder of `embeddings`; empty: the only one, or the default."""
    finetune: bool = False
    """The backbone learns too, from the pixels (`embed.keep_pixels`) and the weights that `embed`
    used."""
    weights: str = ""
    """File of the backbone's weights, where `embed` had one."""
    covariates: tuple[str, ...] = ()
    """Of the clinical models; empty: all that the cohort has."""
    split: SplitMode = "auto"
    """auto: the manifest's, else k-fold; holdout: 4:1, then 3:1; site: each site is predicted by
    the others."""
    folds: int = 5
    positive: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what there is no model or split for."""
        if self.model not in MODELS:
            raise InputError(f"no model named {self.model!r}; choose {', '.join(MODELS)}")
        if self.split not in ("auto", "kfold", "holdout", "site"):
            raise InputError(f"a split is auto, kfold, holdout or site, not {self.split!r}")
        if self.finetune and not self.sees_patches:
            raise InputError(f"{self.model} sees no patches, so there is no backbone to fine-tune")

    @property
    def sees_patches(self) -> bool:
        """Whether it needs deep features."""
        return self.model.startswith("dl-cnb")

    @property
    def sees_nuclei(self) -> bool:
        """Whether it needs histograms of nuclear features."""
        return self.model.startswith("morphometry")

    @property
    def sees_covariates(self) -> bool:
        """Whether it needs covariates."""
        return self.model != "dl-cnb"


@dataclass(frozen=True)
class FitResult:
    """What became of each fold."""

    done: tuple[str, ...]
    skipped: tuple[str, ...]
    failed: dict[str, str]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Task:
    """Who is to be told from whom, by what."""

    cohort: pd.DataFrame  # one row per usable slide, sorted by patient and slide
    classes: tuple[str, ...]
    labels: pd.Series[int]  # patient -> class
    folds: tuple[Fold, ...]
    notes: tuple[str, ...]
    bags: PatientBags | None = None  # of nuclei, for a model that sees them


def train_run(run: Run, settings: FitSettings, *, on_epoch: OnEpoch | None = None) -> FitResult:
    """Train a model on every fold, from its checkpoint where there is one; finished folds are left
    as they are.

    Writes `models/MODEL/FOLD/` (weights, settings with the cut-off, log, predictions of training
    and validation patients) and `models/MODEL/predictions.parquet`.

    Raises:
        InputError: no features, covariates or labels to learn from.
        RefusedError: leakage, or too few patients of a class.
    """
    from morphomil.mil import TrainingError

    task = _set_task(run, settings)
    data = _open_cohort(run, settings, task)
    covariates = _covariates(task, settings)
    home = _home(run, settings.model)
    done, skipped, failed, notes = [], [], {}, list(task.notes)
    for fold in task.folds:
        parts = fold_parts(fold, task.labels, seed=settings.seed)
        key = _fold_key(run, settings, task, parts, covariates)
        folder = home / fold.name
        if _is_done(folder, key):
            skipped.append(fold.name)
            continue
        (folder / "settings.json").unlink(
            missing_ok=True
        )  # what is written from here on is another model's
        try:
            if data is None:
                seed = int(generator("fold", settings.seed, fold.name).integers(2**31))
                about = _fit_clinical(folder, task, parts, covariates, seed=seed)
            else:
                backbone = load_start(run, settings) if settings.finetune else None
                about = _fit_image(
                    folder, task, parts, covariates, data, settings, backbone, on_epoch
                )
        except TrainingError as error:
            failed[fold.name] = str(error)
            continue
        notes += [f"{fold.name}: {note}" for note in about.pop("notes")]
        stated = {
            "model": settings.model,
            "fold": fold.name,
            "classes": list(task.classes),
            "seed": settings.seed,
        }
        stated |= {"parts": {name: list(patients) for name, patients in parts.items()}}
        outputs = {name: digest(folder / name) for name in ("weights.safetensors", "log.csv")}
        write_json(folder / "settings.json", stated | about | {"outputs": outputs, "key": key})
        (folder / "checkpoint.safetensors").unlink(missing_ok=True)
        done.append(fold.name)
    _forget_others(home, task.folds, failed)
    _collect(home, [fold.name for fold in task.folds if fold.name not in failed])
    return FitResult(tuple(done), tuple(skipped), failed, tuple(notes))


def _home(run: Run, model: str) -> Path:
    return run.model_folder(model)


def _set_task(run: Run, settings: FitSettings) -> _Task:
    cohort = run.cohort.table().assign(
        label=lambda t: t["label"].astype(str), patient=lambda t: t["patient"].astype(str)
    )
    classes = order_classes(cohort["label"], settings.positive)
    notes: tuple[str, ...] = ()
    if settings.sees_patches:
        filled = _filled_slides(run, settings)
        lost = cohort[~cohort["slide_id"].isin(filled)]
        if len(lost):
            counts = ", ".join(
                f"{n} with label {label}" for label, n in lost["label"].value_counts().items()
            )
            notes = (f"{len(lost)} slides without features are left out ({counts}).",)
        cohort = cohort[cohort["slide_id"].isin(filled)]
    bags = None
    if settings.sees_nuclei:
        if len(classes) != 2:
            raise InputError(
                f"{settings.model} tells two labels apart, the cohort has {len(classes)}"
            )
        bags = _nuclear_bags(run, cohort, seed=settings.seed)
        lost = cohort[~cohort["slide_id"].isin(bags.slides)]
        if len(lost):
            notes = (f"{len(lost)} slides without a patch of enough measured nuclei are left out.",)
        cohort = cohort[cohort["slide_id"].isin(bags.slides)]
    cohort = cohort.sort_values(["patient", "slide_id"], ignore_index=True)
    folds = split_cohort(cohort, how=settings.split, folds=settings.folds, seed=settings.seed)
    labels = (
        patient_labels(cohort)
        .map({name: number for number, name in enumerate(classes)})
        .astype("int64")
    )
    return _Task(cohort, classes, labels, folds, notes, bags)


def _nuclear_bags(run: Run, cohort: pd.DataFrame, *, seed: int) -> PatientBags:
    from morphomil.rank.folds import PatientBags

    measured = cohort[cohort["slide_id"].isin(run.done("featurize"))]
    if measured.empty:
        raise InputError(f"{run.path} has no measured slides; run: morphomil featurize {run.path}")
    return PatientBags.collect(lambda slide_id: run.counts(slide_id).counts, measured, seed=seed)


def embeddings_of(run: Run, settings: FitSettings) -> Embeddings:
    """The features to learn from, or to start from where the backbone is fine-tuned.

    Raises:
        InputError: there are none, or not those that are asked for.
    """
    return Embeddings(run, _backbone(run, settings.backbone))


def _rows_of(run: Run, settings: FitSettings) -> Embeddings:
    """What the image model reads: features, or the pixels that a fine-tuned backbone sees."""
    made = embeddings_of(run, settings)
    return Embeddings(run, pixels_name(made.settings())) if settings.finetune else made


def _filled_slides(run: Run, settings: FitSettings) -> set[str]:
    made = _rows_of(run, settings)
    return {name for name in made.done() if made.figures(name)["patches"]}


def _backbone(run: Run, asked: str) -> str:
    made = embedded_backbones(run)
    made = made[~made["backbone"].str.startswith(f"{PIXELS}-")]
    names = made.loc[made["slides"] > 0, "backbone"].tolist()
    if not names:
        raise InputError(f"{run.path} has no deep features; run: morphomil embed {run.path}")
    chosen = asked or (names[0] if len(names) == 1 else DEFAULT_BACKBONE)
    if chosen not in names:
        raise InputError(
            f"{run.path} has no features named {chosen!r}; it has {', '.join(names)} (--backbone)"
        )
    return str(chosen)


def _covariates(task: _Task, settings: FitSettings) -> pd.DataFrame | None:
    """Covariates by patient, None for a model that doesn't see them."""
    if not settings.sees_covariates:
        return None
    names = settings.covariates or tuple(
        name for name in task.cohort.columns if name not in _TABLE_COLUMNS
    )
    if not names:
        raise InputError(
            f"{settings.model} needs covariates, and the cohort has none; name the manifest's "
            "columns when segmenting: "
            "morphomil segment --covariates NAME,NAME"
        )
    if named := [name for name in names if name in _TABLE_COLUMNS]:
        raise InputError(f"{', '.join(named)} can't be a covariate")
    table = patient_covariates(task.cohort, names)
    for name in names:
        if (
            table[name]
            .astype(str)
            .equals(task.cohort.groupby("patient", sort=True)["label"].first())
        ):
            raise RefusedError(f"covariate {name} is the label itself; leave it out")
    return table.loc[task.labels.index]


def _open_cohort(run: Run, settings: FitSettings, task: _Task) -> ImageCohort | None:
    """The features of every slide of the task."""
    if not settings.sees_patches:
        return None
    from morphomil.image_model.rows import ImageCohort, Rows

    made = _rows_of(run, settings)
    slides = tuple(task.cohort["slide_id"])
    patient = _places(task.labels, task.cohort["patient"].tolist())
    rows = Rows(paths=[made.features_path(name) for name in slides])
    return ImageCohort(slides, rows, patient, np.asarray(task.labels, np.int64), len(task.classes))


def _places(labels: pd.Series[int], patients: Sequence[str]) -> NDArray[np.int64]:
    """Numbers of patients, in the order of the labels' index."""
    place = {str(name): number for number, name in enumerate(labels.index)}
    return np.array([place[name] for name in patients], dtype=np.int64)


def _fold_key(
    run: Run,
    settings: FitSettings,
    task: _Task,
    parts: dict[str, tuple[str, ...]],
    covariates: pd.DataFrame | None,
) -> str:
    """What a fold's model depends on."""
    seen: list[Any] = [settings.model, settings.seed, task.classes, parts, task.labels.to_dict()]
    if settings.sees_patches:
        made = _rows_of(run, settings)
        seen += [asdict(_recipe(settings)), made.backbone]
        seen += [embeddings_of(run, settings).made_with()] if settings.finetune else []
        seen += [[name, made.outputs(name)] for name in task.cohort["slide_id"]]
    if settings.sees_nuclei:
        seen += [[name, run.ledger.outputs(name, "featurize")] for name in task.cohort["slide_id"]]
    if covariates is not None:
        seen.append(covariates.to_json())
    return key_of("fit", *seen)


def _recipe(settings: FitSettings) -> ImageRecipe:
    from morphomil.image_model.recipe import settle_recipe

    return settle_recipe(settings.preset, **settings.changes)


def _is_done(folder: Path, key: str) -> bool:
    about = _read_json(folder / "settings.json")
    return about.get("key") == key and all(
        (folder / name).is_file() and digest(folder / name) == sha
        for name, sha in about["outputs"].items()
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _fit_clinical(
    folder: Path,
    task: _Task,
    parts: dict[str, tuple[str, ...]],
    covariates: pd.DataFrame | None,
    *,
    seed: int,
) -> dict[str, Any]:
    """Logistic regression on covariates, and on the morphometry model's score where the task has
    nuclei."""
    if covariates is None:
        raise ValueError("the clinical model needs covariates")
    names, arrays, about = list(covariates.columns), {}, {}
    if task.bags is not None:
        from morphomil.models.stacked import fit_score

        score, morphometry = fit_score(
            task.bags, task.cohort, task.labels == 1, parts["train"], seed=seed
        )
        covariates = covariates.join(score)
        arrays = {f"{score.name}/{name}": array for name, array in morphometry.weights.items()}
        about = {"edges": morphometry.edges.to_json()}
    train = list(parts["train"])
    model = ClinicalModel.fit(
        covariates.loc[train], np.asarray(task.labels[train], np.int64), names=task.classes
    )
    write_arrays(folder / "weights.safetensors", {"coefficients": model.coefficients, **arrays})
    write_table_csv(folder / "log.csv", model.odds_ratios)
    probability = pd.DataFrame(model.predict(covariates), index=covariates.index)
    cutoff = _write_known(folder, task, parts, probability)
    return about | {
        "covariates": names,
        "encoder": model.encoder.to_json(),
        "columns": list(model.columns),
        "missing": model.encoder.count_missing(covariates),
        "cutoff": cutoff,
        "notes": list(model.notes),
    }


def _fit_image(
    folder: Path,
    task: _Task,
    parts: dict[str, tuple[str, ...]],
    covariates: pd.DataFrame | None,
    data: ImageCohort,
    settings: FitSettings,
    backbone: nn.Module | None,
    on_epoch: OnEpoch | None,
) -> dict[str, Any]:
    from morphomil.image_model.model import predict_patients
    from morphomil.image_model.training import train_image_model

    recipe, index, name = _recipe(settings), task.labels.index, folder.name
    train, val = (_places(task.labels, parts[part]) for part in ("train", "val"))
    encoder = (
        None if covariates is None else ClinicalEncoder.fit(covariates.loc[list(parts["train"])])
    )
    data = _with_covariates(data, encoder, covariates)
    seed = int(generator("fold", settings.seed, name).integers(2**31))
    trained = train_image_model(
        data,
        train=train,
        val=val,
        recipe=recipe,
        seed=seed,
        backbone=backbone,
        checkpoint=folder / "checkpoint.safetensors",
        on_epoch=None if on_epoch is None else lambda done, total: on_epoch(name, done, total),
    )
    write_arrays(folder / "weights.safetensors", dict(trained.model.weights()))
    write_table_csv(folder / "log.csv", trained.log)
    known = np.concatenate([train, val])
    probability = predict_patients(trained.model, data, known, recipe=recipe, seed=seed)
    cutoff = _write_known(folder, task, parts, pd.DataFrame(probability, index=index[known]))
    about: dict[str, Any] = {
        "preset": settings.preset,
        "recipe": asdict(recipe),
        "model_seed": seed,
    }
    about |= {"backbone": settings.backbone, "finetune": settings.finetune}
    about |= {"features": len(trained.model.shift), "best_epoch": trained.best_epoch}
    if encoder is not None and covariates is not None:
        about |= {"covariates": list(covariates.columns), "encoder": encoder.to_json()}
        about |= {"missing": encoder.count_missing(covariates)}
    return about | {"cutoff": cutoff, "notes": [] if encoder is None else list(encoder.notes)}


def load_start(run: Run, settings: FitSettings) -> nn.Module:
    """The backbone as `embed` had it, where fine-tuning starts.

    Raises:
        InputError: these aren't the weights that `embed` used.
    """
    made = embeddings_of(run, settings)
    backbone, sha256 = load_backbone(
        made.settings(), weights=Path(settings.weights) if settings.weights else None
    )
    if sha256 != made.made_with()["sha256"]:
        raise InputError(
            f"features {made.backbone} were made with other weights; name their file with --weights"
        )
    return backbone


def _with_covariates(
    data: ImageCohort, encoder: ClinicalEncoder | None, covariates: pd.DataFrame | None
) -> ImageCohort:
    if encoder is None or covariates is None:
        return data
    return replace(data, clinical=encoder.encode(covariates).to_numpy(np.float32))


def _write_known(
    folder: Path, task: _Task, parts: dict[str, tuple[str, ...]], probability: pd.DataFrame
) -> float:
    """Write the predictions of training and validation patients; the cut-off, Youden's on
    validation."""
    tables = [
        _prediction_rows(task.labels, parts[part], probability, part, folder.name)
        for part in ("train", "val")
    ]
    val = tables[1]
    cutoff = youden_cutoff(val["label"] == len(task.classes) - 1, val["score"])
    write_parquet(
        folder / "predictions.parquet", pd.concat(tables, ignore_index=True).assign(cutoff=cutoff)
    )
    return float(cutoff)


def _prediction_rows(
    labels: pd.Series[int], patients: Sequence[str], probability: pd.DataFrame, part: str, fold: str
) -> pd.DataFrame:
    names = sorted(patients)
    own = probability.loc[names].to_numpy()
    table = pd.DataFrame(
        {"patient": names, "label": labels[names].to_numpy(), "fold": fold, "part": part}
    )
    table["score"] = own[:, -1]
    if own.shape[1] > 2:
        for number in range(own.shape[1]):
            table[f"probability_{number}"] = own[:, number]
    return table


def _forget_others(home: Path, folds: Sequence[Fold], failed: dict[str, str]) -> None:
    """Remove the folds of an earlier split, and results of folds that failed now."""
    keep = {fold.name for fold in folds} - set(failed)
    for folder in home.iterdir() if home.is_dir() else ():
        if folder.is_dir() and folder.name not in keep:
            shutil.rmtree(folder)


def _collect(home: Path, folds: Sequence[str]) -> None:
    """`predictions.parquet` of all folds: `patient, label, fold, part, score, cutoff`."""
    tables = [pd.read_parquet(home / name / "predictions.parquet") for name in folds]
    if not tables:
        return
    table = pd.concat(tables, ignore_index=True)
    first = ["patient", "label", "fold", "part", "score", "cutoff"]
    write_parquet(
        home / "predictions.parquet", table[first + [name for name in table if name not in first]]
    )


@dataclass(frozen=True)
class Scoring:
    """What `predict_run` did: folds whose test patients it scored, those scored before, and
    warnings."""

    scored: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class SlideMap:
    """A slide as its model reads it; `patches` are the kept ones (schema PATCHES) with `bag`,
    `bag_attention`, `attention` (sums to 1) and `occlusion` (`image_model.SlideReading`)."""

    slide_id: str
    patient: str
    fold: str
    probability: float
    patches: pd.DataFrame = field(repr=False)
    cells: pd.DataFrame | None = field(default=None, repr=False)
    """Attention on a finer grid, where windows overlap (`windows.attend_windows`)."""


def trained_models(run: Run) -> list[str]:
    """Models that `train_run` has left in a run."""
    return [name for name in MODELS if any(_home(run, name).glob("*/settings.json"))]


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
    home = _home(run, model)
    folds = _trained_folds(run, model)
    log = _test_log(home)
    scored, skipped, notes = [], [], []
    for about in folds:
        folder, sha = home / about["fold"], about["outputs"]["weights.safetensors"]
        known = pd.read_parquet(folder / "predictions.parquet")
        if (
            (log["fold"] == about["fold"]) & (log["weights_sha256"] == sha)
        ).any() and "test" in set(known["part"]):
            skipped.append(about["fold"])
            continue
        reader = FoldReader.open(run, about)
        test = about["parts"]["test"]
        if reader.image_model is None:
            probability = reader.predict_clinical()
        else:
            probability = _score_slides(reader, folder, everyone=len(folds) == 1)
        rows = _prediction_rows(reader.labels, test, probability, "test", about["fold"])
        table = pd.concat(
            [known[known["part"] != "test"], rows.assign(cutoff=about["cutoff"])], ignore_index=True
        )
        write_parquet(folder / "predictions.parquet", table)
        times = 1 + len(set(log.loc[log["patients"] == ";".join(test), "weights_sha256"]) - {sha})
        if times > 1:
            notes.append(
                f"the test patients of {about['fold']} have now been scored by {times} "
                f"trainings of {model}"
            )
        line = {"fold": about["fold"], "weights_sha256": sha, "scoring": times}
        line |= {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "patients": ";".join(test)}
        log = pd.concat([log, pd.DataFrame([line])], ignore_index=True)
        write_table_csv(home / "test_log.csv", log)
        scored.append(about["fold"])
    _collect(home, [about["fold"] for about in folds])
    return Scoring(tuple(scored), tuple(skipped), tuple(notes))


def tuned_settings(run: Run, model: str) -> EmbedSettings | None:
    """The backbone that a trained model has fine-tuned, None if it is frozen.

    Raises:
        InputError: nothing is trained.
    """
    settings = _fit_settings(_trained_folds(run, model)[0])
    return embeddings_of(run, settings).settings() if settings.finetune else None


def predict_elsewhere(run: Run, model: str, origin: Run) -> Scoring:
    """Score every patient of a cohort with a model that was trained in another run, and write it
    down.

    With several folds a patient's probability is the mean over their models, and so is the cut-off.
    Writes into `models/MODEL/` `predictions.parquet` (all of part `test` and fold `external`), a
    line of `test_log.csv`, and in `external/` `about.json` (which run, which weights), for an image
    model also `slides.parquet` and `attention.parquet` (`slide_id`, `patch_id`, `attention`,
    `occlusion`).

    Raises:
        InputError: there is no such model, the run has one of its own, or its data aren't what the
            model reads.
        RefusedError: a patient was trained on.
    """
    home, folds = _home(run, model), _trained_folds(origin, model)
    if any(home.glob("*/settings.json")):
        raise InputError(
            f"{run.path} has a {model} of its own; apply that of {origin.path} in "
            "another run directory"
        )
    trained_on = {
        patient for about in folds for part in ("train", "val") for patient in about["parts"][part]
    }
    if known := sorted(trained_on & {slide.patient for slide in run.cohort.slides}):
        raise RefusedError(
            f"leakage: {model} of {origin.path} was trained on {len(known)} patient(s) of this "
            "cohort: "
            f"{', '.join(known[:5])}; leave them out, or rename them if they are other people"
        )
    weights = key_of([about["outputs"]["weights.safetensors"] for about in folds])
    log = _test_log(home)
    stored = _read_json(home / "external" / "about.json")
    readers = [FoldReader.open(run, about, origin=origin) for about in folds]
    patients = ";".join(readers[0].labels.index)
    key = key_of("external", weights, patients, readers[0].data_key())
    if stored.get("key") == key and (home / "predictions.parquet").is_file():
        return Scoring((), ("external",), ())
    probability, cutoff = _average_models(readers, home / "external")
    rows = _prediction_rows(
        readers[0].labels, list(readers[0].labels.index), probability, "test", "external"
    )
    write_parquet(home / "predictions.parquet", rows.assign(cutoff=cutoff))
    line = {
        "fold": "external",
        "weights_sha256": weights,
        "scoring": 1 + len(set(log["weights_sha256"]) - {weights}),
    }
    line |= {"at": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "patients": patients}
    write_table_csv(
        home / "test_log.csv", pd.concat([log, pd.DataFrame([line])], ignore_index=True)
    )
    about = {
        "origin": str(origin.path.absolute()),
        "folds": [fold["fold"] for fold in folds],
        "weights": weights,
    }
    write_json(
        home / "external" / "about.json",
        about | {"classes": folds[0]["classes"], "cutoff": cutoff, "key": key},
    )
    return Scoring(("external",), (), ())


def _average_models(readers: Sequence[FoldReader], folder: Path) -> tuple[pd.DataFrame, float]:
    """The mean over models of each patient's probability, and of the cut-off; what was read of
    slides is written."""
    cutoff = float(np.mean([reader.about["cutoff"] for reader in readers]))
    everyone = set(readers[0].labels.index)
    if readers[0].image_model is None:
        return pd.concat([reader.predict_clinical() for reader in readers]).groupby(
            level=0
        ).mean(), cutoff
    slides, tables = [], []
    for reader in readers:
        for slide_id, patient, reading in reader.read(everyone):
            slides.append(
                {"slide_id": slide_id, "patient": patient} | dict(enumerate(reading.probability))
            )
            tables.append(
                reader.patch_table(slide_id, reading)[
                    ["slide_id", "patch_id", "attention", "occlusion"]
                ]
            )
    of_slides = pd.DataFrame(slides).groupby(["slide_id", "patient"]).mean()
    last = of_slides.columns[-1]
    write_parquet(
        folder / "slides.parquet", of_slides[last].rename("score").reset_index().assign(part="test")
    )
    patches = pd.concat(tables).groupby(["slide_id", "patch_id"], as_index=False).mean()
    write_parquet(folder / "attention.parquet", patches)
    return of_slides.groupby("patient").mean(), cutoff


def _check_alike(run: Run, origin: Run, settings: FitSettings) -> None:
    """Refuse slides that were cut or embedded otherwise than those a model was trained on."""
    one, two = (stated.segmented_with() for stated in (origin, run))
    differing = [
        f"{name} {two.get(name)}"
        for name in ("working_mpp", "patch_px")
        if one.get(name) != two.get(name)
    ]
    if settings.sees_patches:
        was, now = (embeddings_of(stated, settings).made_with() for stated in (origin, run))
        differing += [f"{name} {now.get(name)}" for name in was if was[name] != now.get(name)]
    if differing:
        raise InputError(
            f"{run.path} was made otherwise than {origin.path}, with {', '.join(differing)}"
        )


def _score_slides(reader: FoldReader, folder: Path, *, everyone: bool) -> pd.DataFrame:
    """Read a fold's slides, write what was read, and give the test patients' probabilities."""
    about = reader.about
    part_of = {patient: part for part, patients in about["parts"].items() for patient in patients}
    wanted = set(part_of) if everyone else set(about["parts"]["test"])
    slides, tables, sums = [], [], []
    for slide_id, patient, reading in reader.read(wanted):
        slides.append(
            {
                "slide_id": slide_id,
                "patient": patient,
                "part": part_of[patient],
                "score": reading.probability[-1],
            }
        )
        sums.append({"patient": patient} | dict(enumerate(reading.probability)))
        tables.append(reader.patch_table(slide_id, reading))
    write_parquet(folder / "slides.parquet", pd.DataFrame(slides))
    write_parquet(folder / "attention.parquet", pd.concat(tables, ignore_index=True))
    return pd.DataFrame(sums).groupby("patient").mean()


def _test_log(home: Path) -> pd.DataFrame:
    path = home / "test_log.csv"
    columns = ["fold", "weights_sha256", "scoring", "at", "patients"]
    if not path.is_file():
        return pd.DataFrame(columns=columns)
    return pd.read_csv(path, dtype={"fold": str, "weights_sha256": str, "patients": str})


def _trained_folds(run: Run, model: str) -> list[dict[str, Any]]:
    if model not in MODELS:
        raise InputError(f"no model named {model!r}; choose {', '.join(MODELS)}")
    folds = [_read_json(path) for path in sorted(_home(run, model).glob("*/settings.json"))]
    if not folds:
        raise InputError(
            f"{run.path} has no trained {model}; run: morphomil train {run.path} --model {model}"
        )
    return folds


def read_maps(
    run: Run,
    model: str,
    slides: Sequence[str] = (),
    *,
    overlap: float = 0.0,
    weights: Path | None = None,
) -> Iterator[SlideMap]:
    """Slides as a model reads them, by the fold that predicts them (the only one, else where they
    are test).

    Args:
        run: with a trained model.
        model: its name.
        slides: only these; none: all.
        overlap: of the windows of `SlideMap.cells`, a share of their side; 0: none are read.
            Nothing else changes.
        weights: of a frozen backbone, where `embed` had a file and windows overlap.

    Raises:
        InputError: nothing is trained, the model sees no patches, or there is no such slide.
    """
    folds = _trained_folds(run, model)
    if "recipe" not in folds[0]:
        raise InputError(
            f"{model} sees no patches, so there is nothing to show on a slide; "
            "choose dl-cnb or dl-cnb+c"
        )
    for name in slides:
        run.slide(name)
    per_side = windows_per_side(overlap)
    for about in folds:
        reader = FoldReader.open(run, about)
        score = reader.scorer(weights) if per_side > 1 else None
        parts = about["parts"]
        wanted = (
            set(parts["test"])
            if len(folds) > 1
            else {p for patients in parts.values() for p in patients}
        )
        for slide_id, patient, reading in reader.read(wanted, slides):
            patches = run.patches(slide_id).query("kept")
            scores = reader.patch_table(slide_id, reading).drop(columns=["slide_id"])
            merged = patches.merge(scores, on="patch_id", validate="one_to_one")
            cells = None
            if score is not None:
                outside = reader.settings.outside
                cells = attend_windows(
                    run, run.slide(slide_id), per_side=per_side, outside=outside, score=score
                )
            yield SlideMap(
                slide_id, patient, about["fold"], float(reading.probability[-1]), merged, cells
            )


def _fit_settings(about: dict[str, Any]) -> FitSettings:
    """What a fold was trained with, as far as reading it needs."""
    return FitSettings(
        about["model"],
        preset=about.get("preset", "default"),
        changes=about.get("recipe", {}),
        backbone=about.get("backbone", ""),
        finetune=about.get("finetune", False),
        covariates=tuple(about.get("covariates", ())),
        positive=about["classes"][-1],
        seed=about["seed"],
    )


@dataclass(frozen=True)
class FoldReader:
    """A fold's trained model with the data it reads."""

    run: Run
    about: dict[str, Any]
    labels: pd.Series[int]
    covariates: pd.DataFrame | None
    clinical_model: ClinicalModel | None
    image_model: ImageModel | None
    data: ImageCohort | None

    @classmethod
    def open(cls, run: Run, about: dict[str, Any], *, origin: Run | None = None) -> FoldReader:
        """Load a fold as its settings describe it.

        Args:
            run: whose slides it reads: those of its own patients, or all where it comes from
                elsewhere.
            about: the fold's settings.
            origin: the run that it was trained in, if that is another.

        Raises:
            InputError: its weights are damaged, patients, features or covariates have changed
                since, or those of another run aren't what it was trained on.
        """
        from safetensors.numpy import load_file

        folder, settings = (
            _home(origin or run, about["model"]) / about["fold"],
            _fit_settings(about),
        )
        if origin is not None:
            _check_alike(run, origin, settings)
        cohort = run.cohort.table().assign(
            label=lambda t: t["label"].astype(str), patient=lambda t: t["patient"].astype(str)
        )
        if origin is None:
            cohort = cohort[
                cohort["patient"].isin(
                    {name for names in about["parts"].values() for name in names}
                )
            ]
        if settings.sees_patches:
            cohort = cohort[cohort["slide_id"].isin(_filled_slides(run, settings))]
        bags = None
        if settings.sees_nuclei:
            bags = _nuclear_bags(run, cohort, seed=settings.seed)
            cohort = cohort[cohort["slide_id"].isin(bags.slides)]
        cohort = cohort.sort_values(["patient", "slide_id"], ignore_index=True)
        numbers = {name: number for number, name in enumerate(about["classes"])}
        labels = patient_labels(cohort).map(numbers)
        if origin is not None and (labels.isna().any() or labels.empty):
            unknown = sorted(set(cohort["label"]) - set(numbers))
            raise InputError(
                f"{about['model']} of {origin.path} tells {', '.join(numbers)} apart, and this "
                "cohort has "
                f"{'the label ' + ', '.join(unknown) if unknown else 'no slide that it can read'}"
            )
        task = _Task(cohort, tuple(about["classes"]), labels.fillna(-1).astype("int64"), (), ())
        covariates = _covariates(task, settings)
        parts = {name: tuple(patients) for name, patients in about["parts"].items()}
        if origin is None and _fold_key(run, settings, task, parts, covariates) != about["key"]:
            raise InputError(
                f"what {about['model']} was trained on has changed since; run: "
                f"morphomil train {run.path} --model {about['model']}"
            )
        weights = load_file(folder / "weights.safetensors")
        encoder = ClinicalEncoder.from_json(about["encoder"]) if "encoder" in about else None
        data = _open_cohort(run, settings, task)
        if data is None:
            if encoder is None or covariates is None:
                raise InputError(
                    f"{folder / 'settings.json'} lacks the encoder; train the model anew"
                )
            if bags is not None:
                covariates = covariates.join(_score_nuclei(bags, about, weights))
            fitted = ClinicalModel(
                encoder, weights["coefficients"], tuple(about["columns"]), pd.DataFrame()
            )
            return cls(run, about, task.labels, covariates, fitted, None, None)
        from morphomil.image_model.model import ImageModel

        backbone = (
            build_backbone(embeddings_of(run, settings).settings()) if settings.finetune else None
        )
        model = ImageModel.from_weights(weights, recipe=_recipe(settings), backbone=backbone)
        return cls(
            run,
            about,
            task.labels,
            covariates,
            None,
            model,
            _with_covariates(data, encoder, covariates),
        )

    def predict_clinical(self) -> pd.DataFrame:
        """Probability by patient."""
        if self.clinical_model is None or self.covariates is None:
            raise ValueError("the fold has no clinical model")
        return pd.DataFrame(
            self.clinical_model.predict(self.covariates), index=self.covariates.index
        )

    def data_key(self) -> str:
        """Changes with what it reads."""
        settings, covariates = _fit_settings(self.about), self.covariates
        made = _rows_of(self.run, settings).made_key() if settings.sees_patches else None
        return key_of(
            made, None if covariates is None else covariates.to_json(), self.labels.to_dict()
        )

    def read(
        self, patients: set[str], slides: Sequence[str] = ()
    ) -> Iterator[tuple[str, str, SlideReading]]:
        """Slide, patient and reading of every slide of these patients (only `slides`, where some
        are named)."""
        from morphomil.image_model.model import read_slide
        from morphomil.image_model.recipe import ImageRecipe

        if self.image_model is None or self.data is None:
            raise ValueError("the fold has no image model")
        recipe, seed = ImageRecipe(**self.about["recipe"]), self.about["model_seed"]
        for number, slide_id in enumerate(self.data.slides):
            patient = str(self.labels.index[self.data.patient[number]])
            if patient in patients and (not slides or slide_id in slides):
                yield (
                    slide_id,
                    patient,
                    read_slide(self.image_model, self.data, number, recipe=recipe, seed=seed),
                )

    @property
    def settings(self) -> EmbedSettings:
        """The backbone, and the pixels that it sees.

        Raises:
            InputError: the model learned from features of a function.
        """
        return embeddings_of(self.run, _fit_settings(self.about)).settings()

    def scorer(self, weights: Path | None) -> Callable[[NDArray[np.uint8]], NDArray[np.float64]]:
        """The attention before the softmax (n,) of any patches (n, side, side, 3), features rounded
        as stored ones are.

        Raises:
            InputError: the backbone can't be had as `embed` had it.
        """
        import torch

        model, settings = self.image_model, self.settings
        if model is None:
            raise ValueError("the fold has no image model")
        if model.backbone is not None:
            encode = keep_pixels(settings).encode
        else:
            given = replace(_fit_settings(self.about), weights=str(weights or ""))
            backbone = load_start(self.run, given)

            def encode(patches: NDArray[np.uint8]) -> NDArray[Any]:
                rows = torch.from_numpy(keep_pixels(settings).encode(patches))
                return np.asarray(backbone(rows).numpy().astype(np.float16).astype(np.float32))

        def score(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
            with torch.inference_mode():
                return np.asarray(model.read(torch.from_numpy(encode(patches)))[1].double().numpy())

        return score

    def patch_table(self, slide_id: str, reading: SlideReading) -> pd.DataFrame:
        """One row per kept patch: `slide_id, patch_id, bag` (-1: in none),
        `bag_attention, attention, occlusion`."""
        patches = self.run.patches(slide_id).query("kept")["patch_id"].to_numpy()
        return pd.DataFrame(
            {
                "slide_id": slide_id,
                "patch_id": patches.astype(np.int32),
                "bag": reading.bag.astype(np.int32),
                "bag_attention": reading.bag_attention,
                "attention": reading.attention,
                "occlusion": reading.occlusion,
            }
        )


def _score_nuclei(
    bags: PatientBags, about: dict[str, Any], weights: dict[str, Any]
) -> pd.Series[float]:
    from morphomil.matrix import Edges
    from morphomil.models.stacked import SCORE, score_patients
    from morphomil.rank.folds import FoldModel

    own = {
        name.removeprefix(f"{SCORE}/"): w
        for name, w in weights.items()
        if name.startswith(f"{SCORE}/")
    }
    return score_patients(bags, FoldModel(Edges.from_json(about["edges"]), own, pd.DataFrame()))


def map_geojson(patches: pd.DataFrame, *, model: str) -> dict[str, Any]:
    """Patches of one image with their scores as QuPath tiles; `relative attention` is 1 for an even
    share."""
    features = []
    relative = patches["attention"].to_numpy() * len(patches)
    for patch, share in zip(patches.to_dict("records"), relative, strict=True):
        x, y, side = (float(patch[name]) for name in ("x_px", "y_px", "side_px"))
        corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
        scores = {
            f"{model} attention": float(patch["attention"]),
            f"{model} relative attention": float(share),
        }
        if np.isfinite(patch["occlusion"]):
            scores[f"{model} occlusion"] = float(patch["occlusion"])
        properties = {
            "objectType": "tile",
            "name": f"patch {patch['patch_id']}",
            "measurements": scores,
        }
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "Polygon", "coordinates": [corners]},
                "properties": properties,
            }
        )
    return {"type": "FeatureCollection", "features": features}


def describe_test(run: Run, model: str) -> str:
    """A sentence on the AUC of the scored test patients: DeLong's interval on one fold, else pairs
    within folds."""
    from morphomil.image_model.training import macro_auc
    from morphomil.stats.roc import auc_interval, within_fold_auc_interval

    table = pd.read_parquet(_home(run, model) / "predictions.parquet").query("part == 'test'")
    names = [column for column in table if str(column).startswith("probability_")]
    if names:
        folds = [
            macro_auc(own["label"].to_numpy(), own[names].to_numpy())
            for _, own in table.groupby("fold")
        ]
        return f"macro AUC {np.mean(folds):.3f} in test ({len(table)} patients, {len(folds)} folds)"
    if table["label"].nunique() < 2:
        return f"no AUC: the {len(table)} test patients are of one class"
    many = table["fold"].nunique() > 1
    try:
        found = (
            within_fold_auc_interval(table["label"], table["score"], table["fold"])
            if many
            else auc_interval(table["label"], table["score"])
        )
    except ValueError as error:
        return f"no AUC: {error}"
    how = "pairs within folds" if many else "one test split"
    return (
        f"AUC {found.auc:.3f} [{found.low:.3f}, {found.high:.3f}] in test ({len(table)} patients, "
        f"{how})"
    )
