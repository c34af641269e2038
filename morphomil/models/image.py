"""Deep features of patches -> probability of patients: DL-CNB, and DL-CNB+C with covariates."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.cohort.encoding import ClinicalEncoder
from morphomil.cohort.labels import describe_losses
from morphomil.errors import InputError
from morphomil.image_model.backbones import build_backbone, keep_pixels, load_backbone
from morphomil.image_model.recipe import settle_recipe
from morphomil.models.covariates import read_covariates
from morphomil.models.fold import CovariateFacts, Facts, Fitted, ImageFacts, fold_seed
from morphomil.models.labeled import LabeledCohort
from morphomil.models.protocol import Prediction
from morphomil.run.embeddings import PIXELS, Embeddings, embedded_backbones, pixels_name
from morphomil.types import DEFAULT_BACKBONE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import nn

    from morphomil.image_model.model import ImageModel, SlideReading
    from morphomil.image_model.recipe import ImageRecipe
    from morphomil.image_model.rows import ImageCohort
    from morphomil.models.fold import Parts, TrainedFold
    from morphomil.models.protocol import OnEpoch
    from morphomil.models.settings import TrainSettings
    from morphomil.run.directory import Run

    PatchScore = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
    """Patches (n, side, side, 3) uint8 -> attention before the softmax (n,)."""


@dataclass(frozen=True)
class ImageInputs:
    """The features of every slide, or the pixels that a fine-tuned backbone sees."""

    run: Run
    cohort: LabeledCohort
    data: ImageCohort
    key_parts: tuple[Any, ...]
    data_parts: tuple[Any, ...]


@dataclass(frozen=True)
class Image:
    """DL-CNB (`protocol.Model`)."""

    settings: TrainSettings

    @property
    def recipe(self) -> ImageRecipe:
        """How it is built and trained."""
        return settle_recipe(self.settings.preset, **self.settings.changes)

    def inputs(self, run: Run, slides: pd.DataFrame, classes: tuple[str, ...]) -> ImageInputs:
        """The features of the slides that have some."""
        from morphomil.image_model.rows import ImageCohort, Rows

        rows = _rows_of(run, self.settings)
        filled = {name for name in rows.done() if rows.figures(name)["patches"]}
        usable = slides[slides["slide_id"].isin(filled)]
        if usable.empty:
            raise InputError(f"{run.path} has no slide with features of a kept patch")
        notes = describe_losses(slides, usable, "features")
        cohort = LabeledCohort.of(usable, classes, notes=notes)
        names = tuple(cohort.slides["slide_id"])
        data = ImageCohort(
            names,
            Rows(paths=[rows.stored(name) for name in names]),
            cohort.numbers_of(cohort.slides["patient"].tolist()),
            np.asarray(cohort.labels, np.int64),
            len(classes),
        )
        key: list[Any] = [asdict(self.recipe), rows.backbone]
        if self.settings.finetune:
            key.append(embeddings_of(run, self.settings).made_with())
        key += [[name, rows.outputs(name)] for name in names]
        return ImageInputs(run, cohort, data, tuple(key), (rows.made_key(), None))

    def fit(
        self, inputs: ImageInputs, parts: Parts, *, folder: Path, on_epoch: OnEpoch | None = None
    ) -> Fitted:
        """Train the head, and the backbone if it is fine-tuned, from the checkpoint if there is
        one."""
        from morphomil.image_model.model import predict_patients
        from morphomil.image_model.training import train_image_model

        settings, recipe, data = self.settings, self.recipe, inputs.data
        seed = fold_seed(settings.seed, folder.name)
        train, val = (inputs.cohort.numbers_of(parts[part]) for part in ("train", "val"))
        trained = train_image_model(
            data,
            train=train,
            val=val,
            recipe=recipe,
            seed=seed,
            backbone=load_start(inputs.run, settings) if settings.finetune else None,
            checkpoint=folder / "checkpoint.safetensors",
            on_epoch=on_epoch,
        )
        known = np.concatenate([train, val])
        probability = predict_patients(trained.model, data, known, recipe=recipe, seed=seed)
        facts = ImageFacts(
            settings.preset,
            recipe,
            seed,
            settings.backbone,
            settings.finetune,
            features=len(trained.model.shift),
            best_epoch=trained.best_epoch,
        )
        return Fitted(
            dict(trained.model.weights()),
            trained.log,
            Facts(image=facts),
            pd.DataFrame(probability, index=inputs.cohort.labels.index[known]),
        )

    def predict(
        self, fold: TrainedFold, inputs: ImageInputs, patients: Collection[str]
    ) -> Prediction:
        """The mean over the slides of the patients that are asked for, and what was read of
        each."""
        slides, patches = [], []
        for slide_id, patient, reading in self.read_slides(fold, inputs, patients):
            place = {"slide_id": slide_id, "patient": patient}
            slides.append(place | dict(enumerate(reading.probability)))
            patches.append(self.patch_table(inputs.run, slide_id, reading))
        of_slides = pd.DataFrame(slides)
        of_patients = of_slides.drop(columns="slide_id").groupby("patient").mean()
        return Prediction(of_patients, of_slides, pd.concat(patches, ignore_index=True))

    def read_slides(
        self,
        fold: TrainedFold,
        inputs: ImageInputs,
        patients: Collection[str],
        slides: Sequence[str] = (),
    ) -> Iterator[tuple[str, str, SlideReading]]:
        """Slide, patient and reading of every slide of some patients (only `slides`, where some are
        named)."""
        from morphomil.image_model.model import read_slide

        model, facts = restore_image_model(fold, inputs.run, self.settings), fold.record.image
        for number, slide_id in enumerate(inputs.data.slides):
            patient = str(inputs.cohort.labels.index[inputs.data.patient[number]])
            if patient in patients and (not slides or slide_id in slides):
                reading = read_slide(
                    model, inputs.data, number, recipe=facts.recipe, seed=facts.model_seed
                )
                yield slide_id, patient, reading

    def patch_table(self, run: Run, slide_id: str, reading: SlideReading) -> pd.DataFrame:
        """One row per kept patch, or per tile of another program that the features are of:
        `slide_id, patch_id` (missing of such a tile), `bag` (-1: in none), `bag_attention,
        attention, occlusion`, and `tile`, the tile's number."""
        tiles = _rows_of(run, self.settings).tiles(slide_id)
        if tiles is None:
            patches = run.patches(slide_id).query("kept")["patch_id"].to_numpy(np.int32)
            whose: dict[str, Any] = {"patch_id": patches}
        else:
            missing = np.full(len(tiles), np.nan, np.float32)
            whose = {"patch_id": missing, "tile": tiles["tile"].to_numpy(np.int32)}
        return pd.DataFrame(
            {
                "slide_id": slide_id,
                **whose,
                "bag": reading.bag.astype(np.int32),
                "bag_attention": reading.bag_attention,
                "attention": reading.attention,
                "occlusion": reading.occlusion,
            }
        )

    def places(self, run: Run, slide_id: str) -> pd.DataFrame:
        """Where the rows of `patch_table` lie, in its order: `patch_id` (or the tile's number),
        `image, x_px, y_px, side_px`.

        Raises:
            InputError: nobody knows where tiles of another program lie.
            SlideError: they are in um, and the slide that says the pixel size can't be read.
        """
        tiles = _rows_of(run, self.settings).tiles(slide_id)
        if tiles is None:
            return run.patches(slide_id).query("kept")
        if tiles[["x", "y", "side"]].isna().any(axis=None):
            raise InputError(
                f"slide {slide_id}: the file of its features doesn't say where its tiles lie or "
                "how large they are, so there is no map"
            )
        parts = []
        for image, own in tiles.groupby("image"):
            scale = 1.0
            if (own["unit"] == "um").any():
                with run.open_image(slide_id, int(str(image))) as opened:
                    scale = 1 / opened.mpp
            columns = {f"{name}_px": own[name] * scale for name in ("x", "y", "side")}
            parts.append(own[["tile", "image"]].assign(**columns))
        return pd.concat(parts).rename(columns={"tile": "patch_id"}).sort_values("patch_id")

    def differences(self, run: Run, origin: Run) -> list[str]:
        """In the features' making."""
        was, now = (embeddings_of(one, self.settings).made_with() for one in (origin, run))
        return [f"{name} {now.get(name)}" for name in was if was[name] != now.get(name)]


@dataclass(frozen=True)
class ImageClinicalInputs:
    """Features of slides, and covariates by patient."""

    image: ImageInputs
    covariates: pd.DataFrame

    @property
    def cohort(self) -> LabeledCohort:
        """Whom it can read."""
        return self.image.cohort

    @property
    def key_parts(self) -> tuple[Any, ...]:
        """The image model's, and the covariates."""
        return (*self.image.key_parts, self.covariates.to_json())

    @property
    def data_parts(self) -> tuple[Any, ...]:
        """Features and covariates."""
        return self.image.data_parts[0], self.covariates.to_json()

    def encode(self, encoder: ClinicalEncoder) -> ImageInputs:
        """The image model's inputs with the covariates as columns of numbers."""
        clinical = encoder.encode(self.covariates).to_numpy(np.float32)
        return replace(self.image, data=replace(self.image.data, clinical=clinical))


@dataclass(frozen=True)
class ImageClinical:
    """DL-CNB+C (`protocol.Model`): the image model, told a patient's covariates."""

    image: Image

    @property
    def settings(self) -> TrainSettings:
        """Those of the image model."""
        return self.image.settings

    def inputs(
        self, run: Run, slides: pd.DataFrame, classes: tuple[str, ...]
    ) -> ImageClinicalInputs:
        """Features and covariates."""
        image, settings = self.image.inputs(run, slides, classes), self.settings
        table = read_covariates(image.cohort, settings)
        return ImageClinicalInputs(image, table)

    def fit(
        self,
        inputs: ImageClinicalInputs,
        parts: Parts,
        *,
        folder: Path,
        on_epoch: OnEpoch | None = None,
    ) -> Fitted:
        """As the image model; covariates are encoded as the training patients' say."""
        table = inputs.covariates
        encoder = ClinicalEncoder.fit(table.loc[list(parts["train"])])
        fitted = self.image.fit(inputs.encode(encoder), parts, folder=folder, on_epoch=on_epoch)
        names = tuple(str(name) for name in table.columns)
        covariates = CovariateFacts(names, encoder, encoder.count_missing(table))
        facts = replace(fitted.facts, covariates=covariates)
        return replace(fitted, facts=facts, notes=encoder.notes)

    def predict(
        self, fold: TrainedFold, inputs: ImageClinicalInputs, patients: Collection[str]
    ) -> Prediction:
        """As the image model."""
        return self.image.predict(fold, inputs.encode(fold.record.covariates.encoder), patients)

    def read_slides(
        self,
        fold: TrainedFold,
        inputs: ImageClinicalInputs,
        patients: Collection[str],
        slides: Sequence[str] = (),
    ) -> Iterator[tuple[str, str, SlideReading]]:
        """As the image model."""
        encoded = inputs.encode(fold.record.covariates.encoder)
        return self.image.read_slides(fold, encoded, patients, slides)

    def patch_table(self, run: Run, slide_id: str, reading: SlideReading) -> pd.DataFrame:
        """As the image model."""
        return self.image.patch_table(run, slide_id, reading)

    def places(self, run: Run, slide_id: str) -> pd.DataFrame:
        """As the image model."""
        return self.image.places(run, slide_id)

    def differences(self, run: Run, origin: Run) -> list[str]:
        """As the image model."""
        return self.image.differences(run, origin)


def restore_image_model(fold: TrainedFold, run: Run, settings: TrainSettings) -> ImageModel:
    """The trained model of a fold, reading slides of `run`.

    Raises:
        InputError: its weights are of another model.
    """
    from morphomil.image_model.model import ImageModel

    backbone = (
        build_backbone(embeddings_of(run, settings).settings(), device=settings.device)
        if settings.finetune
        else None
    )
    recipe = fold.record.image.recipe
    return ImageModel.from_weights(fold.weights, recipe=recipe, backbone=backbone)


def patch_scorer(
    fold: TrainedFold, run: Run, settings: TrainSettings, weights: Path | None
) -> PatchScore:
    """The attention before the softmax (n,) of any patches (n, side, side, 3), features rounded as
    stored ones are.

    Args:
        fold: of an image model.
        run: whose patches it scores.
        settings: that it was trained with.
        weights: of a frozen backbone, where `embed` had a file.

    Raises:
        InputError: the backbone can't be had as `embed` had it.
    """
    import torch

    model = restore_image_model(fold, run, settings)
    pixels = keep_pixels(embeddings_of(run, settings).settings())

    if settings.finetune:
        encode = pixels.encode
    else:
        backbone = load_start(run, replace(settings, weights=str(weights or "")))

        def encode(patches: NDArray[np.uint8]) -> NDArray[Any]:
            rows = torch.from_numpy(pixels.encode(patches))
            return np.asarray(backbone(rows).numpy().astype(np.float16).astype(np.float32))

    def score(patches: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.inference_mode():
            return np.asarray(model.read(torch.from_numpy(encode(patches)))[1].double().numpy())

    return score


def embeddings_of(run: Run, settings: TrainSettings) -> Embeddings:
    """The features to learn from, or to start from where the backbone is fine-tuned.

    Raises:
        InputError: there are none, or not those that are asked for.
    """
    table = embedded_backbones(run)
    table = table[~table["backbone"].str.startswith(f"{PIXELS}-")]
    names = table.loc[table["slides"] > 0, "backbone"].tolist()
    if not names:
        raise InputError(f"{run.path} has no deep features; run: morphomil embed {run.path}")
    chosen = settings.backbone or (names[0] if len(names) == 1 else DEFAULT_BACKBONE)
    if chosen not in names:
        raise InputError(
            f"{run.path} has no features named {chosen!r}; it has {', '.join(names)} (--backbone)"
        )
    return Embeddings(run, str(chosen))


def _rows_of(run: Run, settings: TrainSettings) -> Embeddings:
    """What the image model reads: features, or the pixels that a fine-tuned backbone sees."""
    features = embeddings_of(run, settings)
    if not settings.finetune:
        return features
    return Embeddings(run, pixels_name(features.settings()))


def load_start(run: Run, settings: TrainSettings) -> nn.Module:
    """The backbone as `embed` had it, where fine-tuning starts.

    Raises:
        InputError: these aren't the weights that `embed` used.
    """
    features = embeddings_of(run, settings)
    weights = Path(settings.weights) if settings.weights else None
    backbone, sha256 = load_backbone(features.settings(), weights=weights, device=settings.device)
    if sha256 != features.made_with()["sha256"]:
        raise InputError(
            f"features {features.backbone} were made with other weights; name their file with "
            "--weights"
        )
    return backbone
