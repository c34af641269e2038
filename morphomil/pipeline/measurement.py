"""Masks -> nuclei tables and histogram counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.matrix import count_nuclei
from morphomil.nuclei.density import DENSITY_RADIUS_UM, neighbor_roots
from morphomil.nuclei.feature_files import feature_files
from morphomil.nuclei.measure import evaluate_features, measure_roots
from morphomil.nuclei.polygons import outline_roots
from morphomil.nuclei.registry import FEATURES
from morphomil.pipeline.execution import SlideStage, execute, segmented_slides
from morphomil.run.features import describe_features
from morphomil.run.ledger import key_of
from morphomil.store import (
    atomic_path,
    write_parquet,
)
from morphomil.types import NUCLEI

if TYPE_CHECKING:
    from morphomil.pipeline.execution import Progress, Shard, SlideOutput, StageResult, Step
    from morphomil.run.directory import Run
    from morphomil.slides.masks import LabelBand, RegionMasks
    from morphomil.types import Slide


def featurize(
    run: Run, *, shard: Shard | None = None, progress: Progress | None = None
) -> StageResult:
    """Nuclei tables and histogram counts of every segmented slide.

    The features are the registered ones (`nuclei.feature`, `nuclei.load_features`). Writes per
    slide `nuclei.parquet` and `counts.zarr`: features x kept patches x fine bins
    (`matrix.count_nuclei`).

    Raises:
        InputError: nothing is segmented yet.
        BusyError: another process works in the run directory.
    """

    versions = [file.sha256 for file in feature_files()]

    def key(slide: Slide) -> str:
        masks = run.ledger.outputs(slide.slide_id, "segment")
        return key_of("featurize", list(FEATURES), masks, *versions)

    def work(slide: Slide, step: Step) -> SlideOutput:
        return _featurize_slide(run, slide.slide_id, step)

    stage = SlideStage(
        "featurize",
        run.ledger,
        segmented_slides(run),
        key=key,
        work=work,
        settings=describe_features(),
        emptiness=_describe_emptiness,
    )
    return execute(run, stage, shard=shard, progress=progress)


def _describe_emptiness(figures: dict[str, Any]) -> str:
    """Why a slide of these figures has no measured nuclei; "" where it has some."""
    if figures["nuclei"]:
        return ""
    return (
        f"no nucleus has its center in a kept patch ({figures['patches_kept']:,} patches kept, "
        f"{figures['patches_dropped']:,} dropped, 0 nuclei): see its overview.png"
    )


def _featurize_slide(run: Run, slide_id: str, step: Step) -> SlideOutput:
    import zarr

    folder = run.slide_folder(slide_id)
    patches = run.patches(slide_id)
    masks = run.masks(slide_id)
    tables = []
    for done, (region, of_region) in enumerate(masks.items(), start=1):
        tables.append(_measure_region(of_region, patches[patches["region"] == region]))
        step(done, len(masks))
    nuclei = pd.concat(tables) if tables else pd.DataFrame()
    nuclei = (
        NUCLEI.check(nuclei.assign(slide_id=slide_id).sort_values("label"))
        if len(nuclei)
        else NUCLEI.empty()
    )
    said = run.said_of_nuclei(slide_id)
    if said is not None:
        nuclei = nuclei.merge(said, on="label", how="left", validate="one_to_one")
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


def _measure_region(masks: RegionMasks, patches: pd.DataFrame) -> pd.DataFrame:
    """The nuclei of a region whose centroid lies in a kept patch, with features and level-0
    coordinates."""
    frame = masks.frame
    roots = _shape_roots(masks)
    centers = roots[["x_px", "y_px"]].to_numpy() + 0.5
    grid = frame.patch_grid(patches)
    patch_ids = frame.patch_at(centers, grid)
    inside = patch_ids >= 0
    centers = centers[inside]
    x_um, y_um = frame.to_grid_um(centers).T
    neighbors = neighbor_roots(x_um, y_um, *masks.analyzed_tissue(grid), DENSITY_RADIUS_UM)
    table = evaluate_features(roots[inside], mpp=frame.mpp, neighbors=neighbors)
    table[["x_px", "y_px"]] = frame.to_level0(centers)
    return table.assign(patch_id=patch_ids[inside], image=frame.image)


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
