"""A run of a few patients whose models are trained in seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from imported_run import WHOLE
from numpy.typing import NDArray
from PIL import Image

from morphomil import pipeline
from morphomil.figures import registry
from morphomil.figures.report import gallery
from morphomil.figures.report.write import write_report
from morphomil.image_model.backbones import LoadedEncoder
from morphomil.models.settings import TrainSettings
from morphomil.pipeline.importing import import_nuclei
from morphomil.run import Run
from morphomil.tables.paper import compare
from morphomil.types import Cohort, EmbedSettings, ImageSource, RankSettings, Slide

PATIENTS = 12


def mean_color(patches: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A backbone that needs no weights."""
    return patches.mean(axis=(1, 2), dtype=np.float32)


ENCODER = LoadedEncoder("color", mean_color, "0" * 64)
FIGURES = ("flow",)
MOST_SLIDES = 2
"""The report is drawn with these alone: all are written by the same few lines."""


@dataclass(frozen=True)
class Modelled:
    """A cohort with label images, and the stages on it."""

    folder: Path

    @property
    def run(self) -> Run:
        return Run.open(self.folder / "run")

    @property
    def cohort(self) -> Cohort:
        return Cohort(
            tuple(
                Slide(
                    f"s{n}",
                    f"p{n}",
                    str(n % 2),
                    (ImageSource(self.image(n), mpp=0.5),),
                    covariates={"age": 40.0 + 7 * (n % 3) + n},
                )
                for n in range(PATIENTS)
            )
        )

    def image(self, number: int) -> Path:
        return self.folder / f"s{number}.png"

    def draw(self, draw_nuclei: Callable[..., NDArray[np.int32]]) -> None:
        """The slides and their label images."""
        rng = np.random.default_rng(1)
        for n in range(PATIENTS):
            pixels = rng.normal(0, 12, (128, 128, 1)) + np.array([200, 130, 180 + n])
            Image.fromarray(np.clip(pixels, 0, 250).astype(np.uint8)).save(self.image(n))
            labels = draw_nuclei((128, 128), seed=n, step=24 - 4 * (n % 2))
            Image.fromarray(labels.astype(np.uint16)).save(self.folder / f"labels{n}.png")

    def prepare(self) -> None:
        """What the models read."""
        nuclei = {self.image(n): self.folder / f"labels{n}.png" for n in range(PATIENTS)}
        run, result = import_nuclei(self.cohort, nuclei, self.folder / "run", settings=WHOLE)
        assert not result.failed
        assert not pipeline.featurize(run).failed
        assert not pipeline.embed(run, encoder=ENCODER, settings=EmbedSettings())[1].failed

    def train(self) -> None:
        pipeline.train(self.run, TrainSettings("clinical", folds=2))
        pipeline.train(self.run, TrainSettings("dl-cnb", folds=2, changes={"epochs": 2}))

    def predict(self) -> None:
        for model in ("clinical", "dl-cnb"):
            pipeline.predict(self.run, model)

    def rank(self) -> None:
        pipeline.rank(self.run, settings=RankSettings(0, folds=2, quick=True, permutations=0))

    def compare(self) -> None:
        compare(self.run)

    def report(self) -> None:
        everything, most_slides = dict(registry.FIGURES), gallery.MOST_SLIDES
        gallery.MOST_SLIDES = MOST_SLIDES
        for name in everything.keys() - set(FIGURES):
            del registry.FIGURES[name]
        try:
            write_report(self.run)
        finally:
            registry.FIGURES.update(everything)
            gallery.MOST_SLIDES = most_slides
