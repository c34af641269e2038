"""The stages that operations fail in and that are killed, by the kind of run that they work on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from imported_run import WHOLE, Imported
from modelled_run import ENCODER, Modelled

from morphomil import pipeline
from morphomil.export import export_run
from morphomil.segment import model
from morphomil.store import digest
from morphomil.types import EmbedSettings

Place = Any
"""`Imported` or `Modelled`."""


@dataclass(frozen=True)
class Kind:
    """Stages that follow each other on a run."""

    place: Callable[[Path], Place]
    stages: dict[str, Callable[[Place], object]]
    begins: bool = False
    """Whether the first stage makes the run."""


def segment(made: Imported) -> object:
    """With the shipped network."""
    return pipeline.segment(made.cohort, made.folder / "run", settings=WHOLE)[1]


def embed(made: Imported) -> object:
    return pipeline.embed(made.run, encoder=ENCODER, settings=EmbedSettings())[1]


def export(made: Imported) -> object:
    return [export_run(made.run, name) for name in ("csv", "qupath", "trident")]


KINDS = {
    "imported": Kind(
        Imported,
        {
            "import-nuclei": Imported.segment,
            "featurize": Imported.measure,
            "embed": embed,
            "export": export,
        },
        begins=True,
    ),
    "segmented": Kind(Imported, {"segment": segment}, begins=True),
    "modelled": Kind(
        Modelled,
        {
            "train": Modelled.train,
            "predict": Modelled.predict,
            "rank": Modelled.rank,
            "compare": Modelled.compare,
            "report": Modelled.report,
        },
    ),
}


def load_network_once() -> None:
    """Loading it reads no file of a run."""
    model.load_segmenter = cache(model.load_segmenter)


def contents(run: Path) -> dict[str, str]:
    """The digest of every file of a run but the log of commands, which has times, and locks; of the
    log of scorings without theirs."""
    files = (file for file in run.rglob("*") if file.is_file())
    return {
        str(file.relative_to(run)): _timeless(file)
        for file in files
        if file.name != "run.json" and not file.name.startswith(".lock")
    }


def _timeless(file: Path) -> str:
    if file.name != "test_log.csv":
        return digest(file)
    head, *rows = (line.split(",") for line in file.read_text(encoding="utf-8").splitlines())
    at = head.index("at")
    kept = [[cell for place, cell in enumerate(row) if place != at] for row in rows]
    return hashlib.sha256(repr(kept).encode()).hexdigest()
