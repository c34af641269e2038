"""What the report and the pictures say of single slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from shapely.geometry import shape

from morphomil.cohort.labels import describe_losses

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from morphomil.run.directory import Run


def image_regions(run: Run, slide_id: str, image: int) -> list[BaseGeometry]:
    """The regions on one of a slide's images, level-0 pixels; none before it is segmented."""
    if run.ledger.state(slide_id, "segment") not in ("done", "empty"):
        return []
    features = run.regions(slide_id)
    return [shape(f["geometry"]) for f in features if f["properties"]["image"] == image]


def region_rings(regions: Iterable[BaseGeometry]) -> tuple[int, list[NDArray[np.float64]]]:
    """How many polygons the regions are, and the rings of all, holes too, as (n, 2) x, y."""
    polygons = [part for region in regions for part in getattr(region, "geoms", [region])]
    rings = [np.asarray(r.coords)[:, :2] for p in polygons for r in (p.exterior, *p.interiors)]
    return len(polygons), rings


def empty_patches(run: Run, slide_id: str) -> int:
    """How many of a measured slide's kept patches hold no nucleus."""
    counts = run.counts(slide_id).counts
    return int((counts.sum(axis=-1).max(axis=0, initial=0) == 0).sum())


def slide_states(run: Run) -> pd.DataFrame:
    """One row per slide: `slide_id`, `patient`, `label`, `state` (done, empty, failed, missing),
    `cause`, and the figures of `featurize`; of a slide without nuclei to measure the state, the
    cause and the counts of `segment`."""
    measured = run.figures("featurize")
    segmented = run.figures("segment").set_index("slide_id")
    segmented = segmented.reindex(measured["slide_id"]).reset_index(drop=True)
    lost = segmented["state"].isin(["empty", "failed"])
    for name in ("state", "cause"):
        measured[name] = measured[name].where(~lost, segmented[name])
    without = (measured["state"] == "done") & (measured.get("nuclei", 1) == 0)
    measured.loc[without, ["state", "cause"]] = ["empty", "no nuclei in any kept patch"]
    empty = segmented["state"] == "empty"
    if empty.any():
        kept = segmented["patches_kept"]
        counts = {"patches_kept": kept, "patches_dropped": segmented["patches"] - kept}
        for name, count in (counts | {"nuclei": segmented["nuclei_found"]}).items():
            column = measured.get(name, pd.Series(float("nan"), measured.index))
            measured[name] = column.where(~empty, count)
    return measured


def describe_lost_slides(run: Run, stage: str) -> tuple[str, ...]:
    """A sentence on the slides that failed or are empty in a stage or before it, by label; none if
    there are none."""
    slides = run.cohort.table()
    kept = slides[~slides["slide_id"].isin(run.losses(stage))]
    return describe_losses(slides, kept, "nuclei" if stage == "featurize" else "masks of nuclei")
