"""The stored deep features of a run's slides, by backbone."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.errors import InputError
from morphomil.run.ledger import Ledger
from morphomil.store import atomic_path, read_parquet, reading, safe_name, write_parquet
from morphomil.types import DEFAULT_BACKBONE, EmbedSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.types import Slide

PIXELS = "pixels"
"""The name of embeddings that are the patches themselves starts with this word."""


def pixels_name(settings: EmbedSettings) -> str:
    """The folder of `embeddings` with the pixels that a backbone of these settings sees."""
    return f"{PIXELS}-{settings.size}-{settings.outside}"


@dataclass(frozen=True)
class Embeddings:
    """The features of a run's slides by one backbone, `embeddings/BACKBONE/ID.npy`, and the ledger
    of what they were made from, `ID.json`."""

    run: Run
    backbone: str = DEFAULT_BACKBONE

    @property
    def folder(self) -> Path:
        """Where the features of all slides lie."""
        return self.run.embeddings_folder(self.backbone)

    @property
    def ledger(self) -> Ledger:
        """What `embed` has done."""
        return Ledger(self.folder, "{slide}.json", stages=("embed",))

    def features_path(self, slide_id: str) -> Path:
        """A slide's features: (kept patches, F) float16, rows in the order of its kept patches."""
        return self.folder / f"{safe_name(slide_id)}.npy"

    def tiles_path(self, slide_id: str) -> Path:
        """Where the tiles of another program lie that a slide's features are of."""
        return self.folder / f"{safe_name(slide_id)}.tiles.parquet"

    def tiles(self, slide_id: str) -> pd.DataFrame | None:
        """The tiles of another program that the rows of a slide's features are of: `tile` (from 0),
        `image`, `x, y, side` in `unit` (px of level 0, or um), NaN where unknown; None where the
        rows are the slide's kept patches.

        Raises:
            DamagedError: they are damaged.
        """
        path = self.tiles_path(slide_id)
        if path.name not in self.outputs(slide_id):
            return None
        again = "run morphomil import-features again"
        path = self.ledger.output(slide_id, "embed", path.name, mend=again)
        with reading(path):
            return read_parquet(path)

    def stored(self, slide_id: str) -> Path:
        """A slide's features, `features_path`, which aren't damaged.

        Raises:
            DamagedError: they are missing, or aren't what `embed` wrote.
        """
        path = self.features_path(slide_id)
        again = "run morphomil embed again, which makes them anew"
        return self.ledger.output(slide_id, "embed", path.name, mend=again)

    def done(self) -> list[str]:
        """The slides that have features, in the cohort's order."""
        return self.ledger.done(self._slides(), "embed")

    def _slides(self) -> list[Slide]:
        """The cohort's slides without those whose segmentation has failed or is empty since."""
        lost = self.run.losses("segment")
        return [slide for slide in self.run.cohort.slides if slide.slide_id not in lost]

    def figures(self, slide_id: str) -> dict[str, Any]:
        """Of a slide that has features: how many `patches` there are, and `features` of each."""
        return dict(self.ledger.status(slide_id)["embed"]["figures"])

    def outputs(self, slide_id: str) -> dict[str, str]:
        """The digest of the features' file of a slide that has them, by its name."""
        return self.ledger.outputs(slide_id, "embed")

    def made_with(self) -> dict[str, Any]:
        """Settings of the last `embed` that made these features: those of `EmbedSettings`, `name`
        and `sha256`.

        Raises:
            InputError: no such command is on record.
        """
        for entry in reversed(self.run.log.entries()):
            if entry["command"] == "embed" and entry["settings"].get("name") == self.backbone:
                return dict(entry["settings"])
        raise InputError(
            f"{self.run.path} has no record of how its features {self.backbone} were "
            "made; embed them anew"
        )

    def settings(self) -> EmbedSettings:
        """The backbone and the pixels that these features were made with.

        Raises:
            InputError: they come from a function, or no record is left.
        """
        recorded = self.made_with()
        if "backbone" not in recorded:
            raise InputError(
                f"features {self.backbone} come from a function or another program, and this "
                "needs those of a backbone"
            )
        return EmbedSettings(**{part.name: recorded[part.name] for part in fields(EmbedSettings)})

    def save(self, slide_id: str, features: NDArray[np.float16 | np.uint8]) -> str:
        """Write a slide's features; the file's name."""
        path = self.features_path(slide_id)
        with atomic_path(path) as partial, partial.open("wb") as stream:
            np.save(stream, features, allow_pickle=False)
        return path.name

    def save_tiles(self, slide_id: str, tiles: pd.DataFrame) -> str:
        """Write the tiles that a slide's features are of (`tiles`); the file's name."""
        path = self.tiles_path(slide_id)
        write_parquet(path, tiles)
        return path.name

    def made_key(self) -> str:
        """Changes with every slide whose features are made anew, added or lost."""
        return self.ledger.outputs_key(self._slides(), "embed")


def embedded_backbones(run: Run) -> pd.DataFrame:
    """What `embed` has made: one row per backbone with `backbone`, `slides`, `features`,
    `bytes_per_patch`."""
    import pandas as pd

    rows = []
    for folder in run.backbone_folders:
        embeddings = Embeddings(run, folder.name)
        slides = embeddings.done()
        widths = {embeddings.figures(slide_id)["features"] for slide_id in slides}
        width = max(widths - {0}, default=0)
        rows.append(
            {
                "backbone": folder.name,
                "slides": len(slides),
                "features": width,
                "bytes_per_patch": 2 * width,
            }
        )
    return pd.DataFrame(rows, columns=["backbone", "slides", "features", "bytes_per_patch"])
