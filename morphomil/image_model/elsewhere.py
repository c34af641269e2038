"""Deep features that another program made: one file, or Zarr store, for every image.

Sources: TRIDENT (mahmoodlab/TRIDENT: `trident/IO.py`, `wsi_objects/WSI.py`): `features`, `coords`
in level-0 pixels, attributes of `coords`. CLAM (mahmoodlab/CLAM: `extract_features_fp.py`): the
same without attributes. STAMP (KatherLab/STAMP: `preprocessing/__init__.py`): `feats`, `coords` in
um, attributes of the file. LazySlide (rendeirolab/wsidata: `io/_elems.py`): a SpatialData store
with the shapes `tiles` and a table of features of them.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from morphomil.errors import InputError, translating

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

Layout = Literal["trident", "clam", "stamp", "lazyslide"]
PROGRAMS: dict[Layout, str] = {
    "trident": "TRIDENT",
    "clam": "CLAM",
    "stamp": "STAMP",
    "lazyslide": "LazySlide",
}
ENDINGS = (".h5", ".hdf5", ".zarr")
_ATTRIBUTES_OF_FILE = ("extractor", "encoder", "feat_type", "unit", "tile_size_um")


@dataclass(frozen=True)
class FeatureFile:
    """What a file of features says of itself."""

    path: Path
    layout: Layout
    encoder: str
    """Which network the features are of; "" where the file doesn't say."""
    tiles: int
    features: int
    """A tile has so many numbers."""
    tile: str
    """Size and resolution of a tile in words; "" where the file doesn't say."""


@dataclass(frozen=True)
class TileFeatures:
    """The features of an image's tiles, and where these lie."""

    values: NDArray[np.float32]  # (tiles, F)
    tiles: pd.DataFrame
    """`x, y, side` of every tile, NaN where it isn't known."""
    unit: Literal["px", "um"]
    """Positions are level-0 pixels or um, from the image's corner."""


def describe_features(path: Path, *, table: str = "") -> FeatureFile:
    """What a file of features is, without reading them.

    Args:
        path: HDF5 of TRIDENT, CLAM or STAMP, or a Zarr store of LazySlide.
        table: of a store with several tables of features.

    Raises:
        InputError: it is none of them, or holds one vector for the whole slide.
    """
    with _opened(path, table) as (layout, values, source):
        rows, width = _shape(path, values.shape)
        encoder, tile = _say_source(path, layout, source)
        return FeatureFile(path, layout, encoder, rows, width, tile)


def read_tile_features(path: Path, *, table: str = "") -> TileFeatures:
    """The features of an image's tiles, with their positions.

    Raises:
        InputError: as `describe_features`; positions that don't belong to the features; values
            that half precision, in which they are stored, can't hold.
    """
    with _opened(path, table) as (layout, values, source):
        rows, width = _shape(path, values.shape)
        read = np.asarray(values[:], dtype=np.float32).reshape(rows, width)
        if not (np.abs(read) <= np.finfo(np.float16).max).all():
            raise InputError(
                f"{path} holds features that half precision can't hold (above 65504, or NaN)"
            )
        if layout == "lazyslide":
            tiles, unit = _squares_of_shapes(path, source), "px"
        else:
            tiles, unit = _squares_of_coords(path, source), "um" if layout == "stamp" else "px"
    if len(tiles) != rows:
        raise InputError(f"{path} has features of {rows:,} tiles and positions of {len(tiles):,}")
    return TileFeatures(read, tiles, "um" if unit == "um" else "px")


@contextmanager
def _opened(path: Path, table: str) -> Iterator[tuple[Layout, Any, Any]]:
    """The layout of a file, its array of features, and the file or store, open."""
    with translating(lambda cause: InputError(f"features {path} can't be read: {cause}")):
        if path.is_dir():
            import zarr

            store: Any = zarr.open_group(path, mode="r")
            yield "lazyslide", _table_of(path, store, table)["X"], store
            return
        import h5py

        with h5py.File(path, "r") as file:
            yield *_array_of(path, file), file


def _array_of(path: Path, file: Any) -> tuple[Layout, Any]:
    if file.attrs.get("feat_type", "tile") != "tile":
        raise InputError(f"{path} holds features of a {file.attrs['feat_type']}, not of its tiles")
    if "feats" in file:
        return "stamp", file["feats"]
    if "features" in file:
        coords = file.get("coords")
        stated = coords is not None and "patch_size_level0" in coords.attrs
        return "trident" if stated else "clam", file["features"]
    raise InputError(
        f"{path} holds no features: it has {', '.join(file) or 'nothing'}, and features of TRIDENT "
        "and CLAM are called features, of STAMP feats"
    )


def _table_of(path: Path, store: Any, name: str) -> Any:
    """The table of features of the tiles: the only one, or the one that is named."""
    tables = {str(key): group for key, group in store["tables"].groups() if "X" in group}
    named = {key: tables[key] for key in (name, f"{name}_tiles") if key in tables}
    if len(chosen := named if name else tables) == 1:
        return next(iter(chosen.values()))
    listed = ", ".join(sorted(tables)) or "no table"
    raise InputError(f"{path} has {listed}; name the table of features with --table")


def _shape(path: Path, shape: tuple[int, ...]) -> tuple[int, int]:
    """Tiles and width; some programs store one bag of them."""
    if len(shape) == 3 and shape[0] == 1:
        shape = shape[1:]
    if len(shape) != 2:
        raise InputError(
            f"{path} has features of shape {shape}; needed is a row for every tile, and features "
            "of whole slides have none"
        )
    return int(shape[0]), int(shape[1])


def _say_source(path: Path, layout: Layout, source: Any) -> tuple[str, str]:
    """Encoder and tiles of a file in words."""
    if layout == "lazyslide":
        tables = [str(key) for key, group in source["tables"].groups() if "X" in group]
        specs = dict(source.attrs).get("tile_spec", {}).get("tiles", {})
        size = [f"{specs[name]:g}" for name in ("width", "mpp") if specs.get(name) is not None]
        encoder = tables[0].removesuffix("_tiles") if len(tables) == 1 else ""
        return encoder, " px of ".join(size) + (" um" if len(size) == 2 else "")
    stated = {name: source.attrs[name] for name in _ATTRIBUTES_OF_FILE if name in source.attrs}
    if layout == "stamp":
        size_um = stated.get("tile_size_um")
        return _plain(stated.get("extractor", "")), f"{float(size_um):g} um" if size_um else ""
    coords = dict(source["coords"].attrs) if "coords" in source else {}
    folder = path.parent.parent if path.parent.name == "h5_files" else path.parent
    encoder = _plain(stated.get("encoder", "")) or (
        folder.name.removeprefix("features_") if folder.name.startswith("features_") else ""
    )
    if "target_magnification" in coords:
        side, power = int(coords["patch_size"]), float(coords["target_magnification"])
        return encoder, f"{side} px at {power:g} x"
    return encoder, ""


def _plain(text: Any) -> str:
    known = text if isinstance(text, bytes) else str(text).encode("utf-8", "replace")
    return known.decode(errors="replace")


def _squares_of_coords(path: Path, file: Any) -> pd.DataFrame:
    """`x, y, side` by the coordinates of tiles' corners."""
    if "coords" not in file:
        raise InputError(f"{path} has no coords, the positions of its tiles")
    stored = file["coords"]
    corners = np.asarray(stored[:], dtype=np.float64).reshape(-1, 2)
    sizes = {**dict(file.attrs), **dict(stored.attrs)}
    if "feats" in file:
        known = sizes.get("tile_size_um", sizes.get("tile_size"))
    elif "patch_size_level0" in sizes:
        known = sizes["patch_size_level0"]
    else:  # CLAM's files of features leave it out
        known = _usual_step(corners)
    side = np.nan if known is None else float(known)
    return pd.DataFrame({"x": corners[:, 0], "y": corners[:, 1], "side": side})


def _usual_step(corners: NDArray[np.float64]) -> float | None:
    """The most frequent step from one tile to the next in a row or column."""
    steps = np.abs(np.diff(corners, axis=0))
    straight = steps[(steps == 0).any(axis=1) & (steps > 0).any(axis=1)].max(axis=1, initial=0)
    if not len(straight):
        return None
    sizes, counts = np.unique(straight, return_counts=True)
    return float(sizes[counts.argmax()])


def _squares_of_shapes(path: Path, store: Any) -> pd.DataFrame:
    """`x, y, side` of the shapes `tiles`, level-0 pixels."""
    import shapely
    from pyarrow.parquet import read_table

    file = path / "shapes" / "tiles" / "shapes.parquet"
    if not file.is_file():
        raise InputError(f"{path} has no shapes called tiles, the positions of its features")
    shapes = read_table(file, columns=["geometry"])["geometry"].to_pylist()
    bounds = shapely.bounds(shapely.from_wkb(np.array(shapes, dtype=object)))
    columns = {"x": bounds[:, 0], "y": bounds[:, 1], "side": bounds[:, 2] - bounds[:, 0]}
    return pd.DataFrame(columns)
