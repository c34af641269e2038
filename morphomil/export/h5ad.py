"""scverse: .h5ad files of patches, their histograms, slides and nuclei."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.export.anndata_format import Annotated, write_h5ad
from morphomil.matrix import features_in, patch_values, slide_values
from morphomil.nuclei.registry import FEATURES
from morphomil.nuclei.totals import count_totals
from morphomil.run.log import versions
from morphomil.store import read_parquet
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.slides.masks import RegionMasks
    from morphomil.types import Slide

COARSE_BINS = 32
"""A feature has this many bins in `histograms.h5ad`: its registered range in equal parts, the fine
grid's bins added up."""
_TEXT_COLUMNS = ("patient", "label", "split", "site")


def write_run(run: Run, slides: Sequence[Slide], folder: Path) -> Iterator[Path]:
    """`patches.h5ad` and `histograms.h5ad` (obs: kept patches), `slides.h5ad` (obs: slides) and
    `nuclei/STEM.h5ad` of every image (obs: its nuclei, see `nuclei_table`).

    X of the patches are each feature's value in the patch (`matrix.patch_values`), of the
    histograms the numbers of nuclei in `COARSE_BINS` bins of every feature, of the slides the
    slide's values (`matrix.slide_values`). `obsm["spatial"]` are centers of patches in um from the
    image's top left corner, `obsm["spatial_px"]` the same in level-0 pixels. `uns["morphomil"]`
    tells settings and versions.
    """
    from morphomil.export import file_stems

    tables = [_patches(run, slide) for slide in slides]
    table = pd.concat(tables, ignore_index=True)
    names = [name for name, entry in FEATURES.items() if entry.value in table]
    measured = [FEATURES[name].value for name in names]
    index = table["slide_id"] + ":" + table["patch_id"].astype(str)
    obs = table.drop(columns=[*measured, "x_um", "y_um"]).set_index(pd.Index(index, name="patch"))
    spatial = {
        "spatial": table[["x_um", "y_um"]].to_numpy(np.float64),
        "spatial_px": (
            table[["x_px", "y_px"]].to_numpy() + table[["side_px"]].to_numpy() / 2
        ).astype(np.float64),
    }
    values = table[measured].to_numpy(np.float64)
    patches = Annotated(values=values, obs=obs, var=_features(names), obsm=spatial, uns=about(run))
    yield write_h5ad(folder / "patches.h5ad", patches)
    counts = np.concatenate([_histograms(run, slide, names) for slide in slides])
    binned = Annotated(values=counts, obs=obs, var=_bins(names), obsm=spatial, uns=about(run))
    yield write_h5ad(folder / "histograms.h5ad", binned)
    rows = [_slide_row(run, slide, names) for slide in slides]
    wide = pd.DataFrame(rows).set_index("slide_id")
    values = wide[measured].to_numpy(np.float64)
    obs = wide.drop(columns=measured)
    of_slides = Annotated(values=values, obs=obs, var=_features(names), obsm={}, uns=about(run))
    yield write_h5ad(folder / "slides.h5ad", of_slides)
    stems = file_stems(run)
    for slide in slides:
        for number in range(len(slide.images)):
            path = folder / "nuclei" / f"{stems[slide.slide_id, number]}.h5ad"
            yield write_h5ad(path, nuclei_table(run, slide, image=number))


def nuclei_table(run: Run, slide: Slide, *, image: int) -> Annotated:
    """The nuclei of one image.

    Values are the measurements (nuclei, features); `obs` has the nucleus's number in its slide, its
    patch, type and the probability of every type, what an imported file said, what it contributes
    to the slide's prediction once ranked, and the slide's columns as in `patches.h5ad`.
    """
    nuclei = run.nuclei(slide.slide_id).drop(columns="slide_id")
    nuclei = nuclei[nuclei["image"] == image].sort_values("label", ignore_index=True)
    contributions = run.contributions_path(slide.slide_id)
    if contributions.is_file():
        added = read_parquet(contributions).drop(columns="patch_id")
        nuclei = nuclei.merge(added, on="label", how="left")
    names = list(features_in(nuclei))
    masks = [own for own in run.masks(slide.slide_id).values() if own.frame.image == image]
    mpp = masks[0].frame.level0_mpp if masks else np.nan
    shares = _shares(masks, nuclei["label"].to_numpy())
    obs = nuclei.drop(columns=[*names, "image", "x_px", "y_px"])
    obs = obs.rename(columns={"label": "nucleus"}).join(shares)
    obs = obs.assign(slide_id=slide.slide_id, mpp=mpp, **_clinical(slide))
    obs.index = pd.Index(slide.slide_id + ":" + obs["nucleus"].astype(str), name="cell")
    places = nuclei[["x_px", "y_px"]].to_numpy(np.float64)
    rows = [{"unit": FEATURES[name].unit, "meaning": FEATURES[name].meaning} for name in names]
    return Annotated(
        values=nuclei[names].to_numpy(np.float64),
        obs=obs,
        var=pd.DataFrame(rows, index=pd.Index(names, name="feature")),
        obsm={"spatial": places * mpp, "spatial_px": places},
        uns=about(run),
    )


def _shares(masks: Iterable[RegionMasks], labels: NDArray[np.integer]) -> pd.DataFrame:
    """`p_epithelial` and so on of these nuclei, missing where unknown."""
    shares = np.full((len(labels), len(NUCLEUS_TYPES)), np.nan, np.float32)
    for own in masks:
        count = len(own.types) if own.types is not None else 0
        here = (labels >= own.first_label) & (labels < own.first_label + count)
        shares[here] = own.types_of(labels[here])
    return pd.DataFrame(shares, columns=[f"p_{name}" for name in NUCLEUS_TYPES])


def _patches(run: Run, slide: Slide) -> pd.DataFrame:
    nuclei = run.counted_nuclei(slide.slide_id)
    table = patch_values(nuclei, run.patches(slide.slide_id)).drop(columns="kept")
    counts = _type_counts(nuclei).reindex(table["patch_id"], fill_value=0)
    table = table.assign(**{str(name): counts[name].to_numpy() for name in counts})
    masks = run.masks(slide.slide_id)
    mpp = table["region"].map(lambda region: masks[region].frame.level0_mpp).to_numpy(float)
    for axis in "xy":
        table[f"{axis}_um"] = (table[f"{axis}_px"] + table["side_px"] / 2) * mpp
    return table.assign(mpp=mpp, **_clinical(slide))


def _type_counts(nuclei: pd.DataFrame) -> pd.DataFrame:
    """`nuclei_epithelial` and so on by patch: how many nuclei are of each type (0 of all where
    nobody knows types)."""
    return count_totals(nuclei)[list(NUCLEUS_TYPES)].add_prefix("nuclei_")


def _clinical(slide: Slide) -> dict[str, Any]:
    return {name: getattr(slide, name) for name in _TEXT_COLUMNS} | _free(slide.covariates)


def _free(covariates: dict[str, Any]) -> dict[str, Any]:
    """Covariates under names that no other column has."""
    return {f"covariate_{name}": value for name, value in covariates.items()}


def _slide_row(run: Run, slide: Slide, names: list[str]) -> dict[str, Any]:
    nuclei, patches = run.counted_nuclei(slide.slide_id), run.patches(slide.slide_id)
    kept = patches[patches["kept"]]
    sizes = {
        "nuclei": len(nuclei),
        "patches": len(kept),
        "tissue_mm2": float(kept["tissue_mm2"].sum()),
    }
    sizes |= {str(name): int(count) for name, count in _type_counts(nuclei).sum().items()}
    values = dict(slide_values(nuclei, patches, features=names))
    return {"slide_id": slide.slide_id} | _clinical(slide) | sizes | values


def _histograms(run: Run, slide: Slide, names: list[str]) -> NDArray[np.uint32]:
    """Nuclei of every kept patch in the bins of every feature: (patches, features x bins)."""
    stored = run.counts(slide.slide_id)
    order = [stored.features.index(name) for name in names]
    features, patches, fine = stored.counts[order].shape
    coarse = (
        stored.counts[order]
        .reshape(features, patches, COARSE_BINS, fine // COARSE_BINS)
        .sum(axis=-1)
    )
    return np.asarray(
        np.moveaxis(coarse, 0, 1).reshape(patches, features * COARSE_BINS), dtype=np.uint32
    )


def _features(names: list[str]) -> pd.DataFrame:
    polarity = {
        "unit": "1",
        "meaning": "polarity: 0 where directions are uniform, 1 where all nuclei are parallel",
    }
    median = [
        {"unit": FEATURES[name].unit, "meaning": f"median {FEATURES[name].meaning}"}
        for name in names
    ]
    rows = [
        polarity if FEATURES[name].axial else row for name, row in zip(names, median, strict=True)
    ]
    values = [FEATURES[name].value for name in names]
    return pd.DataFrame(rows, index=pd.Index(values, name="feature"))


def _bins(names: list[str]) -> pd.DataFrame:
    rows = []
    for name in names:
        feature = FEATURES[name]
        low, high = (0.0, 90.0) if feature.axial else (feature.low, feature.high)
        edges = np.linspace(low, high, COARSE_BINS + 1)
        rows += [
            {
                "bin": f"{name}:{number}",
                "feature": name,
                "low": edges[number],
                "high": edges[number + 1],
            }
            for number in range(COARSE_BINS)
        ]
    return pd.DataFrame(rows).set_index("bin")


def about(run: Run) -> dict[str, Any]:
    """Provenance: what `uns["morphomil"]` holds, as text that every reader takes."""
    commands = {name: entry["settings"] for name, entry in run.commands().items()}
    said = {"settings": commands, "versions": versions(), "ranking": run.ranking_about()}
    return {
        "morphomil": {
            name: json.dumps(value, sort_keys=True, default=str) for name, value in said.items()
        }
    }
