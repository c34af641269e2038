"""A run whose nuclei are imported and measured, in seconds and without a network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from morphomil import pipeline
from morphomil.pipeline.execution import StageResult
from morphomil.pipeline.importing import import_nuclei
from morphomil.run import Run
from morphomil.types import Cohort, ImageSource, PatchSettings, Slide

WHOLE = PatchSettings(patch_px=128, regions="whole")


@dataclass(frozen=True)
class Imported:
    """A cohort of two slides with the label images that its nuclei are imported from."""

    folder: Path

    @property
    def cohort(self) -> Cohort:
        return Cohort(
            tuple(
                Slide(f"s{n}", f"p{n}", str(n), (ImageSource(self.image(n), mpp=0.5),))
                for n in range(2)
            )
        )

    @property
    def run(self) -> Run:
        return Run.open(self.folder / "run")

    def image(self, number: int) -> Path:
        return self.folder / f"s{number}.png"

    def segment(self, out: str = "run") -> StageResult:
        """The first stage; its nuclei come from the label images."""
        nuclei = {self.image(n): self.folder / f"labels{n}.png" for n in range(2)}
        return import_nuclei(self.cohort, nuclei, self.folder / out, settings=WHOLE)[1]

    def measure(self, out: str = "run") -> StageResult:
        return pipeline.featurize(Run.open(self.folder / out))
