"""Slides -> tumor regions, patches, masks."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.pipeline.execution import SlideStage, execute
from morphomil.pipeline.finding import RegionOfSlide, change_of_region, find_in_region
from morphomil.pipeline.resolution import settle_resolution
from morphomil.places import fingerprint, identity
from morphomil.run.directory import Run
from morphomil.run.ledger import key_of
from morphomil.slides.image import how_read, open_image
from morphomil.slides.masks import (
    BAND_PX,
    IMPLAUSIBLE,
    MIN_AREA_UM2,
    DrawnNuclei,
    DroppedOutlines,
    MaskFrame,
    RegionOutlines,
    store_region,
)
from morphomil.slides.patches import cut_patches
from morphomil.slides.quality import BLURRED_BELOW
from morphomil.slides.regions import regions_geojson, survey_regions
from morphomil.store import atomic_path, write_json, write_parquet
from morphomil.types import PATCHES, PatchSettings, SegmenterSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.pipeline.execution import Progress, Shard, SlideOutput, StageResult, Step
    from morphomil.places import Place
    from morphomil.segment.model import Segmenter
    from morphomil.segment.outlines import StoredOutlines
    from morphomil.slides.regions import Region, Survey
    from morphomil.types import Cohort, ImageSource, Slide


def segment(
    cohort: Cohort,
    out: Path,
    *,
    settings: PatchSettings | None = None,
    mpp: float | None = None,
    segmenter: SegmenterSettings | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
    leave: Callable[[Run, Slide], object] = lambda run, slide: None,
) -> tuple[Run, StageResult]:
    """Tumor regions, patches and masks of every slide.

    Writes per slide `patches.parquet`, `regions.geojson` and `masks.zarr` (schema: `Run.masks`).

    Args:
        cohort: the slides.
        out: run directory, made or gone on with.
        settings: how patches are cut.
        mpp: um per level-0 pixel for images whose file and manifest say nothing.
        segmenter: which model, run how.
        shard: the part of the cohort to work on.
        progress: hears of every slide.
        leave: is called for each slide whose files lie elsewhere, before their copies go.

    Raises:
        InputError: the run directory or the model can't be used, or regions of epithelium are asked
            for and the model doesn't know types.
        BusyError: another process works in `out`.
    """
    from morphomil.pipeline.epithelium import surveyor
    from morphomil.segment.model import load_segmenter

    choice = segmenter or SegmenterSettings()
    settings = settle_resolution(cohort, settings or PatchSettings(), mpp)
    run = Run.create(out)
    loaded = load_segmenter(choice)
    survey = surveyor(settings, loaded)

    def key(slide: Slide) -> str:
        return key_of(
            "segment",
            settings_key(settings),
            loaded.sha256,
            choice.engine,
            choice.precision,
            [_image_key(image, mpp) for image in slide.images],
            *color_key(slide, settings),
        )

    def work(slide: Slide, step: Step) -> SlideOutput:
        def draw(part: RegionOfSlide, first_label: int) -> DrawnNuclei:
            return _segment_region(part, loaded, first_label=first_label, step=step)

        return cut_slide(run, slide, settings, mpp=mpp, draw=draw, survey=survey)

    model = {
        "model_sha256": loaded.sha256,
        "precision": loaded.precision,
        "implausible": "drop" if loaded.judges else "keep",
    }
    if choice.normalize_stain == "auto" and loaded.stain != "H&E":
        model["normalize_stain"] = "never"
    stage = SlideStage(
        "segment",
        run.ledger,
        cohort.slides,
        key=key,
        work=work,
        settings=settings.recorded() | {"mpp": mpp} | asdict(choice) | model,
        emptiness=describe_emptiness,
        reads=files_of,
        leave=lambda slide: leave(run, slide),
    )
    return run, execute(run, stage, cohort=cohort, shard=shard, progress=progress)


def _image_key(image: ImageSource, mpp: float | None) -> list[Any]:
    """Changes with an image, its annotation, and what is said of them."""
    return [
        identity(image.path),
        image.annotation and fingerprint(image.annotation),
        image.mpp or mpp,
        *([image.annotation_origin] if image.annotation_origin else []),
    ]


def files_of(slide: Slide) -> list[Place]:
    """The images and annotations that a slide is made from."""
    places = [place for image in slide.images for place in (image.path, image.annotation)]
    return [place for place in places if place is not None]


def settings_key(settings: PatchSettings) -> dict[str, Any]:
    """The settings that a slide's results depend on, whatever the slide."""
    return {name: value for name, value in settings.recorded().items() if name != "icc"}


def color_key(slide: Slide, settings: PatchSettings) -> list[Any]:
    """The notes of a slide's images, which name the image and the profile that are read; none where
    the files are read as they are."""
    notes = [how_read(source, icc=settings.icc) for source in slide.images]
    return [notes] if any(notes) else []


def left_out_of_annotations(run: Run) -> Counter[tuple[str, str]]:
    """How many annotated objects of which class no region holds, and why: (class, reason), over all
    slides of a run."""
    table = run.ledger.figures(run.cohort.slides, "segment")
    left_out: Counter[tuple[str, str]] = Counter()
    for noted in table.get("left_out", []):
        for name, reason, count in noted if isinstance(noted, list) else []:
            left_out[name, reason] += count
    return left_out


def cut_slide(
    run: Run,
    slide: Slide,
    settings: PatchSettings,
    *,
    mpp: float | None,
    draw: Callable[[RegionOfSlide, int], DrawnNuclei],
    survey: Callable[..., Survey] = survey_regions,
) -> SlideOutput:
    """Write a slide's regions, patches and masks; the names of the outputs and the figures of the
    stage.

    `draw` gives the nuclei of a region in its frame, numbered from the given label on; `survey`
    finds the regions, called as `survey_regions`.
    """
    import zarr

    folder = run.slide_folder(slide.slide_id)
    for old in folder.glob("overview*.png"):  # of other results
        old.unlink()
    files = [identity(source.path) for source in slide.images]
    regions: list[Region] = []
    tables: list[pd.DataFrame] = []
    left_out: Counter[tuple[str, str]] = Counter()
    notes: list[str] = []
    tally = _Tally()
    with atomic_path(folder / "masks.zarr") as partial:
        group = zarr.open_group(partial, mode="w")
        for number, source in enumerate(slide.images):
            with open_image(source, default_mpp=mpp, icc=settings.icc) as image:
                notes += [f"{source.path.name}: {note}" for note in image.notes]
                surveyed = survey(
                    image, source, image_index=number, first_index=len(regions), settings=settings
                )
                found = surveyed.regions
                left_out += surveyed.left_out
                for region in found:
                    first = sum(map(len, tables))
                    cut = cut_patches(
                        image,
                        region,
                        slide_id=slide.slide_id,
                        first_patch_id=first,
                        settings=settings,
                    )
                    tables.append(cut.table)
                    frame = MaskFrame.around(cut, settings, image=region.image)
                    label = tally.nuclei + 1
                    drawn = draw(RegionOfSlide(image, region, cut, frame), label)
                    store_region(group, region.index, frame, drawn, cut.tissue, first_label=label)
                    tally.add(drawn)
                regions += found
    table = PATCHES.check(pd.concat(tables)) if tables else PATCHES.empty()
    write_parquet(folder / "patches.parquet", table)
    write_json(folder / "regions.geojson", regions_geojson(regions), lines=False)
    figures = _count(table, settings, regions=len(regions), nuclei=tally.nuclei)
    figures["files"] = files
    figures |= tally.figures()
    if left_out:
        figures["left_out"] = [[*why, count] for why, count in sorted(left_out.items())]
    if notes:
        figures["notes"] = notes
    return ["patches.parquet", "regions.geojson", "masks.zarr"], figures


@dataclass
class _Tally:
    """What the regions of a slide hold together."""

    nuclei: int = 0
    normalized: int = 0
    dropped: Counter[str] | None = None

    def add(self, drawn: DrawnNuclei) -> None:
        """One region more."""
        self.nuclei += drawn.nuclei
        self.normalized += drawn.normalized
        if drawn.dropped is not None:
            reasons = Counter(IMPLAUSIBLE[number - 1] for number in drawn.dropped.reasons.tolist())
            self.dropped = (self.dropped or Counter()) + reasons

    def figures(self) -> dict[str, Any]:
        """Of the objects that are no nuclei, and of stains that were brought to a reference."""
        figures: dict[str, Any] = {}
        if self.dropped is not None:
            figures["implausible"] = self.dropped.total()
            figures["implausible_by_reason"] = sorted(map(list, self.dropped.items()))
        if self.normalized:
            figures["regions_stain_normalized"] = self.normalized
        return figures


def _count(
    table: pd.DataFrame, settings: PatchSettings, *, regions: int, nuclei: int
) -> dict[str, Any]:
    kept = table["kept"]
    return {
        "regions": regions,
        "patches": len(table),
        "patches_kept": int(kept.sum()),
        "patches_with_ink": int((table["ink_fraction"] >= settings.max_ink).sum()),
        "patches_blurred": int((table.loc[kept, "sharpness"] < BLURRED_BELOW).sum()),
        "nuclei_found": nuclei,
        "tissue_mm2": float(table.loc[kept, "tissue_mm2"].sum()),
    }


def describe_emptiness(figures: dict[str, Any]) -> str:
    """Why a slide of these figures (`cut_slide`) has no nuclei, with the counts; "" where it has
    some."""
    regions, patches, kept = (figures[name] for name in ("regions", "patches", "patches_kept"))
    counts = f" ({regions:,} regions, {patches:,} patches, {kept:,} kept, 0 nuclei)"
    if not regions:
        return (
            f"no region with tissue or tumor{counts}: see its overview.png; "
            "is it blank, is the pixel size right? --regions whole takes all of it"
        )
    if not kept:
        return (
            f"no patch is kept, {figures['patches_with_ink']:,} have ink and the others are blank "
            f"or outside the region{counts}: see its overview.png; are the regions smaller than a "
            "patch, is the pixel size right? --max-blank and --max-ink keep more"
        )
    if figures["nuclei_found"]:
        return ""
    if outside := figures.get("nuclei_outside_regions"):
        return (
            f"none of {outside:,} nuclei lies in a region{counts}: do annotation and nuclei belong "
            "to this slide, and are their coordinates level-0 pixels?"
        )
    if small := figures.get("nuclei_too_small"):
        return (
            f"all {small:,} nuclei are smaller than {MIN_AREA_UM2:g} um2{counts}: are their "
            "coordinates level-0 pixels, is the pixel size right?"
        )
    if implausible := figures.get("implausible"):
        return (
            f"none of {implausible:,} objects found is a nucleus{counts}: see its overview.png; is "
            "it H&E, is the pixel size right? --implausible keep takes them all"
        )
    return (
        f"no nucleus was found{counts}: is it H&E, are the regions on tissue, is the pixel size "
        "right?"
    )


def _segment_region(
    part: RegionOfSlide, segmenter: Segmenter, *, first_label: int, step: Step
) -> DrawnNuclei:
    """The nuclei of a region by the network."""
    from morphomil.segment import large_enough
    from morphomil.segment.outlines import StoredOutlines
    from morphomil.segment.plausible import parted
    from morphomil.segment.polygons import render

    frame = part.frame
    change = change_of_region(part, segmenter)
    found = StoredOutlines(find_in_region(part, segmenter, change=change, step=step))
    plausible, others, reasons = parted(found, mpp=frame.mpp)
    nuclei, least = large_enough(plausible, mpp=frame.mpp, segmenter=segmenter)
    pieces = render(nuclei, shape=frame.shape, min_px=least, first_label=first_label, side=BAND_PX)
    exact = RegionOutlines(first_label, _Corners(nuclei), nuclei.ends) if segmenter.maps else None
    dropped = (
        DroppedOutlines(_Corners(others)[:], others.ends, reasons) if segmenter.judges else None
    )
    return DrawnNuclei(
        len(nuclei), pieces, exact, dropped, nuclei.types, normalized=change is not None
    )


class _Corners:
    """x and y (m, 2) of the vertices in masks, whose pixels' corners are at whole numbers, read as
    they are sliced."""

    dtype = np.dtype(np.float32)

    def __init__(self, nuclei: StoredOutlines) -> None:
        self.nuclei = nuclei
        self.shape = (int(nuclei.ends[-1]) if len(nuclei) else 0, 2)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, wanted: slice) -> NDArray[np.float32]:
        begin, end, _ = wanted.indices(len(self))
        ends = self.nuclei.ends
        first = int(np.searchsorted(ends, begin, side="right"))
        last = int(np.searchsorted(ends, end)) + 1
        vertices = self.nuclei[np.arange(first, min(last, len(ends)))].vertices()
        skip = begin - (int(ends[first - 1]) if first else 0)
        own = vertices[skip : skip + end - begin]
        return np.ascontiguousarray(own[:, ::-1] + np.float32(0.5))
