"""AnnData's format by its specification of 0.1.0, so that anndata isn't needed to write it.

https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from morphomil.store import hdf5_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


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
