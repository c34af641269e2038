"""SpatialData's shapes, and other GeoParquet: polygons as well-known binary.

Sources: https://github.com/scverse/spatialdata, `_io/io_shapes.py`: an element is a folder with
`shapes.parquet` (GeoPandas' GeoParquet) and, as attributes of its Zarr group (`zarr.json`, or
`.zattrs` before Zarr 3), `coordinateTransformations` as OME-NGFF 0.6 drafts them;
https://geoparquet.org/releases/v1.0.0/.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from morphomil.slides.nuclei_files.nuclei import OutlineList
from morphomil.slides.nuclei_files.tables import add_shape, refuse_points
from morphomil.store import parse_json

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from morphomil.slides.image import SlideImage
    from morphomil.slides.nuclei_files.nuclei import Outlines

SHAPES_FILE = "shapes.parquet"
ATTRIBUTE_FILES = ("zarr.json", ".zattrs")
MAX_ATTRIBUTE_BYTES = 2**24
ROWS = 20_000
"""So many shapes are read at a time."""
_TYPES = ("type", "cell_type", "class", "classification")
_PROBABILITIES = ("type_probability", "type_prob", "probability")


def read_parquet(path: Path, image: SlideImage) -> Outlines:
    """The polygons of a GeoParquet file, brought to level 0 by the element's transformation.

    Raises:
        ValueError: it is no GeoParquet, holds circles or points, or its coordinates aren't in
            pixels after a scale alone.
    """
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    outlines = OutlineList()
    try:
        with ParquetFile(path) as file:
            names = file.schema_arrow.names
            column = _geometry_column(file.schema_arrow.metadata or {}, names)
            radius = "radius" in names
            said = {
                "type": next((name for name in _TYPES if name in names), None),
                "type_probability": next((name for name in _PROBABILITIES if name in names), None),
            }
            wanted = [column, *(name for name in said.values() if name)]
            for batch in file.iter_batches(ROWS, columns=wanted):
                _add_batch(outlines, batch.to_pydict(), column, said)
    except (pa.ArrowException, shapely.errors.ShapelyError) as error:
        raise ValueError(f"it can't be read as GeoParquet: {error}") from error
    if not len(outlines) and radius:
        raise ValueError(
            f"it holds {outlines.left_out['points without an outline']:,} circles, not outlines; "
            "give the element of shapes that has polygons"
        )
    refuse_points(outlines)
    return outlines.placed(image, factor=element_scale(path))


def _add_batch(
    outlines: OutlineList, batch: dict[str, Any], column: str, said: dict[str, str | None]
) -> None:
    shapes = shapely.from_wkb(np.array(batch[column], dtype=object))
    known = {name: batch[source] for name, source in said.items() if source}
    for number, shape in enumerate(shapes):
        row = {name: values[number] for name, values in known.items()}
        kind = row.get("type")
        if shape is not None:
            add_shape(outlines, shape, row | {"type": None if kind is None else str(kind)})


def _geometry_column(metadata: dict[bytes, bytes], names: list[str]) -> str:
    try:
        geo = parse_json(metadata.get(b"geo", b"{}"))
    except ValueError as error:
        raise ValueError("its GeoParquet metadata can't be read") from error
    column = str(geo.get("primary_column") or "geometry")
    if column not in names:
        raise ValueError(
            f"it is Parquet without a column of geometries; it has {', '.join(names[:12])}"
        )
    details = (geo.get("columns") or {}).get(column) or {}
    if details.get("encoding", "WKB") != "WKB":
        raise ValueError(f"its geometries are {details['encoding']}; write them as WKB")
    if details.get("crs"):
        raise ValueError(
            "its coordinates belong to a geographic reference system; write them in level-0 pixels"
        )
    return column


def attribute_file(path: Path) -> Path | None:
    """The attributes of the element that a Parquet file belongs to; None where it stands alone."""
    files = (path.parent / name for name in ATTRIBUTE_FILES if path.name == SHAPES_FILE)
    return next((file for file in files if file.is_file()), None)


def element_scale(path: Path) -> NDArray[np.float64]:
    """The factors (x, y) from an element's coordinates to pixels: of the transformation to
    `global`, or of the only one; 1 where there is none.

    Raises:
        ValueError: it is no scale.
    """
    file = attribute_file(path)
    if file is None:
        return np.ones(2)
    if file.stat().st_size > MAX_ATTRIBUTE_BYTES:
        raise ValueError(f"{file.name} beside it is too large")
    content = parse_json(file.read_bytes())
    attributes = content.get("attributes", content)
    known = attributes.get("coordinateTransformations") or []
    if not known:
        return np.ones(2)
    chosen = [one for one in known if _target(one) == "global"] or known
    if len(chosen) > 1:
        raise ValueError(
            f"it has transformations to {', '.join(map(_target, chosen))} and none to global; "
            "keep the one to the image's pixels"
        )
    return _scale(chosen[0])


def _target(transformation: dict[str, Any]) -> str:
    output = transformation.get("output")
    return str(output.get("name") if isinstance(output, dict) else output)


def _scale(transformation: dict[str, Any]) -> NDArray[np.float64]:
    kind = transformation.get("type")
    axes = (transformation.get("input") or {}).get("axes") or []
    names = [axis.get("name") for axis in axes if isinstance(axis, dict)]
    places = [names.index(axis) if axis in names else n for n, axis in enumerate("xy")]
    if kind == "identity":
        return np.ones(2)
    if kind == "scale":
        return np.array([transformation["scale"][place] for place in places], dtype=np.float64)
    if kind == "sequence":
        parts = [_scale(part) for part in transformation["transformations"]]
        return np.asarray(np.prod(parts, axis=0) if parts else np.ones(2))
    if kind == "affine":
        matrix = np.asarray(transformation["affine"], dtype=np.float64)
        scale = np.diagonal(matrix)[places]
        plain = np.zeros_like(matrix)
        np.fill_diagonal(plain, np.diagonal(matrix))
        if (scale > 0).all() and np.allclose(matrix[:2], plain[:2]):
            return np.asarray(scale)
    if kind == "translation" and not np.any(transformation["translation"]):
        return np.ones(2)
    raise ValueError(
        f"its transformation to {_target(transformation)} is {kind}; only a scale to the slide's "
        "level-0 pixels can be taken, so transform the shapes in SpatialData first"
    )
