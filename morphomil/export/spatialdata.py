"""SpatialData: a Zarr store of every image with outlines and the table of its nuclei.

Written by the format that spatialdata 0.7 writes (container 0.2, shapes 0.3, tables 0.2), so that
it isn't needed to write it. Sources: https://github.com/scverse/spatialdata, `_io/format.py`,
`io_shapes.py`, `io_table.py`; https://geoparquet.org/releases/v1.0.0/.
"""

from __future__ import annotations

import json
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import shapely

from morphomil.export.anndata_format import Annotated, write_annotated
from morphomil.export.h5ad import nuclei_table
from morphomil.export.outlines import region_outlines
from morphomil.run.log import versions
from morphomil.store import atomic_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from shapely.geometry.base import BaseGeometry

    from morphomil.run.directory import Run
    from morphomil.slides.masks import RegionMasks
    from morphomil.types import Slide

ROWS = 20_000
"""So many shapes are written at a time."""
NUCLEI, PATCHES, REGIONS, TABLE = "nuclei", "patches", "regions", "measurements"
"""The elements have these names."""


def write_run(run: Run, slides: Sequence[Slide], folder: Path) -> Iterator[Path]:
    """`STEM.zarr` of every image: shapes `nuclei`, `patches`, `regions` and the table
    `measurements` of the nuclei (`h5ad.nuclei_table`).

    Coordinates are level-0 pixels in `global`; `um` is the other coordinate system.
    """
    from morphomil.export import file_stems

    stems = file_stems(run)
    for slide in slides:
        for number in range(len(slide.images)):
            path = folder / f"{stems[slide.slide_id, number]}.zarr"
            with atomic_path(path) as partial:
                _write_image(run, slide, partial, image=number)
            yield path


def _write_image(run: Run, slide: Slide, path: Path, *, image: int) -> None:
    import zarr

    table = nuclei_table(run, slide, image=image)
    masks = [own for own in run.masks(slide.slide_id).values() if own.frame.image == image]
    store = zarr.open_group(path, mode="w")
    software = f"morphomil {versions()['morphomil']}"
    store.attrs["spatialdata_attrs"] = {"version": "0.2", "spatialdata_software_version": software}
    shapes = store.create_group("shapes")
    mpp = masks[0].frame.level0_mpp if masks else None
    _write_shapes(shapes, NUCLEI, _nuclei(masks, table["obs"]), mpp=mpp)
    patches = run.patches(slide.slide_id)
    _write_shapes(shapes, PATCHES, _squares(patches[patches["image"] == image]), mpp=mpp)
    own = [one for one in run.regions(slide.slide_id) if one["properties"]["image"] == image]
    _write_shapes(shapes, REGIONS, _regions(own), mpp=mpp)
    tables = store.create_group("tables")
    if len(table["obs"]):
        _write_table(tables, table)


_Shape = tuple[int, "str | None", "BaseGeometry"]
"""Its number, what it is, and its outline in level-0 pixels."""


def _nuclei(masks: Iterable[RegionMasks], obs: pd.DataFrame) -> Iterator[_Shape]:
    types = obs.set_index("nucleus")["type"].astype("object")
    known = np.sort(obs["nucleus"].to_numpy())
    for own in masks:
        for outline in region_outlines(own, known):
            parts = [
                shapely.Polygon(*_rings(own.frame.to_level0(ring) for ring in rings))
                for rings in outline.polygons
            ]
            kind = types[outline.label]
            shape = parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
            yield outline.label, None if pd.isna(kind) else str(kind), shape


def _rings(rings: Iterable[Any]) -> tuple[Any, list[Any]]:
    outer, *holes = rings
    return outer, holes


def _squares(patches: pd.DataFrame) -> Iterator[_Shape]:
    for row in patches.to_dict("records"):
        x, y, side = row["x_px"], row["y_px"], row["side_px"]
        kind = "kept" if row["kept"] else "dropped"
        yield int(row["patch_id"]), kind, shapely.box(x, y, x + side, y + side)


def _regions(features: Iterable[dict[str, Any]]) -> Iterator[_Shape]:
    for one in features:
        properties = one["properties"]
        name = properties.get("classification", {}).get("name")
        yield int(properties["region"]), name, shapely.geometry.shape(one["geometry"])


def _write_shapes(group: Any, name: str, shapes: Iterator[_Shape], *, mpp: float | None) -> None:
    """An element of shapes with the column `type`; none where there are no shapes."""
    from pyarrow.parquet import ParquetWriter

    writer = None
    while rows := list(islice(shapes, ROWS)):
        if writer is None:
            element = group.create_group(name)
            element.attrs.update(
                {
                    "encoding-type": "ngff:shapes",
                    "axes": ["x", "y"],
                    "coordinateTransformations": _transformations(mpp),
                    "spatialdata_attrs": {"version": "0.3"},
                }
            )
            path = group.store_path.store.root / group.path / name / "shapes.parquet"
        part = _as_arrow(rows)
        writer = writer or ParquetWriter(path, part.schema)
        writer.write_table(part)
    if writer is not None:
        writer.close()


def _as_arrow(rows: list[_Shape]) -> Any:
    """GeoParquet's columns; the frame's index are the numbers."""
    import pyarrow as pa

    numbers, kinds, shapes = zip(*rows, strict=True)
    frame = pd.DataFrame({"geometry": shapely.to_wkb(np.array(shapes, dtype=object))})
    frame["type"] = pd.Series(kinds, dtype="string")
    frame.index = pd.Index(np.array(numbers, np.int64), name="number")
    fields = [("geometry", pa.binary()), ("type", pa.string()), ("number", pa.int64())]
    table = pa.Table.from_pandas(frame, schema=pa.schema(fields), preserve_index=True)
    column = {"encoding": "WKB", "geometry_types": ["Polygon", "MultiPolygon"], "crs": None}
    geo = {"version": "1.0.0", "primary_column": "geometry", "columns": {"geometry": column}}
    return table.replace_schema_metadata(
        {**table.schema.metadata, b"geo": json.dumps(geo).encode()}
    )


def _transformations(mpp: float | None) -> list[dict[str, Any]]:
    """From level-0 pixels to `global`, which are the same, and to `um`."""
    axes = [{"name": name, "type": "space", "unit": "unit"} for name in "xy"]
    start = {"input": {"name": "xy", "axes": axes}}
    same = {"type": "identity"} | start | {"output": {"name": "global", "axes": axes}}
    if mpp is None:
        return [same]
    scaled = {"type": "scale", "scale": [mpp, mpp]}
    return [same, scaled | start | {"output": {"name": "um", "axes": axes}}]


def _write_table(tables: Any, table: Annotated) -> None:
    """The table of the nuclei, which says of each row which shape it is of."""
    keys = {"region": NUCLEI, "region_key": "element", "instance_key": "nucleus"}
    group = tables.create_group(TABLE)
    obs = table["obs"].set_axis(_plain(map(str, table["obs"])), axis=1)
    obs = obs.assign(element=pd.Categorical([NUCLEI] * len(obs)))
    uns = table["uns"] | {"spatialdata_attrs": keys}
    write_annotated(group, Annotated(**{**table, "obs": obs, "uns": uns}))
    about = {"spatialdata-encoding-type": "ngff:regions_table", "version": "0.2"}
    group.attrs.update(keys | about)


def _plain(names: Iterable[str]) -> list[str]:
    """Names as SpatialData wants them: letters, digits, underscores, dots and hyphens, no two alike
    where case doesn't count."""
    plain: list[str] = []
    taken = {"element"}
    for name in names:
        key = "".join(one if one.isalnum() or one in "_.-" else "_" for one in name)
        while key.casefold() in taken:
            key += "_"
        taken.add(key.casefold())
        plain.append(key)
    return plain
