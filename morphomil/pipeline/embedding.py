"""Patches -> deep features."""

from __future__ import annotations

from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any

from morphomil.pace import machine_pace
from morphomil.pipeline.costs import Work, foretell_embed, time_encoder
from morphomil.pipeline.execution import SlideStage, execute, segmented_slides
from morphomil.run.ledger import key_of
from morphomil.tables.methods import patch_settings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from morphomil.image_model.backbones import LoadedEncoder
    from morphomil.pace import Cost
    from morphomil.pipeline.execution import Progress, Shard, SlideOutput, StageResult, Step
    from morphomil.run.directory import Run
    from morphomil.run.embeddings import Embeddings
    from morphomil.types import Device, EmbedSettings, Slide


def embed(
    run: Run,
    *,
    settings: EmbedSettings | None = None,
    weights: Path | None = None,
    encoder: LoadedEncoder | None = None,
    device: Device = "auto",
    shard: Shard | None = None,
    progress: Progress | None = None,
    on_estimate: Callable[[Cost], None] | None = None,
) -> tuple[Embeddings, StageResult]:
    """Deep features of the kept patches of every segmented slide (`run.embeddings.Embeddings`).

    Writes `embeddings/BACKBONE/ID.npy`: half precision, a row per kept patch.

    Args:
        run: a run with segmented slides.
        settings: which backbone, from pixels prepared how.
        weights: of the backbone, where they can't be downloaded.
        encoder: any other source of features, in place of a backbone (`image_model.LoadedEncoder`).
        device: where the backbone computes.
        shard: the part of the cohort to work on.
        progress: hears of every slide.
        on_estimate: hears what all slides that aren't embedded yet will take; for this the encoder
            is tried first.

    Raises:
        InputError: nothing is segmented yet, the weights can't be had, or there is no such device.
        BusyError: another process works in the run directory.
    """
    from morphomil.image_model.backbones import LoadedEncoder, load_encoder
    from morphomil.image_model.embed import embed_slide
    from morphomil.run.embeddings import Embeddings
    from morphomil.types import EmbedSettings

    settings = settings or EmbedSettings()
    slides = segmented_slides(run, shard)
    loaded = encoder or load_encoder(settings, weights=weights, device=device)
    pooled = not encoder and settings.pooling != "own"
    name = f"{loaded.name}-{settings.pooling}" if pooled else loaded.name
    embeddings = Embeddings(run, name)
    source = {"outside": settings.outside} if encoder else asdict(settings)
    alone = Lock()

    def encode(patches: NDArray[np.uint8]) -> NDArray[Any]:
        with alone:  # one slide is read while another has the network
            return loaded.encode(patches)

    def key(slide: Slide) -> str:
        masks = run.ledger.outputs(slide.slide_id, "segment")
        segmented = run.ledger.status(slide.slide_id).get("segment", {})
        notes = segmented.get("figures", {}).get("notes")  # as the color profile that is applied
        return key_of("embed", source, loaded.sha256, masks, *([notes] if notes else []))

    def work(slide: Slide, step: Step) -> SlideOutput:
        shared = LoadedEncoder(loaded.name, encode, loaded.sha256)
        features = embed_slide(run, slide, shared, outside=settings.outside, step=step)
        figures = {"patches": len(features), "features": features.shape[1]}
        return [embeddings.save(slide.slide_id, features)], figures

    stage = SlideStage(
        "embed",
        embeddings.ledger,
        slides,
        key=key,
        work=work,
        settings=source | {"name": name, "sha256": loaded.sha256},
        reads=lambda slide: [image.path for image in slide.images],
    )
    if on_estimate is not None and (load := Work.of(run, stage)).slides:
        encoding = time_encoder(loaded.encode, side=patch_settings(run).patch_px)
        on_estimate(foretell_embed(load, encoding, pace=machine_pace()))
    return embeddings, execute(run, stage, shard=shard, progress=progress)
