"""AnnData's format by its specification of 0.1.0, in HDF5 or Zarr, so that anndata isn't needed to
write it.

https://anndata.readthedocs.io/en/stable/fileformat-prose.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np
import pandas as pd

from morphomil.store import hdf5_file

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


class Annotated(TypedDict):
    """A matrix of observations by variables with what is known of both."""

    values: NDArray[Any]
    """X, (obs, var)."""
    obs: pd.DataFrame
    """A row per observation, its index their names."""
    var: pd.DataFrame
    """A row per variable, its index their names."""
    obsm: dict[str, NDArray[Any]]
    """Arrays with a row per observation."""
    uns: dict[str, Any]
    """Text, by name, nested."""


def write_h5ad(path: Path, table: Annotated) -> Path:
    """One .h5ad file; returns its path."""
    with hdf5_file(path, track_order=True) as file:
        write_annotated(file, table)
    return path


def write_annotated(group: Any, table: Annotated) -> None:
    """An h5py or Zarr group becomes the table."""
    _mark(group, "anndata", "0.1.0")
    _write_array(group, "X", table["values"])
    _write_frame(group, "obs", table["obs"])
    _write_frame(group, "var", table["var"])
    for name in ("obsm", "varm", "obsp", "varp", "layers", "uns"):
        _mark(group.create_group(name), "dict", "0.1.0")
    for name, array in table["obsm"].items():
        _write_array(group["obsm"], name, array)
    _write_texts(group["uns"], table["uns"])


def _mark(item: Any, kind: str, version: str) -> None:
    item.attrs["encoding-type"] = kind
    item.attrs["encoding-version"] = version


def _is_hdf5(group: Any) -> bool:
    import h5py

    return isinstance(group, h5py.Group)


def _write_array(group: Any, name: str, array: NDArray[Any]) -> None:
    if _is_hdf5(group):
        options = {"compression": "gzip", "shuffle": True} if array.size else {}
        stored = group.create_dataset(name, data=array, **options)
    else:
        stored = group.create_array(name, data=np.ascontiguousarray(array))
    _mark(stored, "array", "0.2.0")


def _write_strings(group: Any, name: str, texts: list[str]) -> None:
    import h5py

    safe = [text.replace("\0", "\ufffd").encode("utf-8", "replace").decode() for text in texts]
    array = np.array(safe, dtype=object)
    if _is_hdf5(group):
        stored = group.create_dataset(name, data=array, dtype=h5py.string_dtype("utf-8"))
    else:
        stored = group.create_array(name, shape=array.shape, dtype="string")
        if len(array):
            stored[:] = array
    _mark(stored, "string-array", "0.2.0")


def _write_frame(file: Any, name: str, table: pd.DataFrame) -> None:
    group = file.create_group(name, **({"track_order": True} if _is_hdf5(file) else {}))
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
    """Names of objects in a group: no slashes and no NUL, none twice."""
    keys: list[str] = []
    for name in names:
        key = name.replace("/", "_").replace("\0", "_").strip(".") or "column"
        while key in keys or key == taken:
            key += "_"
        keys.append(key)
    return keys


def _write_attribute(group: Any, name: str, texts: list[str]) -> None:
    import h5py

    if not _is_hdf5(group):
        group.attrs[name] = texts
        return
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
    for name, value in texts.items():
        if isinstance(value, dict):
            inner = group.create_group(name)
            _mark(inner, "dict", "0.1.0")
            _write_texts(inner, value)
        else:
            _mark(_write_text(group, name, str(value)), "string", "0.2.0")


def _write_text(group: Any, name: str, text: str) -> Any:
    import h5py

    if _is_hdf5(group):
        return group.create_dataset(name, data=text, dtype=h5py.string_dtype("utf-8"))
    stored = group.create_array(name, shape=(), dtype="string")
    stored[...] = text
    return stored
