"""What the stages of a cohort will take, time, memory and disk, from the regions of some slides."""

from __future__ import annotations

import math
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from morphomil.errors import MorphomilError
from morphomil.pace import Cost, machine_pace
from morphomil.pipeline.costs import (
    LITE0_PATCH,
    LITE0_WIDTH,
    Work,
    foretell_embed,
    foretell_featurize,
    foretell_training,
)
from morphomil.pipeline.resolution import settle_resolution
from morphomil.rank.costs import foretell_ranking
from morphomil.segment import find_labels
from morphomil.segment.blocks import BLOCK_PX
from morphomil.segment.model import load_segmenter
from morphomil.slides.image import open_image
from morphomil.slides.regions import find_regions
from morphomil.types import CORES, PatchSettings, RankSettings, SegmenterSettings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from morphomil.segment.model import Segmenter
    from morphomil.slides.image import SlideImage
    from morphomil.slides.regions import Region
    from morphomil.types import Cohort, Slide

SAMPLE = 12
"""An estimate looks at so many slides; the others are taken to be like them."""
PROBE_PX = 1024
"""The speed is measured on a square whose side is this many working pixels."""
BYTES_PER_PX = 0.25
"""Masks, tables and counts of dense tissue take this on disk, per working pixel of the patches."""
BYTES_PER_IMAGE = 2**20
"""The overview of an image takes this on disk."""
SEGMENT_GIB, NETWORK_GIB = 0.42, 0.22
"""Libraries take this in memory, beside slides, and each network."""
OVERVIEW = 0.75
"""Seconds of one core for drawing an image's overview, on the machine of `pace`."""
NETWORKS = 3
"""Sizes of the blocks of a region that is larger than one, each of which is compiled once."""


@dataclass(frozen=True)
class Estimate:
    """What `segment` and the stages after it will take: from the regions of some slides, and one
    area segmented to measure the speed."""

    slides: int
    sampled: int
    """So many slides were looked at."""
    patches: int
    """The whole cohort has so many, before blank ones are dropped."""
    kept: int
    """And about so many after that."""
    nuclei: int
    """The whole cohort has about so many."""
    costs: dict[str, Cost]
    """What each stage will take: segment, featurize, embed and train with their defaults, rank."""
    disk_bytes: int
    free_bytes: int
    problems: dict[str, str]
    """These sampled slides can't be read, for these reasons."""

    @property
    def seconds(self) -> float:
        """Of segmenting."""
        return self.costs["segment"].seconds


def estimate_segment(
    cohort: Cohort,
    out: Path,
    *,
    settings: PatchSettings | None = None,
    mpp: float | None = None,
    segmenter: SegmenterSettings | None = None,
) -> Estimate:
    """Time, memory and disk that `pipeline.segment` and the stages after it will take on this
    machine; nothing is written.

    Raises:
        InputError: the model can't be used, or a pixel size is unknown.
    """
    settings = settle_resolution(cohort, settings or PatchSettings(), mpp)
    begun = time.monotonic()
    loaded = load_segmenter(segmenter or SegmenterSettings())
    loading = time.monotonic() - begun
    chosen = np.unique(np.linspace(0, len(cohort) - 1, min(SAMPLE, len(cohort))).astype(int))
    sample = _Sample(settings, mpp, loaded)
    for slide in (cohort.slides[index] for index in chosen):
        sample.look_at(slide)
    probe = sample.probe
    scale = len(cohort) / max(1, len(chosen) - len(sample.problems))
    kept = math.ceil(sample.whole * scale)  # about as many as have less blank than tissue
    pixels = kept * settings.patch_px**2
    images = sum(len(slide.images) for slide in cohort.slides)
    there = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    nuclei = round(pixels * probe.nuclei)
    work = Work(len(cohort), kept, nuclei, nuclei // max(1, len(cohort)))
    gib = SEGMENT_GIB + NETWORK_GIB * sample.networks
    memory = int(gib * 2**30) + sample.held * min(CORES, len(cohort))
    pace = machine_pace()
    once = loading + sample.networks * probe.compiling
    by_slide = sample.opening * scale + pace * OVERVIEW * images
    later = _foretell_later(work, len({s.patient for s in cohort.slides}), pace=pace)
    return Estimate(
        slides=len(cohort),
        sampled=len(chosen),
        patches=math.ceil(sample.patches * scale),
        kept=kept,
        nuclei=nuclei,
        costs={"segment": Cost(once + pixels * probe.seconds + by_slide / CORES, memory)} | later,
        disk_bytes=int(pixels * BYTES_PER_PX) + images * BYTES_PER_IMAGE,
        free_bytes=shutil.disk_usage(there).free,
        problems=sample.problems,
    )


def _foretell_later(work: Work, patients: int, *, pace: float) -> dict[str, Cost]:
    """What the stages after segment will take."""
    costs = {
        "featurize": foretell_featurize(work, pace=pace),
        "embed": foretell_embed(work, pace * LITE0_PATCH / CORES, pace=pace),
        "train": foretell_training(work.slides, work.patches, LITE0_WIDTH, folds=5, pace=pace),
    }
    for name, quick in (("rank --quick", True), ("rank", False)):
        settings = RankSettings(seed=0, quick=quick)
        costs[name] = foretell_ranking(work.slides, settings, pace=pace, patients=patients)
    return costs


def _count_patches(region: Region, side: float) -> float:
    """About how many patches of a grid a region touches: its area, and half a patch along its
    edge."""
    return float((region.polygon.area + region.polygon.length * side / 2) / side**2)


class _Probe(NamedTuple):
    """Of a working pixel: seconds, and nuclei; and seconds of compiling the network once."""

    seconds: float
    nuclei: float
    compiling: float


class _Sample:
    """What is known of the slides that were looked at."""

    def __init__(self, settings: PatchSettings, mpp: float | None, segmenter: Segmenter) -> None:
        self.settings, self.mpp, self.segmenter = settings, mpp, segmenter
        self.patches = self.whole = self.opening = 0.0
        """Patches, the regions' area in patches, and seconds of opening."""
        self.held, self.networks = 0, 1
        """Most bytes of a slide in memory, and sizes of blocks."""
        self.probe = _Probe(0.0, 0.0, 0.0)
        self.problems: dict[str, str] = {}

    def look_at(self, slide: Slide) -> None:
        begun = time.monotonic()
        try:
            for number, source in enumerate(slide.images):
                with open_image(source, default_mpp=self.mpp, icc=self.settings.icc) as image:
                    regions = find_regions(
                        image, source, image_index=number, first_index=0, settings=self.settings
                    )
                    self._count(image, regions)
                    self.opening += time.monotonic() - begun
                    if regions and not self.probe.seconds:
                        largest = max(regions, key=lambda region: region.polygon.area)
                        self.probe = _try_area(image, largest, self.settings, self.segmenter)
                    begun = time.monotonic()
        except MorphomilError as error:
            self.problems[slide.slide_id] = str(error)

    def _count(self, image: SlideImage, regions: Sequence[Region]) -> None:
        side = self.settings.patch_um / image.mpp
        self.patches += sum(_count_patches(region, side) for region in regions)
        self.whole += sum(region.polygon.area for region in regions) / side**2
        self.held = max(self.held, image.held_bytes)
        block = BLOCK_PX * self.segmenter.network_mpp(self.settings.working_mpp) / image.mpp
        if any(_longest_side(region) > block for region in regions):
            self.networks = NETWORKS


def _longest_side(region: Region) -> float:
    left, top, right, bottom = region.polygon.bounds
    return max(right - left, bottom - top)


def _try_area(
    image: SlideImage, region: Region, settings: PatchSettings, segmenter: Segmenter
) -> _Probe:
    """Read and segment an area in the region, the second time: the first compiles."""
    center = region.polygon.representative_point()
    downsample = settings.working_mpp / image.mpp
    x, y = (value - PROBE_PX / 2 * downsample for value in (center.x, center.y))
    nuclei, tries = 0, []
    for _ in range(2):
        begun = time.monotonic()
        rgb = image.read(x, y, PROBE_PX, PROBE_PX, downsample=downsample)
        with suppress(MorphomilError):  # an area that the segmenter refuses takes as long
            nuclei = int(find_labels(rgb, mpp=settings.working_mpp, segmenter=segmenter).max())
        tries.append(time.monotonic() - begun)
    first, second = tries
    pixels = PROBE_PX**2
    return _Probe(second / pixels, nuclei / pixels, max(0.0, first - second))
