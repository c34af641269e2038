"""Masks -> nuclei tables and histogram counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import pandas as pd

from morphomil.errors import DamagedError, InputError, SlideError
from morphomil.matrix import count_nuclei
from morphomil.nuclei.density import DENSITY_RADIUS_UM, neighbor_roots
from morphomil.nuclei.feature_files import feature_files
from morphomil.nuclei.measure import evaluate_features, measure_roots
from morphomil.nuclei.neighborhood import LYMPHOCYTE, in_nests, part_tissue, type_roots
from morphomil.nuclei.polygons import outline_roots
from morphomil.nuclei.registry import FEATURES, features_of
from morphomil.nuclei.types import most_probable, of_type
from morphomil.pace import machine_pace
from morphomil.pipeline.costs import Work, foretell_featurize
from morphomil.pipeline.execution import SlideStage, execute, segmented_slides
from morphomil.run.features import describe_features
from morphomil.run.ledger import key_of
from morphomil.slides.masks import has_types
from morphomil.store import (
    atomic_path,
    write_parquet,
)
from morphomil.types import NUCLEI, TISSUE_PARTS, WhoseNuclei

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from morphomil.nuclei.neighborhood import TissueParts
    from morphomil.pace import Cost
    from morphomil.pipeline.execution import Progress, Shard, SlideOutput, StageResult, Step
    from morphomil.run.directory import Run
    from morphomil.run.reviews import Corrections
    from morphomil.slides.masks import LabelBand, RegionMasks
    from morphomil.types import Slide


ALL = "all"


def featurize(
    run: Run,
    *,
    nuclei: str = ALL,
    families: Sequence[str] = (),
    shard: Shard | None = None,
    progress: Progress | None = None,
    on_estimate: Callable[[Cost], None] | None = None,
) -> StageResult:
    """Nuclei tables and histogram counts of every segmented slide.

    The features are the registered ones (`nuclei.feature`, `nuclei.load_features`). Writes per
    slide `nuclei.parquet` and `counts.zarr`: features x kept patches x fine bins
    (`matrix.count_nuclei`).

    Args:
        run: with masks.
        nuclei: whose nuclei the matrices count: all, or those of a type (`WhoseNuclei`). The
            table has all of them.
        families: these families of features too; `type` needs the nuclei's types.
        shard: the part of the cohort to work on.
        progress: hears of every slide.
        on_estimate: hears what all slides that aren't measured yet will take.

    Raises:
        InputError: nothing is segmented yet, there is no such type or family, or types are needed
            and no slide's nuclei have any.
        BusyError: another process works in the run directory.
    """
    slides = segmented_slides(run, shard)
    _check_choice(run, [] if shard and shard.is_part else slides, nuclei, families)
    choice = _Choice(nuclei, tuple(families))
    versions = [file.sha256 for file in feature_files()]

    def key(slide: Slide) -> str:
        masks = run.ledger.outputs(slide.slide_id, "segment")
        whose = [] if nuclei == ALL else [f"nuclei {nuclei}"]
        return key_of("featurize", list(choice.features), masks, *versions, *whose)

    def work(slide: Slide, step: Step) -> SlideOutput:
        return _featurize_slide(run, slide.slide_id, choice, step)

    stage = SlideStage(
        "featurize",
        run.ledger,
        slides,
        key=key,
        work=work,
        settings=describe_features(nuclei=nuclei, families=families),
        emptiness=_describe_emptiness,
    )
    if on_estimate is not None and (load := Work.of(run, stage)).slides:
        on_estimate(foretell_featurize(load, pace=machine_pace()))
    return execute(run, stage, shard=shard, progress=progress)


@dataclass(frozen=True)
class _Choice:
    """What is measured, and of which nuclei."""

    whose: str
    families: tuple[str, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Their names."""
        return features_of(self.families)

    @property
    def needs_types(self) -> bool:
        """Whether nuclei without types can't be measured so."""
        return self.whose != ALL or any(FEATURES[name].needs_types for name in self.features)


def _check_choice(run: Run, slides: Sequence[Slide], nuclei: str, families: Sequence[str]) -> None:
    """Refuse types and families that there are not, and types that nobody knows.

    Raises:
        InputError: so it is.
    """
    if nuclei not in (choices := get_args(WhoseNuclei)):
        raise InputError(f"nuclei are {', '.join(choices)}; got {nuclei!r}")
    known = sorted({entry.family for entry in FEATURES.values()} - {""})
    if unknown := [name for name in families if name not in known]:
        raise InputError(
            f"no family of features is called {', '.join(unknown)}; there is {', '.join(known)}"
        )
    if not slides or not _Choice(nuclei, tuple(families)).needs_types:
        return
    if not any(_may_have_types(run, slide.slide_id) for slide in slides):
        asked = f"--nuclei {nuclei}" if nuclei != ALL else "the features of family type"
        raise InputError(
            f"the nuclei of {run.path} have no types, which {asked} needs; {_WHERE_FROM}"
        )


def _may_have_types(run: Run, slide_id: str) -> bool:
    """Damaged masks are told when their slide is worked on."""
    try:
        return has_types(run.masks_path(slide_id))
    except DamagedError:
        return True


_WHERE_FROM = (
    "segment with a model that tells types, or import nuclei with their types (import-nuclei "
    "--type-map) or have these told from the pixels (import-nuclei --classify)"
)


def _describe_emptiness(figures: dict[str, Any]) -> str:
    """Why a slide of these figures has no measured nuclei; "" where it has some."""
    if figures["nuclei"] and figures.get("nuclei_of_type") == 0:
        return (
            f"none of {figures['nuclei']:,} nuclei is of the type {figures['whose']} "
            f"({figures['untyped']:,} of unknown type): featurize --nuclei all measures them"
        )
    if figures["nuclei"]:
        return ""
    return (
        f"no nucleus has its center in a kept patch ({figures['patches_kept']:,} patches kept, "
        f"{figures['patches_dropped']:,} dropped, 0 nuclei): see its overview.png"
    )


def measure_slide(
    run: Run, slide_id: str, corrections: Corrections
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """The nuclei of a slide (schema `NUCLEI`) measured as the run was, but as its reviewers say:
    without those that they reject, which then are nobody's neighbors either, and with their types;
    and the parts of the tissue (`TISSUE_PARTS`) where the family `type` is measured.

    Raises:
        DamagedError: the masks or patches are damaged.
    """
    families = {FEATURES[name].family for name in run.features} - {""}
    choice = _Choice(run.whose, tuple(sorted(families)))
    nuclei, parts = _measure_slide(run, slide_id, choice, corrections=corrections)
    return nuclei, _tissue_parts(parts) if "type" in families else None


def _tissue_parts(parts: list[pd.DataFrame]) -> pd.DataFrame:
    return TISSUE_PARTS.check(pd.concat([TISSUE_PARTS.empty(), *parts]))


def _measure_slide(
    run: Run,
    slide_id: str,
    choice: _Choice,
    *,
    step: Step | None = None,
    corrections: Corrections | None = None,
) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    """A slide's nuclei, and the parts of each region's tissue."""
    patches = run.cut_patches(slide_id)
    masks = run.masks(slide_id)
    tables, parts = [], []
    for done, (region, of_region) in enumerate(masks.items(), start=1):
        own = patches[patches["region"] == region]
        measured, of_tissue = _measure_region(of_region, own, choice.families, corrections)
        tables.append(measured)
        parts.append(of_tissue)
        if step is not None:
            step(done, len(masks))
    nuclei = pd.concat(tables) if tables else pd.DataFrame()
    nuclei = (
        NUCLEI.check(nuclei.assign(slide_id=slide_id).sort_values("label"))
        if len(nuclei)
        else NUCLEI.empty().reindex(columns=[*NUCLEI.names, *_further(choice.features)])
    )
    said = run.said_of_nuclei(slide_id)
    if said is not None:
        said = said.rename(columns={name: f"said_{name}" for name in ("type", "type_probability")})
        nuclei = nuclei.merge(said, on="label", how="left", validate="one_to_one")
    return nuclei, parts


def _featurize_slide(run: Run, slide_id: str, choice: _Choice, step: Step) -> SlideOutput:
    import zarr

    folder = run.slide_folder(slide_id)
    patches = run.cut_patches(slide_id)
    if choice.needs_types and not has_types(run.masks_path(slide_id)):
        raise SlideError(f"the nuclei of slide {slide_id} have no types; {_WHERE_FROM}")
    nuclei, parts = _measure_slide(run, slide_id, choice, step=step)
    kept = patches.loc[patches["kept"], "patch_id"].to_numpy()
    counted = of_type(nuclei, choice.whose)
    counts = count_nuclei(counted, kept, features=choice.features)
    write_parquet(folder / "nuclei.parquet", nuclei)
    with atomic_path(folder / "counts.zarr") as partial:
        group = zarr.open_group(partial, mode="w")
        group.create_array(
            "counts",
            data=counts,
            chunks=tuple(max(1, min(64, side)) for side in counts.shape[:2]) + counts.shape[2:],
        )
        group.attrs.update({"features": list(choice.features), "patch_id": kept.tolist()})
    outputs = ["nuclei.parquet", "counts.zarr"]
    if "type" in choice.families:
        write_parquet(folder / "tissue_parts.parquet", _tissue_parts(parts))
        outputs.append("tissue_parts.parquet")
    tissue = float(patches.loc[patches["kept"], "tissue_mm2"].sum())
    figures: dict[str, Any] = {
        "nuclei": len(nuclei),
        "patches_kept": int(patches["kept"].sum()),
        "patches_dropped": int((~patches["kept"]).sum()),
        "nuclei_per_mm2": len(nuclei) / tissue if tissue else None,
        "median_area_um2": float(nuclei["area_um2"].median()) if len(nuclei) else None,
    }
    if (known := nuclei["type"].value_counts(sort=False)).sum():
        figures["types"] = {str(name): int(count) for name, count in known.items()}
    if choice.whose != ALL:
        figures |= {
            "whose": choice.whose,
            "nuclei_of_type": int((nuclei["type"] == choice.whose).sum()),
            "untyped": int(nuclei["type"].isna().sum()),
        }
    return outputs, figures


def _further(features: Sequence[str]) -> list[str]:
    return [name for name in features if name not in NUCLEI.names]


def _measure_region(
    masks: RegionMasks,
    patches: pd.DataFrame,
    families: Sequence[str],
    corrections: Corrections | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The nuclei of a region whose centroid lies in a kept patch, with features and level-0
    coordinates; and the parts of its tissue (`TISSUE_PARTS`), where types are asked about."""
    frame = masks.frame
    roots = _shape_roots(masks)
    if corrections is not None:
        roots = roots[~roots["label"].isin(corrections.rejected)].reset_index(drop=True)
    centers = roots[["x_px", "y_px"]].to_numpy() + 0.5
    grid = frame.patch_grid(patches)
    patch_ids = frame.patch_at(centers, grid)
    inside = patch_ids >= 0
    centers = centers[inside]
    x_um, y_um = frame.to_grid_um(centers).T
    tissue, tissue_mpp = masks.analyzed_tissue(grid)
    neighbors = neighbor_roots(x_um, y_um, tissue, tissue_mpp, DENSITY_RADIUS_UM)
    labels = roots.loc[inside, "label"].reset_index(drop=True)
    types = most_probable(masks.types_of(labels))
    if corrections is not None:
        types = corrections.retyped(labels, types)
    parted = TISSUE_PARTS.empty()
    if "type" in families:
        points, codes = np.column_stack([x_um, y_um]), types["type"].cat.codes.to_numpy()
        parts = part_tissue(points, codes, DENSITY_RADIUS_UM, tissue=tissue, tissue_mpp=tissue_mpp)
        areas = roots.loc[inside, "pixels"].to_numpy() * frame.mpp**2
        neighbors |= type_roots(points, codes, DENSITY_RADIUS_UM, areas_um2=areas, parts=parts)
        covering = (codes == LYMPHOCYTE) & ~in_nests(neighbors["nest_share"])
        covered = pd.Series(areas[covering] * 1e-6).groupby(patch_ids[inside][covering]).sum()
        parted = _by_patch(parts, grid, frame.patch_px * frame.mpp).assign(covered_mm2=covered)
        parted = parted.fillna({"covered_mm2": 0.0}).rename_axis("patch_id").reset_index()
    table = evaluate_features(roots[inside], mpp=frame.mpp, neighbors=neighbors, families=families)
    table[["x_px", "y_px"]] = frame.to_level0(centers)
    return table.assign(patch_id=patch_ids[inside], image=frame.image).join(types), parted


def _by_patch(parts: TissueParts, grid: NDArray[np.intp], patch_um: float) -> pd.DataFrame:
    """`nest_mm2` and `stroma_mm2` by the number of the kept patch of a `patch_grid`."""
    rows, columns = (
        ((np.arange(side) + 0.5) * parts.cell_um / patch_um).astype(np.intp)
        for side in parts.nest.shape
    )
    sizes = {"nest_mm2": parts.nest, "stroma_mm2": parts.stroma}
    scale = parts.cell_um**2 * 1e-6
    table = pd.DataFrame({name: part.ravel() * scale for name, part in sizes.items()})
    sums = table.groupby(grid[np.ix_(rows, columns)].ravel()).sum()
    return sums[sums.index >= 0]


def _shape_roots(masks: RegionMasks) -> pd.DataFrame:
    """What features need of a region's nuclei, in pixels of its masks: from their outlines, or else
    from the pixels."""
    outlines = masks.outlines
    if outlines is None:
        bands = [_measure_band(band, mpp=masks.frame.mpp) for band in masks.bands()]
        return pd.concat(bands, ignore_index=True)
    roots = outline_roots(np.asarray(outlines.vertices[:]) - 0.5, outlines.ends)
    return roots.assign(label=roots["label"] + (outlines.first_label - 1))


def _measure_band(band: LabelBand, *, mpp: float) -> pd.DataFrame:
    """The roots of the nuclei whose centroid lies in a band, in pixels of the region's masks."""
    roots = measure_roots(band.labels, mpp=mpp)
    roots["y_px"] += band.first
    return roots[(roots["y_px"] >= band.top - 0.5) & (roots["y_px"] < band.bottom - 0.5)]
