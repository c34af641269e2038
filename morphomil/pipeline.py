"""The stages: composition of the modules and their execution slide by slide; nothing else.

Every stage is resumable: a slide is skipped when its stored results are complete, unharmed and made
from the same input under the same settings. One failing slide never stops the others.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import pandas as pd

from morphomil.bags import BAG_SIZE
from morphomil.matrix import count_nuclei, slide_values
from morphomil.nuclei import FEATURES, local_density, measure_shapes
from morphomil.quality import BLURRED_BELOW
from morphomil.run import Run, key_of
from morphomil.slides import cut_patches, find_regions, open_image, regions_geojson
from morphomil.stain import fit_normalizer
from morphomil.store import (
    atomic_path,
    fingerprint,
    write_bytes,
    write_json,
    write_parquet,
    write_table_csv,
)
from morphomil.types import (
    CORES,
    NUCLEI,
    PATCHES,
    InputError,
    MorphomilError,
    PatchSettings,
    SegmenterSettings,
    SlideError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.embed import Embeddings, EmbedSettings, LoadedEncoder
    from morphomil.fits import FitResult, FitSettings, Scoring, SlideMap
    from morphomil.rank import Ranking
    from morphomil.segment.detect import Polygons
    from morphomil.segment.model import Segmenter
    from morphomil.slides import Region, RegionPatches, SlideImage
    from morphomil.types import Cohort, Slide

    Step = Callable[[int, int], None]
    """Hears how many patches of how many are done."""

PAD_PX = 64
"""Rim of a region's masks beyond its patch grid, working pixels, for nuclei that reach over the
edge."""
BAND_PX = 1024
"""Rows of masks worked at a time."""
HALO_UM = 120.0
"""Rows of masks read beyond a band: more than the longest nucleus that the segmenter draws."""


class Progress(Protocol):
    """Hears what a stage does, one call at a time; the command line draws bars from it."""

    def start(self, stage: str, total: int) -> None:
        """A stage begins on `total` slides."""

    def begin(self, slide_id: str) -> None:
        """Work on a slide begins."""

    def step(self, slide_id: str, done: int, total: int) -> None:
        """So many patches of the slide are done; slides are worked side by side."""

    def end(self, slide_id: str, state: str, message: str) -> None:
        """A slide is `done`, `skipped` or `failed`."""


class Silence:
    """Progress that nobody sees."""

    def start(self, stage: str, total: int) -> None:
        """Say nothing."""

    def begin(self, slide_id: str) -> None:
        """Say nothing."""

    def step(self, slide_id: str, done: int, total: int) -> None:
        """Say nothing."""

    def end(self, slide_id: str, state: str, message: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class StageResult:
    """What became of each slide in a stage."""

    done: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    failed: dict[str, str] = field(default_factory=dict)
    """Slide id -> cause."""


@dataclass(frozen=True)
class Shard:
    """Part `index` of `count` of a cohort, from 1; a slide's part depends on its id alone."""

    index: int = 1
    count: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.index <= self.count:
            raise InputError(f"a shard is i/n with 1 <= i <= n, got {self.index}/{self.count}")

    @property
    def lock_name(self) -> str:
        """Shards of one run may work side by side."""
        return "" if self.count == 1 else f".{self.index}of{self.count}"

    def holds(self, slide_id: str) -> bool:
        """Whether a slide belongs to this part."""
        number = int.from_bytes(hashlib.blake2b(slide_id.encode(), digest_size=8).digest(), "big")
        return number % self.count == self.index - 1


class _Stopped(BaseException):
    """The stage ends early; what the slide has so far is dropped."""


def each_slide(
    run: Run,
    slides: Sequence[Slide],
    stage: str,
    *,
    key: Callable[[Slide], str],
    work: Callable[[Slide, Step], tuple[list[str], dict[str, Any]]],
    progress: Progress,
) -> StageResult:
    """Run `work` on every slide that has no valid result; `work` returns the names of its outputs
    and its figures.

    As many slides as there are cores are worked side by side: one is read while another waits for
    its network.
    """
    speaking, stopping = Lock(), Event()
    progress.start(stage, len(slides))

    def one(slide: Slide) -> tuple[str, str]:
        name, begun, stated = slide.slide_id, time.monotonic(), ""

        def step(done: int, total: int) -> None:
            if stopping.is_set():
                raise _Stopped
            with speaking:
                progress.step(name, done, total)

        step(0, 1)
        try:
            stated = key(slide)
            if run.is_done(name, stage, stated):
                state, message, said = "skipped", "", "already done"
            else:
                with speaking:
                    progress.begin(name)
                outputs, figures = work(slide, step)
                run.mark_done(name, stage, stated, outputs=outputs, figures=figures)
                state, message, said = (
                    "done",
                    "",
                    f"{_describe(figures)} ({time.monotonic() - begun:.1f} s)",
                )
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise
            message = (
                str(error)
                if isinstance(error, MorphomilError)
                else f"{type(error).__name__}: {error}"
            )
            state, said = "failed", message
            run.mark_failed(name, stage, stated, message)
        with speaking:
            progress.end(name, state, said)
        return state, message

    with ThreadPoolExecutor(CORES) as pool:
        try:
            outcomes = dict(
                zip([slide.slide_id for slide in slides], pool.map(one, slides), strict=True)
            )
        finally:
            stopping.set()
    done, skipped = (
        tuple(name for name, (state, _) in outcomes.items() if state == wanted) for wanted in _GOOD
    )
    return StageResult(
        done, skipped, {name: message for name, (_, message) in outcomes.items() if message}
    )


_GOOD = ("done", "skipped")


def _describe(figures: dict[str, Any]) -> str:
    return ", ".join(
        f"{name.replace('_', ' ')} {value:,}"
        for name, value in figures.items()
        if isinstance(value, int)
    )


def segment(
    cohort: Cohort,
    out: Path,
    *,
    settings: PatchSettings | None = None,
    mpp: float | None = None,
    segmenter: SegmenterSettings | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
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

    Raises:
        InputError: the run directory or the model can't be used.
        BusyError: another process works in `out`.
    """
    from morphomil.segment.model import load_segmenter

    settings, choice = settings or PatchSettings(), segmenter or SegmenterSettings()
    shard = shard or Shard()
    check_pixel_sizes(cohort, mpp)
    begun = time.monotonic()
    run = Run.create(out)
    with run.lock(shard.lock_name):
        run.save_cohort(cohort)
        loaded = load_segmenter(**vars(choice))

        def key(slide: Slide) -> str:
            files = [
                [
                    fingerprint(image.path),
                    image.annotation and fingerprint(image.annotation),
                    image.mpp or mpp,
                ]
                for image in slide.images
            ]
            return key_of(
                "segment", asdict(settings), loaded.sha256, choice.engine, choice.precision, files
            )

        def work(slide: Slide, step: Step) -> tuple[list[str], dict[str, Any]]:
            def find(
                region: Region, cut: RegionPatches, image: SlideImage, first_label: int
            ) -> Masks:
                return _segment_region(
                    image, region, cut, settings, loaded, first_label=first_label, step=step
                )

            return cut_slide(run, slide, settings, mpp, find)

        slides = [slide for slide in cohort.slides if shard.holds(slide.slide_id)]
        result = each_slide(
            run, slides, "segment", key=key, work=work, progress=progress or Silence()
        )
        stated = asdict(settings) | {"mpp": mpp} | asdict(choice)
        stated |= {"model_sha256": loaded.sha256, "precision": loaded.precision}
        run.record("segment", stated, seconds=time.monotonic() - begun)
    return run, result


def check_pixel_sizes(cohort: Cohort, mpp: float | None) -> None:
    """Refuse a cohort with images of unknown or contradicted pixel size, all at once and before any
    work."""
    problems = []
    for source in (image for slide in cohort.slides for image in slide.images):
        try:
            with open_image(source, default_mpp=mpp):
                pass
        except InputError as error:
            problems += error.problems
        except SlideError:
            continue  # reported with its slide, while the others go on
    if problems:
        raise InputError(problems)


class Masks(NamedTuple):
    """The masks of a region: how many nuclei, and int32 bands of its label image, each with its
    first row."""

    nuclei: int
    bands: Iterable[tuple[int, NDArray[np.int32]]]


def cut_slide(
    run: Run,
    slide: Slide,
    settings: PatchSettings,
    mpp: float | None,
    find: Callable[[Region, RegionPatches, SlideImage, int], Masks],
) -> tuple[list[str], dict[str, Any]]:
    """Write a slide's regions, patches and masks; the names of the outputs and the figures of the
    stage.

    `find` gives the masks of a region, on the grid of `mask_frame`, labels from the given one on.
    """
    import zarr

    folder = run.slide_folder(slide.slide_id)
    regions: list[Region] = []
    tables: list[pd.DataFrame] = []
    nuclei = 0
    with atomic_path(folder / "masks.zarr") as partial:
        group = zarr.open_group(partial, mode="w")
        for number, source in enumerate(slide.images):
            with open_image(source, default_mpp=mpp) as image:
                found = find_regions(
                    image, source, image_index=number, first_index=len(regions), settings=settings
                )
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
                    masks = find(region, cut, image, nuclei + 1)
                    _store_region(group, region, cut, settings, masks)
                    nuclei += masks.nuclei
                regions += found
    table = PATCHES.check(pd.concat(tables)) if tables else PATCHES.empty()
    write_parquet(folder / "patches.parquet", table)
    write_json(folder / "regions.geojson", regions_geojson(regions))
    kept = table["kept"]
    figures = {
        "regions": len(regions),
        "patches": len(table),
        "patches_kept": int(kept.sum()),
        "patches_with_ink": int((table["ink_fraction"] >= settings.max_ink).sum()),
        "patches_blurred": int((table.loc[kept, "sharpness"] < BLURRED_BELOW).sum()),
        "nuclei_found": nuclei,
        "tissue_mm2": float(table.loc[kept, "tissue_mm2"].sum()),
    }
    return ["patches.parquet", "regions.geojson", "masks.zarr"], figures


def mask_frame(
    cut: RegionPatches, settings: PatchSettings
) -> tuple[tuple[int, int], tuple[float, float]]:
    """Shape of a region's masks in working pixels, and the level-0 position (x, y) of their top
    left corner."""
    height, width = (count * settings.patch_px + 2 * PAD_PX for count in (cut.rows, cut.columns))
    return (height, width), (cut.x_px - PAD_PX * cut.downsample, cut.y_px - PAD_PX * cut.downsample)


def _store_region(
    group: Any, region: Region, cut: RegionPatches, settings: PatchSettings, masks: Masks
) -> None:
    shape, (x, y) = mask_frame(cut, settings)
    stored = group.create_group(str(region.index))
    labels = stored.create_array(
        "labels", shape=shape, dtype="int32", chunks=tuple(min(BAND_PX, side) for side in shape)
    )
    with ThreadPoolExecutor(1) as writer:  # a band is compressed while the next one is drawn
        written: Future[None] | None = None
        for top, band in masks.bands:
            if written is not None:
                written.result()
            written = writer.submit(labels.__setitem__, slice(top, top + len(band)), band)
        if written is not None:
            written.result()
    stored.create_array("tissue", shape=cut.tissue.shape, dtype="bool", chunks=cut.tissue.shape)[
        :
    ] = cut.tissue
    scale = {
        "downsample": cut.downsample,
        "mpp": settings.working_mpp,
        "patch_px": settings.patch_px,
    }
    stored.attrs.update({"x_px": x, "y_px": y} | scale | {"image": region.image})


def _segment_region(
    image: SlideImage,
    region: Region,
    cut: RegionPatches,
    settings: PatchSettings,
    segmenter: Segmenter,
    *,
    first_label: int,
    step: Step,
) -> Masks:
    """The masks of a region by the network."""
    from morphomil.segment import MIN_AREA_UM2
    from morphomil.segment.detect import block_rows, find_nuclei, join, render

    factor = segmenter.network_mpp(settings.working_mpp) / settings.working_mpp
    downsample = cut.downsample * factor
    height, width = (round(count * settings.patch_px / factor) for count in (cut.rows, cut.columns))
    rows = block_rows(height, width, wanted=_wanted_cells(cut, settings.patch_px / factor))

    kept = int(cut.table["kept"].sum())
    normalize = (
        fit_normalizer(_stain_sample(image, cut, settings))
        if segmenter.normalize_stain and kept
        else None
    )

    def read(row: int, column: int, rows: int, columns: int) -> NDArray[np.uint8]:
        x, y = cut.x_px + column * downsample, cut.y_px + row * downsample
        pixels = image.read(x, y, columns, rows, downsample=downsample)
        return normalize(pixels) if normalize else pixels

    found = []
    for done, polygons in enumerate(find_nuclei(read, rows, segmenter=segmenter), start=1):
        if len(polygons):
            found.append(_inside(region, cut, polygons, downsample).scaled(factor).shifted(PAD_PX))
        step(round(kept * done / len(rows)), kept)
    nuclei = join(found, rays=0)
    shape, _ = mask_frame(cut, settings)
    bands = render(
        nuclei,
        shape=shape,
        min_px=MIN_AREA_UM2 / settings.working_mpp**2,
        first_label=first_label,
        band=BAND_PX,
    )
    return Masks(len(nuclei), bands)


STAIN_PATCHES = 16
"""Kept patches, evenly over the region, that its stains are estimated from."""


def _stain_sample(
    image: SlideImage, cut: RegionPatches, settings: PatchSettings
) -> NDArray[np.uint8]:
    """Pixels (n, side, side, 3) of some of a region's patches; an empty region has none."""
    places = cut.table.loc[cut.table["kept"], ["x_px", "y_px"]].to_numpy()
    chosen = (
        places[np.unique(np.linspace(0, len(places) - 1, STAIN_PATCHES).astype(int))]
        if len(places)
        else places
    )
    side = settings.patch_px
    sample = np.full((len(chosen), side, side, 3), 255, np.uint8)
    for number, (x, y) in enumerate(chosen):
        sample[number] = image.read(x, y, side, side, downsample=cut.downsample)
    return sample


def _wanted_cells(cut: RegionPatches, patch_px: float, *, cell: int = 256) -> NDArray[np.bool_]:
    """Which cells of 256 network pixels a kept patch touches; `patch_px`: a patch's side in network
    pixels."""
    shape = [-(-round(count * patch_px) // cell) for count in (cut.rows, cut.columns)]
    wanted = np.zeros(shape, bool)
    for row, column in np.argwhere(cut.kept_cells):
        top, left = (int(index * patch_px) // cell for index in (row, column))
        bottom, right = (
            int(np.ceil(round((index + 1) * patch_px, 6) / cell)) for index in (row, column)
        )
        wanted[top:bottom, left:right] = True
    return wanted


def _inside(region: Region, cut: RegionPatches, polygons: Polygons, downsample: float) -> Polygons:
    """The polygons whose center lies in the region."""
    import shapely

    x = cut.x_px + (polygons.points[:, 1] + 0.5) * downsample
    y = cut.y_px + (polygons.points[:, 0] + 0.5) * downsample
    return polygons[shapely.contains_xy(region.polygon, x, y)]


def featurize(
    run: Run, *, shard: Shard | None = None, progress: Progress | None = None
) -> StageResult:
    """Nuclei tables and histogram counts of every segmented slide.

    Writes per slide `nuclei.parquet` and `counts.zarr`: features x kept patches x fine bins
    (`matrix.count_nuclei`).

    Raises:
        InputError: nothing is segmented yet.
        BusyError: another process works in the run directory.
    """
    shard = shard or Shard()
    segmented = set(run.done("segment"))
    if not segmented:
        raise InputError(
            f"{run.path} has no segmented slides; run: morphomil segment COHORT --out {run.path}"
        )
    begun = time.monotonic()
    with run.lock(shard.lock_name):

        def key(slide: Slide) -> str:
            return key_of(
                "featurize", list(FEATURES), run.status(slide.slide_id)["segment"]["outputs"]
            )

        def work(slide: Slide, step: Step) -> tuple[list[str], dict[str, Any]]:
            return _featurize_slide(run, slide.slide_id, step)

        slides = [
            slide
            for slide in run.cohort.slides
            if slide.slide_id in segmented and shard.holds(slide.slide_id)
        ]
        result = each_slide(
            run, slides, "featurize", key=key, work=work, progress=progress or Silence()
        )
        run.record("featurize", {"features": list(FEATURES)}, seconds=time.monotonic() - begun)
    return result


def _featurize_slide(run: Run, slide_id: str, step: Step) -> tuple[list[str], dict[str, Any]]:
    import zarr

    folder = run.slide_folder(slide_id)
    patches = run.patches(slide_id)
    masks = run.masks(slide_id)
    tables = []
    for done, (name, stored) in enumerate(
        sorted(masks.groups(), key=lambda item: int(item[0])), start=1
    ):
        own = patches[patches["region"] == int(name)]
        tables.append(_measure_region(stored, own))
        step(done, len(list(masks.groups())))
    nuclei = pd.concat(tables) if tables else pd.DataFrame()
    nuclei = (
        NUCLEI.check(nuclei.assign(slide_id=slide_id).sort_values("label"))
        if len(nuclei)
        else NUCLEI.empty()
    )
    kept = patches.loc[patches["kept"], "patch_id"].to_numpy()
    counts = count_nuclei(nuclei, kept, features=tuple(FEATURES))
    write_parquet(folder / "nuclei.parquet", nuclei)
    with atomic_path(folder / "counts.zarr") as partial:
        group = zarr.open_group(partial, mode="w")
        group.create_array(
            "counts",
            data=counts,
            chunks=tuple(max(1, min(64, side)) for side in counts.shape[:2]) + counts.shape[2:],
        )
        group.attrs.update({"features": list(FEATURES), "patch_id": kept.tolist()})
    tissue = float(patches.loc[patches["kept"], "tissue_mm2"].sum())
    figures = {
        "nuclei": len(nuclei),
        "patches_kept": int(patches["kept"].sum()),
        "patches_dropped": int((~patches["kept"]).sum()),
        "nuclei_per_mm2": len(nuclei) / tissue if tissue else None,
        "median_area_um2": float(nuclei["area_um2"].median()) if len(nuclei) else None,
    }
    return ["nuclei.parquet", "counts.zarr"], figures


def _measure_region(stored: Any, patches: pd.DataFrame) -> pd.DataFrame:
    """The nuclei of a region whose centroid lies in a kept patch, with features and level-0
    coordinates."""
    frame = dict(stored.attrs)
    labels, tissue = stored["labels"], stored["tissue"][:]
    tops = range(0, labels.shape[0], BAND_PX)
    table = pd.concat(
        [_measure_band(labels, top, mpp=frame["mpp"]) for top in tops], ignore_index=True
    )
    cells = _patch_grid(patches, frame, shape=labels.shape)
    across, down = (table[name].to_numpy() + 0.5 - PAD_PX for name in ("x_px", "y_px"))
    beyond = np.full(tuple(side + 2 for side in cells.shape), -1)
    beyond[1:-1, 1:-1] = cells
    at = tuple(np.floor(value / frame["patch_px"]).astype(int) + 1 for value in (down, across))
    table["patch_id"] = beyond[at]
    inside = table["patch_id"].to_numpy() >= 0
    table, across, down = table[inside].copy(), across[inside], down[inside]
    scale = tissue.shape[0] // cells.shape[0]
    analyzed = tissue & np.kron(cells >= 0, np.ones((scale, scale), bool))
    mpp = frame["mpp"]
    table["density_per_mm2"] = local_density(
        across * mpp, down * mpp, tissue=analyzed, tissue_mpp=mpp * frame["patch_px"] / scale
    )
    table["x_px"] = frame["x_px"] + (across + PAD_PX) * frame["downsample"]
    table["y_px"] = frame["y_px"] + (down + PAD_PX) * frame["downsample"]
    return table.assign(image=frame["image"])


def _patch_grid(
    patches: pd.DataFrame, frame: dict[str, Any], *, shape: tuple[int, int]
) -> NDArray[np.intp]:
    """The number of the kept patch in each cell of a region's grid, -1 where there is none."""
    cells = np.full([(side - 2 * PAD_PX) // frame["patch_px"] for side in shape], -1)
    kept = patches[patches["kept"]]
    origin = [frame[name] + PAD_PX * frame["downsample"] for name in ("y_px", "x_px")]
    side = frame["patch_px"] * frame["downsample"]
    row, column = (
        ((kept[n] - start) / side).round().astype(int)
        for n, start in zip(("y_px", "x_px"), origin, strict=True)
    )
    cells[row, column] = kept["patch_id"]
    return cells


def _measure_band(labels: Any, top: int, *, mpp: float) -> pd.DataFrame:
    """The nuclei whose centroid lies in `BAND_PX` rows from `top` on, in pixels of the region's
    masks."""
    halo = round(HALO_UM / mpp)
    first = max(top - halo, 0)
    table = measure_shapes(labels[first : top + BAND_PX + halo], mpp=mpp)
    table["y_px"] += first
    return table[(table["y_px"] >= top - 0.5) & (table["y_px"] < top + BAND_PX - 0.5)]


def embed(
    run: Run,
    *,
    settings: EmbedSettings | None = None,
    weights: Path | None = None,
    encoder: LoadedEncoder | None = None,
    shard: Shard | None = None,
    progress: Progress | None = None,
) -> tuple[Embeddings, StageResult]:
    """Deep features of the kept patches of every segmented slide (`embed.Embeddings`).

    Writes `embeddings/BACKBONE/ID.npy`: half precision, a row per kept patch.

    Args:
        run: a run with segmented slides.
        settings: which backbone, from pixels prepared how.
        weights: of the backbone, where they can't be downloaded.
        encoder: any other source of features, in place of a backbone (`embed.LoadedEncoder`).
        shard: the part of the cohort to work on.
        progress: hears of every slide.

    Raises:
        InputError: nothing is segmented yet, or the weights can't be had.
        BusyError: another process works in the run directory.
    """
    from morphomil.embed import Embeddings, EmbedSettings, LoadedEncoder, embed_slide, load_encoder

    shard, settings = shard or Shard(), settings or EmbedSettings()
    segmented = set(run.done("segment"))
    if not segmented:
        raise InputError(
            f"{run.path} has no segmented slides; run: morphomil segment COHORT --out {run.path}"
        )
    begun = time.monotonic()
    loaded = encoder or load_encoder(settings, weights=weights)
    folder = (
        loaded.name if encoder or settings.pooling == "own" else f"{loaded.name}-{settings.pooling}"
    )
    made = Embeddings(run.path, folder)
    stated = {"outside": settings.outside} if encoder else asdict(settings)
    alone = Lock()

    def encode(patches: NDArray[np.uint8]) -> NDArray[Any]:
        with alone:  # one slide is read while another has the network
            return loaded.encode(patches)

    def key(slide: Slide) -> str:
        return key_of(
            "embed", stated, loaded.sha256, run.status(slide.slide_id)["segment"]["outputs"]
        )

    def work(slide: Slide, step: Step) -> tuple[list[str], dict[str, Any]]:
        shared = LoadedEncoder(loaded.name, encode, loaded.sha256)
        features = embed_slide(run, slide, shared, outside=settings.outside, step=step)
        figures = {"patches": len(features), "features": features.shape[1]}
        return [made.save(slide.slide_id, features)], figures

    with run.lock(shard.lock_name):
        slides = [
            slide
            for slide in run.cohort.slides
            if slide.slide_id in segmented and shard.holds(slide.slide_id)
        ]
        result = each_slide(
            made, slides, "embed", key=key, work=work, progress=progress or Silence()
        )
        run.record(
            "embed",
            stated | {"name": folder, "sha256": loaded.sha256},
            seconds=time.monotonic() - begun,
        )
    return made, result


def train(run: Run, settings: FitSettings, *, progress: Progress | None = None) -> FitResult:
    """Train the clinical model, DL-CNB or DL-CNB+C on every fold (`fits.train_run`).

    A backbone that is to be fine-tuned needs the patches' pixels, which are read from the slides
    first.

    Raises:
        InputError: no features, covariates or labels to learn from.
        RefusedError: leakage, or too few patients of a class.
        BusyError: another process works in the run directory.
    """
    from morphomil.embed import keep_pixels
    from morphomil.fits import embeddings_of, load_start, train_run

    heard, begun = progress or Silence(), time.monotonic()
    if settings.finetune:
        chosen = embeddings_of(run, settings).settings()
        load_start(run, settings)  # what is wrong with the weights is said before any work
        embed(run, settings=chosen, encoder=keep_pixels(chosen), progress=progress)
    seen: set[str] = set()

    def on_epoch(fold: str, done: int, total: int) -> None:
        if fold not in seen:
            seen.add(fold)
            heard.begin(fold)
        heard.step(fold, done, total)

    with run.lock():
        heard.start(f"train {settings.model}", settings.folds)
        result = train_run(run, settings, on_epoch=on_epoch)
        for state, names in (
            ("done", result.done),
            ("skipped", result.skipped),
            ("failed", tuple(result.failed)),
        ):
            for name in names:
                heard.end(
                    name,
                    state,
                    result.failed.get(name, "trained" if state == "done" else "already trained"),
                )
        run.record(f"train {settings.model}", asdict(settings), seconds=time.monotonic() - begun)
    return result


def predict(run: Run, model: str, *, origin: Run | None = None) -> Scoring:
    """Score the test patients of every fold, once, and read their slides (`fits.predict_run`).

    With `origin`, every patient of `run` is scored by the model trained there
    (`fits.predict_elsewhere`).

    Raises:
        InputError: nothing is trained, or the model doesn't read what there is now.
        RefusedError: a model from elsewhere was trained on a patient.
        BusyError: another process works in the run directory.
    """
    from morphomil.embed import keep_pixels
    from morphomil.fits import predict_elsewhere, predict_run, tuned_settings

    begun = time.monotonic()
    if origin is not None and (chosen := tuned_settings(origin, model)):
        embed(run, settings=chosen, encoder=keep_pixels(chosen))
    with run.lock():
        scoring = predict_elsewhere(run, model, origin) if origin else predict_run(run, model)
        stated = {"scored": list(scoring.scored)} | ({"origin": str(origin.path)} if origin else {})
        run.record(f"predict {model}", stated, seconds=time.monotonic() - begun)
    return scoring


def heatmap(
    run: Run,
    model: str,
    slides: Sequence[str] = (),
    *,
    overlap: float = 0.0,
    weights: Path | None = None,
) -> Iterator[SlideMap]:
    """Every slide as a model reads it, one at a time, with its patch scores as
    `models/MODEL/maps/ID.geojson`.

    With `overlap` also attention on a finer grid, of windows between the patches
    (`fits.read_maps`).

    Raises:
        InputError: nothing is trained, the model sees no patches, or there is no such slide.
        BusyError: another process works in the run directory.
    """
    from morphomil.fits import map_geojson, read_maps

    with run.lock():
        for found in read_maps(run, model, slides, overlap=overlap, weights=weights):
            name = run.slide_folder(found.slide_id).name
            for number, part in found.patches.groupby("image"):
                file = f"{name}.geojson" if number == 0 else f"{name}-{number}.geojson"
                write_json(
                    run.path / "models" / model / "maps" / file, map_geojson(part, model=model)
                )
            yield found


def rank(
    run: Run,
    *,
    positive: str | None = None,
    folds: int = 5,
    seed: int = 0,
    quick: bool = False,
    permutations: int | None = None,
    progress: Progress | None = None,
    on_estimate: Callable[[float], None] | None = None,
) -> Ranking:
    """Rank the features of a measured run (`rank.rank_counts`) and store everything the ranking
    rests on.

    Writes to `rank/` the tables `ranking.csv`, `groups.csv`, `agreement.csv`, `stability.csv`,
    `faithfulness.csv`, `correlation.csv`, `predictions.parquet`, `attention.parquet`,
    `shapley.parquet` and `patient_values.parquet` with `about.json`, and each fold's model to
    `models/morphometry/FOLD/`. Unless `quick`, also what every nucleus contributes
    (`attribution.attribute_nuclei`), to `rank/nuclei/SLIDE.parquet`. `on_estimate` hears how many
    seconds the training will take.

    Raises:
        InputError: nothing is measured yet, or the labels don't make two groups.
        RefusedError: leakage, or too few patients of a class.
        BusyError: another process works in the run directory.
    """
    from morphomil.rank import PERMUTATIONS, SEEDS, rank_counts

    permuted = 0 if quick else PERMUTATIONS if permutations is None else permutations
    measured = run.done("featurize")
    if not measured:
        raise InputError(f"{run.path} has no measured slides; run: morphomil featurize {run.path}")
    heard = progress or Silence()
    begun = time.monotonic()
    with run.lock():
        values = pd.DataFrame([_slide_values(run, slide_id) for slide_id in measured])
        heard.start("rank", folds)
        ranking = rank_counts(
            lambda slide_id: run.counts(slide_id).counts,
            values,
            run.cohort.table(),
            features=tuple(FEATURES),
            seed=seed,
            positive=positive,
            folds=folds,
            quick=quick,
            permutations=permuted,
            on_fold=lambda done, total: heard.end(f"fold {done}", "done", f"of {total}"),
            on_estimate=on_estimate,
        )
        about = {
            "positive": ranking.positive,
            "reference": ranking.reference,
            "auc": ranking.auc.auc,
            "auc_low": ranking.auc.low,
            "auc_high": ranking.auc.high,
            "folds": len(ranking.models),
            "seeds": 1 if quick else SEEDS,
            "permutations": permuted,
            "statement": ranking.statement,
            "bag_patches": BAG_SIZE,
            "notes": list(ranking.notes),
            "measured": run.measured_key(),
        }
        _store_ranking(run, ranking, about)
        shutil.rmtree(run.path / "rank" / "nuclei", ignore_errors=True)  # of an earlier ranking
        if not quick:
            _store_contributions(run, ranking, seed=seed)
        settings = {"positive": ranking.positive, "folds": folds, "seed": seed, "quick": quick}
        settings |= {"permutations": permuted}
        run.record("rank", settings, seconds=time.monotonic() - begun)
    return ranking


def _slide_values(run: Run, slide_id: str) -> dict[str, Any]:
    values = slide_values(run.nuclei(slide_id), run.patches(slide_id), features=tuple(FEATURES))
    return {"slide_id": slide_id} | dict(values)


def _store_ranking(run: Run, ranking: Ranking, about: dict[str, Any]) -> None:
    from safetensors.numpy import save

    for name, model in ranking.models.items():
        folder = run.path / "models" / "morphometry" / name
        write_bytes(folder / "weights.safetensors", save(model.weights))
        write_json(folder / "edges.json", model.edges.to_json())
        write_table_csv(folder / "log.csv", model.log)
    folder = run.path / "rank"
    write_table_csv(folder / "ranking.csv", ranking.table)
    write_parquet(folder / "predictions.parquet", ranking.predictions)
    for stem in ("groups", "agreement", "stability", "faithfulness"):
        write_table_csv(folder / f"{stem}.csv", getattr(ranking, stem))
    write_table_csv(
        folder / "correlation.csv", ranking.correlation.rename_axis("feature").reset_index()
    )
    write_parquet(folder / "attention.parquet", ranking.attention)
    write_parquet(folder / "shapley.parquet", ranking.shapley)
    write_parquet(folder / "patient_values.parquet", ranking.patient_values)
    write_json(folder / "about.json", about)


def _store_contributions(run: Run, ranking: Ranking, *, seed: int) -> None:
    """What every nucleus in a bag adds to its slide's probability, by the model that didn't see its
    patient.

    And, as further rows of `faithfulness.csv`, curves of deleting and inserting patches in the
    order of their nuclei's contributions.
    """
    from morphomil.attribution import attribute_nuclei, curves_of_patches
    from morphomil.evidence import measure_faithfulness

    curves = []
    fold = ranking.predictions.set_index("patient")["fold"]
    slides = run.cohort.table().astype({"patient": str})
    for row in slides[slides["patient"].isin(fold.index)].to_dict("records"):
        slide_id = str(row["slide_id"])
        if slide_id not in ranking.slides:
            continue
        nuclei = run.nuclei(slide_id)
        nuclei = nuclei[nuclei["patch_id"].isin(run.counts(slide_id).patch_id)]
        model = ranking.models[str(fold[row["patient"]])]
        shares = attribute_nuclei(nuclei, model)
        curves.append(curves_of_patches(nuclei, model, shares, seed_key=(seed, slide_id)))
        path = run.path / "rank" / "nuclei" / f"{run.slide_folder(slide_id).name}.parquet"
        stored = nuclei[["label", "patch_id"]].join(shares.nuclei.astype(np.float32))
        write_parquet(path, stored.reset_index(drop=True))
    of_patches = measure_faithfulness(np.stack(curves, axis=-1), seed=seed)
    of_patches.insert(0, "order", "patches")
    both = pd.concat([ranking.faithfulness, of_patches], ignore_index=True)
    write_table_csv(run.path / "rank" / "faithfulness.csv", both)
