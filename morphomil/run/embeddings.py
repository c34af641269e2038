"""The stored deep features of a run's slides, by backbone."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from morphomil.errors import InputError
from morphomil.run.directory import Run
from morphomil.run.ledger import key_of
from morphomil.store import atomic_path, safe_name, write_json
from morphomil.types import DEFAULT_BACKBONE, EmbedSettings

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from numpy.typing import NDArray

PIXELS = "pixels"
"""First part of the name of embeddings that are the patches themselves."""


def pixels_name(settings: EmbedSettings) -> str:
    """The folder of `embeddings` with the pixels that a backbone of these settings sees."""
    return f"{PIXELS}-{settings.size}-{settings.outside}"


@dataclass(frozen=True)
class Embeddings(Run):
    """The features of a run's slides by one backbone: `embeddings/BACKBONE/ID.npy` and what they
    were made from.

    As a `Run` it keeps, for the execution of a stage, the state of each slide in `ID.json`.
    """

    backbone: str = DEFAULT_BACKBONE

    def slide_folder(self, slide_id: str) -> Path:
        """Where features lie: one folder for all slides."""
        return self.embeddings_folder(self.backbone)

    def features_path(self, slide_id: str) -> Path:
        """A slide's features: (kept patches, F) float16, rows in the order of its kept patches."""
        return self.slide_folder(slide_id) / f"{safe_name(slide_id)}.npy"

    def status(self, slide_id: str) -> dict[str, Any]:
        """What `embed` left for a slide."""
        try:
            entry = json.loads(
                self.features_path(slide_id).with_suffix(".json").read_text(encoding="utf-8")
            )
        except (OSError, ValueError):
            return {}
        return {"embed": entry} if isinstance(entry, dict) else {}

    def _write_status(self, slide_id: str, stage: str, entry: dict[str, Any]) -> None:
        write_json(self.features_path(slide_id).with_suffix(".json"), entry)

    def made_with(self) -> dict[str, Any]:
        """Settings of the last `embed` that made these features: those of `EmbedSettings`, `name`
        and `sha256`.

        Raises:
            InputError: no such command is on record.
        """
        for entry in reversed(self._log().get("commands", [])):
            if entry["command"] == "embed" and entry["settings"].get("name") == self.backbone:
                return dict(entry["settings"])
        raise InputError(
            f"{self.path} has no record of how its features {self.backbone} were "
            "made; embed them anew"
        )

    def settings(self) -> EmbedSettings:
        """The backbone and the pixels that these features were made with.

        Raises:
            InputError: they come from a function, or no record is left.
        """
        stated = self.made_with()
        if "backbone" not in stated:
            raise InputError(
                f"features {self.backbone} come from a function, and this needs those of a backbone"
            )
        return EmbedSettings(**{part.name: stated[part.name] for part in fields(EmbedSettings)})

    def save(self, slide_id: str, features: NDArray[np.float16 | np.uint8]) -> str:
        """Write a slide's features; the file's name."""
        path = self.features_path(slide_id)
        with atomic_path(path) as partial, partial.open("wb") as stream:
            np.save(stream, features, allow_pickle=False)
        return path.name

    def made_key(self) -> str:
        """Changes with every slide whose features are made anew, added or lost."""
        return key_of(
            [[name, self.status(name)["embed"]["outputs"]] for name in self.done("embed")]
        )


def embedded_backbones(run: Run) -> pd.DataFrame:
    """What `embed` has made: one row per backbone with `backbone`, `slides`, `features`,
    `bytes_per_patch`."""
    import pandas as pd

    rows = []
    for folder in run.backbone_folders:
        made = Embeddings(run.path, folder.name)
        done = made.done("embed")
        widths = {made.status(name)["embed"]["figures"]["features"] for name in done} - {0}
        width = max(widths, default=0)
        rows.append(
            {
                "backbone": folder.name,
                "slides": len(done),
                "features": width,
                "bytes_per_patch": 2 * width,
            }
        )
    return pd.DataFrame(rows, columns=["backbone", "slides", "features", "bytes_per_patch"])
