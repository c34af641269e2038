"""Nuclei segmented elsewhere -> the masks of a run, and what their files say of each nucleus.

A run made so goes through `featurize` and `rank` like one of `segment`.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from morphomil.errors import InputError
from morphomil.pipeline.classifying import classify_unknown
from morphomil.pipeline.execution import SlideStage, execute
from morphomil.pipeline.resolution import settle_resolution
from morphomil.pipeline.segmentation import (
    color_key,
    cut_slide,
    describe_emptiness,
    files_of,
    settings_key,
)
from morphomil.places import Address, check_names, identity, local_copy, look_at_all
from morphomil.run.directory import SAID_FILE, Run
from morphomil.run.ledger import key_of
from morphomil.segment.polygons import keep_largest_parts
from morphomil.slides.masks import BAND_PX, MIN_AREA_UM2, DrawnNuclei, MaskFrame
from morphomil.slides.nuclei_files import Nuclei, Reading, depends_on, read_nuclei
from morphomil.slides.nuclei_files.type_map import DEFAULT_MAP, map_types
from morphomil.store import safe_name, write_parquet
from morphomil.types import NUCLEUS_TYPES, PatchSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.pipeline.execution import Progress, Shard, SlideOutput, StageResult, Step
    from morphomil.pipeline.finding import RegionOfSlide
    from morphomil.places import Place
    from morphomil.segment.model import Segmenter
    from morphomil.types import Cohort, SegmenterSettings, Slide


def import_nuclei(
    cohort: Cohort,
    nuclei: Mapping[Place, Place],
    out: Path,
    *,
    settings: PatchSettings | None = None,
    mpp: float | None = None,
    reading: Reading | None = None,
    type_map: Mapping[str, str] | None = None,
    classify: SegmenterSettings | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
    leave: Callable[[Run, Slide], object] = lambda run, slide: None,
) -> tuple[Run, StageResult]:
    """Tumor regions and patches of every slide, with masks from files instead of a segmenter.

    Writes what `pipeline.segment` writes and, where the files tell classes or probabilities of
    nuclei, `nuclei_said.parquet` with them by label; classes whose name is known are the nuclei's
    types. A nucleus belongs to the region that holds its
    center; it is drawn on the working grid by the pixels' centers. Of nuclei that overlap the first
    one keeps the pixels, of one in pieces the largest piece stays, and what is smaller than
    `MIN_AREA_UM2` then is dropped and counted, as by `segment`.

    Args:
        cohort: the slides.
        nuclei: for every image file of the cohort its label image, of any scale but the same extent
            (0 is background, one number per nucleus), or outlines in level-0 pixels, in one of the
            formats of `slides.nuclei_files`.
        out: run directory, made or gone on with.
        settings: how patches are cut.
        mpp: um per level-0 pixel for images whose file and manifest say nothing.
        reading: what the files of nuclei don't say themselves.
        type_map: types (`NUCLEUS_TYPES`) by what the files call them, without regard to case, as
            `parse_type_map` gives it; it goes before the names known anyway.
        classify: the nuclei that have no type by that get one from the pixels, by this segmenter.
        shard: the part of the cohort to work on.
        progress: hears of every slide.
        leave: is called for each slide whose files lie elsewhere, before their copies go.

    Raises:
        InputError: an image has no file of nuclei, the run directory can't be used, regions of
            epithelium are asked for, or the segmenter doesn't know types.
        BusyError: another process works in `out`.
    """
    reading = reading or Reading()
    settings = settings or PatchSettings()
    _check_files(cohort, nuclei, settings)
    settings = settle_resolution(cohort, settings, mpp)
    run = Run.create(out)
    segmenter = _load_classifier(classify) if classify else None
    source = _Source(nuclei, settings, mpp, reading, dict(type_map or {}), segmenter)

    def work(slide: Slide, step: Step) -> SlideOutput:
        return _import_slide(run, slide, source, step)

    stage = SlideStage(
        "segment",
        run.ledger,
        cohort.slides,
        key=source.key,
        work=work,
        settings=settings.recorded() | {"mpp": mpp, "model": "imported"} | source.stated(),
        command="import-nuclei",
        emptiness=describe_emptiness,
        reads=source.reads,
        leave=lambda slide: leave(run, slide),
    )
    return run, execute(run, stage, cohort=cohort, shard=shard, progress=progress)


def _load_classifier(settings: SegmenterSettings) -> Segmenter:
    """A segmenter that knows types.

    Raises:
        InputError: it doesn't, or can't be loaded.
    """
    from morphomil.segment.model import load_segmenter

    segmenter = load_segmenter(settings)
    if segmenter.types is None:
        raise InputError(
            f"--classify needs a model that tells types, which {settings.model!r} doesn't; train "
            "one with train-segmenter on images whose nuclei have types"
        )
    return segmenter


def _check_files(cohort: Cohort, nuclei: Mapping[Place, Place], settings: PatchSettings) -> None:
    """Refuse a cohort whose images don't all have a file of nuclei, and regions that need more.

    Raises:
        InputError: so it is.
    """
    if settings.regions == "epithelium":
        raise InputError(
            "--regions epithelium is outlined from nuclei that `morphomil segment` finds; annotate "
            "the tumor, or take --regions tissue"
        )
    images = [image.path for slide in cohort.slides for image in slide.images]
    if missing := [str(path) for path in images if path not in nuclei]:
        raise InputError([f"slide {path} has no file of nuclei" for path in missing])
    files = {nuclei[path] for path in images}
    here = [file for file in files if not isinstance(file, Address)]
    gone = sorted(str(file) for file in here if not depends_on(file)[0].is_file())
    problems = [f"file of nuclei {path} doesn't exist" for path in gone]
    known = look_at_all(file for file in files if isinstance(file, Address))
    problems += [f"nuclei: {said}" for said in known.values() if isinstance(said, Exception)]
    if problems:
        raise InputError(problems)


def unmapped_types(run: Run) -> Counter[str]:
    """How many nuclei of a run have a class that stands for no type, by its name in their files."""
    table = run.ledger.figures(run.cohort.slides, "segment")
    counts: Counter[str] = Counter()
    for noted in table.get("unmapped_types", []):
        for name, count in noted if isinstance(noted, list) else []:
            counts[name] += count
    return counts


ENDINGS = (
    ".png",
    ".tif",
    ".tiff",
    ".geojson",
    ".geojson.gz",
    ".json",
    ".json.gz",
    ".mat",
    ".parquet",
    ".csv",
    ".tsv",
    ".txt",
)
"""`find_files` takes files that end so, in any case."""


def find_files(cohort: Cohort, folder: Path) -> dict[Place, Path]:
    """The file of nuclei of every image of a cohort: named like the image, or like the slide if it
    has one image.

    Raises:
        InputError: the folder doesn't exist, or an image has no file or several in it.
    """
    found, missing, several = matching_files(cohort, folder, ENDINGS)
    problems = [
        f"{name} has more than one file of nuclei: {', '.join(path.name for path in paths)}"
        for name, paths in several.items()
    ]
    problems += [
        f"{name} has no file of nuclei in {folder}, such as {stem}.geojson"
        for name, stem in missing.items()
    ]
    if problems:
        raise InputError(problems)
    return found


def matching_files(
    cohort: Cohort, folder: Path, endings: Sequence[str], *, below: bool = False
) -> tuple[dict[Place, Path], dict[str, str], dict[str, list[Path]]]:
    """The file of every image of a cohort: named like the image, or like the slide if it has one
    image.

    Args:
        cohort: the slides.
        folder: holds the files.
        endings: in any case, of files that count.
        below: files in its folders count too.

    Returns:
        The file by image; the names of images that have none, with the name that one would have;
        those that have several, with them.

    Raises:
        InputError: the folder doesn't exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder")
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*") if below else folder.iterdir()):
        for ending in endings:
            if path.name.casefold().endswith(ending):
                by_stem.setdefault(path.name[: -len(ending)], []).append(path)
    found: dict[Place, Path] = {}
    missing: dict[str, str] = {}
    several: dict[str, list[Path]] = {}
    for slide in cohort.slides:
        for image in slide.images:
            alone = len(slide.images) == 1
            names_of_slide = {slide.slide_id, safe_name(slide.slide_id)} if alone else set()
            stems = sorted({image.path.stem} | names_of_slide)
            files = [path for stem in stems for path in by_stem.get(stem, ())]
            if len(files) == 1:
                found[image.path] = files[0]
            elif files:
                several[image.path.name] = files
            else:
                missing[image.path.name] = stems[0]
    check_names(found.values())
    return found, missing, several


@dataclass(frozen=True)
class _Source:
    """What nuclei are read from, and how."""

    files: Mapping[Place, Place]
    settings: PatchSettings
    mpp: float | None
    reading: Reading
    type_map: dict[str, str]
    segmenter: Segmenter | None
    """The types that files don't say are told by it."""

    def stated(self) -> dict[str, Any]:
        """What of it is recorded beside the settings."""
        chosen = {k: v for k, v in asdict(self.reading).items() if v not in (None, False)}
        if self.type_map:
            chosen["type_map"] = self.type_map
        if self.segmenter:
            model = {"model": self.segmenter.settings.model, "sha256": self.segmenter.sha256}
            chosen["classify"] = model
        return chosen

    def key(self, slide: Slide) -> str:
        """Changes with everything that a slide's masks depend on."""
        origins = [image.annotation_origin for image in slide.images]
        files = [
            [place and identity(place) for place in (image.path, *nuclei, image.annotation)]
            for image, nuclei in zip(slide.images, self._nuclei_of(slide), strict=True)
        ]
        return key_of(
            "import-nuclei",
            settings_key(self.settings),
            [image.mpp or self.mpp for image in slide.images],
            files,
            *([origins] if any(origins) else []),
            *color_key(slide, self.settings),
            *([asdict(self.reading)] if self.reading != Reading() else []),
            "types",
            sorted((DEFAULT_MAP | self.type_map).items()),
            *([self.segmenter.sha256, self.segmenter.precision] if self.segmenter else []),
        )

    def _nuclei_of(self, slide: Slide) -> Iterator[Sequence[Place]]:
        """The files that the nuclei of each image are read from."""
        for image in slide.images:
            file = self.files[image.path]
            yield [file] if isinstance(file, Address) else depends_on(file)

    def reads(self, slide: Slide) -> list[Place]:
        """All files that a slide is made from."""
        return [*files_of(slide), *(file for files in self._nuclei_of(slide) for file in files)]


@dataclass
class _Import:
    """The nuclei of one slide, as its regions are drawn one after the other."""

    source: _Source
    step: Step
    copies: ExitStack
    """Copies of files elsewhere are held by it."""
    _read: dict[int, Nuclei] = field(default_factory=dict)
    _used: int = 0
    _small: int = 0
    _said: list[pd.DataFrame] = field(default_factory=list)
    _unmapped: Counter[str] = field(default_factory=Counter)

    def draw(self, part: RegionOfSlide, first_label: int) -> DrawnNuclei:
        """A region's nuclei, numbered from `first_label` on."""
        number = part.frame.image
        if number not in self._read:
            file = self.copies.enter_context(local_copy(self.source.files[part.image.path]))
            self._read[number] = read_nuclei(file, part.image, self.source.reading)
        nuclei = self._read[number]
        inside = np.flatnonzero(shapely.contains_xy(part.region.polygon, nuclei.centers))
        self._used += len(inside)
        if len(nuclei.said.columns) and len(inside):
            labels = np.arange(first_label, first_label + len(inside), dtype=np.int32)
            self._said.append(nuclei.said.iloc[inside].assign(label=labels))
        tiny = nuclei.areas_px[inside] * part.image.mpp**2 < MIN_AREA_UM2
        return DrawnNuclei(
            len(inside),
            self._pieces(nuclei, inside, tiny, part.frame, first_label),
            types=self._types(nuclei, inside, part),
        )

    def _types(
        self, nuclei: Nuclei, chosen: NDArray[np.intp], part: RegionOfSlide
    ) -> NDArray[np.float32]:
        """Probabilities of the types of the chosen nuclei, by what the file calls them, else by
        the network where it is asked; NaN where neither says them."""
        types = np.full((len(chosen), len(NUCLEUS_TYPES)), np.nan, np.float32)
        if "type" in nuclei.said:
            types, unmapped = map_types(nuclei.said["type"].iloc[chosen], self.source.type_map)
            if self.source.segmenter is None:
                self._unmapped += unmapped
        if self.source.segmenter is not None:
            classify_unknown(part, nuclei, chosen, types, segmenter=self.source.segmenter)
        return types

    def _pieces(
        self,
        nuclei: Nuclei,
        chosen: NDArray[np.intp],
        tiny: NDArray[np.bool_],
        frame: MaskFrame,
        first_label: int,
    ) -> Iterator[tuple[int, int, NDArray[np.int32]]]:
        """The masks of the chosen nuclei in a region's frame, band by band; the dropped ones are
        counted at the end."""
        (height, width), halo = frame.shape, frame.halo_px
        min_px = MIN_AREA_UM2 / frame.mpp**2
        shown, dropped = np.zeros(len(chosen) + 1, bool), np.zeros(len(chosen) + 1, bool)
        for top in range(0, height, BAND_PX):
            rows = min(BAND_PX, height - top)
            canvas = np.zeros((rows + 2 * halo, width), np.int32)
            x, y = frame.to_level0([0, top - halo]).tolist()
            nuclei.draw(canvas, chosen, first_label, x_px=x, y_px=y, downsample=frame.downsample)
            band = keep_largest_parts(canvas, min_px=min_px)[halo : halo + rows]
            drawn, kept = _numbers(canvas[halo : halo + rows]), _numbers(band)
            shown[kept - first_label] = True
            dropped[np.setdiff1d(drawn, kept) - first_label] = True
            yield top, 0, band
            self.step(top + rows, height)
        dropped[:-1] |= tiny
        self._small += int((dropped & ~shown).sum())

    def said(self) -> pd.DataFrame:
        """What the files say of the nuclei, by label."""
        if not self._said:
            return pd.DataFrame()
        table = pd.concat(self._said, ignore_index=True)
        return table[["label", *(name for name in table if name != "label")]]

    def figures(self) -> dict[str, Any]:
        """How many nuclei lie outside every region, how many were dropped as too small, and what
        the files hold that is no nucleus."""
        total = sum(len(nuclei.centers) for nuclei in self._read.values())
        left_out = sum((nuclei.left_out for nuclei in self._read.values()), Counter())
        figures: dict[str, Any] = {
            "nuclei_outside_regions": total - self._used,
            "nuclei_too_small": self._small,
        }
        if self._unmapped:
            figures["unmapped_types"] = [list(pair) for pair in sorted(self._unmapped.items())]
        if left_out:
            figures["beside_nuclei"] = dict(sorted(left_out.items()))
        return figures


def _numbers(labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """The labels that occur, without the background."""
    found = np.unique(labels)
    numbers: NDArray[np.int32] = found[found != 0]
    return numbers


def _import_slide(run: Run, slide: Slide, source: _Source, step: Step) -> SlideOutput:
    with ExitStack() as copies:
        work = _Import(source, step, copies)
        outputs, figures = cut_slide(run, slide, source.settings, mpp=source.mpp, draw=work.draw)
    said = work.said()
    if len(said.columns):
        write_parquet(run.slide_folder(slide.slide_id) / SAID_FILE, said)
        outputs = [*outputs, SAID_FILE]
    added = work.figures()
    shown = figures["nuclei_found"] - added["nuclei_too_small"]
    return outputs, figures | added | {"nuclei_found": shown}
