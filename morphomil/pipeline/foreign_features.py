"""Deep features of other programs -> a run's embeddings."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.errors import InputError
from morphomil.image_model.elsewhere import (
    ENDINGS,
    PROGRAMS,
    FeatureFile,
    describe_features,
    read_tile_features,
)
from morphomil.pipeline.execution import SlideStage, execute
from morphomil.pipeline.importing import matching_files
from morphomil.run.directory import Run
from morphomil.run.embeddings import Embeddings
from morphomil.run.ledger import key_of
from morphomil.store import safe_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from morphomil.pipeline.execution import Progress, SlideOutput, StageResult, Step
    from morphomil.places import Place
    from morphomil.types import Cohort, Slide

SHOWN = 3
"""So many slides stand for the others in a sentence."""


@dataclass(frozen=True)
class Foreign:
    """Files of features of a cohort's images that go together."""

    files: dict[Place, FeatureFile]
    """By image."""
    absent: tuple[str, ...]
    """These slides have none."""
    strangers: int
    """So many files in the folder belong to no slide."""

    @property
    def about(self) -> FeatureFile:
        """One of them, which says what all are."""
        return next(iter(self.files.values()))


def find_features(
    cohort: Cohort, folder: Path, *, table: str = "", allow_absent: bool = False
) -> Foreign:
    """The files of features of a cohort's images: named like the image, or like the slide if it has
    one image, in the folder or below it.

    Args:
        cohort: the slides.
        folder: of one encoder.
        table: the table of features, in stores that have several.
        allow_absent: slides without a file are left out.

    Raises:
        InputError: slides have no file, or several; files can't be read; they are of several
            encoders, widths or sizes of tiles.
    """
    found, missing, several = matching_files(cohort, folder, ENDINGS, below=True)
    problems = [
        f"{name} has more than one file of features: {', '.join(map(str, paths))}; give the folder "
        "of one encoder"
        for name, paths in several.items()
    ]
    if missing and not allow_absent:
        total = len(found) + len(missing) + len(several)
        listed = ", ".join(f"{stem}.h5" for stem in [*missing.values()][:SHOWN])
        problems.append(
            f"{len(missing)} of {total} images have no file of features in {folder}, such as "
            f"{listed} (--allow-absent leaves them out)"
        )
    files: dict[Place, FeatureFile] = {}
    for image, path in found.items():
        try:
            files[image] = describe_features(path, table=table)
        except InputError as error:
            problems += error.problems
    problems += _mixtures(files)
    if problems:
        raise InputError(problems)
    if not files:
        raise InputError(f"no file of features in {folder} belongs to a slide")
    absent = tuple(
        slide.slide_id
        for slide in cohort.slides
        if not all(image.path in files for image in slide.images)
    )
    known = {path.resolve() for path in found.values()}
    strangers = sum(path.resolve() not in known for path in _all_files(folder))
    return Foreign(files, absent, strangers)


def _all_files(folder: Path) -> list[Path]:
    return [path for ending in ENDINGS for path in folder.rglob(f"*{ending}")]


def _mixtures(files: Mapping[Place, FeatureFile]) -> list[str]:
    """Sentences on what differs between files that must agree in it."""
    problems = []
    for words, name in (("programs", "layout"), ("encoders", "encoder"), ("tiles", "tile")):
        values = {image.stem: getattr(file, name) for image, file in files.items()}
        problems += _mixture(words, values)
    widths = {image.stem: f"{file.features:,} numbers" for image, file in files.items()}
    return problems + _mixture("widths", widths)


def _mixture(words: str, values: Mapping[str, str]) -> list[str]:
    counts = Counter(values.values())
    if len(counts) < 2:
        return []
    listed = []
    for value, count in counts.most_common():
        example = next(name for name, own in values.items() if own == value)
        said = PROGRAMS.get(value, value) or "not stated"  # type: ignore[call-overload]
        listed.append(f"{said} ({count}, such as {example})")
    return [f"the features are of different {words}: {', '.join(listed)}; take those of one"]


def import_features(
    cohort: Cohort,
    foreign: Foreign,
    out: Path,
    *,
    name: str = "",
    table: str = "",
    progress: Progress | None = None,
) -> tuple[Embeddings, StageResult]:
    """Store other programs' features in a run, as `embed` stores its own: `embeddings/NAME/ID.npy`
    in half precision, a row per tile, and beside it where the tiles lie.

    Args:
        cohort: of the run, which may be new.
        foreign: their files (`find_features`).
        out: run directory, made or gone on with.
        name: of the features; else the encoder's.
        table: as for `find_features`.
        progress: hears of every slide.

    Raises:
        InputError: the run directory can't be used, or the name isn't one.
        BusyError: another process works in `out`.
    """
    about = foreign.about
    called = safe_name(name or about.encoder or about.layout)
    run = Run.create(out)
    embeddings = Embeddings(run, called)
    slides = [slide for slide in cohort.slides if slide.slide_id not in foreign.absent]
    files = {image: file.path for image, file in foreign.files.items()}

    def key(slide: Slide) -> str:
        own = [_identity(files[image.path]) for image in slide.images]
        return key_of("import-features", own, table)

    def work(slide: Slide, step: Step) -> SlideOutput:
        paths = [files[image.path] for image in slide.images]
        return _store_slide(embeddings, slide, paths, table=table, step=step)

    stated = {"layout": about.layout, "encoder": about.encoder, "tile": about.tile}
    stage = SlideStage(
        "embed",
        embeddings.ledger,
        slides,
        key=key,
        work=work,
        settings={"name": called, "features": about.features} | stated,
        emptiness=lambda figures: "" if figures["patches"] else "its file has no tiles",
    )
    return embeddings, execute(run, stage, cohort=cohort, progress=progress)


def _identity(path: Path) -> list[list[Any]]:
    """Changes with every file of a path."""
    parts = sorted(path.rglob("*")) if path.is_dir() else [path]
    stats = [(part, part.stat()) for part in parts if part.is_file()]
    return [[str(part), known.st_size, known.st_mtime_ns] for part, known in stats]


def _store_slide(
    embeddings: Embeddings, slide: Slide, paths: Sequence[Path], *, table: str, step: Step
) -> SlideOutput:
    values, tiles = [], []
    for number, path in enumerate(paths):
        read = read_tile_features(path, table=table)
        values.append(read.values.astype(np.float16))
        tiles.append(read.tiles.assign(image=number, unit=read.unit))
        step(number + 1, len(paths))
    features = np.concatenate(values)
    where = pd.concat(tiles, ignore_index=True).rename_axis("tile").reset_index()
    outputs = [
        embeddings.save(slide.slide_id, features),
        embeddings.save_tiles(slide.slide_id, where),
    ]
    figures: dict[str, Any] = {"patches": len(features), "features": features.shape[1]}
    return outputs, figures
