"""Patches -> deep features."""

from __future__ import annotations

import time
from dataclasses import asdict
from threading import Lock
from typing import TYPE_CHECKING, Any

from morphomil.errors import InputError
from morphomil.pipeline.execution import Progress, Shard, Silence, StageResult, each_slide
from morphomil.run.ledger import key_of

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from morphomil.image_model.backbones import LoadedEncoder
    from morphomil.pipeline.execution import Step
    from morphomil.run.directory import Run
    from morphomil.run.embeddings import Embeddings
    from morphomil.types import EmbedSettings, Slide


def embed(
    run: Run,
    *,
    settings: EmbedSettings | None = None,
    weights: Path | None = None,
    encoder: LoadedEncoder | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> tuple[Embeddings, StageResult]:
    """Deep features of the kept patches of every segmented slide (`embed.Embeddings`).

    Writes `embeddings/BACKBONE/ID.npy`: half precision, a row per kept patch.

    Args:
        run: a run with segmented slides.
        settings: which backbone, from pixels prepared how.
        weights: of the backbone, where they can't be downloaded.
        encoder: any other source of features, in place of a backbone (`embed.LoadedEncoder`).
        shard: the part of the cohort to work on.
        progress: hears of every slide.

    Raises:
        InputError: nothing is segmented yet, or the weights can't be had.
        BusyError: another process works in the run directory.
    """
    from morphomil.image_model.backbones import LoadedEncoder, load_encoder
    from morphomil.image_model.embed import embed_slide
    from morphomil.run.embeddings import Embeddings
    from morphomil.types import EmbedSettings

    shard, settings = shard or Shard(), settings or EmbedSettings()
    segmented = set(run.done("segment"))
    if not segmented:
        raise InputError(
            f"{run.path} has no segmented slides; run: morphomil segment COHORT --out {run.path}"
        )
    begun = time.monotonic()
    loaded = encoder or load_encoder(settings, weights=weights)
    folder = (
        loaded.name if encoder or settings.pooling == "own" else f"{loaded.name}-{settings.pooling}"
    )
    made = Embeddings(run, folder)
    stated = {"outside": settings.outside} if encoder else asdict(settings)
    alone = Lock()

    def encode(patches: NDArray[np.uint8]) -> NDArray[Any]:
        with alone:  # one slide is read while another has the network
            return loaded.encode(patches)

    def key(slide: Slide) -> str:
        return key_of("embed", stated, loaded.sha256, run.ledger.outputs(slide.slide_id, "segment"))

    def work(slide: Slide, step: Step) -> tuple[list[str], dict[str, Any]]:
        shared = LoadedEncoder(loaded.name, encode, loaded.sha256)
        features = embed_slide(run, slide, shared, outside=settings.outside, step=step)
        figures = {"patches": len(features), "features": features.shape[1]}
        return [made.save(slide.slide_id, features)], figures

    with run.lock(shard.lock_name):
        slides = [
            slide
            for slide in run.cohort.slides
            if slide.slide_id in segmented and shard.holds(slide.slide_id)
        ]
        result = each_slide(
            made.ledger, slides, "embed", key=key, work=work, progress=progress or Silence()
        )
        run.record(
            "embed",
            stated | {"name": folder, "sha256": loaded.sha256},
            seconds=time.monotonic() - begun,
        )
    return made, result
