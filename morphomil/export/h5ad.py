"""scverse: .h5ad files, written by AnnData's specification of 0.1.0, so that anndata isn't needed
to write them.

https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.matrix import patch_values, slide_values
from morphomil.nuclei.registry import FEATURES
from morphomil.nuclei.totals import count_totals
from morphomil.run.log import versions
from morphomil.store import hdf5_file
from morphomil.types import NUCLEUS_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.run.directory import Run
    from morphomil.types import Slide

COARSE_BINS = 32
"""A feature has this many bins in `histograms.h5ad`: its registered range in equal parts, the fine
grid's bins added up."""
_TEXT_COLUMNS = ("patient", "label", "split", "site")


def write_run(run: Run, slides: Sequence[Slide], folder: Path) -> Iterator[Path]:
    """`patches.h5ad` and `histograms.h5ad` (obs: kept patches) and `slides.h5ad` (obs: slides).

    X of the patches are each feature's value in the patch (`matrix.patch_values`), of the
    histograms the numbers of nuclei in `COARSE_BINS` bins of every feature, of the slides the
    slide's values (`matrix.slide_values`). `obsm["spatial"]` are centers of patches in um from the
    image's top left corner, `obsm["spatial_px"]` the same in level-0 pixels. `uns["morphomil"]`
    tells settings and versions.
    """
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
    yield write_h5ad(
        folder / "patches.h5ad",
        values,
        obs=obs,
        var=_features(names),
        obsm=spatial,
        uns=_about(run),
    )
    counts = np.concatenate([_histograms(run, slide, names) for slide in slides])
    yield write_h5ad(
        folder / "histograms.h5ad", counts, obs=obs, var=_bins(names), obsm=spatial, uns=_about(run)
    )
    rows = [_slide_row(run, slide, names) for slide in slides]
    wide = pd.DataFrame(rows).set_index("slide_id")
    obs = wide.drop(columns=measured)
    yield write_h5ad(
        folder / "slides.h5ad",
        wide[measured].to_numpy(np.float64),
        obs=obs,
        var=_features(names),
        obsm={},
        uns=_about(run),
    )


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


def _about(run: Run) -> dict[str, Any]:
    """Provenance: what `uns["morphomil"]` holds, as text that every reader takes."""
    commands = {name: entry["settings"] for name, entry in run.commands().items()}
    said = {"settings": commands, "versions": versions(), "ranking": run.ranking_about()}
    return {
        "morphomil": {
            name: json.dumps(value, sort_keys=True, default=str) for name, value in said.items()
        }
    }


# --------------------------------------------------------------------------------------- the format


def write_h5ad(
    path: Path,
    values: NDArray[Any],
    *,
    obs: pd.DataFrame,
    var: pd.DataFrame,
    obsm: dict[str, NDArray[Any]],
    uns: dict[str, Any],
) -> Path:
    """One .h5ad file; returns its path.

    Args:
        path: to write.
        values: X, (obs, var).
        obs: a row per observation, its index their names.
        var: a row per variable, its index their names.
        obsm: arrays with a row per observation.
        uns: text, by name, nested.
    """
    with hdf5_file(path, track_order=True) as file:
        _mark(file, "anndata", "0.1.0")
        _write_array(file, "X", values)
        _write_frame(file, "obs", obs)
        _write_frame(file, "var", var)
        for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
            _mark(file.create_group(name), "dict", "0.1.0")
        for name, array in obsm.items():
            _write_array(file["obsm"], name, array)
        _write_texts(file["uns"], uns)
    return path


def _mark(item: Any, kind: str, version: str) -> None:
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version


def _write_array(group: Any, name: str, array: NDArray[Any]) -> None:
    options = {"compression": "gzip", "shuffle": True} if array.size else {}
    _mark(group.create_dataset(name, data=array, **options), "array", "0.2.0")


def _write_strings(group: Any, name: str, texts: list[str]) -> None:
    import h5py

    safe = [text.replace("\0", "\ufffd").encode("utf-8", "replace").decode() for text in texts]
    stored = group.create_dataset(
        name, data=np.array(safe, dtype=object), dtype=h5py.string_dtype("utf-8")
    )
    _mark(stored, "string-array", "0.2.0")


def _write_frame(file: Any, name: str, table: pd.DataFrame) -> None:
    group = file.create_group(name, track_order=True)
    _mark(group, "dataframe", "0.2.0")
    index = str(table.index.name or "index")
    group.attrs["_index"] = index
    columns = [column for column in table.columns if not table[column].isna().all()]
    keys = _keys([str(column) for column in columns], taken=index)
    _write_attribute(group, "column-order", keys)
    _write_strings(group, index, [str(value) for value in table.index])
    for key, column in zip(keys, columns, strict=True):
        series = table[column]
        if pd.api.types.is_bool_dtype(series) or pd.api.types.is_numeric_dtype(series):
            _write_array(group, key, series.to_numpy())
        else:
            _write_categories(group, key, series)


def _keys(names: list[str], *, taken: str) -> list[str]:
    """Names of HDF5 objects: no slashes and no NUL, none twice."""
    keys: list[str] = []
    for name in names:
        key = name.replace("/", "_").replace("\0", "_").strip(".") or "column"
        while key in keys or key == taken:
            key += "_"
        keys.append(key)
    return keys


def _write_attribute(group: Any, name: str, texts: list[str]) -> None:
    import h5py

    group.attrs.create(
        name, np.array(texts, dtype=object), shape=(len(texts),), dtype=h5py.string_dtype("utf-8")
    )


def _write_categories(file: Any, name: str, series: pd.Series[Any]) -> None:
    categories = pd.Categorical(series.map(str, na_action="ignore"))
    group = file.create_group(name)
    _mark(group, "categorical", "0.2.0")
    group.attrs["ordered"] = False
    _write_array(group, "codes", categories.codes)
    _write_strings(group, "categories", [str(value) for value in categories.categories])


def _write_texts(group: Any, texts: dict[str, Any]) -> None:
    import h5py

    for name, value in texts.items():
        if isinstance(value, dict):
            inner = group.create_group(name)
            _mark(inner, "dict", "0.1.0")
            _write_texts(inner, value)
        else:
            _mark(
                group.create_dataset(name, data=str(value), dtype=h5py.string_dtype("utf-8")),
                "string",
                "0.2.0",
            )
