"""Nuclei segmented elsewhere -> the masks of a run: label images (PNG, TIFF) and GeoJSON (QuPath,
plain or gzipped).

A run made so goes through `featurize` and `rank` like one of `segment`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import shapely

from morphomil.errors import InputError
from morphomil.pipeline.execution import SlideStage, execute
from morphomil.pipeline.segmentation import (
    RegionOfSlide,
    check_pixel_sizes,
    color_key,
    cut_slide,
    describe_emptiness,
    settings_key,
)
from morphomil.run.directory import Run
from morphomil.run.ledger import key_of
from morphomil.segment.polygons import keep_largest_parts
from morphomil.slides.masks import BAND_PX, DrawnNuclei, MaskFrame
from morphomil.slides.nuclei_files import Nuclei, read_nuclei
from morphomil.store import fingerprint, safe_name
from morphomil.types import PatchSettings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.pipeline.execution import Progress, Shard, SlideOutput, StageResult, Step
    from morphomil.types import Cohort, Slide


def import_nuclei(
    cohort: Cohort,
    nuclei: Mapping[Path, Path],
    out: Path,
    *,
    settings: PatchSettings | None = None,
    mpp: float | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> tuple[Run, StageResult]:
    """Tumor regions and patches of every slide, with masks from files instead of a segmenter.

    Writes what `pipeline.segment` writes. A nucleus belongs to the region that holds its center; it
    is drawn on the working grid by the pixels' centers. Of nuclei that overlap the first one keeps
    the pixels, and of one in pieces the largest piece stays.

    Args:
        cohort: the slides.
        nuclei: for every image file of the cohort its label image, of any scale but the same extent
            (0 is background, one number per nucleus), or its GeoJSON in level-0 pixels (QuPath's
            detections and cells, else polygons).
        out: run directory, made or gone on with.
        settings: how patches are cut.
        mpp: um per level-0 pixel for images whose file and manifest say nothing.
        shard: the part of the cohort to work on.
        progress: hears of every slide.

    Raises:
        InputError: an image has no file of nuclei, or the run directory can't be used.
        BusyError: another process works in `out`.
    """
    settings = settings or PatchSettings()
    images = [image for slide in cohort.slides for image in slide.images]
    if missing := [str(image.path) for image in images if image.path not in nuclei]:
        raise InputError([f"slide {path} has no file of nuclei" for path in missing])
    if gone := sorted(
        {str(nuclei[image.path]) for image in images if not nuclei[image.path].is_file()}
    ):
        raise InputError([f"file of nuclei {path} doesn't exist" for path in gone])
    check_pixel_sizes(cohort, mpp)
    run = Run.create(out)

    def key(slide: Slide) -> str:
        origins = [image.annotation_origin for image in slide.images]
        paths = [[image.path, nuclei[image.path], image.annotation] for image in slide.images]
        files = [[path and fingerprint(path) for path in files] for files in paths]
        return key_of(
            "import-nuclei",
            settings_key(settings),
            [image.mpp or mpp for image in slide.images],
            files,
            *([origins] if any(origins) else []),
            *color_key(slide, settings),
        )

    def work(slide: Slide, step: Step) -> SlideOutput:
        return _import_slide(run, slide, nuclei, settings, mpp, step)

    stage = SlideStage(
        "segment",
        run.ledger,
        cohort.slides,
        key=key,
        work=work,
        settings=settings.recorded() | {"mpp": mpp, "model": "imported"},
        command="import-nuclei",
        emptiness=describe_emptiness,
    )
    return run, execute(run, stage, cohort=cohort, shard=shard, progress=progress)


ENDINGS = (".png", ".tif", ".tiff", ".geojson", ".geojson.gz", ".json", ".json.gz")
"""`find_files` takes files that end so, in any case."""


def find_files(cohort: Cohort, folder: Path) -> dict[Path, Path]:
    """The file of nuclei of every image of a cohort: named like the image, or like the slide if it
    has one image.

    Raises:
        InputError: the folder doesn't exist, or an image has no file or several in it.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        for ending in ENDINGS:
            if path.name.casefold().endswith(ending):
                by_stem.setdefault(path.name[: -len(ending)], []).append(path)
    file_of_image, problems = {}, []
    for slide in cohort.slides:
        for image in slide.images:
            alone = len(slide.images) == 1
            names_of_slide = {slide.slide_id, safe_name(slide.slide_id)} if alone else set()
            stems = sorted({image.path.stem} | names_of_slide)
            files = [path for stem in stems for path in by_stem.get(stem, ())]
            if len(files) == 1:
                file_of_image[image.path] = files[0]
            elif files:
                names = ", ".join(path.name for path in files)
                problems.append(f"{image.path.name} has more than one file of nuclei: {names}")
            else:
                problems.append(
                    f"{image.path.name} has no file of nuclei in {folder}, such as "
                    f"{stems[0]}.geojson"
                )
    if problems:
        raise InputError(problems)
    return file_of_image


def _import_slide(
    run: Run,
    slide: Slide,
    nuclei: Mapping[Path, Path],
    settings: PatchSettings,
    mpp: float | None,
    step: Step,
) -> SlideOutput:
    sources: dict[int, Nuclei] = {}
    used = 0

    def draw(part: RegionOfSlide, first_label: int) -> DrawnNuclei:
        nonlocal used
        number = part.frame.image
        if number not in sources:
            sources[number] = read_nuclei(nuclei[part.image.path], part.image)
        source = sources[number]
        inside = np.flatnonzero(shapely.contains_xy(part.region.polygon, source.centers))
        used += len(inside)
        bands = _draw(source, inside, part.frame, first_label=first_label, step=step)
        return DrawnNuclei(len(inside), bands)

    outputs, figures = cut_slide(run, slide, settings, mpp=mpp, draw=draw)
    total = sum(len(source.centers) for source in sources.values())
    return outputs, figures | {"nuclei_outside_regions": total - used}


def _draw(
    source: Nuclei,
    chosen: NDArray[np.intp],
    frame: MaskFrame,
    *,
    first_label: int,
    step: Step,
) -> Iterator[tuple[int, NDArray[np.int32]]]:
    """The masks of the chosen nuclei in a region's frame, band by band, numbered from `first_label`
    on."""
    (height, width), halo = frame.shape, frame.halo_px
    for top in range(0, height, BAND_PX):
        rows = min(BAND_PX, height - top)
        canvas = np.zeros((rows + 2 * halo, width), np.int32)
        x, y = frame.to_level0([0, top - halo]).tolist()
        source.draw(canvas, chosen, first_label, x_px=x, y_px=y, downsample=frame.downsample)
        yield top, keep_largest_parts(canvas)[halo : halo + rows]
        step(top + rows, height)
