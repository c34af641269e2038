"""Models: training, prediction, maps."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from morphomil.pace import machine_pace
from morphomil.pipeline.costs import EPOCHS, foretell_training
from morphomil.pipeline.embedding import embed
from morphomil.pipeline.execution import Progress, Silence
from morphomil.store import write_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from morphomil.models.maps import SlideMap
    from morphomil.models.predict import Scoring
    from morphomil.models.settings import TrainSettings
    from morphomil.models.train import TrainResult
    from morphomil.pace import Cost
    from morphomil.run.directory import Run
    from morphomil.run.embeddings import Embeddings


def train(
    run: Run,
    settings: TrainSettings,
    *,
    progress: Progress | None = None,
    on_estimate: Callable[[Cost], None] | None = None,
) -> TrainResult:
    """Train a model on every fold (`models.train.train_run`).

    A backbone that is to be fine-tuned needs the patches' pixels, which are read from the slides
    first. `on_estimate` hears what the training of an image model will take, unless its backbone
    learns too.

    Raises:
        InputError: no features, covariates or labels to learn from.
        RefusedError: leakage, or too few patients of a class.
        BusyError: another process works in the run directory.
    """
    from morphomil.image_model.backbones import keep_pixels
    from morphomil.models.image import embeddings_of, load_start
    from morphomil.models.settings import IMAGE_MODELS
    from morphomil.models.train import train_run

    listener, begun = progress or Silence(), time.monotonic()
    if settings.finetune:
        chosen = embeddings_of(run, settings).settings()
        load_start(run, settings)  # what is wrong with the weights is said before any work
        embed(run, settings=chosen, encoder=keep_pixels(chosen), progress=progress)
    seen: set[str] = set()

    def on_epoch(fold: str, done: int, total: int) -> None:
        if fold not in seen:
            seen.add(fold)
            listener.begin(fold)
        listener.step(fold, done, total)

    def on_folds(number: int) -> None:
        if on_estimate is not None and settings.model in IMAGE_MODELS and not settings.finetune:
            on_estimate(_foretell(embeddings_of(run, settings), settings, folds=number))

    with run.lock():
        listener.start(f"train {settings.model}", settings.folds)
        result = train_run(run, settings, on_epoch=on_epoch, on_folds=on_folds)
        for state, names in (
            ("done", result.done),
            ("skipped", result.skipped),
            ("failed", tuple(result.failed)),
        ):
            for name in names:
                listener.end(
                    name,
                    state,
                    result.failed.get(name, "trained" if state == "done" else "already trained"),
                )
        run.record(f"train {settings.model}", asdict(settings), seconds=time.monotonic() - begun)
    return result


def _foretell(embeddings: Embeddings, settings: TrainSettings, *, folds: int) -> Cost:
    from morphomil.image_model.recipe import settle_recipe

    recipe = settle_recipe(settings.preset, **settings.changes)
    epochs = recipe.epochs if recipe.patience >= recipe.epochs else min(EPOCHS, recipe.epochs)
    rows = [embeddings.figures(slide_id) for slide_id in embeddings.done()]
    patches = sum(row["patches"] for row in rows)
    width = max((row["features"] for row in rows), default=0)
    return foretell_training(
        len(rows), patches, width, folds=folds, epochs=epochs, pace=machine_pace()
    )


def predict(run: Run, model: str, *, origin: Run | None = None) -> Scoring:
    """Score the test patients of every fold, once (`models.predict.predict_run`).

    With `origin`, every patient of `run` is scored by the model trained there
    (`models.predict.predict_elsewhere`).

    Raises:
        InputError: nothing is trained, or the model doesn't read what there is now.
        RefusedError: a model from elsewhere was trained on a patient.
        BusyError: another process works in the run directory.
    """
    from morphomil.image_model.backbones import keep_pixels
    from morphomil.models.predict import predict_elsewhere, predict_run
    from morphomil.models.trained import tuned_settings

    begun = time.monotonic()
    if origin is not None and (chosen := tuned_settings(origin, model)):
        embed(run, settings=chosen, encoder=keep_pixels(chosen))
    with run.lock():
        scoring = predict_elsewhere(run, model, origin) if origin else predict_run(run, model)
        settings = {"origin": str(origin.path)} if origin else {}
        run.record(f"predict {model}", settings, seconds=time.monotonic() - begun)
    return scoring


def heatmap(
    run: Run,
    model: str,
    slides: Sequence[str] = (),
    *,
    overlap: float = 0.0,
    weights: Path | None = None,
) -> Iterator[SlideMap]:
    """Every slide as a model reads it, one at a time, with its patch scores as
    `models/MODEL/maps/ID.geojson`.

    With `overlap` also attention on a finer grid, of windows between the patches
    (`models.maps.read_maps`).

    Raises:
        InputError: nothing is trained, the model sees no patches, or there is no such slide.
        BusyError: another process works in the run directory.
    """
    from morphomil.models.maps import map_geojson, read_maps

    with run.lock():
        for slide_map in read_maps(run, model, slides, overlap=overlap, weights=weights):
            for number, part in slide_map.patches.groupby("image"):
                path = run.map_path(model, slide_map.slide_id, image=int(str(number)))
                write_json(path, map_geojson(part, model=model))
            yield slide_map
