"""Whether each slide's numbers are plausible: tissue in the regions, nuclei, sharpness, detail."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from morphomil.errors import DamagedError, MorphomilError
from morphomil.nuclei.features import AREA_LIMITS_UM2
from morphomil.slides.image import open_image
from morphomil.slides.magnification import CROP_PX, upsampling_factor
from morphomil.slides.regions import CELL_UM
from morphomil.slides.tissue import tissue_mask
from morphomil.store import read_csv, read_json, write_json, write_table_csv
from morphomil.tables.slides import image_regions

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from shapely.geometry.base import BaseGeometry

    from morphomil.run.directory import Run
    from morphomil.slides.image import SlideImage
    from morphomil.types import Slide

MEASURES = {
    "tissue_share": "tissue in the regions",
    "analyzed_share": "part of the regions in kept patches",
    "nuclei_per_mm2": "nuclei per mm2",
    "median_area_um2": "median nuclear area",
    "sharpness": "sharpness",
}
"""A slide is compared with the cohort's median in these measures."""
DEVIATING_FACTOR = 2.0
"""A slide deviates that has this many times the cohort's median, or that part of it, or less."""
LEAST_SLIDES = 4
"""Smaller cohorts have no median to compare with."""
DENSITY_LIMITS_PER_MM2 = (100.0, 25_000.0)
"""Nuclei per mm2 lie within: sparse stroma has some hundreds, packed lymphocytes 20,000."""
LEAST_TISSUE_SHARE = 0.25
"""Regions with less tissue lie beside it, or outline mostly glass or fat."""
CROPS = 8
"""The detail of a slide is judged in this many kept patches, evenly over it."""


def quality_table(run: Run) -> pd.DataFrame:
    """One row per measured slide: is it plausible?

    Returns:
        `slide_id, patient, label`, `mpp` (um per level-0 pixel of the first image), `mpp_from`
        (manifest, file, or option, which is --mpp), `region_mm2`, `tissue_share` (of the regions),
        `analyzed_share` (of the regions, in kept patches), `nuclei_per_mm2`, `median_area_um2`,
        `sharpness` (median over kept patches), `upsampling`
        (`slides.magnification.upsampling_factor`), `optical_density` (mean over the channels and
        over crops of kept patches: how strong the stain is), `implausible_share` (objects dropped
        as no nuclei, of all found; missing where all were kept), `deviates` (the measures that are
        twice the cohort's median or more, or half or less). What can't be measured, as where a
        slide's file is gone, is missing.
    """
    measured = run.figures("featurize")
    measured = measured[measured["state"] == "done"]
    rows = [
        {name: row[name] for name in ("slide_id", "patient", "label")}
        | _measure_slide(run, str(row["slide_id"]))
        | {name: row.get(name) for name in ("nuclei_per_mm2", "median_area_um2")}
        for row in measured.to_dict("records")
    ]
    names = ["slide_id", "patient", "label", "mpp", "mpp_from", "region_mm2", *MEASURES]
    table = pd.DataFrame(rows, columns=[*names, "upsampling", "optical_density"])
    table["implausible_share"] = table["slide_id"].map(_implausible_shares(run))
    return table.assign(deviates=find_deviations(table))


def _implausible_shares(run: Run) -> pd.Series[float]:
    figures = run.figures("segment").set_index("slide_id")
    if "implausible" not in figures:
        return pd.Series(np.nan, figures.index)
    dropped = figures["implausible"].astype(float)
    return dropped / (dropped + figures["nuclei_found"].astype(float))


def find_deviations(table: pd.DataFrame) -> list[str]:
    """By slide the names of the measures that differ from the cohort's median by a factor of two,
    with commas; none in cohorts of fewer than four slides."""
    found: list[list[str]] = [[] for _ in range(len(table))]
    for name in MEASURES if len(table) >= LEAST_SLIDES else ():
        values = table[name].to_numpy(float)
        if not np.isfinite(values).any():
            continue
        middle = float(np.nanmedian(values))
        far = (values >= DEVIATING_FACTOR * middle) | (values <= middle / DEVIATING_FACTOR)
        for number in np.flatnonzero(far) if middle > 0 else ():
            found[number].append(name)
    return [", ".join(names) for names in found]


def write_quality(run: Run) -> tuple[Path, tuple[str, ...]]:
    """Write `tables/quality.csv`; its path, and what it warns of (`describe_quality`)."""
    table, path = quality_table(run), run.tables_folder / "quality.csv"
    write_table_csv(path, table)
    return path, describe_quality(table)


def read_quality(run: Run) -> pd.DataFrame:
    """`tables/quality.csv` as `quality_table` gives it; no rows where there is none."""
    path = run.tables_folder / "quality.csv"
    texts = ("slide_id", "patient", "label", "mpp_from", "deviates")
    numbers = ("mpp", "region_mm2", *MEASURES, "upsampling", "optical_density")
    numbers += ("implausible_share",)
    if not path.is_file():
        return pd.DataFrame(columns=[*texts, *numbers])
    types: dict[str, Any] = dict.fromkeys(texts, str)
    missing = {name: [""] for name in numbers}
    return read_csv(path, dtype=types, keep_default_na=False, na_values=missing)


def describe_quality(table: pd.DataFrame) -> tuple[str, ...]:
    """Sentences on slides whose pixel size or annotation is probably wrong, from `quality_table`;
    none where all are plausible."""
    warned = []
    low, high = AREA_LIMITS_UM2
    area = table["median_area_um2"]
    if len(odd := table[(area < low) | (area > high)]):
        warned.append(
            f"The median nuclear area of {_list(odd, 'median_area_um2', ' um2')} lies outside "
            f"{low:g} to {high:g} um2: the pixel size is probably wrong{_say_given(odd)}."
        )
    low, high = DENSITY_LIMITS_PER_MM2
    density = table["nuclei_per_mm2"]
    if len(odd := table[(density < low) | (density > high)]):
        warned.append(
            f"The nuclei per mm2 of {_list(odd, 'nuclei_per_mm2', '')} lie outside {low:,.0f} to "
            f"{high:,.0f}: the pixel size is probably wrong{_say_given(odd)}, or the regions don't "
            "lie on tumor."
        )
    if len(odd := table[table["tissue_share"] < LEAST_TISSUE_SHARE]):
        percent = odd.assign(tissue_share=100 * odd["tissue_share"])
        warned.append(
            f"The regions of {_list(percent, 'tissue_share', ' % tissue')} hold little tissue: the "
            "annotation probably belongs to another slide or level; see overview.png."
        )
    if len(odd := table[table["upsampling"] >= 2]):
        warned.append(
            f"The image of {_list(odd, 'upsampling', ' times')} seems enlarged (empty "
            "magnification): it lacks the detail that its pixel size promises, and blur makes "
            f"nuclei look larger{_say_given(odd)}. Compare only slides of one magnification."
        )
    return tuple(warned)


LISTED = 5
"""A sentence names this many slides at most."""


def _list(odd: pd.DataFrame, name: str, unit: str) -> str:
    rows = odd.head(LISTED).to_dict("records")
    named = ", ".join(f"{row['slide_id']} ({row[name]:.3g}{unit})" for row in rows)
    more = f" and {len(odd) - LISTED:,} more" if len(odd) > LISTED else ""
    return f"{'slide' if len(odd) == 1 else 'slides'} {named}{more}"


def _say_given(odd: pd.DataFrame) -> str:
    """Where the pixel size didn't come from the file, that it is to be checked."""
    given = [str(origin) for origin in odd["mpp_from"].unique() if origin in ("option", "manifest")]
    if not given:
        return ""
    origins = {"option": "--mpp", "manifest": "the manifest"}
    names = odd.loc[odd["mpp_from"].isin(given), "slide_id"].astype(str)
    shown = ", ".join(names.head(LISTED)) + (" and others" if len(names) > LISTED else "")
    return f" (of {shown} it came from {' and '.join(origins[name] for name in given)})"


KEPT_FILE = "quality.json"
"""In the folder of a slide whose files lie elsewhere: what was measured while copies were there."""


def keep_measures(run: Run, slide: Slide) -> None:
    """Measure a slide that is segmented, for tables that are made when its files are gone again."""
    slide_id = slide.slide_id
    if run.ledger.state(slide_id, "segment") != "done":
        return
    row = _measure_slide(run, slide_id)
    if "region_mm2" in row:  # its files could be read
        key = run.ledger.status(slide_id)["segment"]["key"]
        kept = {name: None if value != value else value for name, value in row.items()}
        path = run.slide_folder(slide_id) / KEPT_FILE
        write_json(path, {"key": key, "measures": kept}, seal=True)


def _kept_measures(run: Run, slide_id: str) -> dict[str, Any]:
    """What `keep_measures` has kept of these results; empty if nothing."""
    path = run.slide_folder(slide_id) / KEPT_FILE
    if not path.is_file():
        return {}
    try:
        stored = read_json(path)
    except DamagedError:
        return {}
    if stored.get("key") != run.ledger.status(slide_id).get("segment", {}).get("key"):
        return {}
    return {name: np.nan if value is None else value for name, value in stored["measures"].items()}


def _measure_slide(run: Run, slide_id: str) -> dict[str, Any]:
    if kept := _kept_measures(run, slide_id):
        return kept
    patches = run.patches(slide_id)
    patches = patches[patches["kept"]]
    row: dict[str, Any] = {"sharpness": float(patches["sharpness"].median())}
    region = tissue = 0.0
    crops: list[NDArray[np.uint8]] = []
    try:
        row["mpp_from"] = _origin(run, slide_id)
        for number in range(len(run.slide(slide_id).images)):
            regions = image_regions(run, slide_id, number)
            with run.open_image(slide_id, number) as image:
                row.setdefault("mpp", image.mpp)
                area = sum(shape.area for shape in regions) * (image.mpp / 1000) ** 2
                region += area
                tissue += area * _tissue_share(image, regions)
                crops += _read_crops(image, patches[patches["image"] == number])
    except (MorphomilError, OSError):
        return row
    if region:
        analyzed = float(patches["tissue_mm2"].sum())
        row |= {"tissue_share": tissue / region, "analyzed_share": analyzed / region}
    row |= {"region_mm2": region, "upsampling": float("nan")}
    if crops:
        pixels = np.stack(crops)
        row["upsampling"] = upsampling_factor(pixels)
        row["optical_density"] = float(-np.log10((pixels + 1.0) / 256).mean())
    return row


def _origin(run: Run, slide_id: str) -> str:
    """Where the pixel size of a slide's first image comes from: manifest, file or option."""
    source = run.slide(slide_id).images[0]
    if source.mpp is not None:
        return "manifest"
    try:
        with open_image(source):
            return "file"
    except MorphomilError:
        return "option"


def _tissue_share(image: SlideImage, regions: list[BaseGeometry]) -> float:
    """The share of the regions that is tissue, at 8 um per pixel."""
    downsample = max(1.0, CELL_UM / image.mpp)
    width, height = (max(1, int(side / downsample)) for side in (image.width, image.height))
    rgb = image.read(0, 0, width, height, downsample=downsample)
    tissue = tissue_mask(rgb, cell_mm2=(downsample * image.mpp / 1000) ** 2)
    y, x = (np.indices(tissue.shape) + 0.5) * downsample
    inside = shapely.contains_xy(shapely.union_all(regions), x, y)
    return float(tissue[inside].mean()) if inside.any() else 1.0


def _read_crops(image: SlideImage, patches: pd.DataFrame) -> list[NDArray[np.uint8]]:
    """Level-0 pixels from the middle of some kept patches of an image."""
    if patches.empty:
        return []
    chosen = patches.iloc[np.unique(np.linspace(0, len(patches) - 1, CROPS).astype(int))]
    corners = np.floor(
        chosen[["x_px", "y_px"]].to_numpy() + (chosen[["side_px"]].to_numpy() - CROP_PX) / 2
    )
    return [image.read(x, y, CROP_PX, CROP_PX, downsample=1) for x, y in corners.tolist()]
