"""What measuring, embedding and training will take, time and memory, from what is segmented.

Times are seconds of one processor on the machine of `pace`; `benchmarks/costs.py` compares them
with what stages take.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from morphomil.image_model.embed import PATCHES_AT_ONCE
from morphomil.pace import Cost
from morphomil.types import CORES

if TYPE_CHECKING:
    from morphomil.image_model.backbones import Encoder
    from morphomil.pipeline.execution import SlideStage
    from morphomil.run.directory import Run
    from morphomil.types import Slide
LIBRARIES, TORCH = 1.0, 3.0
"""Seconds until they are loaded."""
SLIDE, PATCH, NUCLEUS, MOST_CORES = 0.1, 0.001, 2.1e-5, 4
"""Seconds of measuring a slide: at least, by patch and by nucleus; more cores hardly help."""
EMBED_SLIDE, EMBED_PATCH = 0.04, 0.0022
"""Seconds of embedding a slide beside the encoder's: at least, and of reading a patch."""
LITE0_PATCH, LITE0_WIDTH = 0.056, 1280
"""Of the encoder that needs no download: seconds for a patch of 256 pixels, features."""
EPOCHS, MOST_EPOCHS = 135, 200
"""A fold of an image model that may stop early trains for about so many, and at most."""
FOLD, EPOCH, EPOCH_SLIDE, EPOCH_VALUE = 0.5, 0.004, 0.00037, 1.4e-8
"""Seconds of a fold at least; of an epoch, and in it by slide and by value of the patches'
features."""
MEASURE_GIB, NUCLEUS_GIB = 0.55, 1e-6
"""Of measuring: libraries, and a nucleus of each slide that is worked on."""
EMBED_GIB, PATCH_GIB = 1.4, 2e-6
"""Of embedding: libraries with an encoder, and a patch of a slide."""
TRAIN_GIB, HELD_BYTES = 0.9, 2**30
"""Of training: libraries; and features, of two bytes each, up to so many bytes."""


class Work(NamedTuple):
    """What the segmented slides of a run hold."""

    slides: int
    patches: int
    """Kept ones."""
    nuclei: int
    largest: int
    """Nuclei of the slide with most."""

    @classmethod
    def of(cls, run: Run, stage: SlideStage | None = None) -> Work:
        """Of its slides that have masks; with a stage, of those that it seems not to have done:
        outputs aren't looked at."""
        figures = run.figures("segment")
        figures = figures[figures["state"] == "done"]
        if stage is not None:
            open_ones = [slide.slide_id for slide in stage.slides if not _seems_done(stage, slide)]
            figures = figures[figures["slide_id"].isin(open_ones)]
        known = figures.reindex(columns=["patches_kept", "nuclei_found"]).fillna(0).astype(int)
        patches, nuclei = known["patches_kept"], known["nuclei_found"]
        return cls(len(known), int(patches.sum()), int(nuclei.sum()), max(nuclei, default=0))


def _seems_done(stage: SlideStage, slide: Slide) -> bool:
    entry = stage.ledger.status(slide.slide_id).get(stage.name, {})
    return entry.get("key") == stage.key(slide) and "error" not in entry


def foretell_featurize(work: Work, *, pace: float, cores: int = CORES) -> Cost:
    """What `pipeline.featurize` will take; `pace`: `pace.machine_pace`."""
    seconds = SLIDE * work.slides + PATCH * work.patches + NUCLEUS * work.nuclei
    memory = MEASURE_GIB + NUCLEUS_GIB * work.largest * min(cores, work.slides)
    return Cost(pace * (LIBRARIES + seconds / min(cores, MOST_CORES)), int(memory * 2**30))


def foretell_embed(work: Work, encoding: float, *, pace: float, cores: int = CORES) -> Cost:
    """What `pipeline.embed` will take; `encoding`: seconds of the encoder for a patch."""
    reading = EMBED_SLIDE * work.slides + EMBED_PATCH * work.patches
    memory = EMBED_GIB + PATCH_GIB * work.patches / max(work.slides, 1)
    seconds = pace * (TORCH + reading / cores) + encoding * work.patches
    return Cost(seconds, int(memory * 2**30))


def time_encoder(encode: Encoder, *, side: int) -> float:
    """Seconds of an encoder for a patch of `side` pixels, beside others."""
    probe = np.zeros((PATCHES_AT_ONCE, side, side, 3), np.uint8)
    tries = []
    for _ in range(2):  # what the first one loads isn't the encoder's
        begun = time.monotonic()
        encode(probe)
        tries.append(time.monotonic() - begun)
    return min(tries) / PATCHES_AT_ONCE


def foretell_training(
    slides: int, patches: int, width: int, *, folds: int, pace: float, epochs: int = EPOCHS
) -> Cost:
    """What `pipeline.train` will take for an image model that learns from features of so many
    values a patch."""
    values = patches * width
    epoch = EPOCH + EPOCH_SLIDE * slides + EPOCH_VALUE * values
    seconds = TORCH + folds * (FOLD + epochs * epoch)
    return Cost(pace * seconds, int(TRAIN_GIB * 2**30) + min(2 * values, HELD_BYTES))
